"""Label maps as integers, also where a program has stored them as floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segbundle.io.geometry import Scan
from segbundle.io.scans import read_scan

_ROUNDING = 1e-3
"""Distance from an integer up to which a value counts as that integer: scale factors lose some."""


def read_labels(path: str | Path | Sequence[str | Path]) -> Scan:
    """Read a label map; values within 0.001 of integers become those integers.

    Returns:
        the label map, with an integer array if all its values are integers, or else as it is stored.

    Raises:
        DataError: as `read_scan`.
    """
    return round_labels(read_scan(path, None))


def round_labels(label: Scan) -> Scan:
    """Return a label map with integers if all its values are within 0.001 of integers, or else unchanged."""
    values = label.array
    if np.issubdtype(values.dtype, np.integer):
        return label
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(values).astype(np.int32)
        if not (np.abs(values - rounded) <= _ROUNDING).all():  # false for NaN and for what int32 cannot hold
            return label
    return replace(label, array=rounded)
