"""Read DICOM headers: the slices of an image, or the kind of a file that is not an image."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from segbundle.io.dicom_kinds import image_kind, is_cross_sectional, not_a_volume, num_frames, several
from segbundle.io.dicom_mosaics import COUNT_TAGS, is_mosaic, read_mosaic
from segbundle.io.scan_files import DICOM_SUFFIXES, is_dicom_file
from segbundle.io.stacks import Slice

_TAGS = (
    "SOPClassUID", "Modality", "ProtocolName", "SeriesDescription", "SeriesInstanceUID", "ImageType", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EchoTime", "EchoNumbers", "DiffusionBValue",
    "TemporalPositionIdentifier", "InstanceNumber", "SeriesNumber", "SeriesDate", "StudyDate", "SOPInstanceUID",
    "PatientID", "ConcatenationUID", "ConcatenationFrameOffsetNumber", "InversionTime", "FlipAngle", "KVP",
    "ConvolutionKernel", "SequenceName", "NominalPercentageOfCardiacPhase", "TriggerTime", "AcquisitionNumber",
    "DiffusionGradientOrientation", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "FrameReferenceTime",
    "ContentDate", "ContentTime",
)  # fmt: skip
_SETTINGS = ("EchoTime", "EchoNumbers", "DiffusionBValue", "TemporalPositionIdentifier")
_FRAME_SETTINGS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"),
)
_REPETITION_NUMBERS = (
    "InversionTime", "FlipAngle", "KVP", "NominalPercentageOfCardiacPhase", "TriggerTime", "AcquisitionNumber",
    "FrameReferenceTime",
)  # fmt: skip
_REPETITION_TEXTS = ("ImageType", "ConvolutionKernel", "SequenceName", "DiffusionGradientOrientation")
_REPETITION_TIMES = {
    "AcquisitionDateTime": ("AcquisitionDateTime",),
    "AcquisitionTime": ("AcquisitionDate", "AcquisitionTime"),
    "ContentTime": ("ContentDate", "ContentTime"),
}
"""Elements that may distinguish images at the same position. See `Slice`."""
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
"""Settings that distinguish volumes acquired together; equal for all slices of a volume. See `Slice`."""
_COMPONENTS = (
    "M",
    "P",
    "R",
    "I",
    "MAGNITUDE",
    "PHASE",
    "REAL",
    "IMAGINARY",
    "WATER",
    "FAT",
    "IN_PHASE",
    "OUT_PHASE",
    "OPP_PHASE",
    "W",
    "F",
    "IP",
    "OP",
    "FF",
)
"""Values of ImageType for volumes computed from the same signal."""
_DICOMDIR = "1.2.840.10008.1.3.10"
_OTHER_MODALITIES = (
    "RTSTRUCT",
    "RTPLAN",
    "RTDOSE",
    "RTRECORD",
    "SEG",
    "SR",
    "PR",
    "KO",
    "REG",
    "FID",
    "RWV",
    "DOC",
    "AU",
    "ECG",
)
"""Modalities of objects that are not scans."""
IMPLICIT, EXPLICIT, BIG_ENDIAN = NATIVE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
"""Default slope and intercept."""
_LARGEST_RESCALE = 1e25
"""Maximum slope and intercept; larger values would overflow float32."""
UNREADABLE = "unreadable"
"""Kind of a file that may be a damaged slice."""
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

    Example:
        >>> DamagedFile(Path("1.dcm"), "is empty").reason
        'is empty'
    """

    path: Path
    reason: str


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
    stored: int | None = None
    tiles: int = 1


def read_image(path: Path) -> DicomImage | DamagedFile | str:
    """Read the header of a DICOM image; for any other file, return the kind of file.

    No error is raised for a damaged file.

    Args:
        path: path of the file.

    Returns:
        the header; or the reason why the file cannot be read; or the kind of file as text: a modality such as `SR`,
        `DICOMDIR`, `not DICOM` or `empty`

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
        return DamagedFile(path, f"cannot be opened ({reason})" if reason else _DAMAGED)


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
    slices = () if why else _slices(path.name, header)
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
        number=int(_number(header, "SeriesNumber") or 0),
        date=str(header.get("SeriesDate") or header.get("StudyDate") or ""),
        patient=hash(str(header.get("PatientID") or "")),
        concatenation=str(header.get("ConcatenationUID") or ""),
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
    return DamagedFile(path, _NO_PIXELS if complete else _DAMAGED)


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


def _numbers(group: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Return a value of finite numbers, or None if it is missing or damaged."""
    try:
        value = group.get(name) if group is not None else None
        found = () if value is None else tuple(float(number) for number in (value if count > 1 else (value,)))
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _number(group: Any, name: str) -> float | None:
    found = _numbers(group, name, 1)
    return None if found is None else found[0]


def _slices(name: str, header: Any) -> tuple[Slice, ...]:
    """Return the planes of an image, or an empty tuple if a plane has no position and orientation."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    frames = num_frames(header)
    if not per_frame:
        plane = _slice(name, 0, *[header] * 4) if frames == 1 else None
        number = int(_number(header, "InstanceNumber") or 0)
        return (
            ()
            if plane is None
            else (replace(plane, settings=_settings(header), repetition=_repetition(header), number=number),)
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    values = [_group(frame_group, shared, "PixelValueTransformationSequence") for frame_group in per_frame[:frames]]
    if not any(values):
        values = [header] * len(values)
    offset = int(_number(header, "ConcatenationFrameOffsetNumber") or 0)
    found = []
    for index, frame_group in enumerate(per_frame[:frames]):
        position, axes, measures = (
            _group(frame_group, shared, f"{group}Sequence")
            for group in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
        )
        plane = _slice(name, index, position, axes, measures, values[index])
        if plane is None:
            return ()
        content = _group(frame_group, shared, "FrameContentSequence")
        stack = "" if content is None else str(content.get("StackID") or "")
        groups = [(_group(frame_group, shared, group), setting) for group, setting in _FRAME_SETTINGS]
        kinds = [_group(frame_group, shared, group) for group in _FRAME_TYPES]
        components = [_component(kind.get("FrameType")) for kind in kinds if kind is not None]
        named = [("ImageType", component) for component in components if component]
        settings: tuple[tuple[str, float | str], ...] = (*_numbers_of(groups), *named)
        found.append(replace(plane, stack=stack, settings=settings, number=offset + index))
    return tuple(found) if len(found) == frames else ()


def _settings(header: Any) -> tuple[tuple[str, float | str], ...]:
    component = _component(header.get("ImageType"))
    return (*_numbers_of([(header, name) for name in _SETTINGS]), *([("ImageType", component)] if component else []))


def _repetition(header: Any) -> tuple[tuple[str, float | str], ...]:
    """Return name and value of the elements of a header that may distinguish images at the same position."""
    texts = [(name, "\\".join(str(value).strip() for value in _values(header, name))) for name in _REPETITION_TEXTS]
    moments = [
        (name, "".join(str(header.get(part) or "").strip() for part in parts))
        for name, parts in _REPETITION_TIMES.items()
        if header.get(parts[-1])
    ]
    return (
        *_numbers_of([(header, name) for name in _REPETITION_NUMBERS]),
        *(pair for pair in texts + moments if pair[1]),
    )


def _values(header: Any, name: str) -> Sequence[Any]:
    found = header.get(name)
    return several(found) if isinstance(found, (str, Sequence)) else ()


def _component(image_type: Any) -> str | None:
    """Return the values of ImageType or FrameType that name the component of the signal; M only if it is alone."""
    kinds = [str(kind).upper() for kind in several(image_type)[2:]]
    found = list(dict.fromkeys(kind for kind in kinds if kind in _COMPONENTS))
    special = [kind for kind in found if kind not in ("M", "MAGNITUDE")]
    return "_".join(special or found[:1]) or None


def _numbers_of(settings: Sequence[tuple[Any, str]]) -> tuple[tuple[str, float], ...]:
    """Return name and value of each setting in a header."""
    found = [(name, _number(group, name)) for group, name in settings]
    return tuple((name, value) for name, value in found if value is not None)


def _group(frame_group: Any, shared: Any, name: str) -> Any:
    for groups in (frame_group, shared):
        if groups is not None and groups.get(name):
            return groups.get(name)[0]
    return None


def _slice(name: str, frame: int, position: Any, orientation: Any, measures: Any, values: Any) -> Slice | None:
    where = _numbers(position, "ImagePositionPatient", 3)
    axes = _numbers(orientation, "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    if where is None or axes is None or spacing is None:
        return None
    return Slice(
        name,
        frame,
        where,
        axes,
        (spacing[1], spacing[0]),
        _number(measures, "SliceThickness"),
        _number(measures, "SpacingBetweenSlices"),
        *_rescale(values),
    )


def _rescale(values: Any) -> tuple[float, float, tuple[str, ...], str | None]:
    """Return slope, intercept, the names of those in the header, and a description of the damaged one or None."""
    present = tuple(name for name in _RESCALE if values is not None and name in values)
    found, damaged = dict(_RESCALE), None
    for name in present:
        raw = values.get_item(name).value
        text = (raw.decode("latin-1") if isinstance(raw, bytes) else str(raw or "")).strip()
        number = _number(values, name)
        if number is None or abs(number) > _LARGEST_RESCALE:
            damaged = damaged or f"{name} is {repr(text[:40]) if text else 'empty'}, not a usable number"
        else:
            found[name] = number
    return found["RescaleSlope"], found["RescaleIntercept"], present, damaged
