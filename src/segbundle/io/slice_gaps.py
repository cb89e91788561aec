"""Describe the distances of unevenly spaced DICOM slices for messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from segbundle.io.stacks import Slice


def describe_distances(slices: Sequence[Slice], positions: np.ndarray) -> str:
    """Return a message with the reason why slices are not evenly spaced on a straight line.

    Args:
        slices: slices, sorted along their normal.
        positions: positions of the slices in mm, (n, 3).

    Example:
        >>> from segbundle.io.stacks import Slice
        >>> axes, heights = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 2.0, 4.0)
        >>> slices = [Slice(f"{k}.dcm", 0, (0.0, 0.0, z), axes, (1.0, 1.0)) for k, z in enumerate(heights)]
        >>> describe_distances(slices, np.array([plane.position for plane in slices]))
        'its slices are 1 to 2 mm apart; a slice is missing after 2.dcm.'
    """
    along = positions[-1] - positions[0]
    gaps = np.diff(positions, axis=0) @ (along / np.linalg.norm(along))
    apart = f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart"
    usual = float(np.quantile(gaps, 0.25, method="lower"))
    times = np.round(gaps / usual)
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if not len(wide) or gaps.max() <= 1.2 * gaps.min():
        return f"{apart} and are not evenly spaced on a straight line."
    after = slices[int(wide[0])].title
    if _longest_run(wide) >= 3:
        changes = np.flatnonzero(np.abs(np.diff(gaps)) > 0.2 * usual)
        changed = slices[int(changes[0]) + 1].title
        return f"{apart}, and the distance changes at {changed}; a volume needs a constant distance."
    if np.abs(gaps - times * usual).max() <= 0.2 * usual:
        missing = int((times - 1).sum())
        said = "a slice is missing" if missing == 1 else f"{missing} slices are missing"
        return f"{apart}; {said} after {after}."
    return f"{apart}; a volume needs a constant distance."


def _longest_run(indices: np.ndarray) -> int:
    """Return the largest number of consecutive indices."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return max(map(len, runs))
