"""Classes that differ by their side only, and the axes along which a mirror image exchanges them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from segbundle.errors import ConfigError

_logger = logging.getLogger(__name__)
_LEFT = (
    "left", "l", "lt", "lft", "lh", "links", "linke", "linker", "linkes", "gauche", "izquierdo", "izquierda",
    "sinistro", "sinistra", "sinister", "左", "左侧", "左側",
)  # fmt: skip
_RIGHT = (
    "right", "r", "rt", "rgt", "rh", "rechts", "rechte", "rechter", "rechtes", "droite", "droit", "derecho", "derecha",
    "destro", "destra", "dexter", "右", "右侧", "右側",
)  # fmt: skip
_SIDES = dict.fromkeys(_LEFT, -1) | dict.fromkeys(_RIGHT, 1)
_WORD = re.compile(r"[左右][侧側]?|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_左右A-Z]+|[A-Z]+|\d+")
_GLUED = re.compile(r"(left|right|l|r)(.+)"), re.compile(r"(.+?)(left|right|l|r)")
"""A side and a rest without anything between them, as in `leftkidney` and `RV`."""
_DEFAULT_FLIPS = (0,)
_SHOWN = 3


def side_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of classes whose names differ by their side only.

    Args:
        class_names: in any spelling: `left_kidney`, `kidney_left`, `Lung-R`, `LKidney`, `ctx-lh-insula`, ...

    Example:
        >>> side_pairs(["background", "left kidney", "right kidney", "spleen"])
        [('left kidney', 'right kidney')]
    """
    class_names = [str(name) for name in class_names]  # YAML has numbers for some
    readings = [_readings(name) for name in class_names]
    return [
        (name, class_names[other])
        for index, name in enumerate(class_names)
        for other in range(index + 1, len(class_names))
        if any((-side, rest) in readings[other] for side, rest in readings[index])
    ]


def _readings(name: str) -> set[tuple[int, str]]:
    """Every way to read a name as a side and a rest, in small letters."""
    words = [word.lower() for word in _WORD.findall(name)]
    found = {
        (_SIDES[word], " ".join(sorted(words[:place] + words[place + 1 :])))
        for place, word in enumerate(words)
        if word in _SIDES
    }
    if found:
        return found
    first, last = (pattern.fullmatch(name.lower()) for pattern in _GLUED)
    return {
        *([(_SIDES[first[1]], first[2])] if first else []),
        *([(_SIDES[last[2]], last[1])] if last else []),
    }


def exchanging_axes(class_names: Sequence[str], axcodes: str | Sequence[str] | None) -> set[int]:
    """Return the axes along which a mirror image exchanges classes that differ by their side only.

    Args:
        class_names: see `side_pairs`.
        axcodes: orientation of the network's grid; None for each scan's own, in which any axis may be left-right.
    """
    if not side_pairs(class_names):
        return set()
    return {0, 1, 2} if axcodes is None else {axis for axis, code in enumerate(axcodes) if code.upper() in "LR"}


def chosen_flips(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None
) -> list[int]:
    """Return the axes along which a training mirrors its images.

    Args:
        flip_axes: the axes, or `auto`: the first axis, unless that exchanges classes.
        class_names, axcodes: see `exchanging_axes`.

    Raises:
        ConfigError: neither `auto` nor a list of axes.
    """
    if isinstance(flip_axes, (list, tuple)) and all(axis in (0, 1, 2) for axis in flip_axes):
        return list(flip_axes)
    if flip_axes != "auto":
        raise ConfigError(f"augmentation: flip_axes is {flip_axes!r}; auto, or some of 0, 1 and 2, is needed.")
    return sorted(set(_DEFAULT_FLIPS) - exchanging_axes(class_names, axcodes))


def warn_about_sides(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None, key: str
) -> None:
    """Log a warning if mirroring exchanges classes that differ by their side only, or is left out because it would.

    Args:
        flip_axes, class_names, axcodes: see `chosen_flips`.
        key: config key of `flip_axes`.
    """
    exchanging = exchanging_axes(class_names, axcodes)
    pairs = [f"{left} / {right}" for left, right in side_pairs(class_names)]
    shown = ", ".join(pairs[:_SHOWN]) + (f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else "")
    if flip_axes == "auto":
        left_out = sorted(exchanging.intersection(_DEFAULT_FLIPS))
        if left_out:
            _logger.warning("%s: images are not mirrored along axis %d, which exchanges %s", key, left_out[0], shown)
    elif exchanging.intersection(flip_axes):
        _logger.warning(
            "%s %s: mirror images exchange classes that differ by their side only (%s), which a network cannot tell "
            "apart then; leave out axis %s",
            key,
            list(flip_axes),
            shown,
            ", ".join(map(str, sorted(exchanging.intersection(flip_axes)))),
        )
