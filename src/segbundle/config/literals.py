"""Text that MONAI's parser must not interpret, wrapped in a component that returns it.

In a configuration, MONAI evaluates text that begins with `$`, follows `@` and `%`, and replaces every `#` by `::`.
Paths, names and values of a command line are data: `protect` wraps those that it would change, and `restore` unwraps
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from segbundle.errors import ConfigError

_TARGET = "segbundle.config.literals.literal"
_SPECIAL = re.compile(r"[$@%#]|::")
_EXPRESSION = re.compile(r"[$%].*|@(?:#|::)*\w*(?:(?:#|::)\w*)*", re.DOTALL)
"""Text of a YAML file that is meant for the parser: an expression, a macro, or nothing but a reference."""


def literal(content: str) -> Any:
    """Return a value that was wrapped by `protect`.

    Args:
        content: JSON in hexadecimal digits, in which the parser finds nothing to interpret.

    Raises:
        ConfigError: `content` is something else.
    """
    try:
        return json.loads(bytes.fromhex(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"_target_: {_TARGET} is for values of the command line. Write the value itself.") from error


def protect(value: Any) -> Any:
    """Return a value of the command line such that MONAI's parser gives back exactly that value.

    Mappings with a `_target_` remain components; tuples become lists.

    Example:
        >>> protect(["a", 1]), restore(protect("$b")), protect("$b")["_target_"]
        (['a', 1], '$b', 'segbundle.config.literals.literal')
    """
    if isinstance(value, str):
        return _wrapped(value) if _SPECIAL.search(value) else value
    if isinstance(value, (list, tuple)):
        return [protect(one) for one in value]
    if isinstance(value, Mapping):
        if any(_SPECIAL.search(str(key)) for key in value):
            return _wrapped(value)
        return {key: protect(one) for key, one in value.items()}
    return value


def protect_text(value: Any) -> Any:
    """Return a value of a YAML file with those texts wrapped that hold a `#` and are no expression or reference."""
    if isinstance(value, str):
        return _wrapped(value) if "#" in value and not _EXPRESSION.fullmatch(value) else value
    if isinstance(value, list):
        return [protect_text(one) for one in value]
    if isinstance(value, dict):
        return {key: protect_text(one) for key, one in value.items()}
    return value


def restore(value: Any) -> Any:
    """Return a configuration, or a part of it, with the values that `protect` wrapped."""
    if isinstance(value, Mapping):
        if value.get("_target_") == _TARGET:
            return literal(value.get("content", ""))
        return {key: restore(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [restore(one) for one in value]
    return value


def _wrapped(value: Any) -> dict[str, str]:
    return {"_target_": _TARGET, "content": json.dumps(value).encode("ascii").hex()}
