"""Sort DICOM slices into a volume, and compute its affine from their positions.

Positions are in DICOM's LPS+ coordinates in millimeters. The third axis is a straight line through all positions, so
slices with an in-plane offset (a tilted gantry) stay where they were acquired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segbundle.errors import DataError
from segbundle.io.slice_gaps import describe_distances

_DIRECTION_TOLERANCE = 2e-3
"""Tolerance for the components of directions of parallel slices; headers round them."""
DISTANCE_TOLERANCE = 0.05
"""Tolerance for the distance of a slice from the line through all positions, as a fraction of the slice distance."""
_GAP_RATIO = 1.6
"""Minimum ratio of the widest to the narrowest gap for which a slice may be missing."""
_HEADER_ROUNDING = 0.005
"""Tolerance in mm for slice distances in the header: these may be rounded to two decimals."""
_THICKNESS_TOLERANCE = 0.1
_SETTING_TOLERANCE = 0.01
"""Relative tolerance for equal echo times or b-values."""
_DECIMALS = 4
"""Maximum number of decimals of rounded positions; positions with more are exact."""


@dataclass(frozen=True)
class Slice:
    """Image plane of a DICOM file, as described in its header.

    Attributes:
        name: name of the file, for messages.
        frame: index of the plane within the file, from 0.
        position: center of the first voxel, (3,) mm in LPS+.
        orientation: direction cosines in LPS+, (6,): the direction in which the column index increases, then the
            direction in which the row index increases.
        spacing: distance in mm between columns (x), and between rows (y).
        thickness: SliceThickness in mm; None (default) if missing.
        distance: SpacingBetweenSlices in mm; None (default) if missing.
        slope: scale factor of stored values (default 1).
        intercept: value added after scaling (default 0).
        rescaled: names of the rescale elements in the header: `RescaleSlope`, `RescaleIntercept` or both (default:
            none).
        damaged: description of a damaged slope or intercept; None (default) if slope and intercept are usable.
        stack: StackID of a multi-frame file (default empty).
        settings: name and value of settings that distinguish volumes acquired together, such as EchoTime (default
            none).
        repetition: name and value of elements that may distinguish images at the same position, such as
            AcquisitionTime (default none).
        number: InstanceNumber, or index of the frame in a multi-frame file (default 0).

    Example:
        >>> plane = Slice("1.dcm", 0, (0.0, 0.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.8, 0.8))
        >>> plane.position[2], plane.slope
        (5.0, 1.0)
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
    repetition: tuple[tuple[str, float | str], ...] = ()
    number: int = 0

    @property
    def title(self) -> str:
        """Name of the file, with the number of the frame from the second frame on, for messages."""
        return f"{self.name}, frame {self.frame + 1}," if self.frame else self.name


def orientations(slices: Sequence[Slice]) -> list[int]:
    """Return the number of slices per orientation, in descending order.

    Args:
        slices: slices of a series.

    Example:
        >>> axial, sagittal = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
        >>> orientations([Slice("a.dcm", 0, (0.0, 0.0, 0.0), axes, (1.0, 1.0)) for axes in (axial, axial, sagittal)])
        [2, 1]
    """
    distinct: list[np.ndarray] = []
    counts: list[int] = []
    for orientation, count in Counter(plane.orientation for plane in slices).most_common():
        axes = np.array(orientation)
        same = [index for index, other in enumerate(distinct) if np.abs(axes - other).max() <= _DIRECTION_TOLERANCE]
        if same:
            counts[same[0]] += count
        else:
            distinct.append(axes)
            counts.append(count)
    return sorted(counts, reverse=True)


def arrange(slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Return the order of slices along their normal, and the affine of the volume.

    Args:
        slices: slices of a series, in any order.

    Returns:
        a pair: indices of the slices in the order of the third axis, and the (4, 4) affine that maps voxel indices
        (column, row, slice) to LPS+ coordinates in millimeters

    Raises:
        DataError: the slices do not form one volume. The message does not contain a path.

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> order, affine = arrange([Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for z in (2.0, 0.0, 4.0)])
        >>> order, float(affine[2, 2])
        ([1, 0, 2], 2.0)
    """
    order, normal = sort_parallel(slices)
    positions = np.array([slices[index].position for index in order])
    origin, step = _line([slices[index] for index in order], positions, normal)
    return order, volume_affine(slices[0], origin, step)


def sort_parallel(slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Sort parallel slices along their normal.

    Args:
        slices: slices of a series, in any order.

    Returns:
        a pair: indices of the slices, sorted by position along the normal; and the normal, a unit vector (3,) in LPS+

    Raises:
        DataError: the slices are not parallel, belong to several volumes, or have invalid directions, or invalid or
            different pixel spacings. The message does not contain a path.

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> order, normal = sort_parallel([Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for z in (2.0, 0.0)])
        >>> order, normal.tolist()
        ([1, 0], [0.0, 0.0, 1.0])
    """
    row, column = directions(slices[0])
    different = len(orientations(slices))
    if different > 1:
        raise DataError(f"its slices have {different} orientations; all slices of a volume must be parallel.")
    stacks = len({plane.stack for plane in slices})
    if stacks > 1:
        raise DataError(f"it contains {stacks} stacks of slices (StackID); a volume must be a single stack.")
    _check_settings(slices)
    _check_in_plane(slices)
    normal = np.cross(row, column)
    heights = np.array([plane.position for plane in slices]) @ normal
    return [int(index) for index in np.argsort(heights, kind="stable")], normal


def volume_affine(plane: Slice, origin: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the (4, 4) affine of a volume, from voxel indices (column, row, slice) to LPS+ coordinates in mm.

    Args:
        plane: a slice of the volume, which defines the first two axes.
        origin: position of the first slice, (3,) mm.
        step: vector from a slice to the next, (3,) mm.

    Example:
        >>> plane = Slice("", 0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.5, 0.5))
        >>> volume_affine(plane, np.zeros(3), np.array([0, 0, 2])).diagonal().tolist()
        [0.5, 0.5, 2.0, 1.0]
    """
    row, column = directions(plane)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * plane.spacing[0], column * plane.spacing[1]
    affine[:3, 2], affine[:3, 3] = step, origin
    return affine


def directions(plane: Slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions of a slice in which the column index and the row index increase.

    Args:
        plane: slice.

    Returns:
        a pair of unit vectors (3,) in LPS+: along the rows (to the next column), and along the columns (to the next
        row)

    Raises:
        DataError: the vectors in the header are not perpendicular unit vectors. The message does not contain a path.

    Example:
        >>> row, column = directions(Slice("", 0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0)))
        >>> np.cross(row, column).tolist()
        [0.0, 0.0, 1.0]
    """
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array(lengths) - 1).max() > 0.01 or abs(row @ column) > 0.01:
        shown = ", ".join(f"{value:g}" for value in plane.orientation)
        raise DataError(f"ImageOrientationPatient of {plane.name} is ({shown}), not two perpendicular unit vectors.")
    return row / lengths[0], column / lengths[1]


def _check_settings(slices: Sequence[Slice]) -> None:
    """Raise an error for slices of several volumes, such as echoes; values that differ for most slices are ignored."""
    for name in sorted({name for plane in slices for name, _ in plane.settings}):
        values = [dict(plane.settings).get(name) for plane in slices]
        found = distinct([value for value in values if value is not None])
        if 1 < len(found) <= len(slices) / 2:
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else value for value in found[:4])
            more = ", ..." if len(found) > 4 else ""
            raise DataError(f"it contains {len(found)} volumes: {name} is {shown}{more}.")


def distinct(values: Sequence[float | str]) -> list[float | str]:
    """Return the different values of a setting, sorted; numbers within 1 % count as equal.

    Args:
        values: numbers or text.

    Example:
        >>> distinct([90.0, 10.0, 90.1])
        [10.0, 90.0]
    """
    found: list[float | str] = sorted({value for value in values if isinstance(value, str)})
    last = None
    for value in sorted({value for value in values if isinstance(value, float)}):
        if last is None or abs(value - last) > _SETTING_TOLERANCE * max(abs(value), abs(last)):
            found.append(value)
            last = value
    return found


def _check_in_plane(slices: Sequence[Slice]) -> None:
    spacings = np.array([plane.spacing for plane in slices])
    if not (np.isfinite(spacings).all() and spacings.min() > 0):
        raise DataError(f"PixelSpacing is {spacings.min():g} mm; it must be positive.")
    if (np.ptp(spacings, axis=0) > 1e-3 * spacings.min(axis=0)).any():
        raise DataError(
            f"its slices have pixel spacings from {spacings.min():g} to {spacings.max():g} mm; all must be the same."
        )


def _line(slices: Sequence[Slice], positions: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first position and the step of the straight line through ordered positions."""
    count = len(slices)
    if count == 1:
        size = slices[0].thickness or slices[0].distance
        if not size:
            raise DataError("it has one slice and no SliceThickness, so the third voxel size is unknown.")
        return positions[0], normal * size
    _check_thickness(slices)
    check_duplicates(slices, positions @ normal)
    index = np.arange(count) - (count - 1) / 2
    step = index @ positions / (index @ index)
    center = positions.mean(axis=0)
    off = np.abs(positions - center - index[:, None] * step).max(axis=0)
    rounded = _rounded_line(slices, positions, normal, step) if off.max() > 1e-3 else None
    if rounded is not None:
        return rounded
    if (off > DISTANCE_TOLERANCE * float(np.linalg.norm(step)) + 1e-3).any():
        raise DataError(describe_distances(slices, positions))
    return center + index[0] * step, step


def last_decimal(positions: np.ndarray) -> float:
    """Return the rounding unit of all positions in mm; 0 if they have more than 4 decimals.

    Args:
        positions: positions in mm, of any shape.

    Example:
        >>> last_decimal(np.array([[0.0, 1.25, 3.5]]))
        0.01
    """
    for decimals in range(_DECIMALS + 1):
        scaled = positions * 10**decimals
        if np.abs(scaled - np.round(scaled)).max() < 1e-6:
            return 10.0**-decimals
    return 0.0


def _header_distances(slices: Sequence[Slice]) -> list[float]:
    return [size for size in (slices[0].distance, slices[0].thickness) if size]


def _rounded_line(
    slices: Sequence[Slice], positions: np.ndarray, normal: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the first position and the step before positions were rounded, or None if rounding does not explain them.

    Positions 0, 1 and 3 mm can be rounded positions of slices 1.5 mm apart, or of slices 1 mm apart with one missing.
    So one gap may be much wider than another only if the slice distance in the header explains both. For tilted slices,
    the distance in the header is measured along the normal or along the line.
    """
    decimal = last_decimal(positions)
    low, high = _rounded_steps(positions, decimal)
    if not decimal or (low > high).any():
        return None
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    wide = gaps.max() >= _GAP_RATIO * gaps.min()
    contradicted = False
    for size in _header_distances(slices):
        distances = sorted(
            (float(np.linalg.norm(step)), float(step @ normal)), key=lambda distance: abs(size - distance)
        )
        near = abs(size - distances[0]) < DISTANCE_TOLERANCE * distances[0]
        for distance in distances if near or not wide else []:
            scaled = np.clip(step * (size / distance), low, high)
            if np.abs(scaled - step * (size / distance)).max() <= 0.005 * decimal:
                return _closest_origin(positions, scaled), scaled
        contradicted |= near and abs(size - distances[0]) > _HEADER_ROUNDING
    if wide or contradicted:
        return None
    step = np.clip(step, low, high)
    return _closest_origin(positions, step), step


def _rounded_steps(positions: np.ndarray, decimal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum step (3,) of lines for which all positions are within half a rounding unit."""
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    for lag in range(1, len(positions)):
        apart = positions[lag:] - positions[:-lag]
        slack = decimal * (0.99 if lag == 1 else 1) + 1e-6  # neighbors a full unit apart are not a rounding effect
        low = np.maximum(low, (apart.max(axis=0) - slack) / lag)
        high = np.minimum(high, (apart.min(axis=0) + slack) / lag)
    return low, high


def _closest_origin(positions: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the first position of the line with a given step that is closest to all positions."""
    rests = positions - np.arange(len(positions))[:, None] * step
    return (rests.min(axis=0) + rests.max(axis=0)) / 2


def _check_thickness(slices: Sequence[Slice]) -> None:
    sizes = [plane.thickness for plane in slices if plane.thickness]
    if sizes and max(sizes) > (1 + _THICKNESS_TOLERANCE) * min(sizes):
        raise DataError(
            f"it mixes slices of {min(sizes):g} and {max(sizes):g} mm (SliceThickness); all must be equally thick."
        )


def positions_along(heights: np.ndarray) -> np.ndarray:
    """Return the index of the position of each slice; slices at nearly the same height have the same position.

    Args:
        heights: positions of slices along their normal in mm, (n,).

    Returns:
        integers (n,), 0 for the lowest position

    Example:
        >>> positions_along(np.array([2.0, 0.0, 2.0, 0.0])).tolist()
        [1, 0, 1, 0]
    """
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    apart = gaps[gaps > 1e-3]
    same = gaps <= max(1e-3, 0.02 * float(np.median(apart)) if len(apart) else 0.0)
    places = np.empty(len(heights), dtype=int)
    places[order] = np.concatenate([[0], np.cumsum(~same)])
    return places


def check_duplicates(slices: Sequence[Slice], heights: np.ndarray) -> None:
    """Raise an error if several slices have the same position.

    Args:
        slices: slices of a series, sorted along their normal.
        heights: positions of the slices along their normal in mm, (n,).

    Raises:
        DataError: several slices have the same position. The message does not contain a path.

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> slices = [Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for z in (0.0, 2.0)]
        >>> check_duplicates(slices, np.array([0.0, 2.0]))
    """
    places = positions_along(heights)
    counts = np.bincount(places)
    if counts.max() == 1:
        return
    same = np.diff(places) == 0
    if len(counts) == 1:
        raise DataError(f"all its {len(slices)} images are in one plane; a volume needs one image per position.")
    if (counts > 1).sum() * 2 >= len(counts):
        each = f"{counts.max()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        raise DataError(
            f"it contains {counts.max()} volumes: {each} images at each of {len(counts)} positions, and the headers do "
            "not say which images belong together (for instance by AcquisitionNumber, AcquisitionTime or unique "
            "InstanceNumbers). Put the files of each volume into a separate folder."
        )
    first = int(np.flatnonzero(same)[0])
    raise DataError(
        f"it contains {int((counts - 1).sum())} duplicate slice(s): {slices[first].title} and "
        f"{slices[first + 1].title} have the same position."
    )
