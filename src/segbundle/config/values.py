"""What the bundle's keys may be set to: said at once, not where a value is first used, which may be hours later."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segbundle.classes import Classes
from segbundle.config.kinds import Component
from segbundle.config.literals import restore
from segbundle.config.settings import BY_KEY, NAME_LISTS, SETTINGS, TEXT_KEYS
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened

_MAY_BE_INFINITE = ("max_gradient_norm",)
_LARGEST_IN_NETWORK = 2**20
"""Of whole numbers in `network_def`: channels, kernels, layers."""
_EXPONENT = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?)([0-9]+)")


def check_values(config: Mapping[str, Any], evaluated: bool = False) -> None:
    """Refuse values of the bundle's own keys that mean nothing, and numbers anywhere that are none.

    Args:
        config: a workflow's configuration; keys that are not there pass.
        evaluated: whether references, expressions and components in it have been replaced by what they stand for.
            Otherwise they pass.

    Raises:
        ConfigError: naming the key, its value, and what is needed; or see `nsd_tolerances`.
    """
    for key, value in _leaves(restore(config), ""):
        _check_number(key, value)
    for setting in SETTINGS:
        found, value = find(config, setting.key)
        if found and (evaluated or not is_evaluated_later(value)) and not setting.kind.accepts(value):
            raise ConfigError(f"{setting.key} is {shortened(value)}; {setting.needed} is needed.")
    tolerance, names = config.get("nsd_tolerance_mm"), config.get("class_names")
    if isinstance(names, list) and not is_evaluated_later(names):
        Classes(names)
    if isinstance(tolerance, Mapping) and not (is_evaluated_later(tolerance) or is_evaluated_later(names)):
        nsd_tolerances(tolerance, [str(name) for name in names or ()])


def is_evaluated_later(value: Any) -> bool:
    """Whether a value only comes to be when a configuration is evaluated."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(is_evaluated_later, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_evaluated_later, value))
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def find(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Whether a configuration has a key, whose parts are separated by `#`, and its value."""
    value: Any = config
    for part in key.split("#"):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value in a configuration that is no mapping and no list, with its key."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(one, f"{key}#{name}" if key else str(name))
    else:
        yield key, value


def _check_number(key: str, value: Any) -> None:
    """Refuse NaN, infinity, numbers beyond 64 bits, and text that YAML 1.2 reads as a number and MONAI does not."""
    names = key.split("#")
    if isinstance(value, float) and not math.isfinite(value) and names[-1] not in _MAY_BE_INFINITE:
        raise ConfigError(f"config key {key!r} is {value}; a finite number is needed.")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"config key {key!r} is nan; a number is needed.")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ConfigError(f"config key {key!r} is {shortened(value)}; a number below 2^64 is needed.")
    if isinstance(value, int) and names[0] == "network_def" and value > _LARGEST_IN_NETWORK:
        raise ConfigError(f"config key {key!r} is {value}; a whole number up to {_LARGEST_IN_NETWORK} is needed.")
    number = _EXPONENT.fullmatch(value) if isinstance(value, str) else None
    if number and names[-1] not in TEXT_KEYS and not NAME_LISTS.intersection(names):
        spelt = f"{number[1]}{'' if '.' in number[1] else '.0'}e{number[2] or '+'}{number[3]}"
        raise ConfigError(f"config key {key!r} is the text {value!r}; write {spelt} where a number is meant.")


def is_own_key(key: str) -> bool:
    """Return whether a key is one of those whose values are checked."""
    return key in BY_KEY and not isinstance(BY_KEY[key].kind, Component)


def check_as(key: str, path: str, value: Any, shown: Any) -> None:
    """Refuse a value of an argument that refers to one of the bundle's own keys by default.

    Args:
        key: of the bundle.
        path: of the argument.
        value: what stands in place of the reference; what is evaluated later passes.
        shown: the value for the message.

    Raises:
        ConfigError: naming the argument, its value, and what is needed.
    """
    setting = BY_KEY[key]
    if not is_evaluated_later(value) and not setting.kind.accepts(value):
        raise ConfigError(f"config key {path!r} is {shortened(shown)}; {setting.needed} is needed.")


def nsd_tolerances(value: float | Mapping[str, float] | None, class_names: Sequence[str]) -> list[float] | None:
    """Return the tolerance of the normalized surface Dice for every class, background first.

    Args:
        value: in mm: one for all classes, one for each class by name, or None for no surfaces.
        class_names: the background first.

    Raises:
        ConfigError: a class has none, or there is no such class.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return [float(value)] * len(class_names)
    for name in value:
        if name not in class_names[1:]:
            raise ConfigError(f"nsd_tolerance_mm: there is no class {name!r}{suggestion(str(name), class_names[1:])}")
    for name in class_names[1:]:
        if name not in value:
            raise ConfigError(f"nsd_tolerance_mm: class {name!r} has none; give one for each class, or one number.")
    return [0.0, *(float(value[name]) for name in class_names[1:])]
