"""The colour of each class, the same in pages, in the viewer and in TensorBoard."""

from __future__ import annotations

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""Of the classes from the first one after the background on, in turns; told apart by colour-blind eyes (Wong 2011)."""
_DASHES = 3


def style_of(index: int) -> str:
    """CSS classes of colour and dashes, for class `index` from 1 on: 21 of them before they repeat."""
    return f"k{(index - 1) % len(COLOURS)} d{(index - 1) // len(COLOURS) % _DASHES}"


def css() -> str:
    """The rules of the colours that `style_of` names."""
    return "".join(f".k{index}{{stroke:rgb{colour}}}".replace(" ", "") for index, colour in enumerate(COLOURS))
