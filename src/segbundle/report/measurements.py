"""What can be measured of a prediction without a reference: volumes, parts, intensities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segbundle.errors import DataError, OutputError
from segbundle.files.atomic import read_csv, write_csv
from segbundle.metrics.measures import measure_classes
from segbundle.report.slices import CaseVolumes
from segbundle.results.structures import Structure, measured

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
    notes: Mapping[str, Sequence[str]],
    failed: Mapping[str, str],
    class_names: Sequence[str],
) -> None:
    """Write one row per scan and class as CSV, sorted by scan, and one without a class for notes of the scan itself.

    Args:
        path: the file.
        structures: what was measured.
        warnings: in words, by scan and class.
        notes: what is the matter with a scan itself, by scan.
        failed: scans that were not measured, and why.
        class_names: without the background.

    Raises:
        OutputError: the file cannot be written.
    """
    unknown = [""] * len(_MEASURED)
    rows: list[tuple[str, ...]] = []
    for one in structures:
        rows.append(
            (one.case, one.name, "measured", *measured(one), *_told(warnings.get((one.case, one.name), ())), "")
        )
    rows += [(case, "", "measured", *unknown, *_told(words), "") for case, words in notes.items()]
    rows += [(case, name, "failed", *unknown, *_told(()), why) for case, why in failed.items() for name in class_names]
    rows.sort(key=lambda row: row[0])
    write_csv(path, _COLUMNS, rows)


def _told(words: Sequence[str]) -> tuple[str, str]:
    return str(len(words)), "; ".join(words)


def read_warnings(path: Path) -> dict[str, str]:
    """Return the warnings of every scan that has some, most of them first; none if there is no file.

    Raises:
        OutputError: the file is damaged.
    """
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for line in read_csv(path, ("case", "class", "num_warnings", "warnings")):
        if line["warnings"]:
            found.setdefault(line["case"], []).append(f"{line['class']} {line['warnings']}".strip())
            if not line["num_warnings"].isdecimal():
                raise OutputError(f"{path}: num_warnings of case {line['case']} is {line['num_warnings']!r}.")
            counts[line["case"]] += int(line["num_warnings"])
    return {case: "; ".join(found[case]) for case in sorted(found, key=lambda case: (-counts[case], case))}
