"""Read NRRD and MetaImage files with SimpleITK, and convert LPS+ coordinates and (Z, Y, X) arrays."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.hardware.memory_usage import check_memory
from segbundle.io.geometry import Geometry, Scan, check_geometry, volume_shape
from segbundle.io.scan_files import data_files
from segbundle.io.text_headers import METAIMAGE, NRRD, check_text_header, compressed_values

_COMPRESSED = re.compile(rb"CompressedData\s*=\s*True|encoding:\s*(?!raw)\S", re.IGNORECASE)
_GZIPPED = re.compile(rb"CompressedData\s*=\s*True|encoding:\s*gz", re.IGNORECASE)
_MAX_COMPRESSION_RATIO = 1032
"""Maximum compression ratio of gzip."""
_HEADER = 1 << 16
"""Number of bytes at the start of a file that contain the encoding of its voxels."""
_FORMATS = {**dict.fromkeys(METAIMAGE, "MetaImageIO"), **dict.fromkeys(NRRD, "NrrdImageIO")}
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_geometry(path: Path) -> Geometry:
    """Return the geometry of an NRRD or MetaImage file. Only the header is read.

    Args:
        path: path of the file.

    Raises:
        DataError: the header is invalid, or data files are missing.
        Exception: any error of SimpleITK or the file system; `read_geometry` converts it to a `DataError`.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nrrd"
        ...     sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(path))
        ...     itk_geometry(path).shape
        (4, 3, 2)
    """
    reader = _reader(path)
    return image_geometry(path, reader, reader.GetNumberOfComponents())


def read_itk(path: Path, dtype: Any) -> Scan:
    """Read an NRRD or MetaImage file.

    Args:
        path: path of the file.
        dtype: NumPy dtype of the result; None to keep the stored dtype.

    Returns:
        the scan, with an array (C, X, Y, Z)

    Raises:
        DataError: see `itk_geometry`; or voxels are complex or missing, or do not fit into memory.
        Exception: any error of SimpleITK or the file system; `read_scan` converts it to a `DataError`.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nrrd"
        ...     sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(path))
        ...     read_itk(path, np.float32).array.shape
        (1, 4, 3, 2)
    """
    import SimpleITK as sitk

    reader = _reader(path)
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind:
        raise DataError(f"{path}: contains complex voxels; convert them to one real value per voxel.")
    geometry = image_geometry(path, reader, reader.GetNumberOfComponents())
    stored = next((size for bits, size in _BYTES.items() if f"{bits}-bit" in kind), 1)
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    _check_length(path, count, stored)
    wanted = 0 if dtype is None else np.dtype(dtype).itemsize
    check_memory(path, count * (stored + wanted))
    components = reader.GetNumberOfComponents()
    values = compressed_values(path)
    if values is None:
        image = reader.Execute()
        array = sitk.GetArrayViewFromImage(image)  # (T?, Z, Y, X, C?)
        array = array.astype(array.dtype if dtype is None else dtype)
    else:
        array = values.reshape(*reversed(reader.GetSize()), *([components] if components > 1 else []))
        array = array if dtype is None else array.astype(dtype, copy=False)
    return Scan(channels_first(array, components, geometry), geometry, path)


def channels_first(array: np.ndarray, components: int, geometry: Geometry) -> np.ndarray:
    """Convert an array of SimpleITK to (C, X, Y, Z), without a copy where possible.

    Args:
        array: voxels (Z, Y, X), with an additional first axis for time points and an additional last axis for several
            values per voxel.
        components: number of values per voxel.
        geometry: geometry of the image.

    Returns:
        an array (C, X, Y, Z) of the same dtype; C is the number of values per voxel, or the number of time points

    Example:
        >>> channels_first(np.zeros((2, 3, 4)), 1, Geometry((4, 3, 2), np.eye(4))).shape
        (1, 4, 3, 2)
    """
    if components > 1:
        array = np.moveaxis(array, -1, 0)
    return array.reshape(geometry.channels, *reversed(geometry.shape)).transpose(0, 3, 2, 1)


def _reader(path: Path) -> Any:
    """Return a SimpleITK reader that has read the header of a file."""
    import SimpleITK as sitk

    if path.suffix.lower() not in _FORMATS:  # ITK would try all readers, and these write to stderr
        raise DataError(f"{path}: is not a NIfTI, NRRD, MetaImage, MGH or DICOM file. Convert it to NIfTI.")
    check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if not path.suffix.islower():  # ITK determines the format by lower-case suffixes
        reader.SetImageIO(_FORMATS.get(path.suffix.lower(), ""))
    reader.ReadImageInformation()
    return reader


def _check_length(path: Path, count: int, stored: int) -> None:
    """Raise an error if a file is shorter than its header says, before memory is allocated."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    files = data_files(path) or [path]
    size = sum(file.stat().st_size for file in files)
    factor: float = 1
    if _COMPRESSED.search(header):
        factor = _MAX_COMPRESSION_RATIO if _GZIPPED.search(header) else math.inf
    known = path.suffix.lower() in (".mha", ".mhd", ".nrrd", ".nhdr")
    if known and count * stored > size * factor:
        named = path.name if files == [path] else ", ".join(file.name for file in files[:3])
        raise DataError(
            f"{path}: cannot be read (its header says {count} voxels, {count * stored} bytes; {named} has {size}). "
            f"{named} may be truncated: copy or convert it again."
        )


def image_geometry(path: Path, image: Any, components: int) -> Geometry:
    """Return the geometry of a SimpleITK image, or of the header that a SimpleITK reader has read.

    Args:
        path: path of the file, for messages.
        image: SimpleITK `Image`, or `ImageFileReader` after `ReadImageInformation`.
        components: number of values per voxel.

    Raises:
        DataError: the number of dimensions is not supported, or the geometry is not plausible.

    Example:
        >>> import SimpleITK as sitk
        >>> image_geometry(Path("ct.nrrd"), sitk.GetImageFromArray(np.zeros((2, 3, 4))), 1).shape
        (4, 3, 2)
    """
    size = list(image.GetSize())
    dimension = len(size)
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)
    matrix, origin = np.eye(4), np.zeros(3)
    spatial = min(dimension, 3)
    matrix[:spatial, :spatial] = (direction * np.asarray(image.GetSpacing()))[:spatial, :spatial]
    origin[:spatial] = image.GetOrigin()[:spatial]
    matrix[:3, 3] = origin
    shape, channels = volume_shape(path, [*size, components] if dimension == 3 else size)
    return check_geometry(path, Geometry(shape, LPS_TO_RAS @ matrix, channels))
