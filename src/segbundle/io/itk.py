"""Reading what SimpleITK reads: NRRD, MetaImage and others; its LPS+ and (Z, Y, X) stay in this module."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan, check_geometry, volume_shape
from segbundle.io.reading import check_memory
from segbundle.io.scan_files import data_files
from segbundle.io.text_headers import METAIMAGE, NRRD, check_text_header, compressed_values

_COMPRESSED = re.compile(rb"CompressedData\s*=\s*True|encoding:\s*(?!raw)\S", re.IGNORECASE)
_GZIPPED = re.compile(rb"CompressedData\s*=\s*True|encoding:\s*gz", re.IGNORECASE)
_MOST_COMPRESSED = 1032
"""Bytes that one byte of gzip can stand for."""
_HEADER = 1 << 16
"""Bytes of a file in which its header says how voxels are stored."""
_FORMATS = {**dict.fromkeys(METAIMAGE, "MetaImageIO"), **dict.fromkeys(NRRD, "NrrdImageIO")}
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_geometry(path: Path) -> Geometry:
    """Return the geometry of a file, from its header.

    Raises:
        DataError: a header that cannot be true, missing data files; SimpleITK raises other errors.
    """
    return _geometry(path, _reader(path))


def read_itk(path: Path, dtype: Any) -> Scan:
    """Read a file.

    Raises:
        DataError: as `itk_geometry`; complex voxels, or fewer than the header says.
    """
    import SimpleITK as sitk

    reader = _reader(path)
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind:
        raise DataError(f"{path}: holds complex voxels; convert it to one real value per voxel.")
    geometry = _geometry(path, reader)
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
    if components > 1:
        array = np.moveaxis(array, -1, 0)
    spatial = array.reshape(geometry.channels, *reversed(geometry.shape)).transpose(0, 3, 2, 1)
    return Scan(spatial, geometry, path)


def _reader(path: Path) -> Any:
    """A reader that knows the file's header."""
    import SimpleITK as sitk

    if path.suffix.lower() not in _FORMATS:  # ITK would try all of its readers, which write to stderr
        raise DataError(f"{path}: is no NIfTI, NRRD, MetaImage, MGH or DICOM file. Convert it to NIfTI.")
    check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if not path.suffix.islower():  # by which ITK would know the format
        reader.SetImageIO(_FORMATS.get(path.suffix.lower(), ""))
    reader.ReadImageInformation()
    return reader


def _check_length(path: Path, count: int, stored: int) -> None:
    """Refuse files that are shorter than their header says, before memory is taken for their voxels."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    files = data_files(path) or [path]
    held = sum(file.stat().st_size for file in files)
    factor: float = 1
    if _COMPRESSED.search(header):
        factor = _MOST_COMPRESSED if _GZIPPED.search(header) else math.inf
    known = path.suffix.lower() in (".mha", ".mhd", ".nrrd", ".nhdr")
    if known and count * stored > held * factor:
        named = path.name if files == [path] else ", ".join(file.name for file in files[:3])
        raise DataError(
            f"{path}: cannot be read (its header says {count} voxels, {count * stored} bytes; {named} has {held}). "
            f"{named} may be truncated: copy or convert it again."
        )


def _geometry(path: Path, reader: Any) -> Geometry:
    size, components = list(reader.GetSize()), reader.GetNumberOfComponents()
    dimension = len(size)
    direction = np.asarray(reader.GetDirection()).reshape(dimension, dimension)
    matrix, origin = np.eye(4), np.zeros(3)
    spatial = min(dimension, 3)
    matrix[:spatial, :spatial] = (direction * np.asarray(reader.GetSpacing()))[:spatial, :spatial]
    origin[:spatial] = reader.GetOrigin()[:spatial]
    matrix[:3, 3] = origin
    shape, channels = volume_shape(path, [*size, components] if dimension == 3 else size)
    return check_geometry(path, Geometry(shape, LPS_TO_RAS @ matrix, channels))
