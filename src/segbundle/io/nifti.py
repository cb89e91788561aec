"""Read NIfTI, Analyze and FreeSurfer MGH files with nibabel."""

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
from segbundle.hardware.memory_usage import check_memory
from segbundle.io.geometry import Geometry, Scan, check_geometry, volume_shape
from segbundle.io.scan_files import NIBABEL_SUFFIXES

_logger = logging.getLogger(__name__)
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it repairs headers without naming the file
_UNIT_IN_MM = {"meter": 1000.0, "micron": 0.001}
_CHUNK = 1 << 22
"""Number of voxels that are decompressed, scaled and converted at a time."""
_MAX_COMPRESSION_RATIO = 1032
"""Maximum compression ratio of gzip."""
_NIFTI1_MAGIC, _NIFTI2_MAGIC = (b"n+1\0", b"ni1\0"), (b"n+2\0", b"ni2\0")
_ANALYZE = nib.Spm2AnalyzeHeader
"""Analyze 7.5 with SPM's scale factors; nibabel reads every Analyze file as this type."""
_REPAIR = "Repair the header, or convert the original again."
_GOOD_RAS_FLAG = 28
"""Byte offset of goodRASFlag in an MGH header."""


def is_nifti(path: Path) -> bool:
    """Return whether a file has a suffix that nibabel reads (NIfTI, Analyze or MGH), and its header exists.

    The header is in the file itself, except for an `.img` file. An `.img` file without a header may be DICOM.

    Args:
        path: path of a file.

    Example:
        >>> is_nifti(Path("/nowhere/ct.nii.gz")), is_nifti(Path("ct.nrrd"))
        (False, False)
    """
    return path.name.lower().endswith(NIBABEL_SUFFIXES) and header_file(path).is_file()


def nifti_grid(path: Path) -> tuple[Geometry, Any]:
    """Return the geometry and the header of a NIfTI, Analyze or MGH file. Only the header is read.

    Args:
        path: path of the file.

    Returns:
        a pair of the geometry and nibabel's header in single-file form (None for formats other than NIfTI)

    Raises:
        DataError: the header is invalid, or the file is shorter than its header says.
        Exception: any error of nibabel or the file system; `read_geometry` converts it to a `DataError`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([1, 1, 2.5, 1])), path)
        ...     geometry, header = nifti_grid(path)
        >>> geometry.spacing, header.get_data_shape()
        ((1.0, 1.0, 2.5), (4, 3, 2))
    """
    image = _load(path)
    geometry = _geometry(path, image)
    for single, pair in (
        (nib.Nifti2Header, nib.nifti2.Nifti2PairHeader),
        (nib.Nifti1Header, nib.nifti1.Nifti1PairHeader),
    ):
        if isinstance(image.header, single):
            return geometry, image.header
        if isinstance(image.header, pair):
            header = single(image.header.binaryblock, endianness=image.header.endianness, check=False)
            header["magic"], header["vox_offset"] = single().get("magic"), 0
            return geometry, header
    return geometry, None


def read_nifti(path: Path, dtype: Any) -> Scan:
    """Read a NIfTI, Analyze or MGH file, with scale slope and intercept applied.

    Args:
        path: path of the file.
        dtype: NumPy dtype of the result; None to keep the stored dtype, or nibabel's dtype for scaled values.

    Returns:
        the scan, with an array (C, X, Y, Z)

    Raises:
        DataError: see `nifti_grid`; or voxels are complex or color values, or do not fit into memory.
        Exception: any error of nibabel, decompression or the file system; `read_scan` converts it to a `DataError`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     read_nifti(path, np.float32).array.shape
        (1, 4, 3, 2)
    """
    image = _load(path)
    stored = image.get_data_dtype()
    if stored.fields is not None or np.issubdtype(stored, np.complexfloating):
        kind = "complex" if stored.fields is None else "color"
        raise DataError(f"{path}: contains {kind} voxels; convert them to one real value per voxel.")
    geometry = _geometry(path, image)
    array = _voxels(path, image, dtype).reshape((*geometry.shape, geometry.channels), order="F")
    return Scan(np.moveaxis(array, -1, 0), geometry, path)


def _load(path: Path) -> Any:
    """Load a file with nibabel, and check its length and the header values that nibabel would silently replace."""
    _check_header(path)
    image: Any = nib.load(path.absolute())  # nibabel would expand ~ in a relative path
    voxels = Path(image.file_map["image"].filename)
    size = voxels.stat().st_size
    needed = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    compressed = voxels.name.lower().endswith((".gz", ".mgz"))
    if needed > size * (_MAX_COMPRESSION_RATIO if compressed else 1) + 1024 * compressed:
        shape = " x ".join(map(str, image.shape))
        raise DataError(
            f"{path}: cannot be read (its header says {shape} voxels, {needed} bytes; {voxels.name} has {size}"
            f"{' compressed bytes' if compressed else ''}). The file may be truncated: copy or convert it again."
        )
    return image


def _open(path: Path) -> Any:
    return igzip.open(path) if path.name.lower().endswith((".gz", ".mgz")) else path.open("rb")


def _check_header(path: Path) -> None:
    """Raise an error for header values that nibabel silently replaces, such as a voxel size of 0."""
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
        raise DataError(f"{path}: dim[0] of its header is {count}; it must be between 1 and 7. {_REPAIR}")
    if min(dimensions[1 : count + 1]) < 1:
        shape = tuple(dimensions[1 : count + 1])
        raise DataError(f"{path}: its header has the shape {shape}; sizes must be positive. {_REPAIR}")
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset >= earliest):
        raise DataError(f"{path}: vox_offset of its header is {offset:g}; it must be at least {earliest}. {_REPAIR}")
    sizes = [float(size) for size in header["pixdim"][1 : 1 + min(count, 3)]]
    has_sform = "sform_code" in header.dtype.names and int(header["sform_code"]) != 0  # Analyze has none
    if not has_sform and not all(math.isfinite(size) and size > 0 for size in sizes):
        shown = " x ".join(f"{size:g}" for size in sizes)
        raise DataError(
            f"{path}: its header gives a voxel size of {shown} mm (pixdim); it must be positive. Repair the header."
        )
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    unscaled = slope == 0 or (math.isnan(slope) and (math.isnan(inter) or inter == 0))  # NaN: unscaled, by nibabel
    if not unscaled and not (math.isfinite(slope) and math.isfinite(inter)):
        raise DataError(
            f"{path}: its header scales values by {slope:g} and adds {inter:g} (scl_slope, scl_inter); both must be "
            "finite. Repair the header."
        )


def _raw_header(path: Path) -> tuple[Any, int] | None:
    """Return the fields of a NIfTI or Analyze header as stored, and the minimum offset of the voxels in bytes."""
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
    """Raise an error for a header without geometry: nibabel would assume 1 mm voxels in coronal orientation."""
    with _open(path) as file:
        flag = file.read(_GOOD_RAS_FLAG + 2)[_GOOD_RAS_FLAG:]
    if len(flag) == 2 and int.from_bytes(flag, "big") == 0:
        raise DataError(
            f"{path}: its header does not define the position of voxels (goodRASFlag is 0). Convert the original again."
        )


def header_file(path: Path) -> Path:
    """Return the path of the header of an `.img` or `.img.gz` file; for any other file, the path itself.

    Args:
        path: path of a file.

    Example:
        >>> header_file(Path("mr.img")).name, header_file(Path("ct.nii.gz")).name
        ('mr.hdr', 'ct.nii.gz')
    """
    for voxels, header in ((".img", ".hdr"), (".img.gz", ".hdr.gz"), (".IMG", ".HDR")):
        if path.name.endswith(voxels):
            return path.with_name(path.name[: -len(voxels)] + header)
    return path


def _geometry(path: Path, image: Any) -> Geometry:
    sizes, channels = volume_shape(path, image.shape)
    affine = np.array(image.affine, dtype=np.float64)
    if hasattr(image.header, "get_xyzt_units"):
        affine[:3] *= _UNIT_IN_MM.get(image.header.get_xyzt_units()[0], 1.0)
    elif isinstance(image, nib.AnalyzeImage):
        _logger.warning(
            "%s: Analyze files do not define left and right. As in nibabel, x points to the left; if this is wrong, "
            "convert the original to NIfTI",
            path,
        )
    return check_geometry(path, Geometry(sizes, affine, channels))


def _voxels(path: Path, image: Any, dtype: Any) -> np.ndarray:
    """Return all voxels in the order of the file (n,), like `np.asarray(image.dataobj, dtype)`.

    This is three times faster than nibabel for gzip files. nibabel locates and scales the voxels; ISA-L decompresses
    them. The file is processed in chunks, so neither its bytes nor values of another dtype are in memory for the whole
    scan.
    """
    stored = image.dataobj
    count = int(np.prod(stored.shape))
    with (
        _open(Path(image.file_map["image"].filename)) as file,
        np.errstate(over="ignore"),
    ):  # Inf is reported by checks of values
        spec = ((count,), stored.dtype, stored.offset, stored.slope, stored.inter)
        chunks = ArrayProxy(file, spec, mmap=False)
        scaled = chunks[:1].dtype
        result = np.dtype(scaled if dtype is None else dtype)
        check_memory(path, count * result.itemsize)
        array = np.empty(count, result)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            # like nibabel, round twice from 64-bit integers to float32
            array[start:stop] = chunks[start:stop].astype(np.promote_types(scaled, array.dtype), copy=False)
        file.read(1)  # verifies the checksum of compressed data
    return array
