"""What can be measured of a prediction without a reference: volumes, parts, intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segbundle.errors import DataError
from segbundle.files import write_csv
from segbundle.metrics.components import count_components
from segbundle.metrics.extents import class_extents
from segbundle.reports.expectations import Structure
from segbundle.reports.slices import CaseVolumes

_CHUNK = 2**22  # voxels measured at a time


@dataclass(frozen=True)
class Measurement(Structure):
    """One class that was predicted in one scan.

    Attributes:
        components: connected parts.
        mean_intensity: of the scan's first channel in the class, in the scan's own units, without voxels that are not
            finite; None if there is none.
    """

    components: int
    mean_intensity: float | None


def measure(case: str, volumes: CaseVolumes, class_names: Sequence[str]) -> list[Measurement]:
    """Measure every class of a scan.

    Args:
        case: its name.
        volumes: scan and prediction.
        class_names: without the background.

    Raises:
        DataError: the prediction holds other labels than those of the classes.
    """
    num_classes = len(class_names) + 1
    lowest, highest = int(volumes.prediction.min()), int(volumes.prediction.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"{case}: its label map holds {lowest if lowest < 0 else highest}, the classes are 0 to {num_classes - 1}."
        )
    labels = torch.from_numpy(np.ascontiguousarray(volumes.prediction))
    counts, at_edge = (one.tolist() for one in class_extents(labels, num_classes))
    known, sums = _intensities(volumes, num_classes)
    components = count_components(labels, num_classes)
    voxel_ml = float(np.prod(volumes.spacing)) / 1000
    return [
        Measurement(
            case,
            name,
            counts[index] * voxel_ml,
            at_edge[index],
            components[index],
            float(sums[index] / known[index]) if known[index] else None,
        )
        for index, name in enumerate(class_names, 1)
    ]


def _intensities(volumes: CaseVolumes, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Per class the number of voxels whose intensity is known, and the sum of these."""
    known, sums = np.zeros(num_classes), np.zeros(num_classes)
    thick = max(_CHUNK // max(volumes.scan[0].size, 1), 1)
    for start in range(0, len(volumes.scan), thick):
        labels, values = (volume[start : start + thick].ravel() for volume in (volumes.prediction, volumes.scan))
        finite = np.isfinite(values)
        if not finite.all():
            labels, values = labels[finite], values[finite]
        known += np.bincount(labels, minlength=num_classes)
        sums += np.bincount(labels, values, minlength=num_classes)
    return known, sums


def write_measurements(
    path: Path, measurements: Sequence[Measurement], warnings: Mapping[tuple[str, str], Sequence[str]]
) -> None:
    """Write one row per scan and class as CSV.

    Raises:
        OutputError: the file cannot be written.
    """
    columns = ("scan", "class", "volume_ml", "components", "mean_intensity", "touches_edge", "warnings")
    rows = []
    for one in measurements:
        mean = "" if one.mean_intensity is None else f"{one.mean_intensity:.4f}"
        words = "; ".join(warnings.get((one.case, one.name), ()))
        numbers = (f"{one.volume_ml:.8g}", one.components, mean, str(one.touches_edge).lower())
        rows.append((one.case, one.name, *numbers, words))
    write_csv(path, columns, rows)
