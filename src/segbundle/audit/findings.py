"""Findings that an audit reports."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE_FILE = "(file)"
"""Key of a finding about the file itself."""
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Finding:
    """Location in a configuration or bundle that could run code or cannot be inspected.

    Attributes:
        file: path as given by the user, or relative to the audited folder.
        key: key of a configuration, joined with `#`; entry of a checkpoint; or `WHOLE_FILE`.
        problem: description of the problem.
        excerpt: the value, shortened.

    Example:
        >>> print(Finding("task.yaml", "loss#_target_", "_target_ is not text", "3"))
        task.yaml: loss#_target_: _target_ is not text: 3
    """

    file: str
    key: str
    problem: str
    excerpt: str

    def __str__(self) -> str:
        return f"{one_line(self.file)}: {one_line(self.key)}: {one_line(self.problem)}: {one_line(self.excerpt)}"


def excerpt_of(value: object) -> str:
    """Return a value as a finding shows it: text unchanged, other objects as `repr`, both cut after 80 characters.

    Args:
        value: any object.

    Example:
        >>> excerpt_of("$1 + 1")
        '$1 + 1'
    """
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def one_line(text: str) -> str:
    r"""Return text with escapes for line breaks, terminal codes and other characters that cannot be printed.

    Args:
        text: any text.

    Example:
        >>> one_line("two\nlines")
        'two\\nlines'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")  # works for lone surrogates
        for char in text
    )
