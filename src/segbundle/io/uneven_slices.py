"""Resample unevenly spaced DICOM slices to an even grid, and label maps between this grid and the slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.hardware.memory_usage import check_memory
from segbundle.io.geometry import Geometry
from segbundle.io.stacks import (
    DISTANCE_TOLERANCE,
    Slice,
    check_duplicates,
    last_decimal,
    sort_parallel,
    volume_affine,
)

_ROUNDING = 1e-3
"""Tolerance of positions in mm."""
_MAX_GROWTH = 10
"""Maximum number of slices on the even grid, relative to the number of slices of the series."""


@dataclass(frozen=True)
class EvenGrid:
    """Evenly spaced grid for unevenly spaced slices.

    Attributes:
        order: indices of the slices in the order of the third axis.
        affine: (4, 4), from voxel indices (column, row, slice) of the grid to LPS+ coordinates in mm.
        source_slices: position of each slice of the series, in this order, along the third axis of the grid in voxels.
        count: number of slices of the grid.

    Example:
        >>> EvenGrid([0, 1, 2], np.eye(4), (0.0, 1.0, 3.0), 4).is_unchanged
        False
    """

    order: list[int]
    affine: np.ndarray
    source_slices: tuple[float, ...]
    count: int

    @property
    def is_unchanged(self) -> bool:
        """True if the slices of the grid are those of the series, so that nothing needs to be resampled."""
        return self.source_slices == tuple(range(self.count))


def even_grid(slices: Sequence[Slice]) -> EvenGrid:
    """Return an evenly spaced grid for slices with missing slices or a variable spacing.

    The spacing is the median distance of neighboring slices (the smaller of two middle values). The grid starts at the
    first slice and ends at or before the last slice. If all distances are multiples of the spacing within the
    rounding of the positions, as with missing slices, every slice of the series is a slice of the grid.

    The third axis is a straight line through all positions, also for a tilted gantry.

    Args:
        slices: parallel slices of a series, in any order.

    Raises:
        DataError: there is only one slice; the slices are not parallel, have duplicates or are not on a straight line;
            or the grid would have more than ten times as many slices as the series. The message does not contain a
            path.

    Example:
        >>> axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        >>> grid = even_grid([Slice("", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for z in (0.0, 2.0, 4.0, 9.0)])
        >>> grid.source_slices, grid.count, float(grid.affine[2, 2])
        ((0.0, 1.0, 2.0, 4.5), 5, 2.0)
    """
    order, normal = sort_parallel(slices)
    ordered = [slices[index] for index in order]
    positions = np.array([plane.position for plane in ordered])
    heights = positions @ normal
    check_duplicates(ordered, heights)
    if len(ordered) < 2:
        raise DataError("it has one slice; an even spacing needs two.")
    step = _direction(positions, heights)
    start, spacing, source = _spacing(heights, last_decimal(positions))
    count = int(source[-1] + 1e-6) + 1
    if count > _MAX_GROWTH * len(ordered):
        gaps = np.diff(heights)
        raise DataError(
            f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, so {len(ordered)} slices would become "
            f"{count} slices with an even spacing."
        )
    origin = positions.mean(axis=0) + (start - heights.mean()) * step
    affine = volume_affine(ordered[0], origin, spacing * step)
    return EvenGrid(order, affine, tuple(source.tolist()), count)


def _direction(positions: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return the vector (3,) along the line through all positions, whose component along the normal is 1 mm."""
    relative = heights - heights.mean()
    around = positions - positions.mean(axis=0)
    step = relative @ around / (relative @ relative)
    off = np.abs(around - relative[:, None] * step).max()
    tolerance = DISTANCE_TOLERANCE * float(np.median(np.diff(heights))) + last_decimal(positions) / 2 + _ROUNDING
    if off > tolerance:
        raise DataError(f"its slices are up to {off:.3g} mm away from a straight line.")
    return np.asarray(step)


def _spacing(heights: np.ndarray, decimal: float) -> tuple[float, float, np.ndarray]:
    """Return start and spacing of the grid along the normal in mm, and the slices in units of the spacing (n,).

    Args:
        heights: sorted positions along the normal in mm, (n,).
        decimal: rounding unit of the positions in mm.
    """
    gaps = np.diff(heights)
    usual = float(np.quantile(gaps, 0.5, method="lower"))
    multiples = _multiples(heights, usual, decimal)
    if multiples is not None:
        return multiples
    source = (heights - heights[0]) / usual
    whole = np.rint(source)
    return float(heights[0]), usual, np.where(np.abs(source - whole) * usual <= _ROUNDING, whole, source)


def _multiples(heights: np.ndarray, usual: float, decimal: float) -> tuple[float, float, np.ndarray] | None:
    """Return start, spacing and slices as `_spacing` does if all distances are multiples of a spacing, else None.

    For any two slices, rounding of the positions changes their distance by at most one unit of the last decimal.
    """
    index = np.concatenate([[0.0], np.cumsum(np.maximum(np.rint(np.diff(heights) / usual), 1))])
    unit = max(2 * _ROUNDING, min(decimal, 2 * DISTANCE_TOLERANCE * usual)) * 1.001
    first, second = np.triu_indices(len(heights), 1)
    apart, steps = heights[second] - heights[first], index[second] - index[first]
    low, high = float(((apart - unit) / steps).max()), float(((apart + unit) / steps).min())
    if low > high:
        return None
    centered = index - index.mean()
    spacing = float(np.clip(centered @ heights / (centered @ centered), low, high))
    rest = heights - index * spacing
    return float(rest.min() + rest.max()) / 2, spacing, index


def resample_slices(path: Path, values: np.ndarray, grid: EvenGrid, dtype: Any, nearest: bool = False) -> np.ndarray:
    """Resample slices to an even grid, linearly or by nearest neighbor.

    Args:
        path: path of the series, for messages.
        values: voxels (slices, rows, columns), in the order of the third axis.
        grid: even grid.
        dtype: NumPy dtype of the result; integers are rounded. None for the dtype of `values` if no values are
            computed, else float32, or float64 for voxels that float32 cannot represent exactly.
        nearest: whether to take the values of the nearest slice, as for label maps (default False).

    Returns:
        an array (slices of the grid, rows, columns) of this dtype

    Raises:
        DataError: the result does not fit into memory.

    Example:
        >>> grid = EvenGrid([0, 1], np.eye(4), (0.0, 2.0), 3)
        >>> resample_slices(Path("ct"), np.array([[[1]], [[2]]], np.int16), grid, None).ravel()
        array([1. , 1.5, 2. ], dtype=float32)
    """
    source = np.array(grid.source_slices)
    copied = nearest or set(range(grid.count)) <= set(grid.source_slices)
    exact = np.float32 if np.can_cast(values.dtype, np.float32) else np.float64
    kind = np.dtype(dtype if dtype is not None else values.dtype if copied else exact)
    check_memory(path, grid.count * values[0].size * kind.itemsize)
    result = np.empty((grid.count, *values.shape[1:]), kind)
    for k, closest in enumerate(_nearest(source, grid.count)):
        if nearest or source[closest] == k:
            result[k] = values[closest]
            continue
        above = int(np.searchsorted(source, k))
        weight = (k - source[above - 1]) / (source[above] - source[above - 1])
        plane = (1 - weight) * values[above - 1].astype(np.float64) + weight * values[above]
        result[k] = np.rint(plane) if kind.kind in "iu" else plane
    return result


def _nearest(source: np.ndarray, count: int) -> np.ndarray:
    """Return the index of the nearest slice of the series for each slice of the grid; the first of two."""
    return np.asarray(np.abs(source - np.arange(count)[:, None]).argmin(axis=1))


def labels_on_slices(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a label map on the slices of a series, with the labels of the nearest slices of its even grid.

    Args:
        labels: label map (X, Y, Z) on the even grid.
        geometry: geometry of the even grid; without `source_slices`, the label map is returned unchanged.

    Returns:
        label map (X, Y, number of slices of the series)

    Example:
        >>> geometry = Geometry((1, 1, 4), np.eye(4), source_slices=(0.0, 1.0, 2.7))
        >>> labels_on_slices(np.array([[[5, 6, 7, 8]]]), geometry).ravel()
        array([5, 6, 8])
    """
    if geometry.source_slices is None:
        return labels
    planes = np.floor(np.array(geometry.source_slices) + 0.5).astype(int).clip(0, geometry.shape[2] - 1)
    return np.asfortranarray(labels[:, :, planes])


def labels_on_grid(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a label map on the even grid of a series, with the labels of the nearest slices of the series.

    Args:
        labels: label map (X, Y, number of slices of the series).
        geometry: geometry of the even grid; without `source_slices`, the label map is returned unchanged.

    Returns:
        label map (X, Y, Z)

    Example:
        >>> geometry = Geometry((1, 1, 4), np.eye(4), source_slices=(0.0, 1.0, 3.0))
        >>> labels_on_grid(np.array([[[5, 6, 8]]]), geometry).ravel()
        array([5, 6, 6, 8])
    """
    if geometry.source_slices is None:
        return labels
    return np.asfortranarray(labels[:, :, _nearest(np.array(geometry.source_slices), geometry.shape[2])])


def slice_coordinates(coordinates: Any, geometry: Geometry) -> np.ndarray:
    """Convert coordinates along the third axis of an even grid to slice indices of the series.

    Args:
        coordinates: coordinates along the third axis of the grid in voxels, of any shape.
        geometry: geometry of the even grid; without `source_slices`, the coordinates are returned unchanged.

    Returns:
        a float64 array of the same shape. Coordinates between two slices are interpolated; beyond the first and the
        last slice, one voxel of the grid counts as one slice

    Example:
        >>> geometry = Geometry((1, 1, 4), np.eye(4), source_slices=(0.0, 1.0, 3.0))
        >>> slice_coordinates([-1, 2, 3, 5], geometry).tolist()
        [-1.0, 1.5, 2.0, 4.0]
    """
    values = np.asarray(coordinates, float)
    if geometry.source_slices is None:
        return values
    source = np.array(geometry.source_slices)
    inside = np.interp(values, source, np.arange(len(source)))
    return np.asarray(inside + np.minimum(values - source[0], 0) + np.maximum(values - source[-1], 0))
