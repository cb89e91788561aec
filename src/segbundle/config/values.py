"""Validation of the values of settings at the start of a run, before they are first used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segbundle.class_values import class_values
from segbundle.classes import Classes
from segbundle.config.kinds import Component
from segbundle.config.literals import restore
from segbundle.config.settings import BY_KEY, NAME_LISTS, SETTINGS, TEXT_KEYS
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened

_MAY_BE_INFINITE = ("max_gradient_norm",)
_LARGEST_IN_NETWORK = 2**20
"""Upper limit of integers in `network_def`: channels, kernel sizes, layers."""
_EXPONENT = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?)([0-9]+)")


def check_values(config: Mapping[str, Any], evaluated: bool = False) -> None:
    """Raise an error if a setting has an invalid value, or a number in a configuration is NaN, infinite or too large.

    Args:
        config: configuration of a workflow; settings may be missing.
        evaluated: whether references, expressions and components in `config` have been evaluated and are checked too.
            With False (default), values that contain these are skipped.

    Raises:
        ConfigError: a value is invalid. The message names the key, the value, and what is needed. `class_names` are
            checked by `Classes`, and tolerances per class by `nsd_tolerances`.

    Example:
        >>> check_values({"max_epochs": 0})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: max_epochs is 0; a positive whole number is needed.
    """
    for key, value in _leaves(restore(config), ""):
        _check_number(key, value)
    for setting in SETTINGS:
        found, value = find_key(config, setting.key)
        if found and (evaluated or not is_evaluated_later(value)) and not setting.kind.accepts(value):
            raise ConfigError(f"{setting.key} is {shortened(value)}; {setting.needed} is needed.")
    tolerance, names = config.get("nsd_tolerance_mm"), config.get("class_names")
    if isinstance(names, list) and not is_evaluated_later(names):
        Classes(names)
    _check_classes(config.get("classes"), names, config.get("loss"))
    if isinstance(tolerance, Mapping) and not (is_evaluated_later(tolerance) or is_evaluated_later(names)):
        nsd_tolerances(tolerance, [str(name) for name in names or ()])


def _check_classes(classes: Any, names: Any, loss: Any) -> None:
    """Raise a `ConfigError` if `classes` is invalid or contradicts `class_names`, or a loss cannot handle regions."""
    if not isinstance(classes, Mapping) or is_evaluated_later(classes):
        return
    found = class_values(classes)
    if isinstance(names, list) and not is_evaluated_later(names) and list(map(str, names)) != found.names:
        raise ConfigError(
            f"classes has other names than class_names ({', '.join(map(str, names))}). Leave out class_names; with "
            f"python -m monai.bundle run, write class_names: [{', '.join(found.names)}]."
        )
    if found.members is not None and isinstance(loss, Mapping) and "_target_" in loss and "regions" not in loss:
        raise ConfigError(
            "classes overlap, but loss has no regions. Use a loss of segbundle.losses with "
            'regions: {_target_: segbundle.class_values.regions, classes: "@classes"}, as in train.yaml.'
        )


def is_evaluated_later(value: Any) -> bool:
    """Return whether a value is, or contains, an expression, reference or component that is evaluated later.

    Args:
        value: value of a configuration.

    Example:
        >>> is_evaluated_later("@max_epochs"), is_evaluated_later([1, "$2 + 3"]), is_evaluated_later(3)
        (True, True, False)
    """
    if isinstance(value, dict):
        return "_target_" in value or any(map(is_evaluated_later, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_evaluated_later, value))
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def find_key(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Look up a key in a configuration, and return whether it exists and its value.

    Args:
        config: configuration.
        key: key; `#` separates levels.

    Returns:
        (True, value), or (False, None) if the key does not exist

    Example:
        >>> find_key({"optimizer": {"lr": 0.1}}, "optimizer#lr"), find_key({}, "optimizer#lr")
        ((True, 0.1), (False, None))
    """
    value: Any = config
    for part in key.split("#"):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of every leaf of a configuration, that is, of everything except mappings and lists."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(child, f"{key}#{name}" if key else str(name))
    else:
        yield key, value


def _check_number(key: str, value: Any) -> None:
    """Raise a `ConfigError` for NaN, infinity, numbers beyond 64 bits, and text such as 1e-3.

    YAML 1.2 reads 1e-3 as a number, MONAI reads it as text.
    """
    names = key.split("#")
    if isinstance(value, float) and not math.isfinite(value) and names[-1] not in _MAY_BE_INFINITE:
        raise ConfigError(f"config key {key!r} is {value}; a finite number is needed.")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"config key {key!r} is nan; a number is needed.")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ConfigError(f"config key {key!r} is {shortened(value)}; a number below 2^64 is needed.")
    if isinstance(value, int) and names[0] == "network_def" and value > _LARGEST_IN_NETWORK:
        raise ConfigError(f"config key {key!r} is {value}; a whole number up to {_LARGEST_IN_NETWORK} is needed.")
    if isinstance(value, str) and value.startswith("@") and not value.strip("@#: "):
        raise ConfigError(f"config key {key!r} is {value!r}; a reference needs the name of a key, such as @spacing.")
    number = _EXPONENT.fullmatch(value) if isinstance(value, str) else None
    if number and names[-1] not in TEXT_KEYS and not NAME_LISTS.intersection(names):
        spelled = f"{number[1]}{'' if '.' in number[1] else '.0'}e{number[2] or '+'}{number[3]}"
        raise ConfigError(f"config key {key!r} is the text {value!r}. For a number, write {spelled}.")


def is_plain_setting(key: str) -> bool:
    """Return whether a key belongs to a setting that is not a component.

    Args:
        key: key of a configuration.

    Example:
        >>> is_plain_setting("max_epochs"), is_plain_setting("optimizer"), is_plain_setting("my_key")
        (True, False, False)
    """
    return key in BY_KEY and not isinstance(BY_KEY[key].kind, Component)


def check_replacement(key: str, path: str, value: Any, shown: Any) -> None:
    """Raise an error if the new value of an argument is invalid for the setting that it replaces.

    An argument of a component may refer to a setting by default, such as `max_epochs: "@max_epochs"`. A value that
    replaces the reference must be valid for that setting.

    Args:
        key: key of the setting.
        path: key of the argument.
        value: new value of the argument. A value that is evaluated later is not checked.
        shown: value to show in the message: the reference that leads to `value`, or `value` itself.

    Raises:
        ConfigError: the value is invalid. The message names the argument, its value, and what is needed.

    Example:
        >>> check_replacement("max_epochs", "train#trainer#max_epochs", 3, shown=3)
    """
    setting = BY_KEY[key]
    if not is_evaluated_later(value) and not setting.kind.accepts(value):
        raise ConfigError(f"config key {path!r} is {shortened(shown)}; {setting.needed} is needed.")


def nsd_tolerances(value: float | Mapping[str, float] | None, class_names: Sequence[str]) -> list[float] | None:
    """Return the tolerance of the normalized surface Dice for every class in mm, background first.

    Args:
        value: tolerance in mm: a number for all classes, a mapping by class name, or None to skip surface metrics.
        class_names: names of the classes, background first.

    Returns:
        one tolerance in mm per class, background first, or None if `value` is None. If `value` is a mapping, the
        tolerance of the background is 0.0.

    Raises:
        ConfigError: a class has no tolerance, or `value` contains an unknown class.

    Example:
        >>> nsd_tolerances({"liver": 3.0, "lesion": 2.0}, ["background", "liver", "lesion"])
        [0.0, 3.0, 2.0]
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return [float(value)] * len(class_names)
    for name in value:
        if name not in class_names[1:]:
            raise ConfigError(f"nsd_tolerance_mm: unknown class {name!r}{suggestion(str(name), class_names[1:])}")
    for name in class_names[1:]:
        if name not in value:
            raise ConfigError(
                f"nsd_tolerance_mm has no tolerance for class {name!r}. Write one per class, or one number for all."
            )
    return [0.0, *(float(value[name]) for name in class_names[1:])]
