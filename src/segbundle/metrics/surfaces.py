"""Compute surface scores per class: 95th percentile Hausdorff distance (HD95) and normalized surface Dice (NSD)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

_MAX_THREADS = 4
_PERCENT = 95
_ROUNDING_MM = 1e-6
"""Added to tolerances, since a tolerance is often a multiple of the spacing and equals many distances."""


@dataclass(frozen=True)
class SurfaceScore:
    """Surface scores of one class in one case.

    Attributes:
        hd95_mm: 95th percentile Hausdorff distance in mm. NaN unless both surfaces exist.
        nsd: normalized surface Dice in [0, 1]. 0 if only one of the two surfaces exists, NaN if no surface exists. NaN
            as well if all elements of a surface touch unknown voxels.

    Example:
        >>> SurfaceScore(hd95_mm=2.0, nsd=0.9).hd95_mm
        2.0
    """

    hd95_mm: float
    nsd: float


NOT_SCORED = SurfaceScore(math.nan, math.nan)
ONE_MISSING = SurfaceScore(math.nan, 0.0)


def surface_scores(
    pred: torch.Tensor,
    ref: torch.Tensor,
    num_classes: int,
    spacing: Sequence[float],
    tolerance_mm: float | Sequence[float],
    annotated: Sequence[bool] | None = None,
    ignore_index: int | None = None,
    num_threads: int | None = None,
) -> list[SurfaceScore]:
    """Compute HD95 and NSD of every class in a case.

    Surfaces are defined as in DeepMind's surface-distance. The elements of a surface are the cubes of eight voxels that
    are partly inside and partly outside the class; voxels beyond the scan are outside. The area of an element is that
    of marching cubes (Lorensen and Cline 1987, SIGGRAPH). The distance of an element is the distance to the nearest
    element of the other surface.

    - HD95 (Huttenlocher et al., IEEE TPAMI 1993, with the 95th percentile): the area-weighted 95th percentile of the
      distances from one surface to the other; the larger of the two directions.
    - NSD at a tolerance (Nikolov et al., arXiv:1809.04430): the fraction of the total area of the two surfaces that is
      within the tolerance of the other surface.

    Unknown voxels of the reference are set to the predicted class, and elements that touch an unknown voxel have no
    area, so unknown voxels do not affect the scores.

    Args:
        pred: predicted class indices (X, Y, Z), integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, including the background.
        spacing: voxel size in mm along each axis.
        tolerance_mm: tolerance of NSD in mm; a number, or one per class, including the background.
        annotated: one bool per class, False if the class was not annotated in this case. Default: all True.
        ignore_index: value of unknown voxels in the reference. Default: None.
        num_threads: number of classes computed in parallel. Default: number of PyTorch threads, at most 4 to limit
            memory.

    Returns:
        one `SurfaceScore` per class, background first. HD95 and NSD are NaN for the background, for unannotated
        classes, for classes absent from both `pred` and `ref`, and for classes with a surface whose elements all touch
        unknown voxels. A class in only one of `pred` and `ref` has HD95 NaN and NSD 0.

    Raises:
        ValueError: shapes differ or are not three-dimensional, or the tolerances do not match the classes.

    Example:
        >>> labels = torch.zeros(5, 5, 5, dtype=torch.long)
        >>> labels[1:4, 1:4, 1:4] = 1
        >>> surface_scores(labels, labels, num_classes=2, spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0)[1]
        SurfaceScore(hd95_mm=0.0, nsd=1.0)
    """
    if pred.shape != ref.shape or pred.ndim != 3:
        raise ValueError(
            f"prediction {tuple(pred.shape)} and reference {tuple(ref.shape)} must be 3D volumes of the same shape."
        )
    tolerances = [tolerance_mm] * num_classes if isinstance(tolerance_mm, (int, float)) else list(tolerance_mm)
    is_annotated = [True] * num_classes if annotated is None else list(annotated)
    if not num_classes == len(tolerances) == len(is_annotated):
        raise ValueError(
            f"tolerance_mm has {len(tolerances)} and annotated {len(is_annotated)} entries for {num_classes} classes. "
            "Give one entry per class."
        )
    maps = _LabelMaps(pred.cpu().numpy(), ref.cpu().numpy(), ignore_index, num_classes)
    spacing = [float(size) for size in spacing]
    areas = _areas(spacing)

    def score(index: int) -> SurfaceScore:
        if index == 0 or not is_annotated[index]:
            return NOT_SCORED
        return _score(maps, index, spacing, areas, tolerances[index])

    with ThreadPoolExecutor(num_threads or min(torch.get_num_threads(), _MAX_THREADS)) as pool:
        return list(pool.map(score, range(num_classes)))


class _LabelMaps:
    """Prediction and reference, with the bounding box of each class."""

    def __init__(self, pred: np.ndarray, ref: np.ndarray, ignore_index: int | None, num_classes: int) -> None:
        from scipy.ndimage import find_objects

        self.pred, self.ref = pred, ref
        self.ignore_index = ignore_index
        self._boxes = [find_objects(each, num_classes - 1) for each in (pred, ref)]

    def cropped(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return masks of a class in prediction and reference, and of unknown voxels (None without `ignore_index`).

        The masks are padded by one voxel, so that surfaces are closed at the edge of the scan.
        """
        boxes = [boxes[index - 1] for boxes in self._boxes if boxes[index - 1] is not None]
        box = tuple(_union(sides) for sides in zip(*boxes, strict=True)) or (slice(0, 0),) * 3
        pred, ref = (np.pad(each[box] == index, 1) for each in (self.pred, self.ref))
        if self.ignore_index is None:
            return pred, ref, None
        unknown = self._unknown_around(box)
        return pred, ref | (pred & unknown), unknown

    def _unknown_around(self, box: Sequence[slice]) -> np.ndarray:
        """Return the mask of unknown voxels in a box and a margin of one voxel; False beyond the edge of the scan."""
        wider = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        outside = [(side.start == 0, side.stop == size) for side, size in zip(box, self.ref.shape, strict=True)]
        return np.pad(self.ref[wider] == self.ignore_index, np.array(outside, int))


def _union(sides: Sequence[slice]) -> slice:
    return slice(min(side.start for side in sides), max(side.stop for side in sides))


def _score(maps: _LabelMaps, index: int, spacing: Sequence[float], areas: np.ndarray, tolerance: float) -> SurfaceScore:
    pred, ref, unknown = maps.cropped(index)
    known = [bool((mask if unknown is None else mask & ~unknown).any()) for mask in (pred, ref)]
    if not all(known):
        return ONE_MISSING if any(known) else NOT_SCORED
    of_pred, of_ref = (_Surface.of(mask, unknown, areas) for mask in (pred, ref))
    total = of_pred.area.sum() + of_ref.area.sum()
    if not of_pred.area.any() or not of_ref.area.any():  # all of its elements touch unknown voxels
        return NOT_SCORED
    to_ref, to_pred = of_pred.distances(of_ref, spacing), of_ref.distances(of_pred, spacing)
    limit = tolerance + _ROUNDING_MM
    within = of_pred.area[to_ref <= limit].sum() + of_ref.area[to_pred <= limit].sum()
    hd95 = max(_percentile(to_ref, of_pred.area), _percentile(to_pred, of_ref.area))
    return SurfaceScore(hd95, float(within / total))


@dataclass(frozen=True)
class _Surface:
    """Elements of a surface.

    Attributes:
        cubes: (X, Y, Z) bool, the cubes that contain an element.
        positions: (N, 3), indices of these cubes.
        area: (N,), area of each element in mm².
    """

    cubes: np.ndarray
    positions: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, unknown: np.ndarray | None, areas: np.ndarray) -> _Surface:
        """Return the surface of a mask; elements that touch unknown voxels have no area."""
        code = sum(corner.view(np.uint8) << bit for bit, corner in enumerate(reversed(_corners(mask))))
        cubes = (code != 0) & (code != 255)
        positions = np.argwhere(cubes)
        area = areas[code[cubes]]
        if unknown is not None:
            area[np.logical_or.reduce([corner[cubes] for corner in _corners(unknown)])] = 0
        return cls(cubes, positions, area)

    def distances(self, other: _Surface, spacing: Sequence[float]) -> np.ndarray:
        """Return the distance in mm of every element to the nearest element of another surface, (N,)."""
        from scipy.spatial import KDTree

        distances = np.zeros(len(self.positions))
        apart = ~other.cubes[tuple(self.positions.T)]
        if apart.any():
            tree = KDTree(other.positions * spacing, leafsize=32)
            distances[apart] = tree.query(self.positions[apart] * spacing)[0]
        return distances


def _corners(mask: np.ndarray) -> list[np.ndarray]:
    """Return the eight corners of every cube of eight voxels; the last axis changes fastest."""
    sides = (slice(None, -1), slice(1, None))
    return [mask[x, y, z] for x, y, z in itertools.product(sides, repeat=3)]


def _areas(spacing: Sequence[float]) -> np.ndarray:
    """Return the area in mm² inside a cube for each of the 256 combinations of inside and outside corners."""
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area

    return np.asarray(create_table_neighbour_code_to_surface_area(spacing)[0], dtype=np.float64)


def _percentile(distances: np.ndarray, area: np.ndarray) -> float:
    """Return the distance that 95% of the area does not exceed."""
    order = np.argsort(distances)
    fractions = np.cumsum(area[order]) / area.sum()
    return float(distances[order][min(int(np.searchsorted(fractions, _PERCENT / 100)), len(order) - 1)])
