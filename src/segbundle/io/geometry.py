"""Where a scan's voxels lie, whether that can be true, and whether two scans share their grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from segbundle.errors import DataError

_SPACINGS = (1e-4, 1e4)
"""Distances in mm between voxels, beyond which a header is not believed: a tenth of a micron, ten meters."""
_FARTHEST = 1e6
"""Distance in mm of a corner from the world's origin beyond which a header is not believed."""
_QUATERNION_ANGLE = 2**-9.5
"""Angle in radians that a rotation can lose in a NIfTI qform, 0.08 degrees.

The form stores b, c and d of a unit quaternion in single precision; a is the root of 1 - (b*b + c*c + d*d). The sum is
off by up to 2**-23, and readers take a*a below 3 * 2**-23 for 0, so a is off by up to 2**-10.5, and the angle by
twice as much.
"""


@dataclass(frozen=True)
class Geometry:
    """Where a scan's voxels lie.

    Attributes:
        shape: voxels along the three stored axes.
        affine: (4, 4) float64, voxel index to millimetres in RAS+ world space.
        channels: number of channels stored in the file.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in millimetres between neighbouring voxels along each stored axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def is_sheared(self) -> bool:
        """Whether axes are not perpendicular, by more than headers round: by a hundredth of a millimeter at an end."""
        directions = self.affine[:3, :3] / np.array(self.spacing)
        off = np.abs(directions.T @ directions - np.eye(3))
        return bool((off * np.array(self.spacing) * (np.array(self.shape) - 1)).max() > 0.01)

    @property
    def corners(self) -> np.ndarray:
        """World positions in mm of the eight corner voxels' centres, (8, 3)."""
        grid = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1)
        return np.asarray(nib.affines.apply_affine(self.affine, grid.reshape(8, 3)))

    def difference(self, other: Geometry) -> str | None:
        """In words, how another scan's grid differs from this one; None where voxels coincide.

        Positions may differ by a tenth of the smallest spacing: headers are stored in single precision. Two grids with
        the same first voxel and spacing may also be rotated by as much as a qform loses.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if not (np.isfinite(self.affine).all() and np.isfinite(other.affine).all()):
            return "an affine that is not finite"
        apart = float(np.linalg.norm(self.corners - other.corners, axis=1).max())
        if apart > 0.1 * min(self.spacing) and not self._is_rotated_by_rounding(other):
            return f"affines that put corner voxels up to {apart:.3g} mm apart"
        return None

    def _is_rotated_by_rounding(self, other: Geometry) -> bool:
        mine, others = (one.affine[:3, :3] / np.array(one.spacing) for one in (self, other))
        angles = np.linalg.norm(mine - others, axis=0)
        first = float(np.linalg.norm(self.affine[:3, 3] - other.affine[:3, 3]))
        same_size = np.allclose(self.spacing, other.spacing, rtol=1e-5)
        return same_size and first <= 0.01 * min(self.spacing) and bool((angles <= _QUATERNION_ANGLE).all())


@dataclass(frozen=True)
class Scan:
    """Voxels of a scan or a label map with their geometry: `array` is (C, X, Y, Z)."""

    array: np.ndarray
    geometry: Geometry
    path: Path


def check_geometry(path: str | Path, geometry: Geometry) -> Geometry:
    """Return a scan's geometry if voxels can lie as its header says.

    Raises:
        DataError: an affine that is not finite or singular, or sizes and positions that no scanner makes.
    """
    affine, spacing = geometry.affine, np.array(geometry.spacing)
    repair = "Repair the header, or convert the original again."
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: its affine is not finite ({_rows(affine)}): voxels have no place in space. {repair}")
    if spacing.min() == 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise DataError(f"{path}: its affine is singular ({_rows(affine)}): voxels have no place in space. {repair}")
    if spacing.min() < _SPACINGS[0] or spacing.max() > _SPACINGS[1]:
        sizes = " x ".join(f"{value:.6g}" for value in spacing)
        raise DataError(f"{path}: its header says voxels of {sizes} mm, which cannot be. {repair}")
    farthest = float((np.abs(affine[:3, :3]) @ (np.array(geometry.shape) - 1) + np.abs(affine[:3, 3])).max())
    if farthest > _FARTHEST:
        raise DataError(f"{path}: its header puts voxels {farthest:.3g} mm from the origin, which cannot be. {repair}")
    return geometry


def _rows(affine: np.ndarray) -> str:
    return "; ".join(", ".join(f"{value:.6g}" for value in row) for row in affine[:3])


def volume_shape(path: str | Path, shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """Return the three spatial sizes and the number of channels of a stored shape.

    Raises:
        DataError: another number of dimensions, or an empty one.
    """
    sizes = [int(size) for size in shape]
    if len(sizes) == 2:  # one slice
        sizes = [*sizes, 1]
    if len(sizes) == 5 and sizes[3] == 1:  # ITK stores vectors behind a time axis of length one
        sizes = [*sizes[:3], sizes[4]]
    if len(sizes) == 3:
        sizes = [*sizes, 1]
    if len(sizes) != 4 or min(sizes) < 1:
        raise DataError(f"{path}: has shape {tuple(shape)}; a 3D scan, or a 4D one with channels last, is needed.")
    return (sizes[0], sizes[1], sizes[2]), sizes[3]
