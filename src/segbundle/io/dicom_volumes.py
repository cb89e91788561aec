"""Separation of the slices of a DICOM series into volumes: stacks, echoes, b-values, signal components, time points."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from segbundle.errors import DataError
from segbundle.io.stacks import Slice, directions, distinct, positions_along

_LABELS = {
    "EchoTime": "TE",
    "EffectiveEchoTime": "TE",
    "EchoNumbers": "echo",
    "DiffusionBValue": "b",
    "TemporalPositionIdentifier": "t",
    "TemporalPositionIndex": "t",
    "ImageType": "",
}
"""Start of the label of a volume, by the setting that distinguishes it."""
_DIRECTION = "DiffusionGradientOrientation"
_REPETITION_LABELS = {
    "ImageType": "",
    "InversionTime": "TI",
    "FlipAngle": "flip",
    "KVP": "kV",
    "ConvolutionKernel": "",
    "SequenceName": "",
    "NominalPercentageOfCardiacPhase": "phase",
    "TriggerTime": "trigger",
    "AcquisitionNumber": "acquisition",
    _DIRECTION: None,
    "AcquisitionDateTime": None,
    "AcquisitionTime": None,
    "FrameReferenceTime": None,
    "ContentTime": None,
}
"""Elements that distinguish images at the same position, and the start of the label; None to number the volumes."""
_TIMES = ("TriggerTime", "AcquisitionDateTime", "AcquisitionTime")
"""Elements that increase from image to image at the same position, also if they differ from slice to slice."""
_UNPRINTABLE = re.compile(r"[^\w.+-]+")
_Group = tuple[str, list[int]]


def separate(slices: Sequence[Slice]) -> list[tuple[str, list[int]]]:
    """Return the volumes among the slices of a series.

    Slices belong to different volumes if their stacks (StackID), echoes, b-values, signal components or time points
    differ. Images that share positions without such a difference are separated by the first element, such as
    AcquisitionNumber or AcquisitionTime, whose values divide them into volumes with one image per position; else by the
    order of their InstanceNumbers, if these are unique, or of their times. Images without any of these stay together.
    Slices are separated only if the volumes are plausible: every volume has at least two slices, and volumes of
    different settings have about equally many positions.

    Args:
        slices: parallel slices of a series.

    Returns:
        for each volume, a label such as `b1000` or `t2` (empty for a single volume), and the sorted indices of its
        slices

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> slices = [
        ...     Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0), settings=(("DiffusionBValue", b),))
        ...     for b in (0.0, 1000.0) for z in (0.0, 2.0)
        ... ]
        >>> separate(slices)
        [('b0', [0, 1]), ('b1000', [2, 3])]
    """
    groups: list[_Group] = [("", list(range(len(slices))))]
    groups = [part for group in groups for part in _by_stack(slices, group)]
    for name in _LABELS:
        groups = [part for group in groups for part in _by_setting(slices, group, name)]
    for name in _REPETITION_LABELS:
        groups = [part for group in groups for part in _by_element(slices, group, name)]
    return [part for group in groups for part in _by_order(slices, group)]


def _by_stack(slices: Sequence[Slice], group: _Group) -> list[_Group]:
    stacks = sorted({slices[index].stack for index in group[1]})
    parts = [(f"stack{stack}", [index for index in group[1] if slices[index].stack == stack]) for stack in stacks]
    return _joined(group, parts) if min(len(indices) for _, indices in parts) > 1 else [group]


def _by_setting(slices: Sequence[Slice], group: _Group, name: str) -> list[_Group]:
    values = [dict(slices[index].settings).get(name) for index in group[1]]
    found = distinct([value for value in values if value is not None])
    if not 1 < len(found) <= len(group[1]) / 2:  # values that differ for most slices do not distinguish volumes
        return [group]
    parts = []
    for value in found:
        same = [i for i, own in zip(group[1], values, strict=True) if own is not None and _nearest(own, found) == value]
        shown = f"{value:g}" if isinstance(value, float) else value
        parts.append((_LABELS[name] + shown, same))
    rest = [index for index, own in zip(group[1], values, strict=True) if own is None]
    parts += [(f"no_{_LABELS[name] or name}", rest)] if rest else []
    place_of = dict(zip(group[1], _places(slices, group[1]).tolist(), strict=True))
    sizes = [len({place_of[index] for index in indices}) for _, indices in parts]  # a b-value may have more images
    return _joined(group, parts) if min(sizes) >= max(2, max(sizes) / 2) else [group]


def _nearest(value: float | str, found: Sequence[float | str]) -> float | str:
    if isinstance(value, str):
        return value
    return min((other for other in found if isinstance(other, float)), key=lambda other: abs(other - value))


def _places(slices: Sequence[Slice], indices: Sequence[int]) -> np.ndarray:
    """Return the index of the position of each slice; all 0 without a valid orientation."""
    planes = [slices[index] for index in indices]
    try:
        normal = np.cross(*directions(planes[0]))
    except DataError:
        return np.zeros(len(planes), dtype=int)
    return positions_along(np.array([plane.position for plane in planes]) @ normal)


def _by_element(slices: Sequence[Slice], group: _Group, name: str) -> list[_Group]:
    """Separate images at the same positions by the values of an element, if all volumes have every position."""
    places = _places(slices, group[1])
    count = places.max() + 1
    values = [dict(slices[index].repetition).get(name) for index in group[1]]
    if count < 2 or len(places) == count or None in values or len(set(values)) < 2:
        return [group]
    found = sorted({value for value in values if value is not None}, key=lambda value: (isinstance(value, str), value))
    if name == _DIRECTION:  # in the order of acquisition
        first = {
            value: min(slices[i].number for i, own in zip(group[1], values, strict=True) if own == value)
            for value in found
        }
        found.sort(key=lambda value: first[value])
    parts, images = [], []
    for value, label in zip(found, _labels(name, found), strict=True):
        which = [index for index, own in enumerate(values) if own == value]
        images.append(np.bincount(places[which], minlength=count))
        parts.append((label, [group[1][index] for index in which]))
    complete = [0 < own.min() == own.max() for own in images]
    lack_slices = any(complete) and all(own.max() == 1 and own.sum() >= max(2, count / 2) for own in images)
    return _joined(group, parts) if all(complete) or lack_slices else [group]


def _labels(name: str, found: Sequence[float | str]) -> list[str]:
    """Return a label for each value of an element; words that all values have are left out."""
    start = _REPETITION_LABELS[name]
    words = [value.split("\\") if isinstance(value, str) else [f"{value:g}"] for value in found]
    common = set.intersection(*map(set, words))
    labels = ["_".join(word for word in own if word not in common) for own in words]
    unique = len({_UNPRINTABLE.sub("_", label) for label in labels}) == len(found) and all(labels)
    if start is None or not unique:
        return [f"volume{number + 1}" for number in range(len(found))]
    return [start + label.strip("*_ ") for label in labels]


def _by_order(slices: Sequence[Slice], group: _Group) -> list[_Group]:
    """Separate volumes with the same positions by the order of their images: by number, else by time."""
    planes, places = [slices[index] for index in group[1]], _places(slices, group[1])
    count = places.max() + 1
    times, rest = divmod(len(planes), count)
    if count > 1 and (rest or (np.bincount(places) != times).any()):
        return _by_incomplete_order(planes, places, group)
    if times < 2 or count < 2:
        return [group]
    order = _order(planes, places)
    if order is None:
        return [group]
    parts: list[_Group] = [(f"volume{number + 1}", []) for number in range(times)]
    seen = np.zeros(count, dtype=int)
    for which in order:
        parts[seen[places[which]]][1].append(group[1][which])
        seen[places[which]] += 1
    return _joined(group, [(label, sorted(indices)) for label, indices in parts])


def _by_incomplete_order(planes: Sequence[Slice], places: np.ndarray, group: _Group) -> list[_Group]:
    """Separate volumes that lack slices by unique numbers, if these count all volumes or all positions in turn.

    At least two volumes must be complete.
    """
    images = np.bincount(places)
    count, times = len(images), int(images.max())
    numbers = np.array([plane.number for plane in planes])
    if times < 3 or len(set(numbers.tolist())) < len(numbers):
        return [group]
    for start in dict.fromkeys((1, int(numbers.min()))):
        by_time, by_place = np.divmod(numbers - start, count), np.divmod(numbers - start, times)[::-1]
        for volumes, ranks in (by_time, by_place):
            if volumes.min() < 0 or volumes.max() >= times or len(set(zip(ranks, places, strict=True))) != count:
                continue
            sizes = np.bincount(volumes, minlength=times)
            if len(set(ranks.tolist())) == count and sizes.min() > 1 and (sizes == count).sum() > 1:
                which = [np.flatnonzero(volumes == number) for number in range(times)]
                return _joined(group, [(f"volume{k + 1}", [group[1][i] for i in own]) for k, own in enumerate(which)])
    return [group]


def lacking(volumes: Sequence[tuple[str, Sequence[Slice]]]) -> list[int]:
    """Return the number of slices that each volume lacks at its ends, compared with most volumes of its kind.

    Args:
        volumes: for each volume of a series, its label and slices. Volumes are of the same kind if their labels differ
            in the last number only, such as `t1` and `t2`. Kinds of fewer than three volumes, and stacks (labels such
            as `stack1`), are not compared.

    Returns:
        one number per volume; 0 if the volume lacks no slices, or is not compared

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> whole = [Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for z in (0.0, 2.0, 4.0)]
        >>> lacking([("t1", whole), ("t2", whole), ("t3", whole[:2])])
        [0, 0, 1]
    """
    found = [0] * len(volumes)
    kinds: dict[str, list[int]] = {}
    for index, (label, _) in enumerate(volumes):
        kinds.setdefault(label.rstrip("0123456789."), []).append(index)
    for kind, members in kinds.items():
        slices = [plane for index in members for plane in volumes[index][1]]
        places = iter(_places(slices, range(len(slices))).tolist())
        own = [{next(places) for _ in volumes[index][1]} for index in members]
        whole = set.union(*own)
        if kind != "stack" and len(members) > 2 and sum(part == whole for part in own) > len(members) / 2:
            for index, part in zip(members, own, strict=True):
                found[index] = len(whole) - 1 - (max(part) - min(part))
    return found


def _order(planes: Sequence[Slice], places: np.ndarray) -> list[int] | None:
    """Return the order in which images at the same positions were made, or None if it is unknown."""
    numbers = [plane.number for plane in planes]
    if len(set(numbers)) == len(numbers):
        return sorted(range(len(planes)), key=lambda which: numbers[which])
    for name in _TIMES:
        found = [dict(plane.repetition).get(name) for plane in planes]
        moments = [value for value in found if value is not None]
        if len(moments) == len(planes) and len(set(zip(places.tolist(), moments, strict=True))) == len(planes):
            return sorted(range(len(planes)), key=lambda which: moments[which])
    return None


def _joined(group: _Group, parts: list[_Group]) -> list[_Group]:
    """Return parts of a group with the label of the group in front; the group itself if there is one part."""
    if len(parts) < 2:
        return [group]
    return [("_".join(filter(None, (group[0], _UNPRINTABLE.sub("_", label)))), indices) for label, indices in parts]
