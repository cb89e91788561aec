"""Kinds of values that a setting accepts. A kind checks values and describes them as JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol


class Kind(Protocol):
    """Protocol for a kind of values that a setting accepts.

    Example:
        >>> kind: Kind = Boolean()
        >>> kind.accepts(True), kind.schema()
        (True, {'type': 'boolean'})
    """

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""


@dataclass(frozen=True)
class OneOf:
    """One of a few constants. `true` and 1 are different constants.

    Args:
        *words: accepted constants, stored in the attribute `words`.

    Example:
        >>> OneOf("auto", None).accepts("auto"), OneOf(True, False).accepts(1)
        (True, False)
    """

    words: tuple[Any, ...]

    def __init__(self, *words: Any) -> None:
        object.__setattr__(self, "words", words)

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return any(value == word and type(value) is type(word) for word in self.words)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"enum": [word for word in self.words if not _is_infinite(word)]}


@dataclass(frozen=True)
class Boolean:
    """True or false. The text `"true"` is accepted, because MONAI's command line passes it for `--resume true`.

    Example:
        >>> Boolean().accepts(True), Boolean().accepts("true"), Boolean().accepts(1)
        (True, True, False)
    """

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return OneOf(True, False, "true").accepts(value)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Integer:
    """Integer in [minimum, maximum].

    Attributes:
        minimum: smallest accepted value (default 1).
        maximum: largest accepted value (default infinity).

    Example:
        >>> Integer().accepts(3), Integer().accepts(True), Integer().accepts(3.0)
        (True, False, False)
    """

    minimum: int = 1
    maximum: float = math.inf

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        limit = {} if math.isinf(self.maximum) else {"maximum": int(self.maximum)}
        return {"type": "integer", "minimum": self.minimum, **limit}


@dataclass(frozen=True)
class Number:
    """Number of at least `minimum`, greater than `above` and less than `below`.

    Attributes:
        minimum: smallest accepted value (default minus infinity).
        above: exclusive lower limit (default minus infinity).
        below: exclusive upper limit (default infinity).

    Example:
        >>> Number(minimum=0, below=1).accepts(0.5), Number(above=0).accepts(0), Number().accepts(True)
        (True, False, False)
    """

    minimum: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.minimum <= value < self.below and value > self.above

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        limits = {"minimum": self.minimum, "exclusiveMinimum": self.above, "exclusiveMaximum": self.below}
        return {"type": "number", **{name: limit for name, limit in limits.items() if not _is_infinite(limit)}}


@dataclass(frozen=True)
class Text:
    """Text, which may be empty by default.

    Attributes:
        filled: whether to reject empty text and text of spaces only (default False).

    Example:
        >>> Text().accepts(""), Text(filled=True).accepts(" ")
        (True, False)
    """

    filled: bool = False

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return isinstance(value, str) and (bool(value.strip()) or not self.filled)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"type": "string", **({"minLength": 1} if self.filled else {})}


@dataclass(frozen=True)
class Name:
    """Name of a class: text or an integer, because YAML reads the name 1 as an integer.

    Example:
        >>> Name().accepts("liver"), Name().accepts(1), Name().accepts(1.5)
        (True, True, False)
    """

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return isinstance(value, (str, int)) and not isinstance(value, bool)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"type": ["string", "integer"]}


@dataclass(frozen=True)
class ListOf:
    """List whose entries are of one kind.

    Attributes:
        kind: kind of the entries.
        length: number of entries; None (default) for any number.
        increasing: whether the entries must be strictly increasing (default False).
        distinct: whether the entries must be distinct (default False).

    Example:
        >>> ListOf(Integer(), 3).accepts([48, 48, 48]), ListOf(Integer(), increasing=True).accepts([3, 2])
        (True, False)
    """

    kind: Kind
    length: int | None = None
    increasing: bool = False
    distinct: bool = False

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        if not isinstance(value, (list, tuple)) or not all(map(self.kind.accepts, value)):
            return False
        if self.increasing and any(first >= second for first, second in pairwise(value)):
            return False
        if self.distinct and any(entry in value[:index] for index, entry in enumerate(value)):
            return False
        return self.length in (None, len(value))

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        length = {} if self.length is None else {"minItems": self.length, "maxItems": self.length}
        distinct = {"uniqueItems": True} if self.distinct else {}
        return {"type": "array", "items": self.kind.schema(), **length, **distinct}


@dataclass(frozen=True)
class SomeOf:
    """One or several of a few words, without repetitions: a list, or comma-separated text.

    Args:
        *words: accepted words. They are stored in the attribute `words`.

    Example:
        >>> kind = SomeOf("nifti", "nrrd")
        >>> kind.accepts(["nifti"]), kind.accepts("nifti, nrrd"), kind.accepts([]), kind.accepts("nifti,nifti")
        (True, True, False, False)
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        given = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
        return bool(given) and ListOf(OneOf(*self.words), distinct=True).accepts(given)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        word = "|".join(self.words)
        items = ListOf(OneOf(*self.words), distinct=True).schema()
        return {"anyOf": [{**items, "minItems": 1}, {"type": "string", "pattern": f"^({word})( *, *({word}))*$"}]}


@dataclass(frozen=True)
class MappingOf:
    """Mapping whose values are of one kind.

    Attributes:
        kind: kind of the values; None (default) for any kind.

    Example:
        >>> MappingOf(Number()).accepts({"liver": 3.0}), MappingOf(Number()).accepts({"liver": "3 mm"})
        (True, False)
    """

    kind: Kind | None = None

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return isinstance(value, Mapping) and (self.kind is None or all(map(self.kind.accepts, value.values())))

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        values = {} if self.kind is None else {"additionalProperties": self.kind.schema()}
        return {"type": "object", **values}


@dataclass(frozen=True)
class Component:
    """Component of a MONAI configuration: a mapping with a `_target_`.

    `accepts` is always True, because `segbundle.config.validation` checks components.

    Example:
        >>> Component().schema()
        {'type': 'object', 'required': ['_target_']}
    """

    def accepts(self, value: Any) -> bool:
        """Return True for any value, because `segbundle.config.validation` checks components.

        Args:
            value: ignored.
        """
        return True

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"type": "object", "required": ["_target_"]}


@dataclass(frozen=True)
class Orientation:
    """Axis codes, such as `RAS`: one letter each of L or R, P or A, and I or S, in any order.

    The three letters may be a string or a list.

    Example:
        >>> Orientation().accepts("LPS"), Orientation().accepts("RLA")
        (True, False)
    """

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        letters = list(value) if isinstance(value, (str, list, tuple)) else []
        if len(letters) != 3 or not all(isinstance(letter, str) and len(letter) == 1 for letter in letters):
            return False
        return all(any(letter in pair for letter in letters) for pair in ("LR", "PA", "IS"))

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"type": "string", "pattern": "^[LRPAIS]{3}$"}


@dataclass(frozen=True)
class AnyOf:
    """Value of at least one of several kinds.

    Args:
        *kinds: accepted kinds, stored in the attribute `kinds`.

    Example:
        >>> AnyOf(NULL, Integer()).accepts(None), AnyOf(NULL, Integer()).accepts("one")
        (True, False)
    """

    kinds: tuple[Kind, ...]

    def __init__(self, *kinds: Kind) -> None:
        object.__setattr__(self, "kinds", kinds)

    def accepts(self, value: Any) -> bool:
        """Return whether a value from a YAML file or a command line is of this kind.

        Args:
            value: plain value.
        """
        return any(kind.accepts(value) for kind in self.kinds)

    def schema(self) -> dict[str, Any]:
        """Return the kind as JSON schema (draft 2020-12)."""
        return {"anyOf": [kind.schema() for kind in self.kinds]}


NULL, AUTO = OneOf(None), OneOf("auto")


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
