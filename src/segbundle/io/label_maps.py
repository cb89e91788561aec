"""Read label maps as integers, even if they are stored as floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segbundle.io.axes import reoriented
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.scans import read_scan

_ROUNDING = 1e-3
"""Tolerance for integers; scale factors cause rounding errors."""


def read_labels(path: str | Path | Sequence[str | Path], grid: Geometry | None = None) -> Scan:
    """Read a label map as integers; values within 0.001 of an integer are rounded.

    Args:
        path: see `read_scan`.
        grid: geometry of the image that the label map belongs to. A label map of the same voxels that is stored with
            other axes is reoriented to it, without interpolation (see `segbundle.io.axes`); label maps on other voxels
            are not changed. None (default) keeps the stored axes.

    Returns:
        scan with an integer array (C, X, Y, Z). If some values are not integers, the array has the stored values.

    Raises:
        DataError: see `read_scan`.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "seg.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.float32), np.eye(4)), path)
        ...     read_labels(path).array.dtype
        dtype('int32')
    """
    label = round_labels(read_scan(path, None))
    return label if grid is None else reoriented(label, grid)


def round_labels(label: Scan) -> Scan:
    """Convert a floating-point label map to int32; return it unchanged if some values are not integers.

    Values within 0.001 of an integer are rounded. NaN, and values outside the range of int32, are not integers. A label
    map with an integer dtype is returned unchanged.

    Args:
        label: label map (C, X, Y, Z) of any dtype.

    Example:
        >>> from segbundle.io.scans import Geometry
        >>> label = Scan(np.full((1, 2, 1, 1), 0.9999), Geometry((2, 1, 1), np.eye(4)), Path("seg.nii"))
        >>> round_labels(label).array.ravel()
        array([1, 1], dtype=int32)
    """
    values = label.array
    if np.issubdtype(values.dtype, np.integer):
        return label
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(values).astype(np.int32)
        if not (np.abs(values - rounded) <= _ROUNDING).all():  # False for NaN and values outside int32
            return label
    return replace(label, array=rounded)
