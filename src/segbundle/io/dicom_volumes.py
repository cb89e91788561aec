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
_UNPRINTABLE = re.compile(r"[^\w.+-]+")
_Group = tuple[str, list[int]]


def separate(slices: Sequence[Slice]) -> list[tuple[str, list[int]]]:
    """Return the volumes among the slices of a series.

    Slices belong to different volumes if their stacks (StackID), echoes, b-values, signal components or time points
    differ. If images share positions without such a difference, the first image of each position (by InstanceNumber) is
    in the first volume, and so on. Slices are separated only if the volumes are plausible: every volume has at least
    two slices, and volumes of different settings are about equally large.

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
    return [part for group in groups for part in _by_repetition(slices, group)]


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
    sizes = [len(indices) for _, indices in parts]
    return _joined(group, parts) if min(sizes) >= max(2, max(sizes) / 2) else [group]


def _nearest(value: float | str, found: Sequence[float | str]) -> float | str:
    if isinstance(value, str):
        return value
    return min((other for other in found if isinstance(other, float)), key=lambda other: abs(other - value))


def _by_repetition(slices: Sequence[Slice], group: _Group) -> list[_Group]:
    """Separate volumes with the same positions by the order in which their images were made."""
    planes = [slices[index] for index in group[1]]
    try:
        normal = np.cross(*directions(planes[0]))
    except DataError:
        return [group]
    places = positions_along(np.array([plane.position for plane in planes]) @ normal)
    count = places.max() + 1
    times, rest = divmod(len(planes), count)
    if rest or times < 2 or count < 2 or (np.bincount(places) != times).any():
        return [group]
    parts: list[_Group] = [(f"volume{number + 1}", []) for number in range(times)]
    seen = np.zeros(count, dtype=int)
    for which in sorted(range(len(planes)), key=lambda which: planes[which].number):
        parts[seen[places[which]]][1].append(group[1][which])
        seen[places[which]] += 1
    return _joined(group, [(label, sorted(indices)) for label, indices in parts])


def _joined(group: _Group, parts: list[_Group]) -> list[_Group]:
    """Return parts of a group with the label of the group in front; the group itself if there is one part."""
    if len(parts) < 2:
        return [group]
    return [("_".join(filter(None, (group[0], _UNPRINTABLE.sub("_", label)))), indices) for label, indices in parts]
