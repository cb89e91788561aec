"""Rules for the grid of the network: orientation and voxel size.

The rules are those of nnU-Net (Isensee et al., Nature Methods 18, 2021, supplementary note 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segbundle.planning.choice import Choice, amount, plain, times
from segbundle.planning.dataset_fingerprint import DatasetFingerprint

ANISOTROPY = 3.0
"""Factor by which the spacing of thick slices exceeds the other spacings, and the other shapes exceed their number."""
_PERCENTILE = 10
"""Percentile of the spacing across thick slices. The median would discard details of scans with thinner slices."""


def choose_axcodes(fingerprint: DatasetFingerprint) -> Choice:
    """Return the setting `axcodes`, the orientation of the network's grid: always RAS.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> from pathlib import Path
        >>> choose_axcodes(DatasetFingerprint(Path("data"), "", [], ["background"], True, [], [], [])).value
        'RAS'
    """
    stored = Counter(case.orientation for case in fingerprint.cases)
    codes = ", ".join(f"{count} in {code}" for code, count in stored.most_common(3))
    more = f" and {len(stored) - 3} other orientations" if len(stored) > 3 else ""
    return Choice("axcodes", "RAS", f"one orientation for all scans; stored: {codes}{more}")


def choose_spacing(fingerprint: DatasetFingerprint) -> Choice:
    """Return the setting `spacing`, the voxel size of the network's grid in mm along X, Y and Z.

    The voxel size is the median of the dataset along each axis. Across thick slices (see `thick_axis`), the voxel size
    is the 10th percentile of the dataset, but not smaller than that of the other axes.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.planning.case_fingerprint import CaseFingerprint
        >>> cases = [
        ...     CaseFingerprint("a", (64, 64, 8), (0.5, 0.5, size), "RAS", "int16", 1, 0, (0,), (1,), ((1,),), {0: 9})
        ...     for size in (3.0, 6.0, 6.0)
        ... ]
        >>> fingerprint = DatasetFingerprint(Path("data"), "", cases, ["background", "a"], True, [], [], [])
        >>> choose_spacing(fingerprint).value
        [0.5, 0.5, 3.6]
    """
    spacing = np.median(fingerprint.spacings, axis=0)
    shape = np.median(fingerprint.shapes, axis=0)
    axis = thick_axis(spacing.tolist(), shape.tolist())
    low, high = fingerprint.spacings.min(axis=0), fingerprint.spacings.max(axis=0)
    reason = f"mm; median of {amount(len(fingerprint.cases), 'case')}"
    if not np.allclose(low, high, atol=1e-3):
        reason += f"; range {times(low)} to {times(high)}"
    if axis is not None:
        others = np.delete(spacing, axis)
        spacing[axis] = max(np.percentile(fingerprint.spacings[:, axis], _PERCENTILE), others.max())
        reason += f"; {_PERCENTILE}th percentile along {'XYZ'[axis]} (thick slices)"
    return Choice("spacing", [round(size, 4) for size in plain(spacing)], reason)


def thick_axis(spacing: Sequence[float], shape: Sequence[float]) -> int | None:
    """Return the axis (0, 1 or 2) across thick slices, or None if the volume has no thick slices.

    Slices are thick if their spacing is more than three times that of both other axes, and their number is less than a
    third of the number of voxels along both other axes.

    Args:
        spacing: median voxel size in mm along X, Y and Z.
        shape: median number of voxels along X, Y and Z.

    Example:
        >>> thick_axis([0.5, 0.5, 6.0], [320, 320, 20]), thick_axis([1.0, 1.0, 1.0], [35, 50, 36])
        (2, None)
    """
    axis = int(np.argmax(spacing))
    others = [other for other in range(3) if other != axis]
    is_thick = spacing[axis] > ANISOTROPY * max(spacing[other] for other in others)
    is_flat = shape[axis] * ANISOTROPY < min(shape[other] for other in others)
    return axis if is_thick and is_flat else None
