"""Plan the positions and the order of sliding windows, and compute their weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

Place = tuple[int, int, int]
"""First voxel of a window along the three axes of the padded volume."""


@dataclass(frozen=True)
class WindowPlan:
    """Positions of sliding windows of a fixed size that cover a volume and are visited along one axis.

    Attributes:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window; the volume is padded to at least this size.
        starts: first voxels of the windows along each axis of the padded volume.
        axis: axis along which the windows are visited, in ascending order.

    Example:
        >>> plan = WindowPlan((6, 4, 3), (4, 4, 4), ([0, 2], [0], [0]), axis=0)
        >>> len(plan), plan.padded, plan.padding
        (2, (6, 4, 4), [(0, 0), (0, 0), (0, 1)])
    """

    shape: tuple[int, int, int]
    roi: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    axis: int

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Number of voxels added before and after the volume along each axis, so that a window fits into it."""
        missing = [max(window - size, 0) for size, window in zip(self.shape, self.roi, strict=True)]
        return [(voxels // 2, voxels - voxels // 2) for voxels in missing]

    @property
    def padded(self) -> tuple[int, int, int]:
        """Size (X, Y, Z) of the padded volume in voxels."""
        x, y, z = (max(size, window) for size, window in zip(self.shape, self.roi, strict=True))
        return x, y, z

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def groups(self, at_least: int) -> Iterator[list[Place]]:
        """Yield groups of windows in ascending order along `axis`.

        A group contains all windows at one position along `axis`. If these are fewer than `at_least`, it also contains
        those at the next positions.

        Args:
            at_least: minimum number of windows per group; the last group may be smaller.

        Yields:
            First voxels of the windows of a group, in the padded volume.
        """
        steps = self.starts[self.axis]
        others = [self.starts[other] for other in range(3) if other != self.axis]
        across = list(itertools.product(*others))
        together = -(-at_least // len(across))
        for first in range(0, len(steps), together):
            places = itertools.product(steps[first : first + together], across)
            yield [self._place(along, *rest) for along, rest in places]

    def _place(self, along: int, *others: int) -> Place:
        place = list(others)
        place.insert(self.axis, along)
        return place[0], place[1], place[2]


def plan_windows(
    shape: Sequence[int], roi: Sequence[int], overlap: Sequence[float], axis: int | None = None
) -> WindowPlan:
    """Plan the same windows as `monai.inferers.sliding_window_inference`, visited along one axis.

    Args:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window.
        overlap: overlap of adjacent windows along each axis, as a fraction of the window in [0, 1).
        axis: axis along which windows are visited; None for the axis along which the summed logits need the least
            memory (`slab_axis`).

    Raises:
        ValueError: if an overlap is outside [0, 1).

    Example:
        >>> plan_windows((6, 4, 4), (4, 4, 4), (0.5, 0.5, 0.5)).starts
        ([0, 2], [0], [0])
    """
    check_overlap(overlap)
    starts = [_starts(max(size, window), window, o) for size, window, o in zip(shape, roi, overlap, strict=True)]
    if axis is None:
        axis = slab_axis(shape, roi)
    x, y, z = shape
    return WindowPlan((x, y, z), (roi[0], roi[1], roi[2]), (starts[0], starts[1], starts[2]), axis)


def slab_axis(shape: Sequence[int], roi: Sequence[int]) -> int:
    """Return the axis along which a buffer for the summed logits must move to need the least memory.

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
        ValueError: if an overlap is out of range.

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


def _starts(size: int, window: int, overlap: float) -> list[int]:
    step = window if size == window else interval(window, overlap)
    return sorted({int(part[0][0]) for part in dense_patch_slices((size,), (window,), (step,), return_slice=False)})


def importance(
    roi: Sequence[int], mode: str, sigma_scale: float | Sequence[float], device: torch.device
) -> torch.Tensor:
    """Return the weight of every voxel of a window, float32 (X, Y, Z), as in MONAI.

    Args:
        roi: (X, Y, Z) of a window.
        mode: `constant` for a weight of 1, or `gaussian` for a Gaussian around the center.
        sigma_scale: standard deviation of the Gaussian, as a fraction of the window size along each axis.
        device: device of the result.

    Example:
        >>> importance((2, 2, 2), "constant", 0.125, torch.device("cpu")).unique()
        tensor([1.])
    """
    return compute_importance_map(tuple(roi), mode=mode, sigma_scale=sigma_scale, device=device, dtype=torch.float32)
