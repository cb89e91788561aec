"""Positions, settings and rescaling of the slices of a DICOM image, from its header."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segbundle.io.dicom_kinds import num_frames, several
from segbundle.io.stacks import Slice

_SETTINGS = ("EchoTime", "EchoNumbers", "DiffusionBValue", "TemporalPositionIdentifier")
_FRAME_SETTINGS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"),
)
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
"""Settings that distinguish volumes acquired together; equal for all slices of a volume. See `Slice`."""
_COMPONENTS = (
    "M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE",
    "W", "F", "IP", "OP", "FF",
)  # fmt: skip
"""Values of ImageType for volumes computed from the same signal."""
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
_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
"""Default slope and intercept."""
_LARGEST_RESCALE = 1e25
"""Maximum slope and intercept; larger values would overflow float32."""


def image_slices(name: str, header: Any) -> tuple[Slice, ...]:
    """Return the slices of an image; an empty tuple if position, orientation or pixel spacing of a slice is missing.

    The slices of a multi-frame file are in the order of its frames. They are read from the functional groups of the
    frames; without these, or with fewer groups than frames, the result is empty.

    Args:
        name: name of the file, for messages.
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.ImagePositionPatient, header.PixelSpacing = [0, 0, 5], [1, 2]
        >>> header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        >>> [plane.position for plane in image_slices("a.dcm", header)]
        [(0.0, 0.0, 5.0)]
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    frames = num_frames(header)
    if not per_frame:
        plane = _slice(name, 0, *[header] * 4) if frames == 1 else None
        number = int(header_number(header, "InstanceNumber") or 0)
        return (
            ()
            if plane is None
            else (replace(plane, settings=_settings(header), repetition=_repetition(header), number=number),)
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    values = [_group(frame_group, shared, "PixelValueTransformationSequence") for frame_group in per_frame[:frames]]
    if not any(values):
        values = [header] * len(values)
    offset = int(header_number(header, "ConcatenationFrameOffsetNumber") or 0)
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
    found = [(name, header_number(group, name)) for group, name in settings]
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
        header_number(measures, "SliceThickness"),
        header_number(measures, "SpacingBetweenSlices"),
        *_rescale(values),
    )


def _rescale(values: Any) -> tuple[float, float, tuple[str, ...], str | None]:
    """Return slope, intercept, the names of those in the header, and a description of the damaged one or None."""
    present = tuple(name for name in _RESCALE if values is not None and name in values)
    found, damaged = dict(_RESCALE), None
    for name in present:
        raw = values.get_item(name).value
        text = (raw.decode("latin-1") if isinstance(raw, bytes) else str(raw or "")).strip()
        number = header_number(values, name)
        if number is None or abs(number) > _LARGEST_RESCALE:
            damaged = damaged or f"{name} is {repr(text[:40]) if text else 'empty'}, not a usable number"
        else:
            found[name] = number
    return found["RescaleSlope"], found["RescaleIntercept"], present, damaged


def header_number(group: Any, name: str) -> float | None:
    """Return the finite number of an element, or None if it is missing or damaged.

    Args:
        group: header or item of a sequence (pydicom), or None.
        name: keyword of the element.

    Example:
        >>> header_number(None, "SeriesNumber") is None
        True
    """
    found = _numbers(group, name, 1)
    return None if found is None else found[0]


def _numbers(group: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Return a value of finite numbers, or None if it is missing or damaged."""
    try:
        value = group.get(name) if group is not None else None
        found = () if value is None else tuple(float(number) for number in (value if count > 1 else (value,)))
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None
