"""Measure every class of a label map: volume, connected components and mean intensity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segbundle.metrics.components import count_components

_CHUNK = 2**22
"""Voxels per chunk."""


@dataclass(frozen=True)
class ClassMeasures:
    """Measurements of one class in one scan.

    Attributes:
        volume_ml: volume in ml; 0.0 if the class is absent.
        touches_edge: whether the class has voxels in the first or last slice along any axis.
        components: number of connected components (face connectivity); 0 for the background.
        mean_intensity: mean of the scan over the finite voxels of the class, in the scan's units; None if the class has
            no finite voxel.

    Example:
        >>> ClassMeasures(volume_ml=1.5, touches_edge=False, components=1, mean_intensity=40.0).volume_ml
        1.5
    """

    volume_ml: float
    touches_edge: bool
    components: int
    mean_intensity: float | None


def measure_classes(
    scan: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    voxel_ml: float,
    regions: Sequence[Sequence[int]] | None = None,
) -> list[ClassMeasures]:
    """Measure volume, connected components and mean intensity of every class in a scan.

    Args:
        scan: intensities (X, Y, Z), any real dtype.
        labels: class indices (X, Y, Z), integer dtype, not negative; values of `num_classes` and above are ignored.
        num_classes: number of classes, including the background.
        voxel_ml: volume of a voxel in ml.
        regions: label values of each class, if classes overlap. Default: None (the value of a class is its index).

    Returns:
        one `ClassMeasures` per class, background first. Components of the background are not counted (0).

    Example:
        >>> scan, labels = np.array([[[10.0, 20.0, 40.0]]]), np.array([[[0, 1, 1]]])
        >>> measures = measure_classes(scan, labels, num_classes=2, voxel_ml=0.5)
        >>> measures[1].volume_ml, measures[1].components, measures[1].mean_intensity
        (1.0, 1, 30.0)
    """
    if regions is not None:
        background = measure_classes(scan, labels, 1, voxel_ml)
        masks = (np.isin(labels, members).astype(np.uint8) for members in regions[1:])
        return background + [measure_classes(scan, mask, 2, voxel_ml)[1] for mask in masks]
    if labels.flags.f_contiguous:  # the order of axes does not matter: use the order in memory
        scan, labels = scan.T, labels.T
    known, sums = np.zeros(num_classes), np.zeros(num_classes)
    voxels = np.zeros(num_classes, np.int64)
    thickness = max(_CHUNK // max(scan[0].size, 1), 1)
    for start in range(0, len(scan), thickness):
        found, values = (volume[start : start + thickness].ravel() for volume in (labels, scan))
        voxels += np.bincount(found, minlength=num_classes)[:num_classes]
        finite = np.isfinite(values)
        if not finite.all():
            found, values = found[finite], values[finite]
        known += np.bincount(found, minlength=num_classes)[:num_classes]
        sums += np.bincount(found, values, minlength=num_classes)[:num_classes]
    faces = [labels.take(index_at_end, axis) for axis in range(labels.ndim) for index_at_end in (0, -1)]
    at_edge = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    parts = count_components(torch.from_numpy(np.ascontiguousarray(labels)), num_classes)
    return [
        ClassMeasures(
            float(voxels[index] * voxel_ml),
            index in at_edge,
            parts[index],
            float(sums[index] / known[index]) if known[index] else None,
        )
        for index in range(num_classes)
    ]
