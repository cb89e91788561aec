"""Reorient label maps whose voxels are those of their images, but are stored along other axes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from segbundle.io.geometry import Geometry, Scan


class AxisChange(NamedTuple):
    """Permutation and flips that lead from the stored axes of one grid to those of another.

    Attributes:
        order: for each axis of the result, the index of the corresponding stored axis.
        flipped: for each axis of the result, whether its direction is reversed.

    Example:
        >>> AxisChange((0, 1, 2), (False, False, False)).is_identity
        True
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @property
    def is_identity(self) -> bool:
        """True if the axes keep their order and their directions."""
        return self.order == (0, 1, 2) and not any(self.flipped)

    def of_geometry(self, geometry: Geometry) -> Geometry:
        """Return the geometry of the same voxels on the changed axes.

        Args:
            geometry: geometry on the stored axes.
        """
        to_stored = np.eye(4)
        to_stored[:3, :3] = 0
        for axis, (stored, flipped) in enumerate(zip(self.order, self.flipped, strict=True)):
            to_stored[stored, axis] = -1 if flipped else 1
            to_stored[stored, 3] = geometry.shape[stored] - 1 if flipped else 0
        x, y, z = (geometry.shape[stored] for stored in self.order)
        return replace(geometry, shape=(x, y, z), affine=geometry.affine @ to_stored)

    def of_array(self, array: np.ndarray) -> np.ndarray:
        """Return a view of voxels on the changed axes. No voxels are copied.

        Args:
            array: voxels (C, X, Y, Z) of any dtype on the stored axes.

        Returns:
            a view (C, X, Y, Z) of the same dtype, with X, Y and Z along the changed axes
        """
        view = array.transpose(0, *(1 + stored for stored in self.order))
        return view[(slice(None), *(slice(None, None, -1 if flipped else 1) for flipped in self.flipped))]


def axis_change(source: Geometry, target: Geometry) -> AxisChange | None:
    """Return the axis change after which two grids have the same voxels; None if no axis change makes them coincide.

    Axes are compared with each other, not with the axes of the patient, so that oblique and sheared grids are handled
    like any other. Positions may differ by rounding only (see `Geometry.difference`).

    Args:
        source: geometry of the stored voxels.
        target: geometry with the wanted order and directions of axes.

    Example:
        >>> lps = Geometry((4, 3, 2), np.array([[-1.0, 0, 0, 3], [0, -1, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> axis_change(lps, Geometry((4, 3, 2), np.eye(4)))
        AxisChange(order=(0, 1, 2), flipped=(True, True, False))
        >>> axis_change(lps, Geometry((4, 3, 2), np.diag([1.0, 1.0, 2.0, 1.0]))) is None
        True
    """
    unchanged = AxisChange((0, 1, 2), (False, False, False))
    if target.difference(source) is None:
        return unchanged
    if sorted(source.shape) != sorted(target.shape):
        return None
    steps = _steps(source, target)
    if steps is None:
        return None
    x, y, z = (int(axis) for axis in np.abs(steps).argmax(axis=1))
    backward = [bool(row.sum() < 0) for row in steps]
    change = AxisChange((x, y, z), (backward[0], backward[1], backward[2]))
    return change if target.difference(change.of_geometry(source)) is None else None


def _steps(source: Geometry, target: Geometry) -> np.ndarray | None:
    """Return the (3, 3) step along each target axis (rows) per step along each source axis, if these are -1, 0 or 1."""
    if not (np.isfinite(source.affine).all() and np.isfinite(target.affine).all()):
        return None
    try:
        steps = np.rint(np.linalg.solve(target.affine[:3, :3], source.affine[:3, :3]))
    except np.linalg.LinAlgError:
        return None
    one_each = (np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all()
    return steps if one_each else None


def reoriented(scan: Scan, grid: Geometry) -> Scan:
    """Return a scan with its axes in the order and directions of a grid that has the same voxels.

    Voxels are moved, never interpolated. A scan whose voxels do not coincide with those of the grid is returned
    unchanged, and so is a scan that already has the axes of the grid.

    Args:
        scan: scan or label map (C, X, Y, Z).
        grid: geometry of the image that the scan belongs to.

    Returns:
        the scan; if axes were moved, a new scan with a copy of the voxels

    Example:
        >>> from pathlib import Path
        >>> lps = Geometry((2, 1, 1), np.array([[-1.0, 0, 0, 1], [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> label = Scan(np.array([5, 7]).reshape(1, 2, 1, 1), lps, Path("seg.nii"))
        >>> reoriented(label, Geometry((2, 1, 1), np.eye(4))).array.ravel()
        array([7, 5])
    """
    change = axis_change(scan.geometry, grid)
    if change is None or change.is_identity:
        return scan
    array = change.of_array(scan.array).copy(order="K")  # PyTorch takes no negative strides
    return replace(scan, array=array, geometry=change.of_geometry(scan.geometry))
