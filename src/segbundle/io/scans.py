"""Read scans and label maps in all supported formats, and write label maps as NIfTI.

Arrays are always (C, X, Y, Z). Affines map voxel indices to RAS+ world coordinates in millimeters, as in nibabel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.fileholders import FileHolder

from segbundle.errors import DataError, last_line
from segbundle.files.atomic import atomic_write
from segbundle.io.axes import reoriented
from segbundle.io.dicom import dicom_geometry, is_dicom, read_dicom
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.in_memory import scan_in_memory
from segbundle.io.itk import itk_geometry, read_itk
from segbundle.io.nifti import is_nifti, nifti_grid, read_nifti
from segbundle.io.scan_files import is_volume_path

__all__ = ["Geometry", "Scan", "geometry_header", "read_geometry", "read_scan", "write_segmentation"]

_FIXED_TEXT_FIELDS = ("magic", "regular")
"""Text fields of a NIfTI header that cannot contain the name of a patient."""


def read_scan(
    path: str | Path | Sequence[str | Path] | Any, dtype: Any = np.float32, allow_uneven: bool = False
) -> Scan:
    """Read a scan or label map, with scale slope and intercept applied.

    Args:
        path: a file, a folder with one DICOM volume, any file of a DICOM series, the path of a volume of a series (see
            `segbundle.io.dicom_folders`), or a list of files with one channel each (nnU-Net's `_0000`, `_0001`, ...)
            and the same geometry; or an image in memory, see `scan_in_memory`.
        dtype: NumPy dtype of the result (default float32); None for the dtype of the scaled values, as for label maps.
        allow_uneven: whether to resample DICOM series with missing slices or a variable slice spacing to an even
            spacing by linear interpolation. Default: False (such a series raises an error).

    Returns:
        the scan, with an array (C, X, Y, Z)

    Raises:
        DataError: the file is missing, truncated, unreadable or not a 3D scan; the header is not plausible; voxels are
            complex or color values; channels have different geometries; or the voxels do not fit into memory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     scan = read_scan(path)
        >>> scan.array.shape, scan.array.dtype, scan.geometry.spacing
        ((1, 4, 3, 2), dtype('float32'), (1.0, 1.0, 1.0))
    """
    if not isinstance(path, (str, Path)):
        in_memory = scan_in_memory(path, dtype)
        return in_memory or _stack_channels([read_scan(channel, dtype, allow_uneven) for channel in path])
    path = Path(path)
    try:
        if is_nifti(_check_exists(path)):
            return read_nifti(path, dtype)
        if is_dicom(path):
            array, geometry = read_dicom(path, dtype, allow_uneven)
            return Scan(array, geometry, path)
        return read_itk(path, dtype)
    except DataError:
        raise
    except Exception as error:  # nibabel, SimpleITK, pydicom and NumPy raise various exceptions
        raise unreadable(path, error) from error


def read_geometry(path: str | Path, allow_uneven: bool = False) -> Geometry:
    """Return the geometry of a scan. Only the header is read.

    Args:
        path: a file, a folder with one DICOM volume, any file of a DICOM series, or the path of a volume of a series.
        allow_uneven: see `read_scan`. Default: False.

    Raises:
        DataError: see `read_scan`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     read_geometry(path).shape
        (4, 3, 2)
    """
    return _grid(Path(path), allow_uneven)[0]


def _grid(path: Path, allow_uneven: bool) -> tuple[Geometry, Any]:
    """Return the geometry of a scan, and its header in single-file form if it is NIfTI, else None."""
    try:
        if is_nifti(_check_exists(path)):
            return nifti_grid(path)
        return (dicom_geometry(path, allow_uneven) if is_dicom(path) else itk_geometry(path)), None
    except DataError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def write_segmentation(
    labels: np.ndarray, reference: str | Path | Geometry, path: str | Path, extensions: Sequence[Any] = ()
) -> None:
    """Write a label map as NIfTI on the grid of its scan.

    For a NIfTI scan, the geometry of the header (dimensions, spacing, units, qform and sform with their codes) is
    copied bit for bit. For other formats, qform and sform are set in mm with code 1 (scanner); a qform cannot describe
    sheared axes, so only the sform is set for sheared axes. The file is written atomically, and the same labels give
    the same bytes.

    Args:
        labels: (X, Y, Z) integer class indices on the stored axes of the scan; written as uint8 if all are below 256,
            else as int16. uint8 in Fortran order is fastest.
        reference: path of the scan, or its geometry.
        path: output path, with the suffix `.nii.gz` or `.nii`.
        extensions: header extensions of nibabel (`Nifti1Extension`). Default: none.

    Raises:
        DataError: the shapes of `labels` and the scan differ, or the header of the scan cannot be read.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scan, segmentation = f"{folder}/ct.nii.gz", f"{folder}/ct_seg.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), scan)
        ...     write_segmentation(np.ones((4, 3, 2), np.uint8), scan, segmentation)
        ...     nib.load(segmentation).get_data_dtype()
        dtype('uint8')
    """
    path = Path(path)
    fits_uint8 = labels.dtype in (np.uint8, np.bool_) or labels.max(initial=0) < 256
    labels = labels.astype(np.uint8 if fits_uint8 else np.int16, copy=False)
    header = geometry_header(reference, labels.dtype)
    check_label_shape(labels, header.get_data_shape(), reference)
    header.extensions.extend(extensions)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    write_image(kind(labels, None, header), path)


def check_label_shape(labels: np.ndarray, shape: Sequence[int], reference: str | Path | Geometry) -> None:
    """Raise an error if a label map has another shape than its scan.

    Args:
        labels: label map (X, Y, Z).
        shape: shape of the scan (X, Y, Z).
        reference: path of the scan or its geometry, for the message.

    Raises:
        DataError: the shapes differ.

    Example:
        >>> check_label_shape(np.zeros((4, 3, 2)), (4, 3, 2), "ct.nii.gz")
    """
    if labels.shape != tuple(shape):
        name = "label map" if isinstance(reference, Geometry) else reference
        raise DataError(
            f"{name}: the scan has shape {shape}, but its label map has {labels.shape}. Pass labels on "
            "the stored axes of the scan."
        )


def write_image(image: nib.Nifti1Image, path: str | Path) -> None:
    """Write an image of nibabel as NIfTI, atomically.

    Args:
        image: image with its header.
        path: output path, with the suffix `.nii.gz` or `.nii`.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), np.eye(4)), f"{folder}/labels.nii.gz")
        ...     nib.load(f"{folder}/labels.nii.gz").shape
        (4, 3, 2)
    """
    path = Path(path)
    with atomic_write(path) as partial, partial.open("wb") as file:
        if not path.name.lower().endswith(".gz"):
            image.to_file_map({"image": FileHolder(fileobj=file)})
            return
        # like `nib.save`, with ISA-L instead of zlib: four times faster, and not larger for label maps
        with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped:
            image.to_file_map({"image": FileHolder(fileobj=zipped)})


def geometry_header(reference: str | Path | Geometry, dtype: Any, channels: Sequence[int] = ()) -> Any:
    """Return a NIfTI header with the geometry of a scan, for a new image on the same grid.

    The header of a NIfTI scan is copied. An unevenly spaced DICOM series has the geometry of its even grid. Fields
    about intensities are cleared, and so is free text, because it may contain the name of the patient.

    Args:
        reference: path of the scan, or its geometry.
        dtype: NumPy dtype of the new image.
        channels: sizes of further axes of the new image, after the three axes of the scan. Default: none.

    Returns:
        a header of nibabel in single-file form: `Nifti2Header` for a NIfTI-2 scan, else `Nifti1Header`

    Raises:
        DataError: see `read_scan`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     geometry_header(path, np.uint8, channels=(5,)).get_data_shape()
        (4, 3, 2, 5)
    """
    geometry, header = (
        (reference, None) if isinstance(reference, Geometry) else _grid(Path(reference), allow_uneven=True)
    )
    if header is None:
        header = _header_of_geometry(geometry)
    shape = (*geometry.shape, *channels)
    if header.get_data_shape() != shape:  # setting it resets the spacing of axes beyond the third
        header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header.extensions.clear()
    for field, (kind, _) in header.template_dtype.fields.items():
        if kind.kind == "S" and field not in _FIXED_TEXT_FIELDS:
            header[field] = b""
    return header


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that a library could not read.

    Args:
        path: path of the file.
        error: exception of the library.

    Example:
        >>> print(unreadable(Path("ct.nii.gz"), PermissionError(13, "Permission denied")))
        ct.nii.gz: cannot be read ([Errno 13] Permission denied). Grant read permission.
    """
    if isinstance(error, MemoryError):
        return DataError(
            f"{path}: cannot be read: not enough memory ({last_line(error)}). Use a machine with more memory."
        )
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read ({last_line(error)}). Grant read permission.")
    return DataError(
        f"{path}: cannot be read ({last_line(error)}). The file may be truncated, or its suffix may not match its "
        "format: copy or convert it again."
    )


def _header_of_geometry(geometry: Geometry) -> Any:
    header = nib.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_qform(geometry.affine, code=0 if geometry.is_sheared else 1)
    header.set_sform(geometry.affine, code=1)
    header.set_xyzt_units("mm", "sec")
    return header


def _check_exists(path: Path) -> Path:
    if not path.exists():
        if is_volume_path(path):
            return path
        raise DataError(f"{path}: no such file. Check the path, or its entry in dataset.json.")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: is a pipe or a device, not a file. Pass a regular file.")
    return path


def _stack_channels(scans: list[Scan]) -> Scan:
    first = scans[0]
    scans = [first, *(reoriented(other, first.geometry) for other in scans[1:])]
    for other in scans[1:]:
        difference = first.geometry.difference(other.geometry)
        if difference:
            raise DataError(
                f"{other.path}: its geometry differs from that of {first.path.name}: {difference}. "
                "Resample all channels of a case to the same grid."
            )
    array = np.concatenate([scan.array for scan in scans])
    return Scan(array, replace(first.geometry, channels=len(array)), first.path)
