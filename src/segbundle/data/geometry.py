"""Where a scan's voxels lie, and whether two scans share their grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np


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
    def corners(self) -> np.ndarray:
        """World positions in mm of the eight corner voxels' centres, (8, 3)."""
        grid = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1)
        return np.asarray(nib.affines.apply_affine(self.affine, grid.reshape(8, 3)))

    def difference(self, other: Geometry) -> str | None:
        """In words, how another scan's grid differs from this one; None where voxels coincide.

        Positions may differ by a tenth of the smallest spacing: headers are stored in single precision.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if not (np.isfinite(self.affine).all() and np.isfinite(other.affine).all()):
            return "an affine that is not finite"
        apart = float(np.linalg.norm(self.corners - other.corners, axis=1).max())
        if apart > 0.1 * min(self.spacing):
            return f"affines that put corner voxels up to {apart:.3g} mm apart"
        return None


@dataclass(frozen=True)
class Scan:
    """Voxels of a scan or a label map with their geometry: `array` is (C, X, Y, Z)."""

    array: np.ndarray
    geometry: Geometry
    path: Path
