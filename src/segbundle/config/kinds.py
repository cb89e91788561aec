"""Kinds of values that a setting accepts: each checks a value and describes it as JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol


class Kind(Protocol):
    """What a setting accepts."""

    def accepts(self, value: Any) -> bool:
        """Return whether a value, as YAML or the command line gives it, is of this kind."""

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""


@dataclass(frozen=True)
class OneOf:
    """One of a few constants. `true` and 1 are different constants.

    Example:
        >>> OneOf("auto", None).accepts("auto"), OneOf(True, False).accepts(1)
        (True, False)
    """

    words: tuple[Any, ...]

    def __init__(self, *words: Any) -> None:
        object.__setattr__(self, "words", words)

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return any(value == word and type(value) is type(word) for word in self.words)

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"enum": [word for word in self.words if not _is_infinite(word)]}


@dataclass(frozen=True)
class Switch:
    """True or false. `"true"` counts as well, which MONAI's command line gives for `--resume true`."""

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return OneOf(True, False, "true").accepts(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Whole:
    """Whole number in [least, most].

    Example:
        >>> Whole(least=1).accepts(3), Whole().accepts(True), Whole().accepts(3.0)
        (True, False, False)
    """

    least: int = 1
    most: float = math.inf

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        limit = {} if math.isinf(self.most) else {"maximum": int(self.most)}
        return {"type": "integer", "minimum": self.least, **limit}


@dataclass(frozen=True)
class Number:
    """Number of at least `least`, larger than `above` and less than `below`.

    Example:
        >>> Number(least=0, below=1).accepts(0.5), Number(above=0).accepts(0), Number().accepts(True)
        (True, False, False)
    """

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.least <= value < self.below and value > self.above

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        limits = {"minimum": self.least, "exclusiveMinimum": self.above, "exclusiveMaximum": self.below}
        return {"type": "number", **{name: limit for name, limit in limits.items() if not _is_infinite(limit)}}


@dataclass(frozen=True)
class Text:
    """Text; not only spaces if it must be `filled`."""

    filled: bool = False

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return isinstance(value, str) and (bool(value.strip()) or not self.filled)

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"type": "string", **({"minLength": 1} if self.filled else {})}


@dataclass(frozen=True)
class Name:
    """Text, or a whole number: YAML reads a class called 1 as a number."""

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return isinstance(value, (str, int)) and not isinstance(value, bool)

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"type": ["string", "integer"]}


@dataclass(frozen=True)
class ListOf:
    """List whose entries are of one kind.

    Args:
        kind: kind of the entries.
        length: number of entries; None (default) for any number.
        increasing: whether each entry must be larger than the one before (default False).

    Example:
        >>> ListOf(Whole(), 3).accepts([48, 48, 48]), ListOf(Whole(), increasing=True).accepts([3, 2])
        (True, False)
    """

    kind: Kind
    length: int | None = None
    increasing: bool = False

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        if not isinstance(value, (list, tuple)) or not all(map(self.kind.accepts, value)):
            return False
        if self.increasing and any(first >= second for first, second in pairwise(value)):
            return False
        return self.length in (None, len(value))

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        length = {} if self.length is None else {"minItems": self.length, "maxItems": self.length}
        return {"type": "array", "items": self.kind.schema(), **length}


@dataclass(frozen=True)
class MappingOf:
    """Mapping whose values are of one kind; of any kind by default."""

    kind: Kind | None = None

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return isinstance(value, Mapping) and (self.kind is None or all(map(self.kind.accepts, value.values())))

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        values = {} if self.kind is None else {"additionalProperties": self.kind.schema()}
        return {"type": "object", **values}


@dataclass(frozen=True)
class Component:
    """Component of MONAI's configurations, a mapping with a `_target_`; `validation.py` checks it."""

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return True

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"type": "object", "required": ["_target_"]}


@dataclass(frozen=True)
class Orientation:
    """Three letters for the directions of the axes, such as `RAS`: one each of L or R, P or A, I or S.

    Example:
        >>> Orientation().accepts("LPS"), Orientation().accepts("RLA")
        (True, False)
    """

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        letters = list(value) if isinstance(value, (str, list, tuple)) else []
        if len(letters) != 3 or not all(isinstance(letter, str) for letter in letters):
            return False
        return all(any(letter in pair for letter in letters) for pair in ("LR", "PA", "IS"))

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"type": "string", "pattern": "^[LRPAIS]{3}$"}


@dataclass(frozen=True)
class AnyOf:
    """Value of one of several kinds."""

    kinds: tuple[Kind, ...]

    def __init__(self, *kinds: Kind) -> None:
        object.__setattr__(self, "kinds", kinds)

    def accepts(self, value: Any) -> bool:
        """See `Kind`."""
        return any(kind.accepts(value) for kind in self.kinds)

    def schema(self) -> dict[str, Any]:
        """See `Kind`."""
        return {"anyOf": [kind.schema() for kind in self.kinds]}


NULL, AUTO = OneOf(None), OneOf("auto")


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
