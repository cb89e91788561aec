"""Scan files in, label maps out, whatever the format.

Arrays are always (C, X, Y, Z) with an affine that maps voxel indices to millimetres in RAS+ world space, as NIfTI
and nibabel define it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.fileholders import FileHolder

from segbundle.errors import DataError
from segbundle.files.atomic import written_whole
from segbundle.io.dicom import dicom_geometry, is_dicom, read_dicom
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.itk import itk_geometry, read_itk
from segbundle.io.nifti import header_file, load_header, nifti_geometry, read_nifti
from segbundle.io.reading import last_line
from segbundle.io.scan_files import is_nifti

__all__ = ["Geometry", "Scan", "geometry_header", "read_geometry", "read_scan", "write_segmentation"]

_NOT_FREE = ("magic", "regular")
"""Fields of text in a NIfTI header in which there is no place for a name of a patient."""


def read_scan(path: str | Path | Sequence[str | Path], dtype: Any = np.float32) -> Scan:
    """Read a scan, with scale slope and intercept applied.

    Args:
        path: a file, a folder holding one DICOM series, any file of a DICOM series, or a list of files with one
            channel each (nnU-Net's `_0000`, `_0001`, ...), which must share their geometry.
        dtype: NumPy dtype of the result, or None to keep what the scaled values need (for label maps).

    Returns:
        the scan; its `array` is (C, X, Y, Z).

    Raises:
        DataError: missing, truncated or unreadable file, a header that cannot be true, complex or color voxels, not a
            3D volume, channels with different geometries, or more voxels than fit into memory.
    """
    if not isinstance(path, (str, Path)):
        return _stack_channels([read_scan(one, dtype) for one in path])
    path = Path(path)
    try:
        if _is_nibabels(_existing(path)):
            return read_nifti(path, dtype)
        if is_dicom(path):
            array, geometry = read_dicom(path, dtype)
            return Scan(array, geometry, path)
        return read_itk(path, dtype)
    except DataError:
        raise
    except Exception as error:  # whatever nibabel, SimpleITK, pydicom and NumPy raise
        raise _unreadable(path, error) from error


def read_geometry(path: str | Path) -> Geometry:
    """Shape and affine of a scan from its header alone.

    Raises:
        DataError: as `read_scan`.
    """
    path = Path(path)
    try:
        if _is_nibabels(_existing(path)):
            return nifti_geometry(path)
        return dicom_geometry(path) if is_dicom(path) else itk_geometry(path)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def write_segmentation(labels: np.ndarray, reference: str | Path, path: str | Path) -> None:
    """Write a label map as NIfTI on the grid of the scan it belongs to.

    For a NIfTI scan the header's geometry (dimensions, spacing, units, qform and sform with their codes) is kept
    bit for bit. For the other formats both forms are set from the scan's geometry with code 1 (scanner), in mm; of
    scans with sheared axes, which a qform cannot describe, only the sform.
    The file appears whole or not at all, and the same labels give the same bytes.

    Args:
        labels: (X, Y, Z) integer class indices on the scan's stored axes; uint8 in Fortran order, as NIfTI stores
            them, are written fastest.
        reference: the scan.
        path: where to write, ending in `.nii.gz` or `.nii`.

    Raises:
        DataError: `labels` has another shape than the scan.
        OutputError: the file cannot be written.
    """
    path, reference = Path(path), Path(reference)
    labels = labels.astype(_label_dtype(labels), copy=False)
    geometry = read_geometry(reference)
    if labels.shape != geometry.shape:
        raise DataError(f"{reference}: the scan is {geometry.shape}, its label map {labels.shape}.")
    header = geometry_header(reference, geometry.shape, labels.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with written_whole(path) as partial:
        _save(kind(labels, None, header), partial, compressed=path.name.lower().endswith(".gz"))


def geometry_header(reference: str | Path, shape: Sequence[int], dtype: Any) -> Any:
    """A NIfTI header with a scan's geometry, for an image of its own on the scan's voxels.

    That of a NIfTI scan is copied; what describes the scan's intensities is cleared, and so is free text, which may
    name the patient.

    Args:
        reference: the scan.
        shape: of the image, whose first three sizes are the scan's.
        dtype: of the image.

    Raises:
        DataError: as `read_scan`.
    """
    path = Path(reference)
    header = _nifti_header(path) or _header_of_geometry(read_geometry(path))
    if header.get_data_shape() != tuple(shape):  # setting it resets the spacing of axes beyond the third
        header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header.extensions.clear()
    for field, (kind, _) in header.template_dtype.fields.items():
        if kind.kind == "S" and field not in _NOT_FREE:
            header[field] = b""
    return header


def _nifti_header(path: Path) -> Any:
    """A copy of a NIfTI scan's header, as one of a single file; None for other formats."""
    if not _is_nibabels(path):
        return None
    header = load_header(path)
    for single, kind in (
        (nib.Nifti2Header, nib.nifti2.Nifti2PairHeader),
        (nib.Nifti1Header, nib.nifti1.Nifti1PairHeader),
    ):
        if isinstance(header, (single, kind)):
            return header.copy() if isinstance(header, single) else _as_single(header, single)
    return None


def _as_single(pair: Any, kind: Any) -> Any:
    """A pair's header as that of a single file."""
    header = kind(pair.binaryblock, endianness=pair.endianness, check=False)
    header["magic"], header["vox_offset"] = kind().get("magic"), 0
    return header


def _header_of_geometry(geometry: Geometry) -> Any:
    header = nib.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_qform(geometry.affine, code=0 if geometry.is_sheared else 1)
    header.set_sform(geometry.affine, code=1)
    header.set_xyzt_units("mm", "sec")
    return header


def _label_dtype(labels: np.ndarray) -> Any:
    return np.uint8 if labels.dtype in (np.uint8, np.bool_) or labels.max(initial=0) < 256 else np.int16


def _save(image: Any, path: Path, compressed: bool) -> None:
    """What `nib.save` does, with ISA-L instead of zlib: four times faster, and no larger for label maps."""
    with path.open("wb") as file:
        if not compressed:
            image.to_file_map({"image": FileHolder(fileobj=file)})
            return
        with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped:
            image.to_file_map({"image": FileHolder(fileobj=zipped)})


def _is_nibabels(path: Path) -> bool:
    """Whether nibabel reads a file; one called .img that has no header beside it may be DICOM."""
    return is_nifti(path) and header_file(path).is_file()


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path, and the entry in dataset.json if it comes from one.")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: is a pipe or a device, and no file.")
    return path


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, MemoryError):
        return DataError(f"{path}: cannot be read: not enough memory ({last_line(error)}). Use a machine with more.")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read ({last_line(error)}). Give yourself the right to read it.")
    return DataError(
        f"{path}: cannot be read ({last_line(error)}). The file may be truncated or of another format than its name "
        "says: copy or convert it again."
    )


def _stack_channels(scans: list[Scan]) -> Scan:
    first = scans[0]
    for other in scans[1:]:
        difference = first.geometry.difference(other.geometry)
        if difference:
            raise DataError(
                f"{other.path}: its geometry differs from that of {first.path.name}: {difference}. "
                "Channels of one case must be resampled to one grid."
            )
    array = np.concatenate([scan.array for scan in scans])
    return Scan(array, Geometry(first.geometry.shape, first.geometry.affine, len(array)), first.path)
