"""Inspection of logging configurations. Python evaluates the classes and arguments of their handlers."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of

_MAX_BYTES = 1_000_000
_HANDLERS = frozenset({"StreamHandler", "NullHandler", "logging.StreamHandler", "logging.NullHandler"})
_FORMATTERS = frozenset({"logging.Formatter"})
_KEYS = {
    "handler": frozenset({"class", "level", "formatter", "args", "kwargs", "target"}),
    "formatter": frozenset({"format", "datefmt", "style", "validate", "class"}),
    "logger": frozenset({"level", "handlers", "qualname", "propagate", "channel", "parent"}),
}
"""Allowed keys of each kind of section: Python does not evaluate them, or they are inspected below. The key `defaults`
of a formatter is not allowed, because Python 3.12 and later evaluate it."""
_STREAMS = frozenset({"sys.stdout", "sys.stderr"})


def inspect_logging_file(path: Path, name: str) -> Iterator[Finding]:
    """Yield a finding for each key of a logging configuration that is not known to be harmless.

    A file that is too large, or cannot be read or parsed, yields a single finding.

    Args:
        path: path of the file.
        name: file name in findings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "logging.conf"
        ...     _ = path.write_text("[handler_x]\\nclass=evil.Handler")
        ...     print(*inspect_logging_file(path, "logging.conf"))
        logging.conf: handler_x#class: class that is neither StreamHandler nor NullHandler: evil.Handler
    """
    parser = configparser.ConfigParser()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        parser.read_string(path.read_text(encoding="utf-8"))
        found = list(_entries(parser))
    except (configparser.Error, ValueError, OSError) as error:
        yield Finding(name, WHOLE_FILE, "cannot be parsed", excerpt_of(str(error)))
        return
    for key, problem, value in found:
        yield Finding(name, key, problem, excerpt_of(value))


def _entries(parser: configparser.ConfigParser) -> Iterator[tuple[str, str, str]]:
    for section in parser.sections():
        values = parser[section]
        kind = section.partition("_")[0]
        for key in values.keys() - _KEYS.get(kind, frozenset({"keys"})):
            yield f"{section}#{key}", "is not a key that is known to be harmless", values[key]
        if kind == "handler":
            maker = values.get("class", "StreamHandler")
            if maker not in _HANDLERS:
                yield f"{section}#class", "class that is neither StreamHandler nor NullHandler", maker
            for key in ("args", "kwargs"):
                if key in values and not _is_literal(values[key]):
                    yield f"{section}#{key}", "evaluates more than literals, sys.stdout and sys.stderr", values[key]
        elif kind == "formatter" and values.get("class", "logging.Formatter") not in _FORMATTERS:
            yield f"{section}#class", "formatter class other than logging.Formatter", values["class"]


def _is_literal(text: str) -> bool:
    try:
        return _is_harmless(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_harmless(node: ast.expr) -> bool:
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(map(_is_harmless, node.elts))
    if isinstance(node, ast.Dict):
        return all(key is not None and _is_harmless(key) for key in node.keys) and all(map(_is_harmless, node.values))
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in _STREAMS
    return isinstance(node, ast.Constant)
