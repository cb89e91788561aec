"""Read the voxels of DICOM images, with the rescale slope and intercept of each slice applied."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError, last_line
from segbundle.hardware.memory_usage import check_memory
from segbundle.io.dicom_headers import BIG_ENDIAN, DEFLATED, IMPLICIT, NATIVE, DicomImage, read_dataset
from segbundle.io.stacks import Slice

_PIXEL_DATA = (0x7FE0, 0x0010)
_KEPT = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
    "PixelData",
)
"""Elements that GDCM needs to decompress; without any others, it neither rescales nor inverts values."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_EXACT_IN_FLOAT32 = 2**24


def read_values(images: Sequence[DicomImage], order: Sequence[int], dtype: Any) -> np.ndarray:
    """Read the voxels of a volume, with the rescale slope and intercept of each slice applied.

    Args:
        images: headers of the files of the volume.
        order: for each slice of the result, the index of the slice among the slices of all `images`.
        dtype: NumPy dtype of the result. None: float32 if a slope or intercept is not an integer, else the first of
            uint8, int16, uint16, int32 and int64 that fits the range of BitsStored after rescaling (float64 if none
            fits).

    Returns:
        an array (slices, rows, columns) of this dtype

    Raises:
        DataError: a file is damaged, a slope or intercept is damaged or missing in some of the slices, or the voxels do
            not fit into memory.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> from segbundle.io.dicom_headers import read_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.ones((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     values = read_values([read_image(Path(folder) / "ct.dcm")], [0, 1], np.int16)
        >>> values.shape, int(values.sum())
        ((2, 3, 4), 24)
    """
    slices = [plane for image in images for plane in image.slices]
    _check_rescale(images[0].path.parent, slices)
    place = np.empty(len(order), dtype=int)
    place[list(order)] = range(len(order))
    shape = (len(slices), images[0].rows, images[0].columns)
    kind = np.dtype(_dtype(images, slices) if dtype is None else dtype)
    check_memory(images[0].path, math.prod(shape) * kind.itemsize)
    result = np.empty(shape, kind)
    first = 0
    for image in images:
        try:
            stored = _stored_values(image)
        except DataError:
            raise
        except Exception as error:  # from pydicom, SimpleITK, or the file system
            raise DataError(
                f"{image.path}: its voxels cannot be read ({last_line(error)}). Copy or export the file again."
            ) from error
        for index, plane in enumerate(image.slices):
            _rescale(stored[plane.frame], plane, result[place[first + index]])
        first += len(image.slices)
    return result


def check_complete(image: DicomImage) -> None:
    """Raise an error if a file is too short for its uncompressed voxels. Compressed files are not checked.

    Args:
        image: header of the file.

    Raises:
        DataError: the file is truncated.

    Example:
        >>> from segbundle.io.dicom_headers import EXPLICIT
        >>> path = Path("1.dcm")
        >>> image = DicomImage(path, "1.2", "", "CT", 3, 4, 16, 12, 11, False, EXPLICIT, 900, (), None, stored=20)
        >>> check_complete(image)
        Traceback (most recent call last):
        segbundle.errors.DataError: 1.dcm: contains 10 of 12 voxels; the file is truncated. Copy or export it again.
    """
    count = image.frames * image.rows * image.columns
    if image.stored is not None:
        _check_size(image.path, min(count, image.stored // (image.bits // 8)), count)


def _check_size(path: Path, size: int, count: int) -> None:
    if size != count:
        raise DataError(f"{path}: contains {size} of {count} voxels; the file is truncated. Copy or export it again.")


def _check_rescale(folder: Path, slices: Sequence[Slice]) -> None:
    for plane in slices:
        if plane.damaged:
            raise DataError(f"{folder / plane.name}: {plane.damaged}. Export the series again.")
        if plane.slope == 0:
            raise DataError(
                f"{folder / plane.name}: RescaleSlope is 0, so all voxels would be equal. Export the series again."
            )
    for name in sorted({name for plane in slices for name in plane.rescaled}):
        without = [plane for plane in slices if name not in plane.rescaled]
        if without and any((plane.slope, plane.intercept) != (1, 0) for plane in slices):
            first = without[0]
            place = (
                f"frame {first.frame + 1}"
                if any(plane.name == first.name for plane in slices if plane != first)
                else "it"
            )
            raise DataError(
                f"{folder / first.name}: {place} has no {name}, but other slices of the volume have one. Export the "
                "series again."
            )


def _limits(image: DicomImage) -> tuple[int, int]:
    if image.signed:
        return -(2 ** (image.stored_bits - 1)), 2 ** (image.stored_bits - 1) - 1
    return 0, 2**image.stored_bits - 1


def _dtype(images: Sequence[DicomImage], slices: Sequence[Slice]) -> Any:
    if any(plane.slope % 1 or plane.intercept % 1 for plane in slices):
        return np.float32
    values = [
        limit * plane.slope + plane.intercept for image in images for plane in image.slices for limit in _limits(image)
    ]
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.int64):
        if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max:
            return dtype
    return np.float64


def _rescale(stored: np.ndarray, plane: Slice, result: np.ndarray) -> None:
    if plane.slope == 1 and plane.intercept == 0:
        result[...] = stored
        return
    largest = float(np.iinfo(stored.dtype).max) * abs(plane.slope) + abs(plane.intercept)
    exact = result.dtype == np.float32 and plane.slope % 1 == plane.intercept % 1 == 0 and largest < _EXACT_IN_FLOAT32
    values = np.multiply(stored, plane.slope, dtype=np.float32 if exact else np.float64)
    values += plane.intercept
    result[...] = values


def _stored_values(image: DicomImage) -> np.ndarray:
    """Return the stored values (frames, rows, columns) as integers."""
    shape = (image.frames, image.rows, image.columns)
    kind = f"{'i' if image.signed else 'u'}{image.bits // 8}"
    count = int(np.prod(shape))
    if image.syntax in (*NATIVE, DEFLATED) and image.high_bit != image.stored_bits - 1:
        raise DataError(
            f"{image.path}: HighBit is {image.high_bit}, but BitsStored is {image.stored_bits}; HighBit must be "
            f"{image.stored_bits - 1}. Export the series again."
        )
    if image.syntax in NATIVE:
        values = _native_values(image, np.dtype((">" if image.syntax == BIG_ENDIAN else "<") + kind), count)
    elif image.syntax == DEFLATED:
        values = np.frombuffer(read_dataset(image.path).PixelData, f"<{kind}")[:count]
    else:
        values = _decompressed(image)
    _check_size(image.path, values.size, count)
    unused = image.bits - image.stored_bits
    if unused > 0 and image.syntax in (*NATIVE, DEFLATED):  # unused bits may contain overlays
        values = (values << unused) >> unused
    if image.tiles > 1:
        tiled = values.reshape(image.tiles, image.rows, image.tiles, image.columns)
        return tiled.swapaxes(1, 2).reshape(shape)
    return values.reshape(shape)


def _native_values(image: DicomImage, dtype: np.dtype[Any], count: int) -> np.ndarray:
    """Return uncompressed values, read from the end of the header."""
    order: Any = "big" if image.syntax == BIG_ENDIAN else "little"
    with image.path.open("rb") as file:
        file.seek(image.pixels)
        element = file.read(8 if image.syntax == IMPLICIT else 12)
        tag = tuple(int.from_bytes(element[start : start + 2], order) for start in (0, 2))
        if tag != _PIXEL_DATA:
            raise DataError(f"{image.path}: has no pixel data; the file may be truncated. Copy or export it again.")
        length = int.from_bytes(element[-4:], order)
        return np.fromfile(file, dtype, min(count, length // dtype.itemsize))


def _decompressed(image: DicomImage) -> np.ndarray:
    """Return compressed values: decompressed by GDCM or, if it does not know the compression, by pydicom's plugins."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        return _decompressed_by_gdcm(image)
    except Exception as error:
        try:
            decoder = get_decoder(UID(image.syntax))
            known = decoder.is_available
        except NotImplementedError:
            known = False
        if not known:
            raise DataError(
                f"{image.path}: its voxels cannot be decompressed ({UID(image.syntax).name}). Install the decoders of "
                "the extra dicom (pip install 'segbundle[dicom]'), or export the series without compression."
            ) from error
        try:
            return np.asarray(decoder.as_array(read_dataset(image.path), raw=True)[0]).ravel()
        except Exception:
            raise error from None  # both failed: the file is damaged


def _decompressed_by_gdcm(image: DicomImage) -> np.ndarray:
    import SimpleITK as sitk
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    whole = read_dataset(image.path)
    plain: Any = Dataset()
    for name in _KEPT:
        if name in whole:
            plain[name] = whole[name]
    plain.SamplesPerPixel, plain.PhotometricInterpretation = 1, "MONOCHROME2"
    plain.SOPClassUID, plain.SOPInstanceUID = _SECONDARY_CAPTURE, "1.2.3"
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = image.syntax
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "image.dcm"
        plain.save_as(copy, enforce_file_format=True)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO")).ravel()
