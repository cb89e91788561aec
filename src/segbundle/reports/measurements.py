"""What can be measured of a prediction without a reference: volumes, parts, intensities."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segbundle.errors import DataError
from segbundle.files import write_csv
from segbundle.metrics.measures import measure_classes
from segbundle.reports.slices import CaseVolumes
from segbundle.reports.structures import Structure, measured

_OF_SCAN = "the scan "
"""What warnings begin with that are of no single class."""
_MEASURED = ("volume_ml", "touches_edge", "components", "mean_intensity")
_COLUMNS = ("case", "class", "status", *_MEASURED, "num_warnings", "warnings", "error")


def measure(case: str, volumes: CaseVolumes, class_names: Sequence[str]) -> list[Structure]:
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
    voxel_ml = float(abs(np.linalg.det(volumes.affine[:3, :3]))) / 1000
    found = measure_classes(volumes.scan, volumes.prediction, num_classes, voxel_ml)
    return [Structure(case, name, **asdict(one)) for name, one in zip(class_names, found[1:], strict=True)]


def write_measurements(
    path: Path,
    structures: Sequence[Structure],
    warnings: Mapping[tuple[str, str], Sequence[str]],
    failed: Mapping[str, str],
    class_names: Sequence[str],
) -> None:
    """Write one row per scan and class as CSV, sorted by scan.

    Args:
        path: the file.
        structures: what was measured.
        warnings: in words, by scan and class.
        failed: scans that were not measured, and why.
        class_names: without the background.

    Raises:
        OutputError: the file cannot be written.
    """
    rows: list[tuple[str, ...]] = []
    for one in structures:
        words = warnings.get((one.case, one.name), ())
        rows.append((one.case, one.name, "measured", *measured(one), str(len(words)), "; ".join(words), ""))
    nothing = [""] * (len(_MEASURED) + 2)
    rows += [(case, name, "failed", *nothing, why) for case, why in failed.items() for name in class_names]
    rows.sort(key=lambda row: row[0])
    write_csv(path, _COLUMNS, rows)


def read_warnings(path: Path) -> dict[str, list[str]]:
    """The warnings of every scan, most of them first, as `write_measurements` wrote them; nothing without a file."""
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line in csv.DictReader(file):
            told = found.setdefault(line["case"], [])
            for words in (line.get("warnings") or "").split("; "):
                words = words if words.startswith(_OF_SCAN) or not words else f"{line['class']} {words}"
                told.extend([words] if words and words not in told else [])
    return {case: found[case] for case in sorted(found, key=lambda case: (-len(found[case]), case))}
