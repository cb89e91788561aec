"""Check of arguments whose defaults are references: a new value must fit the setting or component referred to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from segbundle.config.values import check_replacement, find_key, is_evaluated_later, is_plain_setting
from segbundle.errors import ConfigError
from segbundle.files.documents import shortened

_REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")


def check_references(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise an error if an argument whose default is a reference, such as `@max_epochs`, is set to an invalid value.

    A value is invalid if the setting that the default refers to does not accept the value, or if the default refers to
    a component and the value is not a component. Null, expressions, components, and references to keys that the bundle
    does not define are accepted.

    Args:
        config: configuration to run.
        known: keys of the bundle with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: a value is invalid. The message names the key, the value, and what is needed.

    Example:
        >>> known = {"max_epochs": 40, "trainer": {"_target_": "Trainer", "max_epochs": "@max_epochs"}}
        >>> check_references({"trainer": {"_target_": "Trainer", "max_epochs": 3}}, known)
        >>> check_references({"trainer": {"_target_": "Trainer", "max_epochs": "x"}}, known)
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: config key 'trainer#max_epochs' is 'x'; a positive whole number is needed.
    """
    for path, value, default in _replaced(config, known, ""):
        wanted, needed = _resolve(default, known)
        given, found = _resolve(value, config)
        if is_plain_setting(path) or found is None:
            continue
        if is_plain_setting(wanted):
            check_replacement(wanted, path, _sample(given, found, known), shown=value)
        elif _is_component(needed) and not is_evaluated_later(found):
            raise ConfigError(
                f"config key {path!r} is {shortened(value)}; a component (a mapping with a _target_) is needed."
            )


def _sample(key: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Return a value, or a substitute of its kind if it is evaluated later and comes from a key of the bundle."""
    if not is_evaluated_later(value) or not _is_component(find_key(known, key)[1]):
        return value
    return "path" if is_plain_setting(key) else object()


def _replaced(value: Any, default: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and default of every replaced reference, except in components that are replaced as a whole."""
    if isinstance(default, str):
        if _REFERENCE.fullmatch(default) and value != default:
            yield path, value, default
    elif isinstance(default, Mapping) and isinstance(value, Mapping):
        if value.get("_target_") == default.get("_target_"):
            from_settings = value.keys() - default.keys() if default.get("settings") == "@settings" else ()
            defaults = {**default, **{key: f"@{key}" for key in from_settings if is_plain_setting(key)}}
            for key in defaults.keys() & value.keys():
                yield from _replaced(value[key], defaults[key], f"{path}#{key}" if path else key)
    elif isinstance(default, list) and isinstance(value, list):
        for index, (entry, default_entry) in enumerate(zip(value, default, strict=False)):
            yield from _replaced(entry, default_entry, f"{path}#{index}")


def _resolve(value: Any, config: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the key that a value refers to (empty for other values), and the value after following all references."""
    keys: list[str] = []
    while isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
        key = reference[1].replace("::", "#")
        present, target = find_key(config, key)
        if not present or key in keys:
            break
        keys.append(key)
        value = target
    return keys[0] if keys else "", value


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
