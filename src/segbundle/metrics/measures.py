"""What can be measured of every class in a scan: its volume, its parts, how bright the scan is in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from segbundle.metrics.components import count_components

_CHUNK = 2**22  # voxels counted at a time


@dataclass(frozen=True)
class ClassMeasures:
    """One class in one scan.

    Attributes:
        volume_ml: 0 if it is not there.
        touches_edge: whether it holds some of the scan's first or last voxels along an axis.
        components: parts connected over faces.
        mean_intensity: of the scan in the class, in the scan's units, without voxels that are not finite; None if there
            is none.
    """

    volume_ml: float
    touches_edge: bool
    components: int
    mean_intensity: float | None


def measure_classes(scan: np.ndarray, labels: np.ndarray, num_classes: int, voxel_ml: float) -> list[ClassMeasures]:
    """Measure every class of a scan, the background included (whose parts are not counted).

    Args:
        scan: (X, Y, Z), any real dtype.
        labels: class indices of the same shape, integer dtype, no negative ones; those from `num_classes` on are left
            out.
        num_classes: number of classes, the background included.
        voxel_ml: volume of a voxel in ml.
    """
    if labels.flags.f_contiguous:  # axes count alike, and so their order may be that in memory
        scan, labels = scan.T, labels.T
    known, sums = np.zeros(num_classes), np.zeros(num_classes)
    voxels = np.zeros(num_classes, np.int64)
    thick = max(_CHUNK // max(scan[0].size, 1), 1)
    for start in range(0, len(scan), thick):
        found, values = (volume[start : start + thick].ravel() for volume in (labels, scan))
        voxels += np.bincount(found, minlength=num_classes)[:num_classes]
        finite = np.isfinite(values)
        if not finite.all():
            found, values = found[finite], values[finite]
        known += np.bincount(found, minlength=num_classes)[:num_classes]
        sums += np.bincount(found, values, minlength=num_classes)[:num_classes]
    faces = [labels.take(place, axis) for axis in range(labels.ndim) for place in (0, -1)]
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
