"""Rules for patch size and batch size: as large as fits into the memory of the plan.

The order is that of nnU-Net (Isensee et al., Nature Methods 18, 2021): first the patch, up to the median shape of the
cases, then the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segbundle.errors import ConfigError
from segbundle.planning.choice import gigabytes
from segbundle.planning.network_rules import Levels, choose_levels

_INITIAL_VOXELS = 256**3
_SMALLEST_SIDE = 16
"""Side in voxels below which patches are not shortened."""
_MIN_BATCH = 2
_DATASET_FRACTION = 0.05
"""Maximum fraction of the voxels of the dataset in a batch, against overfitting (nnU-Net)."""
_ROUNDED_UP = 1.01


@dataclass(frozen=True)
class Footprint:
    """Memory of a training step.

    Attributes:
        fixed: bytes for the weights, their gradients, moments and average.
        per_voxel: bytes per voxel of the patches.

    Example:
        >>> Footprint(1e6, 100.0).total([10, 10, 10], 2)
        1200000.0
    """

    fixed: float
    per_voxel: float

    def total(self, patch_size: Sequence[int], batch_size: int) -> float:
        """Return the memory of a training step in bytes.

        Args:
            patch_size: (X, Y, Z) in voxels.
            batch_size: number of patches.
        """
        return self.fixed + self.per_voxel * math.prod(patch_size) * batch_size


@dataclass(frozen=True)
class PatchPlan:
    """Patches and the network for them.

    Attributes:
        patch_size: (X, Y, Z) in voxels.
        batch_size: number of patches per step.
        levels: levels of the network.
        num_bytes: estimated memory of a training step in bytes.
        whole: whether a patch is at least as large as the median shape of the cases.

    Example:
        >>> levels, patch_size = choose_levels([32, 32, 32], [1, 1, 1])
        >>> PatchPlan(patch_size, 2, levels, 1e9, False).batch_size
        2
    """

    patch_size: list[int]
    batch_size: int
    levels: Levels
    num_bytes: float
    whole: bool


def fit_patch(
    shape: Sequence[int],
    spacing: Sequence[float],
    budget: float,
    footprint_of: Callable[[Levels], Footprint],
    num_cases: int,
    fill_batch: bool = False,
) -> PatchPlan:
    """Return the largest patch and batch whose training step fits into a memory budget.

    The search begins with a patch of about 256³ voxels with equal sides in mm, clipped to the median shape. While two
    such patches do not fit, the side that is largest relative to the median shape is shortened. If two of the smallest
    patches do not fit, the batch has one patch.

    Args:
        shape: median shape (X, Y, Z) of the cases on the network's grid, in voxels.
        spacing: voxel size of the grid in mm.
        budget: memory of a training step in bytes.
        footprint_of: function that returns the footprint of a network with given levels.
        num_cases: number of training cases.
        fill_batch: whether the batch grows to the budget, up to 5% of the voxels of the dataset. Default: False (two
            patches, because on a CPU larger batches take proportionally longer).

    Raises:
        ConfigError: even the smallest patch does not fit. The message states the smallest budget that works.

    Example:
        >>> plan = fit_patch([200, 200, 200], [1, 1, 1], 1e9, lambda levels: Footprint(1e8, 1000.0), 20)
        >>> plan.patch_size, plan.batch_size, plan.num_bytes <= 1e9
        ([64, 80, 80], 2, True)
    """
    median = [max(int(side), 1) for side in shape]
    unit = (_INITIAL_VOXELS * math.prod(spacing)) ** (1 / 3)
    wanted = [min(max(round(unit / length), 1), side) for length, side in zip(spacing, median, strict=True)]
    levels, size = choose_levels(wanted, spacing)
    footprint = footprint_of(levels)
    while footprint.total(size, _MIN_BATCH) > budget:
        smaller = _shortened(wanted, size, levels, median)
        if smaller is None:
            break
        wanted = smaller
        levels, size = choose_levels(wanted, spacing)
        footprint = footprint_of(levels)
    batch = _MIN_BATCH if footprint.total(size, _MIN_BATCH) <= budget else 1
    if footprint.total(size, batch) > budget:
        least = math.ceil(footprint.total(size, 1) * _ROUNDED_UP / 1e6)
        raise ConfigError(
            f"--memory {gigabytes(budget)}: no plan fits. The smallest patch, {'×'.join(map(str, size))} voxels, takes "
            f"about {gigabytes(footprint.total(size, 1))}. Use --memory {least}MB or more, or --preset small."
        )
    if fill_batch and batch == _MIN_BATCH:
        fitting = (budget - footprint.fixed) / footprint.per_voxel / math.prod(size)
        most = _DATASET_FRACTION * num_cases * math.prod(median) / math.prod(size)
        batch = max(int(min(fitting, round(most))), _MIN_BATCH)
    whole = all(side >= full for side, full in zip(size, median, strict=True))
    return PatchPlan(size, batch, levels, footprint.total(size, batch), whole)


def _shortened(wanted: Sequence[int], size: Sequence[int], levels: Levels, median: Sequence[int]) -> list[int] | None:
    """Return a patch with one shorter side, or None if no side can be shortened."""
    axes = [axis for axis in range(3) if size[axis] - levels.divisors[axis] >= min(_SMALLEST_SIDE, median[axis])]
    if not axes:
        return None
    longest = max(axes, key=lambda axis: (size[axis] / median[axis], size[axis]))
    shorter = list(wanted)
    shorter[longest] = size[longest] - levels.divisors[longest]
    return shorter
