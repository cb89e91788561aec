"""Transfer label maps to the grid of another scan, by nearest neighbor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.label_maps import read_labels

_logger = logging.getLogger(__name__)
_ROUNDING = 1e-4
"""Rounding error of affines in single precision, in voxels."""


def read_labels_on(path: str | Path, class_names: Sequence[str], grid: Geometry, allow_uneven: bool = False) -> Scan:
    """Read a label map, and transfer it to the grid of a scan if its voxels differ from those of the grid.

    If the voxels coincide with those of the grid, the axes are reoriented without interpolation (see
    `segbundle.io.axes`). Otherwise, each voxel of the grid gets the label of the nearest voxel of the first channel
    (see `nearest_labels`).

    Args:
        path: see `read_labels`.
        class_names: class names of the task, background first; may be empty.
        grid: geometry of the scan.
        allow_uneven: see `read_labels`. Default: False.

    Returns:
        scan on the grid, with an array (1, X, Y, Z) of the dtype that `read_labels` returns; if the voxels coincide,
        the array keeps all channels of the file (C, X, Y, Z)

    Raises:
        DataError: the label map cannot be read, or none of its labels lies on the grid.

    Example:
        >>> import nibabel as nib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     coarse = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
        ...     nib.save(coarse, f"{folder}/a.nii")
        ...     read_labels_on(f"{folder}/a.nii", [], Geometry((4, 4, 3), np.eye(4))).array.shape
        (1, 4, 4, 3)
    """
    try:
        label = read_labels(path, class_names, grid, allow_uneven)
    except DataError as error:
        try:  # segments on other voxels are an error with a grid only
            label = read_labels(path, class_names, allow_uneven=allow_uneven)
        except DataError:
            raise error from None
    if grid.difference(label.geometry) is None:
        return label
    return nearest_labels(label, grid)


def nearest_labels(label: Scan, grid: Geometry) -> Scan:
    """Return a label map on another grid, with the label of the nearest voxel; 0 outside the label map.

    Classes that lose all voxels are reported by a warning.

    Args:
        label: label map (1, X, Y, Z) of an integer dtype.
        grid: geometry of the result.

    Returns:
        a new label map (1, X, Y, Z) of the same dtype on the grid

    Raises:
        DataError: the label map has labels, but none of them lies on the grid.

    Example:
        >>> label = Scan(np.array([5, 7]).reshape(1, 2, 1, 1), Geometry((2, 1, 1), np.eye(4)), Path("seg.nii"))
        >>> half = Geometry((4, 1, 1), np.array([[0.5, 0, 0, -0.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> nearest_labels(label, half).array.ravel()
        array([5, 5, 7, 7])
    """
    to_source = np.linalg.inv(label.geometry.affine) @ grid.affine
    source, result = label.array[0], np.zeros(grid.shape, label.array.dtype, order="F")
    plane = np.stack(np.meshgrid(*map(np.arange, grid.shape[:2]), indexing="ij"), axis=-1) @ to_source[:3, :2].T
    for k in range(grid.shape[2]):
        nearest = np.floor(plane + to_source[:3, 2] * k + to_source[:3, 3] + 0.5 + _ROUNDING).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < source.shape)).all(axis=-1)
        x, y, z = nearest[inside].T
        result[inside, k] = source[x, y, z]
    before, after = set(np.unique(source).tolist()) - {0}, set(np.unique(result).tolist())
    if before and before.isdisjoint(after):
        raise DataError(
            f"{label.path}: none of its labels lies on the voxels of the scan. Pass the scan that it was drawn on."
        )
    if before - after:
        _logger.warning(
            "%s: the label values %s have no voxel on the grid of the scan", label.path, sorted(before - after)
        )
    return replace(label, array=result[None], geometry=replace(grid, channels=1))
