"""Plan the positions and the order of sliding windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monai.data.utils import dense_patch_slices

Place = tuple[int, int, int]
"""First voxel of a window along the three axes of the padded volume."""


@dataclass(frozen=True)
class WindowPlan:
    """Positions of sliding windows of a fixed size that cover a volume and are visited along one axis.

    Attributes:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window; the volume is padded to at least this size.
        starts: first voxels of the windows along each axis of the padded volume.
        axis: axis (0, 1 or 2) along which the windows are visited, in ascending order.

    Example:
        >>> plan = WindowPlan((6, 4, 3), (4, 4, 4), ([0, 2], [0], [0]), axis=0)
        >>> plan.padded, plan.padding
        ((6, 4, 4), [(0, 0), (0, 0), (0, 1)])
    """

    shape: tuple[int, int, int]
    roi: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    axis: int

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Number of voxels added before and after the volume along each axis, so that a window fits."""
        missing = [max(window - size, 0) for size, window in zip(self.shape, self.roi, strict=True)]
        return [(voxels // 2, voxels - voxels // 2) for voxels in missing]

    @property
    def padded(self) -> tuple[int, int, int]:
        """Size (X, Y, Z) of the padded volume in voxels."""
        x, y, z = (max(size, window) for size, window in zip(self.shape, self.roi, strict=True))
        return x, y, z

    def groups(self, at_least: int) -> Iterator[list[Place]]:
        """Yield groups of windows in ascending order along `axis`.

        A group contains all windows at one position along `axis`. If these are fewer than `at_least`, the group also
        contains the windows at the next positions.

        Args:
            at_least: minimum number of windows per group; the last group may be smaller.

        Yields:
            for each group, a list of the first voxels (x, y, z) of its windows in the padded volume
        """
        steps = self.starts[self.axis]
        together = -(-at_least * len(steps) // math.prod(map(len, self.starts)))
        for first in range(0, len(steps), together):
            x, y, z = (steps[first : first + together] if k == self.axis else self.starts[k] for k in range(3))
            yield sorted(itertools.product(x, y, z), key=lambda place: place[self.axis])


def plan_windows(
    shape: Sequence[int], roi: Sequence[int], overlap: Sequence[float], axis: int | None = None
) -> WindowPlan:
    """Plan the same windows as `monai.inferers.sliding_window_inference`, visited along one axis.

    Args:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window.
        overlap: overlap of adjacent windows along each axis, as a fraction of the window in [0, 1).
        axis: axis (0, 1 or 2) along which windows are visited. Default: None (the axis along which the summed logits
            need the least memory, see `slab_axis`).

    Raises:
        ValueError: an overlap is outside [0, 1).

    Example:
        >>> plan_windows((6, 4, 4), (4, 4, 4), (0.5, 0.5, 0.5)).starts
        ([0, 2], [0], [0])
    """
    check_overlap(overlap)
    starts = []
    for size, window, fraction in zip(shape, roi, overlap, strict=True):
        step = window if size <= window else interval(window, fraction)
        windows = dense_patch_slices((max(size, window),), (window,), (step,), return_slice=False)
        starts.append(sorted({int(part[0][0]) for part in windows}))
    if axis is None:
        axis = slab_axis(shape, roi)
    x, y, z = shape
    return WindowPlan((x, y, z), (roi[0], roi[1], roi[2]), (starts[0], starts[1], starts[2]), axis)


def slab_axis(shape: Sequence[int], roi: Sequence[int]) -> int:
    """Return the axis (0, 1 or 2) along which the buffer of the summed logits must move to need the least memory.

    This is the axis along which the window covers the smallest fraction of the (padded) volume.

    Args:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window.

    Example:
        >>> slab_axis((16, 64, 16), (16, 16, 16))
        1
    """
    return max(range(3), key=lambda axis: max(shape[axis], roi[axis]) / roi[axis])


def check_overlap(overlap: Sequence[float]) -> None:
    """Raise an error if an overlap is outside [0, 1).

    Args:
        overlap: overlap of adjacent windows along each axis, as a fraction of the window.

    Raises:
        ValueError: an overlap is out of range.

    Example:
        >>> check_overlap((0.5, 0.5, 0.0))
    """
    if any(not 0 <= fraction < 1 for fraction in overlap):
        raise ValueError(f"overlap must be in [0, 1), got {tuple(overlap)}.")


def interval(window: int, overlap: float) -> int:
    """Return the distance in voxels between the first voxels of adjacent windows, at least 1.

    Args:
        window: size of a window along an axis, in voxels.
        overlap: overlap of adjacent windows, as a fraction of the window in [0, 1).

    Example:
        >>> interval(64, 0.25)
        48
    """
    return max(int(window * (1 - overlap)), 1)
