"""Size of the window that a network is tried out with."""

from __future__ import annotations

from collections.abc import Sequence


def divisor(size: int) -> int:
    """Return the largest power of two, up to 32, that divides a side of a patch and so suits the network's strides.

    Args:
        size: side of the patch in voxels.

    Example:
        >>> divisor(48)
        16
    """
    return min(size & -size, 32)


def small_window(patch_size: Sequence[int]) -> list[int]:
    """Return the sides of a small window, no larger than a patch, that most networks for such patches accept.

    Args:
        patch_size: (X, Y, Z) of the patch in voxels.

    Example:
        >>> small_window([96, 96, 40])
        [64, 64, 16]
    """
    return [min(size, 2 * divisor(size)) for size in patch_size]
