"""Rules for the levels of the network: strides, kernels and channels by patch size and spacing.

The rules are those of nnU-Net (Isensee et al., Nature Methods 18, 2021, supplementary note 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segbundle.planning.choice import Choice

_MIN_SIDE = 4
"""Minimum side of a feature map after pooling, in voxels."""
_MIN_LEVELS = 3
"""Minimum number of levels of MONAI's DynUNet."""
_FACTOR = 2
"""Ratio of the spacings of two axes from which the axis with the larger spacing is neither pooled nor convolved."""
_KERNEL = 3
_ENOUGH_TO_POOL_ALONE = 3 * _MIN_SIDE
"""Minimum side of a feature map in voxels, if only one axis can be pooled."""


@dataclass(frozen=True)
class Levels:
    """Levels of a U-Net. The first level has full resolution.

    Attributes:
        kernels: kernel size (X, Y, Z) of each level.
        strides: stride (X, Y, Z) of each level; 1 for the first level.

    Example:
        >>> Levels(((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 1))).divisors
        (4, 4, 2)
    """

    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def divisors(self) -> tuple[int, ...]:
        """Numbers by which the sides of a patch must be divisible."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(3))

    def filters(self, first: int, largest: int) -> list[int]:
        """Return the number of channels of each level: doubled from level to level up to a maximum.

        Args:
            first: channels of the first level.
            largest: maximum number of channels.
        """
        return [min(first * 2**level, largest) for level in range(len(self.strides))]


def choose_levels(patch_size: Sequence[int], spacing: Sequence[float]) -> tuple[Levels, list[int]]:
    """Return the levels of a network for a patch, and the patch size that is divisible by their strides.

    An axis is pooled while its feature map keeps at least 4 voxels and its spacing is within a factor of 2 of the
    smallest spacing. The kernel is 1 along an axis until its spacing is within this factor. Small patches are
    pooled further, because the network has at least three levels.

    Args:
        patch_size: (X, Y, Z) in voxels.
        spacing: voxel size in mm.

    Returns:
        the levels, and the patch size, rounded up

    Example:
        >>> levels, patch_size = choose_levels([35, 51, 35], [1.0, 1.0, 1.0])
        >>> levels.strides, patch_size
        (((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)), [40, 56, 40])
        >>> choose_levels([160, 160, 12], [0.5, 0.5, 6.0])[0].kernels[:4]
        ((3, 3, 1), (3, 3, 1), (3, 3, 1), (3, 3, 3))
    """
    size, now = list(patch_size), list(spacing)
    kernel = [1, 1, 1]
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    while axes := _axes_to_pool(size, now):
        kernel = _grown(kernel, now)
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in axes else 1 for axis in range(3)))
        size = [math.ceil(side / stride) for side, stride in zip(size, strides[-1], strict=True)]
        now = [length * stride for length, stride in zip(now, strides[-1], strict=True)]
    while len(strides) < _MIN_LEVELS:
        kernels.append(tuple(_grown(kernel, now)))
        strides.append(tuple(2 if side >= _MIN_SIDE else 1 for side in size))
        size = [math.ceil(side / stride) for side, stride in zip(size, strides[-1], strict=True)]
    kernels.append((_KERNEL,) * 3)
    flat = [side < _KERNEL for side in patch_size]
    kernels = [tuple(1 if flat[axis] else width for axis, width in enumerate(each)) for each in kernels]
    levels = Levels(tuple(kernels), tuple(strides))
    rounded = [math.ceil(side / step) * step for side, step in zip(patch_size, levels.divisors, strict=True)]
    return levels, rounded


def _axes_to_pool(size: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return the axes that the next stride halves; empty at the lowest level."""
    large = [axis for axis in range(3) if size[axis] >= 2 * _MIN_SIDE]
    if not large:
        return []
    smallest = min(spacing[axis] for axis in large)
    axes = [axis for axis in large if spacing[axis] / smallest < _FACTOR]
    return [] if len(axes) == 1 and size[axes[0]] < _ENOUGH_TO_POOL_ALONE else axes


def _grown(kernel: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return the kernel of a level, which is never smaller than that of the level before."""
    return [
        _KERNEL if width == _KERNEL or spacing[axis] / min(spacing) < _FACTOR else 1
        for axis, width in enumerate(kernel)
    ]


def network_choices(
    levels: Levels, spacing: Sequence[float], channels: int, first: int, largest: int, residual: bool
) -> list[Choice]:
    """Return the settings of the network (`network_def#...`), with their reasons.

    Args:
        levels: levels of the network.
        spacing: voxel size in mm.
        channels: number of input channels.
        first: number of channels of the first level.
        largest: maximum number of channels of a level.
        residual: whether the blocks are residual.

    Example:
        >>> levels, _ = choose_levels([40, 56, 40], [1.0, 1.0, 1.0])
        >>> for choice in network_choices(levels, [1.0, 1.0, 1.0], 1, 16, 256, False)[:3]:
        ...     print(choice.key, choice.value)
        network_def#in_channels 1
        network_def#filters [16, 32, 64, 128]
        network_def#strides [1, 2, 2, 2]
    """
    kernels, strides = ([_short(each) for each in given] for given in (levels.kernels, levels.strides))
    thick = any(1 in each for each in levels.kernels)
    ratio = max(spacing) / min(spacing)
    found = [
        Choice("network_def#in_channels", channels, "number of channels of the scans"),
        Choice("network_def#filters", levels.filters(first, largest), f"channels, doubled per level up to {largest}"),
        Choice(
            "network_def#strides",
            strides,
            f"an axis is halved while {_MIN_SIDE} voxels remain and its spacing is small",
        ),
        Choice(
            "network_def#kernel_size",
            kernels,
            f"1 along an axis until its spacing is less than {_FACTOR} times the smallest (at first {ratio:.3g} times)"
            if thick
            else "spacings are within a factor of 2",
        ),
        Choice("network_def#upsample_kernel_size", strides[1:], "the strides without the first"),
    ]
    if residual:
        found.append(Choice("network_def#res_block", True, "residual blocks of the preset"))
    return found


def _short(sizes: Sequence[int]) -> int | list[int]:
    """Return equal sizes as one number."""
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)
