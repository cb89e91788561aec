"""Colors of the classes on pages: those of the run, the same in the viewer and in output files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError, OutputError
from segbundle.files import run_files
from segbundle.segmentations.class_entries import colors_of
from segbundle.segmentations.palette import COLORS, Rgb

_NUM_DASH_PATTERNS = 3


def colors_of_run(folder: str | Path, made_by: Mapping[str, Any], class_names: Sequence[str]) -> list[Rgb]:
    """Return the colors of the foreground classes of a run: its setting `class_colors`, or the default palette.

    Args:
        folder: folder of the run, for messages.
        made_by: content of its `run.json`.
        class_names: names of the foreground classes.

    Returns:
        one color (red, green, blue), each from 0 to 255, per foreground class

    Raises:
        OutputError: the colors in `run.json` are not valid.

    Example:
        >>> colors_of_run("runs/out", {"config": {"class_colors": {"lesion": "#aa3311"}}}, ["liver", "lesion"])
        [(230, 159, 0), (170, 51, 17)]
    """
    config = made_by.get("config") or {}
    try:
        return colors_of(["background", *class_names], config.get("class_colors"))
    except ConfigError as error:
        raise OutputError(f"{Path(folder) / run_files.RUN_FILE}: {error}") from error


def color_class(index: int) -> str:
    """Return the CSS class that sets the color of a segmentation class on a page (see `css`).

    Args:
        index: class index, from 1 (0 is the background).

    Example:
        >>> color_class(1)
        'k0'
    """
    return f"k{index - 1}"


def color_classes(class_names: Sequence[str]) -> dict[str, str]:
    """Return the CSS class that sets the color of each segmentation class on a page, by name.

    Args:
        class_names: names of the foreground classes, in the order of their class indices.

    Example:
        >>> color_classes(["liver", "lesion"])
        {'liver': 'k0', 'lesion': 'k1'}
    """
    return {name: color_class(index) for index, name in enumerate(class_names, 1)}


def style_of(index: int) -> str:
    """Return the CSS classes of the contour of a segmentation class: one for its color, one for its dash pattern.

    The dash pattern helps to distinguish similar colors of many classes.

    Args:
        index: class index, from 1 (0 is the background).

    Returns:
        names of two CSS classes, separated by a space

    Example:
        >>> style_of(1), style_of(8)
        ('k0 d0', 'k7 d1')
    """
    return f"{color_class(index)} d{(index - 1) // len(COLORS) % _NUM_DASH_PATTERNS}"


def css(colors: Sequence[Rgb] = COLORS) -> str:
    """Return CSS rules that set the variable `--color` for the CSS classes of `color_class`.

    `report.css` uses the variable for contours, dots, curves and the squares beside class names.

    Args:
        colors: color of each foreground class. Default: the palette.

    Example:
        >>> css()[:27]
        '.k0{--color:rgb(230,159,0)}'
    """
    rules = (f".{color_class(index)}{{--color:rgb{tuple(color)}}}" for index, color in enumerate(colors, 1))
    return "".join(rules).replace(" ", "")
