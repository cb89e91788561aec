"""The volume that DICOM slices make: their order, and the affine that follows from their positions.

Positions are in DICOM's LPS+ millimeters. The third axis is a straight line through all positions, so that slices
that are displaced against each other (a tilted gantry) lie where they were acquired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segbundle.errors import DataError

_SAME_ANGLE = 2e-3
"""Difference between the components of two directions up to which slices are parallel: headers round them."""
_UNEVEN = 0.05
"""Distance of a slice from the line through all positions that is accepted, as a fraction of the slice distance."""
_WIDE = 1.6
"""Ratio of the widest to the narrowest gap from which on a slice may be missing."""
_HEADER_ROUNDING = 0.005
"""Difference in mm between a distance and the header's, which may have two decimals."""
_SAME_THICKNESS = 0.1
_SAME_SETTING = 0.01
"""Difference up to which two echo times or b-values are the same, as a fraction of the larger one."""
_DECIMALS = 4
"""Positions with more decimals than this count as exact."""


@dataclass(frozen=True)
class Slice:
    """One image plane of a DICOM file, as its header describes it.

    Attributes:
        name: of the file, for messages.
        frame: index of the plane within the file.
        position: of the first voxel's center, (3,) mm.
        orientation: direction of rows (along which columns are counted), then of columns, (6,).
        spacing: distance in mm between columns (x), and between rows (y).
        thickness: SliceThickness in mm, if the header has it.
        distance: SpacingBetweenSlices in mm, if the header has it.
        slope: by which stored values are multiplied.
        intercept: what is added to them.
        rescaled: which of RescaleSlope and RescaleIntercept the header has.
        damaged: in words, a value by which stored values cannot be rescaled; None if there is none.
        stack: StackID of a multi-frame file.
        settings: name and value of what differs between volumes acquired together, such as EchoTime.
    """

    name: str
    frame: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None = None
    distance: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: tuple[str, ...] = ()
    damaged: str | None = None
    stack: str = ""
    settings: tuple[tuple[str, float | str], ...] = ()


def orientations(slices: Sequence[Slice]) -> list[int]:
    """Return how many slices have each orientation, the most frequent first."""
    different: list[np.ndarray] = []
    counts: list[int] = []
    for orientation, count in Counter(one.orientation for one in slices).most_common():
        axes = np.array(orientation)
        same = [index for index, other in enumerate(different) if np.abs(axes - other).max() <= _SAME_ANGLE]
        if same:
            counts[same[0]] += count
        else:
            different.append(axes)
            counts.append(count)
    return sorted(counts, reverse=True)


def arrange(slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Order slices along their normal and compute the affine of the volume.

    Returns:
        the indices of the slices in the order of the third axis, and the (4, 4) affine from voxel indices (column,
        row, slice) to LPS+ millimeters.

    Raises:
        DataError: slices that do not make one volume; the message says why, without a path.
    """
    row, column = _directions(slices[0])
    different = len(orientations(slices))
    if different > 1:
        raise DataError(f"its slices have {different} orientations; a volume needs one.")
    stacks = len({one.stack for one in slices})
    if stacks > 1:
        raise DataError(f"it holds {stacks} stacks of slices (StackID); a volume is one.")
    _check_settings(slices)
    _check_in_plane(slices)
    normal = np.cross(row, column)
    positions = np.array([one.position for one in slices])
    order = [int(index) for index in np.argsort(positions @ normal, kind="stable")]
    ordered = [slices[index] for index in order]
    origin, step = _line(ordered, positions[order], normal)
    affine = np.eye(4)
    affine[:3, 0] = row * slices[0].spacing[0]
    affine[:3, 1] = column * slices[0].spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return order, affine


def _directions(one: Slice) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.array(one.orientation[:3]), np.array(one.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array(lengths) - 1).max() > 0.01 or abs(row @ column) > 0.01:
        shown = ", ".join(f"{value:g}" for value in one.orientation)
        raise DataError(f"ImageOrientationPatient of {one.name} is ({shown}), not two perpendicular unit vectors.")
    return row / lengths[0], column / lengths[1]


def _check_settings(slices: Sequence[Slice]) -> None:
    """Refuse slices of several volumes, such as echoes; a value that nearly every slice has for itself is ignored."""
    for name in sorted({name for one in slices for name, _ in one.settings}):
        values = [dict(one.settings).get(name) for one in slices]
        found = _different([value for value in values if value is not None])
        if 1 < len(found) <= len(slices) / 2:
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else value for value in found[:4])
            more = ", ..." if len(found) > 4 else ""
            raise DataError(f"it holds {len(found)} volumes: {name} is {shown}{more}.")


def _different(values: Sequence[float | str]) -> list[float | str]:
    """Sorted values without those that are nearly the same as the one before."""
    found: list[float | str] = sorted({value for value in values if isinstance(value, str)})
    last = None
    for value in sorted({value for value in values if isinstance(value, float)}):
        if last is None or abs(value - last) > _SAME_SETTING * max(abs(value), abs(last)):
            found.append(value)
            last = value
    return found


def _check_in_plane(slices: Sequence[Slice]) -> None:
    spacings = np.array([one.spacing for one in slices])
    if not (np.isfinite(spacings).all() and spacings.min() > 0):
        raise DataError(f"PixelSpacing is {spacings.min():g} mm; it must be positive.")
    if (np.ptp(spacings, axis=0) > 1e-3 * spacings.min(axis=0)).any():
        raise DataError(f"its slices have pixel spacings from {spacings.min():g} to {spacings.max():g} mm.")


def _line(slices: Sequence[Slice], positions: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position and step of the straight line through ordered positions."""
    count = len(slices)
    if count == 1:
        size = slices[0].thickness or slices[0].distance
        if not size:
            raise DataError("it has one slice and no SliceThickness; the header needs one for the third voxel size.")
        return positions[0], normal * size
    _check_thickness(slices)
    _check_doubled(slices, positions @ normal)
    index = np.arange(count) - (count - 1) / 2
    step = index @ positions / (index @ index)
    center = positions.mean(axis=0)
    off = np.abs(positions - center - index[:, None] * step).max(axis=0)
    rounded = _rounded_line(slices, positions, normal, step) if off.max() > 1e-3 else None
    if rounded is not None:
        return rounded
    if (off > _UNEVEN * float(np.linalg.norm(step)) + 1e-3).any():
        raise DataError(_unevenness(slices, positions))
    return center + index[0] * step, step


def _last_decimal(positions: np.ndarray) -> float:
    """The decimal to which all positions are rounded, in mm; 0 where they have more than `_DECIMALS`."""
    for decimals in range(_DECIMALS + 1):
        scaled = positions * 10**decimals
        if np.abs(scaled - np.round(scaled)).max() < 1e-6:
            return 10.0**-decimals
    return 0.0


def _headers_distances(slices: Sequence[Slice]) -> list[float]:
    return [size for size in (slices[0].distance, slices[0].thickness) if size]


def _rounded_line(
    slices: Sequence[Slice], positions: np.ndarray, normal: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """First position and step before positions were rounded to their last decimal; None if that explains too little.

    Positions 0, 1 and 3 mm are those of slices 1.5 mm apart, rounded, or of slices 1 mm apart with one missing. So
    one gap may be far wider than another only if the header has the slice distance that explains both. Of tilted
    slices, headers have the distance along the normal or that along the line.
    """
    decimal = _last_decimal(positions)
    low, high = _rounded_steps(positions, decimal)
    if not decimal or (low > high).any():
        return None
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    wide = gaps.max() >= _WIDE * gaps.min()
    contradicted = False
    for size in _headers_distances(slices):
        distances = sorted((float(np.linalg.norm(step)), float(step @ normal)), key=lambda one: abs(size - one))
        near = abs(size - distances[0]) < _UNEVEN * distances[0]
        for distance in distances if near or not wide else []:
            scaled = np.clip(step * (size / distance), low, high)
            if np.abs(scaled - step * (size / distance)).max() <= 0.005 * decimal:
                return _first(positions, scaled), scaled
        contradicted |= near and abs(size - distances[0]) > _HEADER_ROUNDING
    if wide or contradicted:
        return None
    step = np.clip(step, low, high)
    return _first(positions, step), step


def _rounded_steps(positions: np.ndarray, decimal: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest step (3,) of lines from which no position is further than half of its last decimal."""
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    for lag in range(1, len(positions)):
        apart = positions[lag:] - positions[:-lag]
        slack = decimal * (0.99 if lag == 1 else 1) + 1e-6  # a whole decimal between neighbors is no rounding
        low = np.maximum(low, (apart.max(axis=0) - slack) / lag)
        high = np.minimum(high, (apart.min(axis=0) + slack) / lag)
    return low, high


def _first(positions: np.ndarray, step: np.ndarray) -> np.ndarray:
    """First position of the line with a step that is closest to all positions."""
    rests = positions - np.arange(len(positions))[:, None] * step
    return (rests.min(axis=0) + rests.max(axis=0)) / 2


def _check_thickness(slices: Sequence[Slice]) -> None:
    sizes = [one.thickness for one in slices if one.thickness]
    if sizes and max(sizes) > (1 + _SAME_THICKNESS) * min(sizes):
        raise DataError(f"it mixes slices of {min(sizes):g} and {max(sizes):g} mm (SliceThickness).")


def _check_doubled(slices: Sequence[Slice], heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    apart = gaps[gaps > 1e-3]
    same = gaps <= max(1e-3, 0.02 * float(np.median(apart)) if len(apart) else 0.0)
    if not same.any():
        return
    counts = np.diff(np.flatnonzero(np.concatenate([[True], ~same, [True]])))
    if len(counts) == 1:
        raise DataError(f"all its {len(slices)} images lie in one plane; a volume needs one image per position.")
    if (counts > 1).sum() * 2 >= len(counts):
        each = f"{counts.max()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        raise DataError(
            f"it holds {counts.max()} volumes: {each} images at each of {len(counts)} positions, such as time points, "
            "echoes or b-values."
        )
    first = int(np.flatnonzero(same)[0])
    raise DataError(
        f"{int((counts - 1).sum())} slice(s) are doubled: {_called(slices[first])} and {_called(slices[first + 1])} "
        "have the same position."
    )


def _called(one: Slice) -> str:
    return f"{one.name}, frame {one.frame + 1}," if one.frame else one.name


def _unevenness(slices: Sequence[Slice], positions: np.ndarray) -> str:
    """In words, why slices do not lie at even distances on a line."""
    along = positions[-1] - positions[0]
    gaps = np.diff(positions, axis=0) @ (along / np.linalg.norm(along))
    apart = f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart"
    usual = float(np.quantile(gaps, 0.25, method="lower"))
    times = np.round(gaps / usual)
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if not len(wide) or gaps.max() <= 1.2 * gaps.min():
        return f"{apart} and do not lie on a straight line at even distances."
    after = _called(slices[int(wide[0])])
    if _longest_run(wide) >= 3:
        changes = np.flatnonzero(np.abs(np.diff(gaps)) > 0.2 * usual)
        return f"{apart} and change at {_called(slices[int(changes[0]) + 1])}; a volume needs one distance."
    if np.abs(gaps - times * usual).max() <= 0.2 * usual:
        missing = int((times - 1).sum())
        said = "a slice is missing" if missing == 1 else f"{missing} slices are missing"
        return f"{apart}; {said} after {after}."
    return f"{apart}; a volume needs one distance."


def _longest_run(indices: np.ndarray) -> int:
    """The largest number of consecutive indices."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return max(map(len, runs))
