"""Default colors of classes, distinct for any number of classes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Rgb = tuple[int, int, int]
COLORS: tuple[Rgb, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Default RGB of the first foreground classes, safe for color-blind readers (Wong, Nature Methods 2011)."""
ERROR_COLORS: tuple[Rgb, Rgb] = ((255, 0, 255), (0, 255, 0))
"""RGB of the values 1 and 2 of error maps. Color-blind readers can distinguish the two colors from each other, from
gray and from `COLORS` (simulated according to Machado 2009). No class has them by default."""
WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of the white point D65."""
TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
"""Matrix from XYZ to linear sRGB."""
_STEP = 17
"""Step between the red, green and blue values of the colors among which further colors are chosen."""
_LIGHTNESS = (40.0, 92.0)
_MIN_CHROMA = 25.0
"""Limits of L* and of the chroma in CIELAB, so that a color is visible on a gray scan."""


@lru_cache
def palette(count: int) -> tuple[Rgb, ...]:
    """Return distinct default colors: those of `COLORS`, then others as different as possible.

    Each further color has the largest distance in CIELAB from all colors before it and from `ERROR_COLORS`. A longer
    palette begins with the colors of a shorter palette.

    Args:
        count: number of colors. If there are more than about 2,800, some are equal.

    Returns:
        red, green and blue of each color, 0 to 255

    Example:
        >>> palette(8)[6:]
        ((204, 121, 167), (0, 85, 255))
    """
    found = list(COLORS[:count])
    if count > len(COLORS):
        levels = np.arange(0, 256, _STEP)
        candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
        lab = lab_of_rgb(candidates)
        light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
        visible = (light > _LIGHTNESS[0]) & (light < _LIGHTNESS[1]) & (chroma > _MIN_CHROMA)
        candidates, lab = candidates[visible], lab[visible]
        used = lab_of_rgb(np.array([*COLORS, *ERROR_COLORS]))
        distances = ((lab[:, None] - used) ** 2).sum(axis=-1).min(axis=1)
        while len(found) < count:
            # Rounding makes the choice independent of the last bits of the cube roots, which differ between computers.
            farthest = int(distances.round(6).argmax())
            red, green, blue = candidates[farthest].tolist()
            found.append((red, green, blue))
            distances = np.minimum(distances, ((lab - lab[farthest]) ** 2).sum(axis=-1))
    return tuple(found)


def lab_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB colors to CIELAB (L*, a*, b*).

    Args:
        rgb: (..., 3) red, green and blue of sRGB, 0 to 255.

    Returns:
        float64 array of the same shape: L* from 0 to 100, and a* and b*

    Example:
        >>> lab_of_rgb(np.array([255, 0, 0])).round(1).tolist()
        [53.2, 80.1, 67.2]
    """
    values = np.asarray(rgb) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    xyz = linear @ np.linalg.inv(TO_RGB).T / WHITE
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
