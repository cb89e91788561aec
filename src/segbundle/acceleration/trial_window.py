"""Select a small window on which a network can be tested."""

from __future__ import annotations

from collections.abc import Sequence


def divisor(size: int) -> int:
    """Return the largest power of two, up to 32, that divides the side of a patch.

    A network that accepts the patch usually accepts windows whose sides are divisible by this number.

    Args:
        size: side of the patch in voxels.

    Example:
        >>> divisor(48)
        16
    """
    return min(size & -size, 32)


def small_window(patch_size: Sequence[int]) -> list[int]:
    """Return the size of a small window, at most that of a patch, that most networks for such patches accept.

    Each side is twice the `divisor` of the side of the patch, at most 64 voxels.

    Args:
        patch_size: (X, Y, Z) of the patch in voxels.

    Example:
        >>> small_window([96, 96, 40])
        [64, 64, 16]
    """
    return [min(size, 2 * divisor(size)) for size in patch_size]
