"""How far the surfaces of prediction and reference lie apart, per class, in mm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

_MOST_THREADS = 4
_PERCENT = 95
_ROUNDING_MM = 1e-6
"""A tolerance is often a multiple of the spacing, and then many distances are just as long."""


@dataclass(frozen=True)
class SurfaceScore:
    """Surface measures of one class in one case; NaN where there is nothing to score.

    Attributes:
        hd95_mm: 95th percentile of the Hausdorff distance. NaN also if one of the two surfaces is missing.
        nsd: normalized surface Dice, in [0, 1]; 0 if one of the two surfaces is missing.
    """

    hd95_mm: float
    nsd: float


NOTHING = SurfaceScore(math.nan, math.nan)
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
    """HD95 and NSD of every class of one case.

    As in DeepMind's surface-distance: a surface goes through the eight-voxel cubes that hold both inside and outside,
    each with the area that marching cubes gives it, and what lies beyond the scan is outside. The distance of a surface
    element is that to the nearest element of the other surface.

    - HD95 (Huttenlocher et al., IEEE TPAMI 1993, with the 95th percentile): for each surface, the distance within which
      95 % of its area lies; the larger of the two.
    - NSD at a tolerance (Nikolov et al., arXiv:1809.04430): the part of the area of both surfaces that lies within the
      tolerance of the other one.

    Unknown voxels take the class predicted there, and elements that touch one count in no area: what nobody labelled
    is neither right nor wrong.

    Args:
        pred: predicted class indices (X, Y, Z), integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, the background included.
        spacing: distance of neighbouring voxels in mm along each axis.
        tolerance_mm: one for all classes, or one per class, the background's included.
        annotated: one bool per class; False where nobody looked for the class in this case. Default: all True.
        ignore_index: value of unknown voxels in the reference.
        num_threads: classes computed at a time; default: as many as PyTorch uses, but no more than four, as each takes
            memory.

    Returns:
        one `SurfaceScore` per class. The background is not scored.

    Raises:
        ValueError: shapes differ or are not three-dimensional, or the tolerances are not one per class.
    """
    if pred.shape != ref.shape or pred.ndim != 3:
        raise ValueError(
            f"prediction {tuple(pred.shape)} and reference {tuple(ref.shape)} must be volumes of one shape."
        )
    tolerances = [tolerance_mm] * num_classes if isinstance(tolerance_mm, (int, float)) else list(tolerance_mm)
    looked_for = [True] * num_classes if annotated is None else list(annotated)
    if not num_classes == len(tolerances) == len(looked_for):
        raise ValueError(
            f"tolerance_mm has {len(tolerances)} and annotated {len(looked_for)} entries for {num_classes} classes."
        )
    maps = _LabelMaps(pred.cpu().numpy(), ref.cpu().numpy(), ignore_index, num_classes)
    spacing = [float(size) for size in spacing]
    areas = _areas(spacing)

    def score(index: int) -> SurfaceScore:
        if index == 0 or not looked_for[index]:
            return NOTHING
        return _score(maps, index, spacing, areas, tolerances[index])

    with ThreadPoolExecutor(num_threads or min(torch.get_num_threads(), _MOST_THREADS)) as pool:
        return list(pool.map(score, range(num_classes)))


class _LabelMaps:
    """Prediction and reference, and where in them each class is."""

    def __init__(self, pred: np.ndarray, ref: np.ndarray, ignore_index: int | None, num_classes: int) -> None:
        from scipy.ndimage import find_objects

        self.pred, self.ref = pred, ref
        self.ignore_index = ignore_index
        self._boxes = [find_objects(each, num_classes - 1) for each in (pred, ref)]

    def cropped(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Masks of a class in prediction and reference, and of unknown voxels if there can be any.

        One voxel of nothing is around them: a surface closes where the scan ends.
        """
        boxes = [boxes[index - 1] for boxes in self._boxes if boxes[index - 1] is not None]
        box = tuple(_union(sides) for sides in zip(*boxes, strict=True)) or (slice(0, 0),) * 3
        pred, ref = (np.pad(each[box] == index, 1) for each in (self.pred, self.ref))
        if self.ignore_index is None:
            return pred, ref, None
        unknown = self._unknown_around(box)
        return pred, ref | (pred & unknown), unknown

    def _unknown_around(self, box: Sequence[slice]) -> np.ndarray:
        """Return which voxels of a box, and of a layer around it, are unknown; beyond the scan none is."""
        wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        beyond = [(side.start == 0, side.stop == size) for side, size in zip(box, self.ref.shape, strict=True)]
        return np.pad(self.ref[wide] == self.ignore_index, np.array(beyond, int))


def _union(sides: Sequence[slice]) -> slice:
    return slice(min(side.start for side in sides), max(side.stop for side in sides))


def _score(maps: _LabelMaps, index: int, spacing: Sequence[float], areas: np.ndarray, tolerance: float) -> SurfaceScore:
    pred, ref, unknown = maps.cropped(index)
    known = [bool((mask if unknown is None else mask & ~unknown).any()) for mask in (pred, ref)]
    if not all(known):
        return ONE_MISSING if any(known) else NOTHING
    of_pred, of_ref = (_Surface.of(mask, unknown, areas) for mask in (pred, ref))
    total = of_pred.area.sum() + of_ref.area.sum()
    if not of_pred.area.any() or not of_ref.area.any():  # each of its elements touches unknown voxels
        return NOTHING
    to_ref, to_pred = of_pred.distances(of_ref, spacing), of_ref.distances(of_pred, spacing)
    most = tolerance + _ROUNDING_MM
    within = of_pred.area[to_ref <= most].sum() + of_ref.area[to_pred <= most].sum()
    hd95 = max(_percentile(to_ref, of_pred.area), _percentile(to_pred, of_ref.area))
    return SurfaceScore(hd95, float(within / total))


@dataclass(frozen=True)
class _Surface:
    """The elements of a surface: the cubes (X, Y, Z) that hold one, their places (N, 3) and the area in each (N,)."""

    cubes: np.ndarray
    places: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, unknown: np.ndarray | None, areas: np.ndarray) -> _Surface:
        """The surface of a mask; elements that touch unknown voxels have no area."""
        code = sum(corner.view(np.uint8) << bit for bit, corner in enumerate(reversed(_corners(mask))))
        cubes = (code != 0) & (code != 255)
        places = np.argwhere(cubes)
        area = areas[code[cubes]]
        if unknown is not None:
            area[np.logical_or.reduce([corner[cubes] for corner in _corners(unknown)])] = 0
        return cls(cubes, places, area)

    def distances(self, other: _Surface, spacing: Sequence[float]) -> np.ndarray:
        """Distance in mm of every element to the nearest one of another surface, (N,)."""
        from scipy.spatial import KDTree

        distances = np.zeros(len(self.places))
        apart = ~other.cubes[tuple(self.places.T)]
        if apart.any():
            tree = KDTree(other.places * spacing, leafsize=32)
            distances[apart] = tree.query(self.places[apart] * spacing)[0]
        return distances


def _corners(mask: np.ndarray) -> list[np.ndarray]:
    """The eight corners of every cube of eight voxels, the last axis changing first."""
    sides = (slice(None, -1), slice(1, None))
    return [mask[x, y, z] for x, y, z in itertools.product(sides, repeat=3)]


def _areas(spacing: Sequence[float]) -> np.ndarray:
    """Area in mm² within a cube for each of the 256 ways in which its corners can be inside or outside."""
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area

    return np.asarray(create_table_neighbour_code_to_surface_area(spacing)[0], dtype=np.float64)


def _percentile(distances: np.ndarray, area: np.ndarray) -> float:
    """The distance within which 95 % of the area lies."""
    order = np.argsort(distances)
    parts = np.cumsum(area[order]) / area.sum()
    return float(distances[order][min(int(np.searchsorted(parts, _PERCENT / 100)), len(order) - 1)])
