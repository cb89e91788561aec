"""Groups of classes with similar names, for pages of many classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MANY = 12
"""Pages with more classes than this group them, and collapse the details of each class."""
_WORDS = re.compile(r"[^\W\d_]+")
_SIDES = frozenset(("left", "right", "l", "r"))


@dataclass(frozen=True)
class ClassGroup:
    """Classes whose names begin with the same word.

    Attributes:
        name: this word; empty for classes without a group.
        classes: names of the classes.
        dice_mean: mean over the classes of their mean Dice; None if no class has one.
        worst: name of the class with the lowest mean Dice; None if no class has one.

    Example:
        >>> ClassGroup("rib", ["rib_left_1", "rib_left_2"], 0.9, "rib_left_2").worst
        'rib_left_2'
    """

    name: str
    classes: Sequence[str]
    dice_mean: float | None = None
    worst: str | None = None


def group_classes(classes: Mapping[str, Mapping[str, Any]]) -> list[ClassGroup]:
    """Return the classes of a page in groups, in the order of the first class of each group.

    Up to 12 classes are not grouped. In a longer list, classes whose names begin with the same word form a group; words
    for a side are ignored. Examples are `rib_left_1` and `rib_right_1`, or `vertebrae_t1` and `vertebrae_t2`.
    Neighboring classes without a group are returned together.

    Args:
        classes: values of the classes of `summary.json` by name, with `dice_mean`.

    Example:
        >>> names = ["liver", "left_kidney", "right_kidney", *(f"rib_{number}" for number in range(1, 13))]
        >>> groups = group_classes({name: {"dice_mean": 0.9} for name in names})
        >>> [(group.name, len(group.classes)) for group in groups]
        [('', 1), ('kidney', 2), ('rib', 12)]
    """
    if len(classes) <= MANY:
        return [ClassGroup("", list(classes))]
    words = {name: _first_word(name) for name in classes}
    count = Counter(words.values())
    members: dict[str, list[str]] = {}
    alone = ""
    for name, word in words.items():
        if word and count[word] > 1:
            members.setdefault(word, []).append(name)
            alone = ""
        else:
            alone = alone or f" {name}"  # the key of a run of classes without a group
            members.setdefault(alone, []).append(name)
    return [_with_dice("" if word.startswith(" ") else word, names, classes) for word, names in members.items()]


def _first_word(name: str) -> str:
    words = [word.lower() for word in _WORDS.findall(name)]
    return next((word for word in words if word not in _SIDES), "")


def _with_dice(word: str, names: Sequence[str], classes: Mapping[str, Mapping[str, Any]]) -> ClassGroup:
    found = {name: dice for name in names if (dice := classes[name].get("dice_mean")) is not None}
    if not word or not found:
        return ClassGroup(word, names)
    return ClassGroup(word, names, sum(found.values()) / len(found), min(found, key=lambda name: found[name]))
