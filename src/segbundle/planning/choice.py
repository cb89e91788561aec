"""A planned setting with its reason, and number formats that the rules share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """Planned value of a setting.

    Attributes:
        key: key of the configuration; `#` separates levels.
        value: plain value.
        reason: reason for the value, in one line.

    Example:
        >>> Choice("axcodes", "RAS", "all 5 scans are stored in RAS").key
        'axcodes'
    """

    key: str
    value: Any
    reason: str


def times(numbers: Iterable[float], unit: str = "") -> str:
    """Return sizes as text with × between them, each with at most four significant digits.

    Args:
        numbers: sizes along the axes.
        unit: unit after the last number. Default: none.

    Example:
        >>> times([40, 56, 40]), times([0.5, 0.5, 6.0], "mm")
        ('40×56×40', '0.5×0.5×6 mm')
    """
    return "×".join(f"{number:.4g}" for number in numbers) + (f" {unit}" if unit else "")


def amount(number: int, noun: str) -> str:
    """Return a count as text with its noun in the singular or plural.

    Args:
        number: count.
        noun: noun in the singular, whose plural ends in -s.

    Example:
        >>> amount(1, "case"), amount(2, "case")
        ('1 case', '2 cases')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gigabytes(num_bytes: float) -> str:
    """Return a memory size as text in GB (10^9 bytes), with two significant digits.

    Args:
        num_bytes: number of bytes.

    Example:
        >>> gigabytes(8e9), gigabytes(123e6)
        ('8 GB', '0.12 GB')
    """
    return f"{num_bytes / 1e9:.2g} GB"


def plain(numbers: Sequence[Any]) -> list[Any]:
    """Return numbers as a list of plain Python numbers.

    Args:
        numbers: numbers of NumPy or Python.

    Example:
        >>> import numpy as np
        >>> plain(np.array([1, 2]))
        [1, 2]
    """
    return [number.item() if hasattr(number, "item") else number for number in numbers]
