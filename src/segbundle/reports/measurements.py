"""What can be said of a prediction without a reference: volumes, parts, intensities, and what looks wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segbundle.files import write_csv
from segbundle.metrics.components import count_components
from segbundle.reports.scores import Row
from segbundle.reports.slices import CaseVolumes

_USUAL = 0.9
_ENOUGH = 10
_FAR_OUT = 3.0
_LEAST = float(np.log(2))
_CHUNK = 2**22  # voxels measured at a time


@dataclass(frozen=True)
class Measurement:
    """One class in one scan.

    Attributes:
        scan: its name.
        name: of the class.
        volume_ml: 0 if the class was not found.
        components: connected parts.
        mean_intensity: of the scan's first channel in the class, in the scan's own units; None if it was not found.
        touches_edge: whether it reaches the first or last voxels of the scan along an axis.
    """

    scan: str
    name: str
    volume_ml: float
    components: int
    mean_intensity: float | None
    touches_edge: bool


def measure(scan: str, volumes: CaseVolumes, class_names: Sequence[str]) -> list[Measurement]:
    """Measure every class of a scan.

    Args:
        scan: its name.
        volumes: scan and prediction.
        class_names: without the background.
    """
    labels, num_classes = volumes.prediction, len(class_names) + 1
    counts, sums = np.zeros(num_classes), np.zeros(num_classes)
    thick = max(_CHUNK // max(labels[0].size, 1), 1)
    for start in range(0, len(labels), thick):
        part, values = (volume[start : start + thick].ravel() for volume in (labels, volumes.scan))
        counts += np.bincount(part, minlength=num_classes)
        sums += np.bincount(part, values, minlength=num_classes)
    components = count_components(torch.from_numpy(np.ascontiguousarray(labels)), num_classes)
    faces = [labels.take(place, axis) for axis in range(3) for place in (0, -1)]
    at_edge = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    voxel_ml = float(np.prod(volumes.spacing)) / 1000
    return [
        Measurement(
            scan,
            name,
            float(counts[index]) * voxel_ml,
            components[index],
            float(sums[index] / counts[index]) if counts[index] else None,
            index in at_edge,
        )
        for index, name in enumerate(class_names, 1)
    ]


@dataclass(frozen=True)
class Expected:
    """What other cases let expect of a class.

    Attributes:
        source: where it is from.
        num_cases: in how many cases somebody or something looked for it.
        present: in which part of them it is.
        low, high: volumes in ml beyond which one is far out; None with fewer than ten.
    """

    source: str
    num_cases: int
    present: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, volumes: Sequence[float], source: str) -> Expected | None:
        """From volumes in ml, 0 where the class is absent; None if there is no case.

        Far out is more than three interquartile ranges beyond the quartiles (Tukey, Exploratory Data Analysis, 1977),
        of the volumes' logarithms, as volumes are skewed; and at least half or twice as large.
        """
        if not volumes:
            return None
        there = np.log([volume for volume in volumes if volume > 0])
        low = high = None
        if len(there) >= _ENOUGH:
            first, third = np.percentile(there, [25, 75])
            reach = max(_FAR_OUT * (third - first), _LEAST)
            low, high = float(np.exp(first - reach)), float(np.exp(third + reach))
        return cls(source, len(volumes), len(there) / len(volumes), low, high)


def expectations(rows: Sequence[Row], found: Sequence[Measurement], class_names: Sequence[str]) -> dict[str, Expected]:
    """What to expect of each class: from ten references or more, or else from the predictions themselves.

    Args:
        rows: scores of cases with references, such as those of the training; may be empty.
        found: the predictions.
        class_names: without the background.
    """
    expected = {}
    for name in class_names:
        references = [row.volume_ref_ml for row in rows if row.name == name and row.volume_ref_ml is not None]
        own = [one.volume_ml for one in found if one.name == name]
        of_class = (
            Expected.of(references, f"the {len(references)} annotated cases beside the model")
            if len(references) >= _ENOUGH
            else Expected.of(own, "these scans themselves")
        )
        if of_class is not None and of_class.num_cases >= _ENOUGH:
            expected[name] = of_class
    return expected


def warnings_of(measurement: Measurement, expected: Mapping[str, Expected]) -> list[str]:
    """In words, what somebody should look at."""
    found, usual = [], expected.get(measurement.name)
    if measurement.touches_edge:
        found.append("touches the scan's edge, and may be cut off")
    if usual is None:
        return found
    if measurement.volume_ml == 0:
        if usual.present >= _USUAL:
            found.append(f"is missing, and is in {usual.present:.0%} of {usual.source}")
    elif usual.low is not None and usual.high is not None and not usual.low <= measurement.volume_ml <= usual.high:
        found.append(
            f"has {measurement.volume_ml:.3g} ml, far outside {usual.source} ({usual.low:.3g} to {usual.high:.3g} ml)"
        )
    return found


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
        words = "; ".join(warnings.get((one.scan, one.name), ()))
        numbers = (f"{one.volume_ml:.8g}", one.components, mean, str(one.touches_edge).lower())
        rows.append((one.scan, one.name, *numbers, words))
    write_csv(path, columns, rows)
