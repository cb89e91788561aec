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

    In loaded label maps, the value of a class is its index: 0 for the background, 1 for the first foreground class, and
    so on. Where classes overlap, a voxel has the index of the innermost of its classes, because a class is painted over
    the classes with more label values. The index of a class therefore also stands for all classes that contain the
    class. A voxel in a combination of classes that no index stands for gets an additional value, larger than all class
    indices.

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
        """True if the label values are the class indices, so that label maps are loaded unchanged."""
        return self.members is None and self.values == tuple((index,) for index in range(len(self.names)))


def class_values(classes: Mapping[str, Any]) -> ClassValues:
    """Return the label values and the loaded values of classes, from the setting `classes`.

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
    if first is None or (0 not in given[first] or (given[first] != (0,) and first.lower() != "background")):
        given = {"background": (0,), **given} if "background" not in given else given
    names = Classes(list(given)).names
    values = tuple(given.values())
    _check(names, values)
    belongs: dict[Value, frozenset[int]] = {}
    for value in dict.fromkeys(value for each in values[1:] for value in each):
        belongs[value] = frozenset(index for index, each in enumerate(values) if index and value in each)
    order = sorted(range(1, len(names)), key=lambda index: -len(values[index]))
    above = [frozenset(i for i, each in enumerate(values) if i and set(own) <= set(each)) for own in values]
    loaded_of = _loaded_values(set(belongs.values()), above)
    loaded = {value: loaded_of[classes] for value, classes in belongs.items()}
    if max(loaded.values()) >= IGNORE_INDEX:
        raise ConfigError(
            f"classes: the overlaps need {max(loaded.values())} label values; the maximum is {IGNORE_INDEX - 1}. "
            "Remove some classes."
        )
    members = None
    if any(len(each) > 1 for each in belongs.values()):
        every = [*enumerate(above), *((number, own) for own, number in loaded_of.items())]
        inside = [sorted({number for number, own in every if number and index in own}) for index in range(len(names))]
        members = tuple(tuple(each) if index else (0,) for index, each in enumerate(inside))
    return ClassValues(names, values, loaded, members, tuple(order))


def _values_of(name: str, value: Any) -> tuple[Value, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(each, (int, str)) and not isinstance(each, bool) for each in values):
        raise ConfigError(f"classes: {name} is {value!r}; a label value or a list of label values is needed.")
    if len(set(values)) < len(values):
        raise ConfigError(f"classes: {name} contains a label value twice; list each value once.")
    return values


def _check(names: Sequence[str], values: Sequence[tuple[Value, ...]]) -> None:
    if 0 not in values[0]:
        raise ConfigError(
            f"classes: the first class, {names[0]!r}, does not contain the value 0. Remove background from classes; it "
            "is added automatically."
        )
    for name, each in zip(names[1:], values[1:], strict=True):
        shared = [value for value in each if value in values[0]]
        if shared:
            raise ConfigError(
                f"classes: {name} contains the value {shared[0]}, which belongs to the background. Remove it "
                f"from {name}."
            )
        same = [other for other, own in zip(names, values, strict=True) if other != name and set(own) == set(each)]
        if same:
            raise ConfigError(f"classes: {name} and {same[0]} have the same label values. Remove one of them.")


def _loaded_values(groups: Iterable[frozenset[int]], above: Sequence[frozenset[int]]) -> dict[frozenset[int], int]:
    """Return the loaded value of each set of classes: the index of the class with exactly these classes above it.

    Sets without such a class get the values after those of the classes.
    """
    index_of = {own: index for index, own in enumerate(above) if index}
    others = sorted(group for group in map(sorted, groups) if frozenset(group) not in index_of)
    return index_of | {frozenset(group): number for number, group in enumerate(others, len(above))}


def regions(classes: Mapping[str, Any] | None) -> list[list[int]] | None:
    """Return the loaded values of each class if classes overlap; None if every voxel has one class.

    Args:
        classes: see `class_values`; None if the label values are the indices of the classes.

    Returns:
        one list per class, background first, of the values that voxels of the class have in loaded label maps (see
        `ClassValues`)

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
