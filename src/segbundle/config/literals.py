"""Text that MONAI's parser must not interpret, wrapped in a component that returns it.

In a configuration, MONAI evaluates text that begins with `$`, resolves `@` and `%`, and replaces every `#` by `::`.
Paths, names and values from a command line are data. `protect` wraps the values that MONAI would change, and `restore`
unwraps these values.
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
"""Text of a YAML file that the parser must interpret: an expression, a macro, or a reference."""


def literal(content: str) -> Any:
    """Return a value that was wrapped by `protect`.

    Args:
        content: hex-encoded JSON, so that the config parser finds nothing to interpret.

    Raises:
        ConfigError: `content` is not hex-encoded JSON.

    Example:
        >>> literal(protect("$b")["content"])
        '$b'
    """
    try:
        return json.loads(bytes.fromhex(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"_target_: {_TARGET} is reserved for command-line values. Write the value itself instead of a component."
        ) from error


def protect(value: Any) -> Any:
    """Return a command-line value in a form that MONAI's parser does not change.

    Text that contains `$`, `@`, `%`, `#` or `::`, and mappings with such a key, are wrapped in a component that returns
    the original value (see `literal`). The entries of lists and other mappings are protected one by one. Mappings with
    a `_target_` remain components; tuples become lists.

    Args:
        value: value from the command line.

    Returns:
        value to set in a configuration; `restore` converts it back

    Example:
        >>> protect(["a", 1]), restore(protect("$b")), protect("$b")["_target_"]
        (['a', 1], '$b', 'segbundle.config.literals.literal')
    """
    if isinstance(value, str):
        return _wrap(value) if _SPECIAL.search(value) else value
    if isinstance(value, (list, tuple)):
        return [protect(item) for item in value]
    if isinstance(value, Mapping):
        if any(_SPECIAL.search(str(key)) for key in value):
            return _wrap(value)
        return {key: protect(item) for key, item in value.items()}
    return value


def protect_text(value: Any) -> Any:
    """Wrap text with a `#` in a value of a YAML file, so that MONAI's parser does not change it.

    Expressions, macros and references are not wrapped, because the parser must interpret them.

    Args:
        value: value of a YAML file; mappings and lists are converted at any depth.

    Returns:
        value to set in a configuration; `restore` converts it back

    Example:
        >>> protect_text("case#1")["_target_"], protect_text("@network#conv")
        ('segbundle.config.literals.literal', '@network#conv')
    """
    if isinstance(value, str):
        return _wrap(value) if "#" in value and not _EXPRESSION.fullmatch(value) else value
    if isinstance(value, list):
        return [protect_text(item) for item in value]
    if isinstance(value, dict):
        return {key: protect_text(item) for key, item in value.items()}
    return value


def restore(value: Any) -> Any:
    """Unwrap all values that `protect` wrapped in a configuration, and return the result.

    Args:
        value: configuration or a part of it.

    Raises:
        ConfigError: the content of a wrapped value is not valid (see `literal`).

    Example:
        >>> restore({"output_dir": protect("runs/#1")})
        {'output_dir': 'runs/#1'}
    """
    if isinstance(value, Mapping):
        if value.get("_target_") == _TARGET:
            return literal(value.get("content", ""))
        return {key: restore(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [restore(item) for item in value]
    return value


def _wrap(value: Any) -> dict[str, str]:
    return {"_target_": _TARGET, "content": json.dumps(value).encode("ascii").hex()}
