"""Read DICOM headers: an image with its slices, or the kind of a file that is not an image."""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from segbundle.io.dicom_kinds import image_kind, is_cross_sectional, not_a_volume, num_frames
from segbundle.io.dicom_mosaics import COUNT_TAGS, is_mosaic, read_mosaic
from segbundle.io.dicom_slices import header_number, image_slices
from segbundle.io.scan_files import DICOM_SUFFIXES, is_dicom_file
from segbundle.io.stacks import Slice

_TAGS = (
    "SOPClassUID", "Modality", "ProtocolName", "SeriesDescription", "SeriesInstanceUID", "ImageType", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EchoTime", "EchoNumbers", "DiffusionBValue",
    "TemporalPositionIdentifier", "InstanceNumber", "SeriesNumber", "SeriesDate", "StudyDate", "SOPInstanceUID",
    "PatientID", "ConcatenationUID", "ConcatenationFrameOffsetNumber", "InConcatenationNumber",
    "InConcatenationTotalNumber", "InversionTime", "FlipAngle", "KVP",
    "ConvolutionKernel", "SequenceName", "NominalPercentageOfCardiacPhase", "TriggerTime", "AcquisitionNumber",
    "DiffusionGradientOrientation", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "FrameReferenceTime",
    "ContentDate", "ContentTime",
)  # fmt: skip
_DICOMDIR = "1.2.840.10008.1.3.10"
_OTHER_MODALITIES = (
    "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SEG", "SR", "PR", "KO", "REG", "FID", "RWV", "DOC", "AU", "ECG",
)  # fmt: skip
"""Modalities of objects that are not scans."""
IMPLICIT, EXPLICIT, BIG_ENDIAN = NATIVE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNREADABLE = "unreadable"
"""Kind of a file that may be a damaged slice."""
_SERIES_UID = 0x0020000E
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_DAMAGED = "has a truncated or damaged header"
_NO_PIXELS = "has no pixel data"
EMPTY = "empty"
"""Kind of an empty file without a DICOM suffix."""
_LOCALIZER = re.compile(
    r"lo[ck]ali[sz](er|ador|ateur|ator|zatore)|scout|survey|surview|topogram|scanogra|scanoscop|(3|three|tri)[ -]?plan"
    r"|(?<![a-z])(locs?|topo|scano|pilot)(?![a-z])",
    re.IGNORECASE,
)
"""Series descriptions of localizers."""
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its messages do not name the file
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


@dataclass(frozen=True)
class DamagedFile:
    """File that may be a damaged slice.

    Attributes:
        path: path of the file.
        reason: predicate of a sentence about the file, such as `has no pixel data`.
        series: SeriesInstanceUID; empty (default) if it cannot be read.

    Example:
        >>> DamagedFile(Path("1.dcm"), "is empty").reason
        'is empty'
    """

    path: Path
    reason: str
    series: str = ""


@dataclass(frozen=True)
class DicomImage:
    """Header of a DICOM file with voxels.

    Attributes:
        path: path of the file.
        series: SeriesInstanceUID.
        description: SeriesDescription; may be empty.
        modality: Modality, for instance `CT`; may be empty.
        rows: number of rows of a slice.
        columns: number of columns of a slice.
        bits: BitsAllocated.
        stored_bits: BitsStored.
        high_bit: HighBit.
        signed: whether stored values are signed.
        syntax: transfer syntax UID.
        pixels: position of the pixel data element in the file, in bytes.
        slices: planes of the image; empty if the image is not part of a volume.
        why: kind of the image if the image is not part of a volume, else None.
        localizer: True if the SeriesDescription or, if this is missing, the ProtocolName contains a word for a
            localizer (default False).
        damaged: True if the image is not part of a volume, although its SOP class is used for slices (default False).
        frames: number of frames in the file, or of tiles in a mosaic (default 1); `slices` may contain only some of
            these frames.
        instance: SOPInstanceUID (default empty).
        number: SeriesNumber; 0 (default) if unknown.
        date: SeriesDate, or else StudyDate, as in the header, for instance `20260131` (default empty).
        patient: hash of the PatientID (default 0).
        concatenation: ConcatenationUID of a multi-frame file that is one of several (default empty).
        part: InConcatenationNumber, from 1; 0 (default) if unknown.
        num_parts: InConcatenationTotalNumber; 0 (default) if unknown.
        stored: number of bytes of uncompressed voxels in the file; None (default) if unknown.
        tiles: number of slices side by side along each side of a Siemens mosaic; 1 (default) for other images.

    Example:
        >>> path = Path("1.dcm")
        >>> image = DicomImage(path, "1.2.3", "", "CT", 3, 4, 16, 12, 11, False, EXPLICIT, 900, (), "a localizer")
        >>> image.damaged
        False
    """

    path: Path
    series: str
    description: str
    modality: str
    rows: int
    columns: int
    bits: int
    stored_bits: int
    high_bit: int
    signed: bool
    syntax: str
    pixels: int
    slices: tuple[Slice, ...]
    why: str | None
    localizer: bool = False
    damaged: bool = False
    frames: int = 1
    instance: str = ""
    number: int = 0
    date: str = ""
    patient: int = 0
    concatenation: str = ""
    part: int = 0
    num_parts: int = 0
    stored: int | None = None
    tiles: int = 1


def read_image(path: Path) -> DicomImage | DamagedFile | str:
    """Read the header of a DICOM image; for any other file, return the kind of file.

    No error is raised for a damaged file.

    Args:
        path: path of the file.

    Returns:
        a `DicomImage`; or a `DamagedFile` with the reason why the file cannot be read; or the kind of file as text: a
        modality such as `SR`, `DICOMDIR`, `not DICOM` or `empty`

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "notes.txt"
        ...     _ = path.write_text("a file that is not DICOM")
        ...     read_image(path)
        'not DICOM'
    """
    if path.name == "DICOMDIR":
        return "DICOMDIR"
    try:
        with path.open("rb") as file:
            if not is_dicom_file(path):
                is_empty = not file.read(1)
                if path.suffix.lower() in DICOM_SUFFIXES:
                    return DamagedFile(path, "is empty" if is_empty else "has no DICOM header")
                return EMPTY if is_empty else "not DICOM"
            return _image(path, file)
    except Exception as error:  # pydicom raises various exceptions for damaged headers
        reason = error.strerror if isinstance(error, OSError) else None
        if reason:
            return DamagedFile(path, f"cannot be opened ({reason})")
        return DamagedFile(path, _DAMAGED, _series_of_damaged(path))


def read_dataset(path: Path, stop_before_pixels: bool = False) -> Any:
    """Read a DICOM file (pydicom), also one without preamble or meta information.

    Args:
        path: path of a file that `is_dicom_file` accepts.
        stop_before_pixels: whether to leave out the voxels (default False).

    Returns:
        the dataset, always with a TransferSyntaxUID

    Raises:
        Exception: any error of pydicom for a damaged file.

    Example:
        >>> read_dataset(Path("rs.dcm")).SOPClassUID  # doctest: +SKIP
        '1.2.840.10008.5.1.4.1.1.481.3'
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    dataset: Any = dcmread(path, force=True, stop_before_pixels=stop_before_pixels)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = UID(_syntax(dataset))
    return dataset


@cache
def _tags() -> list[Any]:
    from pydicom.tag import Tag

    return [*map(Tag, _TAGS), *map(Tag, COUNT_TAGS), *map(Tag, COUNT_TAGS.values())]


def _image(path: Path, file: BinaryIO) -> DicomImage | DamagedFile | str:
    from pydicom import dcmread

    header: Any = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_tags())
    if _sop_class(header) == _DICOMDIR:
        return "DICOMDIR"
    modality = str(header.get("Modality") or "")
    if modality in _OTHER_MODALITIES:
        return modality
    pixels, syntax = file.tell(), _syntax(header)
    ended = syntax != DEFLATED and not file.read(1)
    if ended or not (header.get("Rows") and header.get("Columns")):
        return _without_pixels(path, header, modality)
    bits = int(header.get("BitsAllocated") or 16)
    stored_bits = int(header.get("BitsStored") or bits)
    high_bit = header.get("HighBit")
    why = not_a_volume(header)
    slices = () if why else image_slices(path.name, header)
    tiles = 1
    if not why and is_mosaic(header):
        mosaic = read_mosaic(path, header, slices)
        slices, tiles, why = ((), 1, mosaic) if isinstance(mosaic, str) else (mosaic.slices, mosaic.tiles, None)
    unplaced = not why and not slices
    if unplaced:
        why = f"{image_kind(header)} without positions and orientation in space"
    return DicomImage(
        path,
        str(header.get("SeriesInstanceUID") or ""),
        str(header.get("SeriesDescription") or ""),
        modality,
        int(header.Rows) // tiles,
        int(header.Columns) // tiles,
        bits,
        stored_bits,
        stored_bits - 1 if high_bit is None else int(high_bit),
        bool(header.get("PixelRepresentation")),
        syntax,
        pixels,
        slices,
        why,
        localizer=_LOCALIZER.search(str(header.get("SeriesDescription") or header.get("ProtocolName") or ""))
        is not None,
        damaged=unplaced and is_cross_sectional(header),
        frames=num_frames(header) * tiles**2,
        instance=str(header.get("SOPInstanceUID") or ""),
        number=int(header_number(header, "SeriesNumber") or 0),
        date=str(header.get("SeriesDate") or header.get("StudyDate") or ""),
        patient=hash(str(header.get("PatientID") or "")),
        concatenation=str(header.get("ConcatenationUID") or ""),
        part=int(header_number(header, "InConcatenationNumber") or 0),
        num_parts=int(header_number(header, "InConcatenationTotalNumber") or 0),
        stored=_stored_bytes(file, pixels, syntax),
        tiles=tiles,
    )


def _stored_bytes(file: BinaryIO, pixels: int, syntax: str) -> int | None:
    """Return the number of bytes of uncompressed pixel data that starts at a position; None for other data."""
    if syntax not in NATIVE:
        return None
    file.seek(pixels)
    element = file.read(8 if syntax == IMPLICIT else 12)
    if element[:4] != (b"\x7f\xe0\x00\x10" if syntax == BIG_ENDIAN else b"\xe0\x7f\x10\x00"):
        return None
    length = int.from_bytes(element[-4:], "big" if syntax == BIG_ENDIAN else "little")
    return min(length, os.fstat(file.fileno()).st_size - pixels - len(element))


def _without_pixels(path: Path, header: Any, modality: str) -> DamagedFile | str:
    """Return the modality of a file without voxels, or what is wrong with it if its header is that of an image."""
    name = str(getattr(_sop_class(header), "name", ""))
    if modality and name and "Image Storage" not in name:
        return modality
    complete = header.get("Rows") and header.get("Columns") and "PixelRepresentation" in header
    return DamagedFile(path, _NO_PIXELS if complete else _DAMAGED, _series_of_damaged(path))


def _series_of_damaged(path: Path) -> str:
    """Return the SeriesInstanceUID of a damaged file; empty if it cannot be read, or the file ends in it."""
    from pydicom.filereader import read_partial

    followed = []

    def is_later(tag: Any, _vr: str | None, _length: int) -> bool:
        if tag > _SERIES_UID:
            followed.append(tag)
        return bool(followed)

    try:
        with path.open("rb") as file:
            header: Any = read_partial(file, is_later, force=True, specific_tags=[_SERIES_UID])
        uid = str(header.get("SeriesInstanceUID") or "")
    except Exception:  # pydicom raises various exceptions for damaged headers
        return ""
    return uid if followed and _UID.fullmatch(uid) else ""


def _sop_class(header: Any) -> Any:
    """Return the SOP class; index files (DICOMDIR) have it in the meta information only."""
    meta = getattr(header, "file_meta", None)
    return header.get("SOPClassUID") or getattr(meta, "MediaStorageSOPClassUID", None)


def _syntax(header: Any) -> str:
    """Return the transfer syntax; for uncompressed voxels, the syntax in which the header was actually written."""
    named = str(getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None) or IMPLICIT)
    if named not in NATIVE:
        return named
    implicit, little = header.original_encoding
    return IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
