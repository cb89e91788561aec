"""Inspection of imports in expressions."""

from __future__ import annotations

import ast
import builtins

from segbundle.audit.allowed_names import IMPORTS, MODULES
from segbundle.audit.targets import is_known_module, walk

MAX_LENGTH = 10_000
"""Maximum number of characters of an expression; longer expressions are findings."""


def imported(text: str) -> tuple[str, str] | None:
    """Return the alias and the dotted name that an expression imports, or None if there is no import.

    If an expression imports several names, the first is returned, and ` and more` is appended to its dotted name. Text
    that is too long or cannot be parsed gives None.

    Args:
        text: expression without the `$`.

    Example:
        >>> imported("import os.path as p"), imported("from glob import glob"), imported("1 + 1")
        (('p', 'os.path'), ('glob', 'glob.glob'), None)
    """
    if len(text) > MAX_LENGTH or "import" not in text:
        return None
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    first = body[0] if body else None
    if not isinstance(first, (ast.Import, ast.ImportFrom)):
        return None
    alias = first.names[0]
    prefix = f"{'.' * first.level}{first.module or ''}." if isinstance(first, ast.ImportFrom) else ""
    more = " and more" if len(body) > 1 or len(first.names) > 1 else ""  # MONAI ignores further imports
    return alias.asname or alias.name, f"{prefix}{alias.name}{more}"


def import_problem(alias: str, name: str) -> str | None:
    """Return why a configuration may not import a module or an object under a name, or None if the import is allowed.

    Args:
        alias: name that the configuration gives to the module or object.
        name: dotted name of the module or object.

    Example:
        >>> import_problem("glob", "glob") is None
        True
        >>> import_problem("sub", "subprocess")
        'imports subprocess, which is not known to be harmless'
    """
    if "." not in alias and MODULES.get(alias, name) != name:
        return f"imports {name} as {alias}, a reserved name"
    if hasattr(builtins, alias) or alias.startswith("_") or alias == "*":
        return f"imports {name} as {alias}, a reserved name"
    if name in IMPORTS or is_known_module(name):
        return None
    walked = walk(name)
    return f"imports {name}, which {walked.problem}" if walked.problem or walked.rest else None
