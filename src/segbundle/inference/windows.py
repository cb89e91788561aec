"""Where windows lie over a volume, in which order they are visited, and how much each voxel of one counts."""

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
    """Windows of one size that cover a volume, visited step by step along one axis.

    Attributes:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window; the volume is padded to at least this size.
        starts: first voxels of the windows along each axis of the padded volume.
        axis: the axis along which the windows are visited, from its beginning to its end.
    """

    shape: tuple[int, int, int]
    roi: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    axis: int

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Voxels added before and behind the volume along each axis, so that it holds a window."""
        missing = [max(window - size, 0) for size, window in zip(self.shape, self.roi, strict=True)]
        return [(voxels // 2, voxels - voxels // 2) for voxels in missing]

    @property
    def padded(self) -> tuple[int, int, int]:
        """(X, Y, Z) of the padded volume."""
        x, y, z = (max(size, window) for size, window in zip(self.shape, self.roi, strict=True))
        return x, y, z

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def groups(self, at_least: int) -> Iterator[list[Place]]:
        """Windows that belong together: those of one step along the axis, or of several, to fill a batch.

        All windows of a group start before those of the next along `axis`.
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
    """The windows that `monai.inferers.sliding_window_inference` would use, in another order.

    Args:
        shape: (X, Y, Z) of the volume.
        roi: (X, Y, Z) of a window.
        overlap: of neighbouring windows along each axis, as a fraction of the window in [0, 1).
        axis: along which windows are visited; None for the one with the smallest cross-section.

    Raises:
        ValueError: an overlap outside [0, 1).
    """
    check_overlap(overlap)
    starts = [_starts(max(size, window), window, o) for size, window, o in zip(shape, roi, overlap, strict=True)]
    if axis is None:
        axis = slab_axis(shape, roi)
    x, y, z = shape
    return WindowPlan((x, y, z), (roi[0], roi[1], roi[2]), (starts[0], starts[1], starts[2]), axis)


def slab_axis(shape: Sequence[int], roi: Sequence[int]) -> int:
    """The axis along which visiting the windows needs least memory for the sums of their scores."""
    return max(range(3), key=lambda axis: max(shape[axis], roi[axis]) / roi[axis])


def check_overlap(overlap: Sequence[float]) -> None:
    """Raises ValueError for an overlap outside [0, 1)."""
    if any(not 0 <= fraction < 1 for fraction in overlap):
        raise ValueError(f"overlap must lie in [0, 1), got {tuple(overlap)}.")


def interval(window: int, overlap: float) -> int:
    """Voxels from the beginning of one window to that of the next."""
    return max(int(window * (1 - overlap)), 1)


def _starts(size: int, window: int, overlap: float) -> list[int]:
    step = window if size == window else interval(window, overlap)
    return sorted({int(part[0][0]) for part in dense_patch_slices((size,), (window,), (step,), return_slice=False)})


def importance(
    roi: Sequence[int], mode: str, sigma_scale: float | Sequence[float], device: torch.device
) -> torch.Tensor:
    """Weight of each voxel of a window (X, Y, Z), float32: 1, or a Gaussian about the middle, as MONAI's."""
    return compute_importance_map(tuple(roi), mode=mode, sigma_scale=sigma_scale, device=device, dtype=torch.float32)
