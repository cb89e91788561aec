"""Left and right classes, and the axes along which mirroring exchanges them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations

from segbundle.errors import ConfigError

_logger = logging.getLogger(__name__)
_LEFT = (
    "left", "l", "lt", "lft", "lh", "links", "linke", "linker", "linkes", "linken", "gauche", "izquierdo", "izquierda",
    "izq", "esquerdo", "esquerda", "sinistro", "sinistra", "sinister", "sin", "sn", "sx", "vänster", "vänstra",
    "venstre", "lewy", "lewa", "lewe", "левый", "левая", "левое", "sol", "左", "左侧", "左側", "왼쪽",
)  # fmt: skip
_RIGHT = (
    "right", "r", "rt", "rgt", "rh", "rechts", "rechte", "rechter", "rechtes", "rechten", "droite", "droit", "derecho",
    "derecha", "der", "direito", "direita", "destro", "destra", "dexter", "dex", "dext", "dx", "höger", "högra",
    "højre", "høyre", "prawy", "prawa", "prawe", "правый", "правая", "правое", "sağ", "右", "右侧", "右側", "오른쪽",
)  # fmt: skip
_SIDES = dict.fromkeys(_LEFT, -1) | dict.fromkeys(_RIGHT, 1)
_FILLERS = ("side", "sided")
_WORD = re.compile(r"[左右][侧側]?|왼쪽|오른쪽|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_左右A-Z]+|[A-Z]+|\d+")
_PLURAL = re.compile(r"(?<=[a-z]{3})(?<!s)s$")
_GLUED = re.compile(r"(left|right|l|r)(.+)"), re.compile(r"(.+?)(left|right|l|r)")
"""Names with a side and no separator, such as `leftkidney` and `RV`."""
_END_NUMBERS = re.compile(r"^[\W_]*\d+[\W_]+|[\W_]+\d+[\W_]*$")
"""Numbers that may only enumerate the classes, as in `2_kidney_left` and `3_kidney_right`."""
_DEFAULT_FLIPS = (0,)
_SHOWN = 3


def side_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of classes whose names differ only by side.

    Args:
        class_names: names in any spelling: `left_kidney`, `kidney_left`, `Lung-R`, `LKidney`, `ctx-lh-insula`, ...
            Pairs with equal numbers at the ends of names come first; other numbers may differ.

    Example:
        >>> side_pairs(["background", "left kidney", "right kidney", "spleen"])
        [('left kidney', 'right kidney')]
    """
    class_names = [str(name) for name in class_names]  # YAML reads some names as numbers
    pairs: list[tuple[int, int]] = []
    for numbered in (True, False):
        paired = {index for pair in pairs for index in pair}
        readings = {i: _readings(name, numbered) for i, name in enumerate(class_names) if i not in paired}
        pairs += [
            (one, other)
            for one, other in combinations(readings, 2)
            if any((-side, rest) in readings[other] for side, rest in readings[one])
        ]
    return [(class_names[one], class_names[other]) for one, other in sorted(pairs)]


def _readings(name: str, numbered: bool) -> set[tuple[int, str]]:
    """Return every way to split a name into a side (-1 or 1) and the rest, in lower case.

    Args:
        name: name of a class.
        numbered: whether numbers at the ends are part of the name.
    """
    name = unicodedata.normalize("NFKC", name)
    if not numbered:
        name = _END_NUMBERS.sub("", name)
    words = [word.lower() for word in _WORD.findall(name.lower() if name.isupper() else name)]
    words = [word if word in _SIDES else _PLURAL.sub("", word) for word in words if word not in _FILLERS]
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
    """Return the axes along which mirroring exchanges classes that differ only by side.

    Args:
        class_names: see `side_pairs`.
        axcodes: orientation of the network's grid; None for the orientation of each scan, where any axis may be
            left-right.

    Example:
        >>> exchanging_axes(["background", "left kidney", "right kidney"], "RAS")
        {0}
    """
    if not side_pairs(class_names):
        return set()
    return {0, 1, 2} if axcodes is None else {axis for axis, code in enumerate(axcodes) if code.upper() in "LR"}


def chosen_flips(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None
) -> list[int]:
    """Return the axes along which training mirrors images.

    Args:
        flip_axes: the axes, or `auto` for the first axis unless mirroring it exchanges classes.
        class_names: see `side_pairs`.
        axcodes: see `exchanging_axes`.

    Raises:
        ConfigError: `flip_axes` is neither `auto` nor a list of axes.

    Example:
        >>> chosen_flips("auto", ["background", "left kidney", "right kidney"], "RAS")
        []
        >>> chosen_flips("auto", ["background", "liver"], "RAS")
        [0]
    """
    if isinstance(flip_axes, (list, tuple)) and all(axis in (0, 1, 2) for axis in flip_axes):
        return list(flip_axes)
    if flip_axes != "auto":
        raise ConfigError(
            f"augmentation: flip_axes is {flip_axes!r}; it must be auto or a list of the axes 0, 1 and 2."
        )
    return sorted(set(_DEFAULT_FLIPS) - exchanging_axes(class_names, axcodes))


def warn_about_sides(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None, key: str
) -> None:
    """Log a warning if mirroring exchanges classes that differ only by side, or is disabled for this reason.

    Args:
        flip_axes: see `chosen_flips`.
        class_names: see `side_pairs`.
        axcodes: see `exchanging_axes`.
        key: config key of `flip_axes`.

    Example:
        >>> warn_about_sides([1], ["background", "left kidney", "right kidney"], "RAS", "augmentation#flip_axes")
    """
    exchanging = exchanging_axes(class_names, axcodes)
    pairs = [f"{left} / {right}" for left, right in side_pairs(class_names)]
    shown = ", ".join(pairs[:_SHOWN]) + (f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else "")
    if flip_axes == "auto":
        left_out = sorted(exchanging.intersection(_DEFAULT_FLIPS))
        if left_out:
            _logger.warning(
                "%s: images are not mirrored along axis %d, to avoid exchanging %s", key, left_out[0], shown
            )
    elif exchanging.intersection(flip_axes):
        _logger.warning(
            "%s %s: mirroring exchanges classes that differ only by side (%s), so the network cannot distinguish them; "
            "remove axis %s",
            key,
            list(flip_axes),
            shown,
            ", ".join(map(str, sorted(exchanging.intersection(flip_axes)))),
        )
