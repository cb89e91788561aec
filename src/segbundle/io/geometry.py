"""Geometry of scans: shape and affine, plausibility checks, and comparison of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from segbundle.errors import DataError

_SPACINGS = (1e-4, 1e4)
"""Minimum and maximum plausible voxel spacing in mm: a tenth of a micron, ten meters."""
_FARTHEST = 1e6
"""Maximum plausible distance in mm of a corner voxel from the origin."""
_QUATERNION_ANGLE = 2**-9.5
"""Maximum rounding error of a rotation in a NIfTI qform, in radians (0.08 degrees).

A qform stores b, c and d of a unit quaternion in single precision; a is the root of 1 - (b*b + c*c + d*d). The error of
the sum is up to 2**-23, and readers replace a*a below 3 * 2**-23 by 0. So the error of a is up to 2**-10.5, and the
error of the angle is twice as large.
"""


@dataclass(frozen=True)
class Geometry:
    """Shape, affine and number of channels of a scan.

    Attributes:
        shape: number of voxels along the three stored axes, (X, Y, Z).
        affine: (4, 4) float64, maps voxel indices to RAS+ world coordinates in millimeters.
        channels: number of channels in the file (default 1).
        source_slices: for a DICOM series that was resampled to an even spacing (`segbundle.io.uneven_slices`), the
            position of each of its slices along the third axis in voxels; None (default) for other scans.

    Example:
        >>> geometry = Geometry((64, 64, 32), np.diag([1.0, 1.0, 2.5, 1.0]))
        >>> geometry.spacing
        (1.0, 1.0, 2.5)
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1
    source_slices: tuple[float, ...] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in millimeters between neighboring voxels along each stored axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def source_gaps(self) -> tuple[float, float] | None:
        """Smallest and largest distance in mm of the slices of a resampled series; None for other scans."""
        if self.source_slices is None:
            return None
        gaps = np.diff(self.source_slices) * self.spacing[2]
        return float(gaps.min()), float(gaps.max())

    @property
    def is_sheared(self) -> bool:
        """True if the axes are not perpendicular. Up to 0.01 mm at the far corner is treated as rounding."""
        directions = self.affine[:3, :3] / np.array(self.spacing)
        off = np.abs(directions.T @ directions - np.eye(3))
        return bool((off * np.array(self.spacing) * (np.array(self.shape) - 1)).max() > 0.01)

    @property
    def corners(self) -> np.ndarray:
        """RAS+ world coordinates in mm of the centers of the eight corner voxels, (8, 3)."""
        grid = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1)
        return np.asarray(nib.affines.apply_affine(self.affine, grid.reshape(8, 3)))

    def difference(self, other: Geometry) -> str | None:
        """Return a description of how another grid differs from this grid; None if the voxels of both grids coincide.

        Voxels coincide if the positions of corner voxels differ by at most a tenth of the smallest spacing, because
        headers are stored in single precision. The voxels also coincide if one corner voxel and the spacing are the
        same, and the rotations differ by at most the rounding error of a qform. This corner is the first voxel of the
        file with the qform; after a reorientation, this can be any corner.

        Args:
            other: geometry of another scan.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if not (np.isfinite(self.affine).all() and np.isfinite(other.affine).all()):
            return "an affine that is not finite"
        distances = np.linalg.norm(self.corners - other.corners, axis=1)
        if distances.max() > 0.1 * min(self.spacing) and not self._is_rotated_by_rounding(other, distances.min()):
            return f"affines that put corner voxels up to {distances.max():.3g} mm apart"
        return None

    def _is_rotated_by_rounding(self, other: Geometry, smallest_distance: float) -> bool:
        rotation, other_rotation = (grid.affine[:3, :3] / np.array(grid.spacing) for grid in (self, other))
        angles = np.linalg.norm(rotation - other_rotation, axis=0)
        same_size = np.allclose(self.spacing, other.spacing, rtol=1e-5)
        same_corner = bool(smallest_distance <= 0.01 * min(self.spacing))
        return same_size and same_corner and bool((angles <= _QUATERNION_ANGLE).all())


@dataclass(frozen=True)
class Scan:
    """Scan or label map with its geometry.

    Attributes:
        array: voxels (C, X, Y, Z).
        geometry: shape, affine and number of channels.
        path: path of the file or folder; `IN_MEMORY` for an image without a file.

    Example:
        >>> scan = Scan(np.zeros((1, 4, 3, 2)), Geometry((4, 3, 2), np.eye(4)), Path("ct.nii.gz"))
        >>> scan.array.shape
        (1, 4, 3, 2)
    """

    array: np.ndarray
    geometry: Geometry
    path: Path


def check_geometry(path: str | Path, geometry: Geometry) -> Geometry:
    """Return a geometry unchanged, after checking that it is plausible.

    Args:
        path: path of the scan, for messages.
        geometry: geometry in the header.

    Raises:
        DataError: the affine is not finite or is singular, a voxel size is below 0.0001 mm or above 10 m, or a voxel is
            more than 1 km from the origin.

    Example:
        >>> geometry = Geometry((4, 3, 2), np.eye(4))
        >>> check_geometry("ct.nii.gz", geometry) is geometry
        True
    """
    affine, spacing = geometry.affine, np.array(geometry.spacing)
    repair = "Repair the header, or convert the original again."
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: its affine is not finite ({_rows(affine)}), so voxels have no position. {repair}")
    if spacing.min() == 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise DataError(f"{path}: its affine is singular ({_rows(affine)}), so voxels have no position. {repair}")
    if spacing.min() < _SPACINGS[0] or spacing.max() > _SPACINGS[1]:
        sizes = " x ".join(f"{value:.6g}" for value in spacing)
        raise DataError(f"{path}: its header gives the implausible voxel size {sizes} mm. {repair}")
    farthest = float((np.abs(affine[:3, :3]) @ (np.array(geometry.shape) - 1) + np.abs(affine[:3, 3])).max())
    if farthest > _FARTHEST:
        raise DataError(
            f"{path}: its header places voxels at an implausible distance from the origin: {farthest:.3g} mm. {repair}"
        )
    return geometry


def _rows(affine: np.ndarray) -> str:
    return "; ".join(", ".join(f"{value:.6g}" for value in row) for row in affine[:3])


def volume_shape(path: str | Path, shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """Split the stored shape of a scan into its spatial shape and its number of channels.

    Args:
        path: path of the scan, for messages.
        shape: stored shape: (X, Y), (X, Y, Z), (X, Y, Z, C) or (X, Y, Z, 1, C).

    Returns:
        a pair of the shape (X, Y, Z) and the number of channels C; Z is 1 for a single slice, and C is 1 for a scan
        without a channel axis

    Raises:
        DataError: the number of dimensions is not supported, or a dimension is empty.

    Example:
        >>> volume_shape("ct.nii.gz", (64, 64, 32)), volume_shape("mr.nii.gz", (64, 64, 32, 4))
        (((64, 64, 32), 1), ((64, 64, 32), 4))
    """
    sizes = [int(size) for size in shape]
    if len(sizes) == 2:  # one slice
        sizes = [*sizes, 1]
    if len(sizes) == 5 and sizes[3] == 1:  # ITK stores vectors behind a time axis of length one
        sizes = [*sizes[:3], sizes[4]]
    if len(sizes) == 3:
        sizes = [*sizes, 1]
    if len(sizes) != 4 or min(sizes) < 1:
        raise DataError(f"{path}: has shape {tuple(shape)}; it must be a 3D scan, or a 4D scan with channels last.")
    return (sizes[0], sizes[1], sizes[2]), sizes[3]
