"""Colors of the classes, the same in pages, in the viewer and in TensorBoard."""

from __future__ import annotations

COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""RGB of the foreground classes, repeated cyclically; safe for color-blind readers (Wong, Nature Methods 2011)."""
_NUM_DASH_PATTERNS = 3


def style_of(index: int) -> str:
    """Return the CSS classes of the contour of a segmentation class: one for its color, one for its dash pattern.

    There are 21 combinations, which are repeated for further classes.

    Args:
        index: label value of the class, from 1.

    Returns:
        names of two CSS classes, separated by a space

    Example:
        >>> style_of(1), style_of(8)
        ('k0 d0', 'k0 d1')
    """
    return f"k{(index - 1) % len(COLORS)} d{(index - 1) // len(COLORS) % _NUM_DASH_PATTERNS}"


def css() -> str:
    """Return CSS rules for the color classes that `style_of` returns. The dash patterns are in `report.css`.

    Example:
        >>> css()[:25]
        '.k0{stroke:rgb(230,159,0)'
    """
    return "".join(f".k{index}{{stroke:rgb{color}}}".replace(" ", "") for index, color in enumerate(COLORS))
