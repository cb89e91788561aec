"""Scan files in, label maps out: NIfTI through nibabel; NRRD, MHA and DICOM series through SimpleITK.

Arrays are always (C, X, Y, Z) with an affine that maps voxel indices to millimetres in RAS+ world space, as NIfTI
and nibabel define it; SimpleITK's LPS+ and (Z, Y, X) stay inside this module.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder

from segbundle.data.dicom import dicom_geometry, is_dicom, read_dicom
from segbundle.data.geometry import Geometry, Scan
from segbundle.data.scan_files import is_nifti
from segbundle.errors import DataError
from segbundle.files import written_whole

__all__ = ["Geometry", "Scan", "geometry_header", "read_geometry", "read_scan", "write_segmentation"]

_UNIT_IN_MM = {"meter": 1000.0, "micron": 0.001}
_READ_ERRORS: tuple[Any, ...] = (
    OSError,
    EOFError,
    zlib.error,
    isal_zlib.error,
    ImageFileError,
    ValueError,
    RuntimeError,
)
_CHUNK = 1 << 22
"""Voxels of a NIfTI file that are decompressed, scaled and converted at a time."""


def read_scan(path: str | Path | Sequence[str | Path], dtype: Any = np.float32) -> Scan:
    """Read a scan, with scale slope and intercept applied.

    Args:
        path: a file, a folder holding one DICOM series, or a list of files with one channel each (nnU-Net's
            `_0000`, `_0001`, ...), which must share their geometry.
        dtype: NumPy dtype of the result, or None to keep what the scaled values need (for label maps).

    Returns:
        the scan; its `array` is (C, X, Y, Z).

    Raises:
        DataError: missing, truncated or unreadable file, complex or colour voxels, not a 3D volume, or channels
            with different geometries.
    """
    if not isinstance(path, (str, Path)):
        return _stack_channels([read_scan(one, dtype) for one in path])
    path = Path(path)
    try:
        if is_nifti(_existing(path)):
            return _read_nifti(path, dtype)
        if is_dicom(path):
            array, geometry = read_dicom(path, dtype)
            return Scan(array, geometry, path)
        return _read_itk(path, dtype)
    except DataError:
        raise
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def read_geometry(path: str | Path) -> Geometry:
    """Shape and affine of a scan from its header alone, without reading voxels where the format allows.

    Raises:
        DataError: as `read_scan`.
    """
    path = Path(path)
    try:
        if is_nifti(_existing(path)):
            image: Any = nib.load(path)
            return _nifti_geometry(path, image)
        if is_dicom(path):
            return dicom_geometry(path)
        return _itk_header_geometry(path)
    except DataError:
        raise
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def write_segmentation(labels: np.ndarray, reference: str | Path, path: str | Path) -> None:
    """Write a label map as NIfTI on the grid of the scan it belongs to.

    For a NIfTI scan the header's geometry (dimensions, spacing, units, qform and sform with their codes) is kept
    bit for bit. For the other formats both forms are set from the scan's geometry with code 1 (scanner), in mm.
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

    That of a NIfTI scan is copied; what describes the scan's intensities is cleared, nothing else.

    Args:
        reference: the scan.
        shape: of the image, whose first three sizes are the scan's.
        dtype: of the image.

    Raises:
        DataError: as `read_scan`.
    """
    path = Path(reference)
    if is_nifti(path):
        image: Any = nib.load(path)
        header = image.header.copy()
    else:
        geometry = read_geometry(path)
        header = nib.Nifti1Header()
        header.set_data_shape(geometry.shape)
        header.set_qform(geometry.affine, code=1)
        header.set_sform(geometry.affine, code=1)
        header.set_xyzt_units("mm", "sec")
    if header.get_data_shape() != tuple(shape):  # setting it resets the spacing of axes beyond the third
        header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header.extensions.clear()
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


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path, and the entry in dataset.json if it comes from one.")
    return path


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return DataError(
        f"{path}: cannot be read ({reason}). The file may be truncated or of another format than its name says: "
        "copy or convert it again."
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


def _volume_shape(path: Path, shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """Split a stored shape into three spatial sizes and a number of channels."""
    sizes = [int(size) for size in shape]
    if len(sizes) == 2:  # one slice
        sizes = [*sizes, 1]
    if len(sizes) == 5 and sizes[3] == 1:  # ITK stores vectors behind a time axis of length one
        sizes = [*sizes[:3], sizes[4]]
    if len(sizes) == 3:
        sizes = [*sizes, 1]
    if len(sizes) != 4 or min(sizes) < 1:
        raise DataError(f"{path}: has shape {tuple(shape)}; a 3D scan, or a 4D one with channels last, is needed.")
    return (sizes[0], sizes[1], sizes[2]), sizes[3]


def _nifti_geometry(path: Path, image: Any) -> Geometry:
    sizes, channels = _volume_shape(path, image.shape)
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _UNIT_IN_MM.get(image.header.get_xyzt_units()[0], 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            f"{path}: its affine is singular or not finite, so voxels have no place in space. "
            "Repair the header's sform and qform."
        )
    return Geometry(sizes, affine, channels)


def _read_nifti(path: Path, dtype: Any) -> Scan:
    image: Any = nib.load(path)
    stored = image.get_data_dtype()
    if stored.fields is not None or np.issubdtype(stored, np.complexfloating):
        raise DataError(f"{path}: holds {stored} voxels (colour or complex); convert it to one real value per voxel.")
    geometry = _nifti_geometry(path, image)
    array = _nifti_voxels(path, image.dataobj, dtype).reshape((*geometry.shape, geometry.channels), order="F")
    return Scan(np.moveaxis(array, -1, 0), geometry, path)


def _nifti_voxels(path: Path, stored: ArrayProxy, dtype: Any) -> np.ndarray:
    """All voxels in the file's order (n,): the values of `np.asarray(stored, dtype)`, three times faster if gzipped.

    nibabel finds and scales the voxels; only decompression is ISA-L's. Going through the file in chunks, neither
    its bytes nor its values in another precision are ever held for the whole scan.
    """
    count = int(np.prod(stored.shape))
    with igzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        spec = ((count,), stored.dtype, stored.offset, stored.slope, stored.inter)
        chunks = ArrayProxy(file, spec, mmap=False)
        scaled = chunks[:1].dtype
        array = np.empty(count, scaled if dtype is None else dtype)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            # nibabel rounds twice on the way from 64-bit integers to float32, and so must we
            array[start:stop] = chunks[start:stop].astype(np.promote_types(scaled, array.dtype), copy=False)
        file.read(1)  # at the end of compressed data its checksum is compared
    return array


def _read_itk(path: Path, dtype: Any) -> Scan:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    if "complex" in image.GetPixelIDTypeAsString():
        raise DataError(f"{path}: holds complex voxels; convert it to one real value per voxel.")
    geometry = _itk_geometry(path, image)
    array = sitk.GetArrayFromImage(image)  # (T?, Z, Y, X, C?)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    spatial = array.reshape(geometry.channels, *reversed(geometry.shape)).transpose(0, 3, 2, 1)
    return Scan(spatial if dtype is None else spatial.astype(dtype, copy=False), geometry, path)


def _itk_header_geometry(path: Path) -> Geometry:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return _itk_geometry(path, reader)


def _itk_geometry(path: Path, image: Any) -> Geometry:
    """Geometry of anything with SimpleITK's GetSize, GetSpacing, GetDirection and GetOrigin."""
    size = list(image.GetSize())
    components = image.GetNumberOfComponents() if hasattr(image, "GetNumberOfComponents") else 1
    if hasattr(image, "GetNumberOfComponentsPerPixel"):
        components = image.GetNumberOfComponentsPerPixel()
    dimension = len(size)
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)
    matrix, origin = np.eye(4), np.zeros(3)
    spatial = min(dimension, 3)
    matrix[:spatial, :spatial] = (direction * np.asarray(image.GetSpacing()))[:spatial, :spatial]
    origin[:spatial] = image.GetOrigin()[:spatial]
    matrix[:3, 3] = origin
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    shape, channels = _volume_shape(path, [*size, components] if dimension == 3 else size)
    return Geometry(shape, lps_to_ras @ matrix, channels)
