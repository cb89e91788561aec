"""What an audit reports."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE_FILE = "(file)"
"""Stands for the key of a finding that is about the file itself."""
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Finding:
    """One place of a configuration or bundle that could run code, or cannot be judged.

    Args:
        file: as the user named it, or within the audited folder.
        key: of a configuration, joined with `#`; the entry of a checkpoint; or `WHOLE_FILE`.
        what: is wrong with it.
        excerpt: the value, shortened.
    """

    file: str
    key: str
    what: str
    excerpt: str

    def __str__(self) -> str:
        return f"{one_line(self.file)}: {one_line(self.key)}: {one_line(self.what)}: {one_line(self.excerpt)}"


def excerpt_of(value: object) -> str:
    """Return a value as it is shown beside a finding: text as it stands, everything else as its `repr`, shortened.

    Example:
        >>> excerpt_of("$1 + 1")
        '$1 + 1'
    """
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def one_line(text: str) -> str:
    r"""Return text without line breaks, terminal codes and other characters that cannot be printed.

    Example:
        >>> one_line("two\nlines")
        'two\\nlines'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")  # lone surrogates, too
        for char in text
    )
