"""Reading what nibabel reads: NIfTI files and pairs, Analyze, and FreeSurfer's MGH."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.arrayproxy import ArrayProxy

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan, check_geometry, volume_shape
from segbundle.io.reading import check_memory

_logger = logging.getLogger(__name__)
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it mends headers and does not name the file
_UNIT_IN_MM = {"meter": 1000.0, "micron": 0.001}
_CHUNK = 1 << 22
"""Voxels that are decompressed, scaled and converted at a time."""
_MOST_COMPRESSED = 1032
"""Bytes that one byte of gzip can stand for."""
_NIFTI1_MAGIC, _NIFTI2_MAGIC = (b"n+1\0", b"ni1\0"), (b"n+2\0", b"ni2\0")
_ANALYZE = nib.Spm2AnalyzeHeader
"""Analyze 7.5 with SPM's scale factors, as which nibabel reads every Analyze file."""
_GOOD_RAS_FLAG = 28
"""Where in an MGH header that flag begins."""


def nifti_geometry(path: Path) -> Geometry:
    """Return the geometry of a file, from its header.

    Raises:
        DataError: a header that cannot be true; nibabel and the file system raise other errors.
    """
    return _geometry(path, _load(path))


def read_nifti(path: Path, dtype: Any) -> Scan:
    """Read a file, with scale slope and intercept applied.

    Raises:
        DataError: as `nifti_geometry`; complex or color voxels.
    """
    image = _load(path)
    stored = image.get_data_dtype()
    if stored.fields is not None or np.issubdtype(stored, np.complexfloating):
        raise DataError(f"{path}: holds {stored} voxels (color or complex); convert it to one real value per voxel.")
    geometry = _geometry(path, image)
    array = _voxels(path, _file_of_voxels(image), image.dataobj, dtype).reshape(
        (*geometry.shape, geometry.channels), order="F"
    )
    return Scan(np.moveaxis(array, -1, 0), geometry, path)


def load_header(path: Path) -> Any:
    """Return nibabel's header of a file, after checking what nibabel itself would mend in silence.

    Raises:
        DataError: as `nifti_geometry`.
    """
    return _load(path).header


def _load(path: Path) -> Any:
    _check_header(path)
    image: Any = nib.load(path.absolute())  # or it would take ~ for the home folder
    _check_length(path, image)
    return image


def _open(path: Path) -> Any:
    return igzip.open(path) if path.name.lower().endswith((".gz", ".mgz")) else path.open("rb")


def _check_header(path: Path) -> None:
    """Refuse values in a header that nibabel replaces without a word, such as a voxel size of 0."""
    if path.name.lower().endswith((".mgz", ".mgh")):
        _check_mgh(path)
        return
    found = _raw_header(path)
    if found is None:
        return
    header, earliest = found
    dimensions = [int(size) for size in header["dim"]]
    count = dimensions[0]
    if not 1 <= count <= 7:
        raise DataError(f"{path}: dim[0] of its header is {count}; the number of dimensions lies between 1 and 7.")
    if min(dimensions[1 : count + 1]) < 1:
        raise DataError(f"{path}: its header has the shape {tuple(dimensions[1 : count + 1])}; sizes must be positive.")
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset >= earliest):
        raise DataError(f"{path}: vox_offset of its header is {offset:g}; voxels cannot begin there.")
    sizes = [float(size) for size in header["pixdim"][1 : 1 + min(count, 3)]]
    has_sform = "sform_code" in header.dtype.names and int(header["sform_code"]) != 0  # Analyze has none
    if not has_sform and not all(math.isfinite(size) and size > 0 for size in sizes):
        shown = " x ".join(f"{size:g}" for size in sizes)
        raise DataError(f"{path}: its header says voxels of {shown} mm (pixdim), which cannot be. Repair the header.")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    unscaled = slope == 0 or (math.isnan(slope) and (math.isnan(inter) or inter == 0))  # NaN is nibabel's mark
    if not unscaled and not (math.isfinite(slope) and math.isfinite(inter)):
        raise DataError(
            f"{path}: its header scales values by {slope:g} and adds {inter:g} (scl_slope, scl_inter), which gives no "
            "values. Repair the header."
        )


def _raw_header(path: Path) -> tuple[Any, int] | None:
    """The fields of a NIfTI or Analyze header as they are stored, and where voxels begin at the earliest."""
    with _open(header_file(path)) as file:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
    kind: Any = None
    if block[344:348] in _NIFTI1_MAGIC:
        kind, single = nib.Nifti1Header, block[344:348] == _NIFTI1_MAGIC[0]
    elif block[4:8] in _NIFTI2_MAGIC and len(block) == nib.Nifti2Header.sizeof_hdr:
        kind, single = nib.Nifti2Header, block[4:8] == _NIFTI2_MAGIC[0]
    elif _ANALYZE.sizeof_hdr in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")):
        kind, single = _ANALYZE, False
    if kind is None or len(block) < kind.sizeof_hdr:
        return None
    order = ">" if int.from_bytes(block[:4], "big") == kind.sizeof_hdr else "<"
    fields = np.frombuffer(block, kind.template_dtype.newbyteorder(order), 1)[0]
    return fields, kind.single_vox_offset if single else 0


def _check_mgh(path: Path) -> None:
    """Refuse a header without a geometry, for which nibabel takes voxels of 1 mm in a coronal scan."""
    with _open(path) as file:
        flag = file.read(_GOOD_RAS_FLAG + 2)[_GOOD_RAS_FLAG:]
    if len(flag) == 2 and int.from_bytes(flag, "big") == 0:
        raise DataError(
            f"{path}: its header does not say where voxels lie (goodRASFlag is 0). Convert the original again."
        )


def header_file(path: Path) -> Path:
    """Return the file of a pair that holds the header; of any other file itself."""
    for voxels, header in ((".img", ".hdr"), (".img.gz", ".hdr.gz"), (".IMG", ".HDR")):
        if path.name.endswith(voxels):
            return path.with_name(path.name[: -len(voxels)] + header)
    return path


def _file_of_voxels(image: Any) -> Path:
    return Path(image.file_map["image"].filename)


def _check_length(path: Path, image: Any) -> None:
    """Refuse a file that is shorter than its header says, before memory is taken for its voxels."""
    voxels = _file_of_voxels(image)
    held = voxels.stat().st_size
    needed = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    compressed = voxels.name.lower().endswith((".gz", ".mgz"))
    if needed > held * (_MOST_COMPRESSED if compressed else 1) + 1024 * compressed:
        shape = " x ".join(map(str, image.shape))
        raise DataError(
            f"{path}: cannot be read (its header says {shape} voxels, {needed} bytes; {voxels.name} has {held}"
            f"{' compressed ones' if compressed else ''}). The file may be truncated: copy or convert it again."
        )


def _geometry(path: Path, image: Any) -> Geometry:
    sizes, channels = volume_shape(path, image.shape)
    affine = np.array(image.affine, dtype=np.float64)
    if hasattr(image.header, "get_xyzt_units"):
        affine[:3] *= _UNIT_IN_MM.get(image.header.get_xyzt_units()[0], 1.0)
    elif isinstance(image, nib.AnalyzeImage):
        _logger.warning(
            "%s: Analyze files do not say what is left and right; read as nibabel does, x to the left", path
        )
    return check_geometry(path, Geometry(sizes, affine, channels))


def _voxels(path: Path, file_of_voxels: Path, stored: ArrayProxy, dtype: Any) -> np.ndarray:
    """All voxels in the file's order (n,): the values of `np.asarray(stored, dtype)`, three times faster if gzipped.

    nibabel finds and scales the voxels; only decompression is ISA-L's. Going through the file in chunks, neither
    its bytes nor its values in another precision are ever held for the whole scan.
    """
    count = int(np.prod(stored.shape))
    with _open(file_of_voxels) as file, np.errstate(over="ignore"):  # Inf is reported by those who check values
        spec = ((count,), stored.dtype, stored.offset, stored.slope, stored.inter)
        chunks = ArrayProxy(file, spec, mmap=False)
        scaled = chunks[:1].dtype
        result = np.dtype(scaled if dtype is None else dtype)
        check_memory(path, count * result.itemsize)
        array = np.empty(count, result)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            # nibabel rounds twice on the way from 64-bit integers to float32, and so must we
            array[start:stop] = chunks[start:stop].astype(np.promote_types(scaled, array.dtype), copy=False)
        file.read(1)  # at the end of compressed data its checksum is compared
    return array
