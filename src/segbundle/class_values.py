"""Label values of the classes in label maps: subsets, merged values, and regions, which may overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segbundle.classes import IGNORE_INDEX, Classes
from segbundle.errors import ConfigError

Value = int | str
"""Label value, or the name that `dataset.json` gives to it."""


@dataclass(frozen=True)
class ClassValues:
    """Label values of the classes of a task.

    Label maps are loaded with one value per class: 0 for the background, 1 for the first foreground class, and so on.
    Where classes overlap, a voxel has the value of the innermost of its classes: a class is painted over the classes
    with more values. If voxels with the same innermost class belong to different classes, the loaded values continue
    after those of the classes.

    Attributes:
        names: class names, background first.
        values: label values of each class, in the order of `names`.
        loaded: loaded value by label value; all other label values are background.
        members: loaded values of each class, if classes overlap; None if every voxel has one class.
        paint_order: indices of the foreground classes in the order in which they are painted.

    Example:
        >>> merged = class_values({"liver": 5, "kidney": [2, 3]})
        >>> merged.names, merged.loaded, merged.members
        (['background', 'liver', 'kidney'], {5: 1, 2: 2, 3: 2}, None)
        >>> regions = class_values({"whole": [1, 2, 4], "core": [1, 4], "enhancing": [4]})
        >>> regions.loaded, regions.members
        ({1: 2, 2: 1, 4: 3}, ((0,), (1, 2, 3), (2, 3), (3,)))
    """

    names: list[str]
    values: tuple[tuple[Value, ...], ...]
    loaded: dict[Value, int]
    members: tuple[tuple[int, ...], ...] | None
    paint_order: tuple[int, ...]

    @property
    def is_identity(self) -> bool:
        """Whether the label values are the indices of the classes, so that label maps are loaded unchanged."""
        return self.members is None and self.values == tuple((index,) for index in range(len(self.names)))


def class_values(classes: Mapping[str, Any]) -> ClassValues:
    """Return the label values of classes, from the setting `classes`.

    Args:
        classes: for each class, a label value or a list of label values; instead of a value, the name that
            `dataset.json` gives to it. The first entry may be the background, if its values include 0.

    Raises:
        ConfigError: a name or value is not valid, two classes have the same values, or there are too many classes.

    Example:
        >>> class_values({"liver": 5}).names
        ['background', 'liver']
    """
    given = {str(name): _values_of(str(name), value) for name, value in classes.items()}
    first = next(iter(given), None)
    if first is None or 0 not in given[first]:
        given = {"background": (0,), **given} if "background" not in given else given
    names = Classes(list(given)).names
    values = tuple(given.values())
    _check(names, values)
    belongs: dict[Value, frozenset[int]] = {}
    for value in dict.fromkeys(value for each in values[1:] for value in each):
        belongs[value] = frozenset(index for index, each in enumerate(values) if index and value in each)
    order = sorted(range(1, len(names)), key=lambda index: -len(values[index]))
    loaded_of = _loaded_values(set(belongs.values()), order)
    loaded = {value: loaded_of[classes] for value, classes in belongs.items()}
    if max(loaded.values()) >= IGNORE_INDEX:
        raise ConfigError(f"classes overlap in {max(loaded.values())} ways; the maximum is {IGNORE_INDEX - 1}.")
    members = None
    if any(len(each) > 1 for each in belongs.values()):
        inside = [sorted(number for own, number in loaded_of.items() if index in own) for index in range(len(names))]
        members = tuple(tuple(each) if index else (0,) for index, each in enumerate(inside))
    return ClassValues(names, values, loaded, members, tuple(order))


def _values_of(name: str, value: Any) -> tuple[Value, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(each, (int, str)) and not isinstance(each, bool) for each in values):
        raise ConfigError(f"classes: {name} is {value!r}; a label value or a list of label values is needed.")
    if len(set(values)) < len(values):
        raise ConfigError(f"classes: {name} contains a label value twice; name each value once.")
    return values


def _check(names: Sequence[str], values: Sequence[tuple[Value, ...]]) -> None:
    if 0 not in values[0]:
        raise ConfigError(f"classes: {names[0]!r} does not have the value 0. Leave it out; 0 is the background.")
    for name, each in zip(names[1:], values[1:], strict=True):
        shared = [value for value in each if value in values[0]]
        if shared:
            raise ConfigError(f"classes: {name} has the value {shared[0]} of the background. Remove it.")
        same = [other for other, own in zip(names, values, strict=True) if other != name and set(own) == set(each)]
        if same:
            raise ConfigError(f"classes: {name} and {same[0]} have the same label values. Remove one of them.")


def _loaded_values(groups: Iterable[frozenset[int]], order: Sequence[int]) -> dict[frozenset[int], int]:
    """Return the loaded value of each set of classes: the index of its innermost class, if that is not taken."""
    place = {index: number for number, index in enumerate(order)}
    found: dict[frozenset[int], int] = {}
    following = len(order) + 1
    for group in sorted(groups, key=lambda group: (len(group), sorted(group))):
        innermost = max(group, key=place.__getitem__)
        if innermost in found.values():
            innermost, following = following, following + 1
        found[group] = innermost
    return found


def regions(classes: Mapping[str, Any] | None) -> list[list[int]] | None:
    """Return the loaded values of each class if classes overlap; None if every voxel has one class.

    Args:
        classes: see `class_values`; None if the label values are the indices of the classes.

    Raises:
        ConfigError: see `class_values`.

    Example:
        >>> regions({"whole": [1, 2], "core": [2]})
        [[0], [1, 2], [2]]
        >>> regions({"liver": 5, "kidney": [2, 3]}) is None
        True
    """
    found = class_values(classes).members if classes else None
    return None if found is None else [list(each) for each in found]
