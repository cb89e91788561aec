"""Arguments whose defaults refer to other keys: what replaces a reference must be of the same kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from segbundle.config.values import check_as, find, is_evaluated_later, is_own_key
from segbundle.errors import ConfigError
from segbundle.files.documents import shortened

_REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")


def check_references(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse values of arguments that refer to one of the bundle's components or values by default.

    Null, expressions, other components, and references to keys that the bundle does not have pass.

    Args:
        config: what is to be run.
        known: the bundle's own keys with their defaults.

    Raises:
        ConfigError: naming the key, its value, and what is needed.
    """
    for path, value, default in _replaced(config, known, ""):
        wanted, needed = _followed(default, known)
        given, found = _followed(value, config)
        if is_own_key(path) or found is None:
            continue
        if is_own_key(wanted):
            check_as(wanted, path, _sample(given, found, known), shown=value)
        elif _is_component(needed) and not is_evaluated_later(found):
            raise ConfigError(
                f"config key {path!r} is {shortened(value)}; a component, that is a mapping with a _target_, is needed."
            )


def _sample(key: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Return a value, or one of its kind if it is evaluated later and comes from a key of the bundle."""
    if not is_evaluated_later(value) or not _is_component(find(known, key)[1]):
        return value
    return "path" if is_own_key(key) else object()


def _replaced(value: Any, default: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and default of every reference that a configuration replaces, except in other components."""
    if isinstance(default, str):
        if _REFERENCE.fullmatch(default) and value != default:
            yield path, value, default
    elif isinstance(default, Mapping) and isinstance(value, Mapping):
        if value.get("_target_") == default.get("_target_"):
            from_settings = value.keys() - default.keys() if default.get("settings") == "@settings" else ()
            defaults = {**default, **{key: f"@{key}" for key in from_settings if is_own_key(key)}}
            for key in defaults.keys() & value.keys():
                yield from _replaced(value[key], defaults[key], f"{path}#{key}" if path else key)
    elif isinstance(default, list) and isinstance(value, list):
        for index, (one, other) in enumerate(zip(value, default, strict=False)):
            yield from _replaced(one, other, f"{path}#{index}")


def _followed(value: Any, config: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the key that a value refers to, empty for other values, and the value at the end of all references."""
    keys: list[str] = []
    while isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
        key = reference[1].replace("::", "#")
        present, target = find(config, key)
        if not present or key in keys:
            break
        keys.append(key)
        value = target
    return keys[0] if keys else "", value


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
