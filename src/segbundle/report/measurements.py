"""Measurements of predictions without references: volumes, connected components, intensities."""

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
from segbundle.results.source_series import series_columns
from segbundle.results.structures import Structure, measured

_MEASURED = ("volume_ml", "touches_edge", "components", "mean_intensity")
_COLUMNS = ("case", "class", "status", *_MEASURED, "num_warnings", "warnings", "error")


def measure(case: str, volumes: CaseVolumes, class_names: Sequence[str]) -> list[Structure]:
    """Measure every foreground class in a prediction: volume, connected components, edge contact, mean intensity.

    Args:
        case: name of the scan.
        volumes: scan and prediction.
        class_names: names of the foreground classes, in the order of their class indices.

    Returns:
        one `Structure` per foreground class, in the order of `class_names`, also for classes that are absent

    Raises:
        DataError: the prediction contains a label value that is not a class.

    Example:
        >>> label = np.zeros((4, 4, 4), np.uint8)
        >>> label[1:3, 1:3, 1:3] = 1
        >>> volumes = CaseVolumes(np.full((4, 4, 4), 50.0), label, label, label >= 0, np.diag([10, 10, 10, 1]))
        >>> found = measure("case_1", volumes, ["liver"])[0]
        >>> round(found.volume_ml, 6), found.components, found.mean_intensity
        (8.0, 1, 50.0)
    """
    num_classes = len(class_names) + 1
    lowest, highest = int(volumes.prediction.min()), int(volumes.prediction.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"{case}: the label map contains {lowest if lowest < 0 else highest}, but the classes have the values 0 to "
            f"{num_classes - 1}. Predict the scan again."
        )
    voxel_ml = float(abs(np.linalg.det(volumes.affine[:3, :3]))) / 1000
    found = measure_classes(volumes.scan, volumes.prediction, num_classes, voxel_ml, volumes.regions)
    return [Structure(case, name, **asdict(each)) for name, each in zip(class_names, found[1:], strict=True)]


def write_measurements(
    path: Path,
    structures: Sequence[Structure],
    warnings: Mapping[tuple[str, str], Sequence[str]],
    notes: Mapping[str, Sequence[str]],
    failed: Mapping[str, str],
    class_names: Sequence[str],
    series: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write `measurements.csv`, with one row per scan and class, sorted by scan.

    Problems of a scan itself are written to a row without a class. A scan that failed has one row per class with its
    error message.

    Args:
        path: file to write.
        structures: measurements.
        warnings: warnings by (scan, class).
        notes: problems of a scan itself, such as equal values in all voxels, by scan.
        failed: error messages by scan, for scans without measurements.
        class_names: names of the foreground classes.
        series: fields of the DICOM series by scan, which become further columns. Default: none.

    Raises:
        OutputError: the file cannot be written, or would replace a file that segbundle did not write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, warnings = Path(folder) / "measurements.csv", {("a", "liver"): ["is small"]}
        ...     write_measurements(path, [Structure("a", "liver", 1.5)], warnings, {}, {}, ["liver"])
        ...     read_warnings(path)
        {'a': 'liver is small'}
    """
    unknown = [""] * len(_MEASURED)
    rows: list[tuple[str, ...]] = []
    for one in structures:
        cells = _warning_cells(warnings.get((one.case, one.name), ()))
        rows.append((one.case, one.name, "measured", *measured(one), *cells, ""))
    rows += [(case, "", "measured", *unknown, *_warning_cells(texts), "") for case, texts in notes.items()]
    rows += [
        (case, name, "failed", *unknown, *_warning_cells(()), error)
        for case, error in failed.items()
        for name in class_names
    ]
    rows.sort(key=lambda row: row[0])
    columns = series_columns(series or {})
    of_case = {
        case: tuple(fields.get(name, "") for name in columns.values()) for case, fields in (series or {}).items()
    }
    no_series = [""] * len(columns)
    write_csv(path, (*_COLUMNS, *columns), [(*row, *of_case.get(row[0], no_series)) for row in rows])


def _warning_cells(texts: Sequence[str]) -> tuple[str, str]:
    return str(len(texts)), "; ".join(texts)


def read_warnings(path: Path) -> dict[str, str]:
    """Return the warnings in `measurements.csv` by scan, the scan with the most warnings first.

    Args:
        path: path of the file, which may be missing.

    Returns:
        for each scan with warnings, the name and the warnings as one text, separated by semicolons; empty if the file
        is missing

    Raises:
        OutputError: the file cannot be read as a table, lacks columns, or has an invalid number of warnings.

    Example:
        >>> read_warnings(Path("missing.csv"))
        {}
    """
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for line in read_csv(path, ("case", "class", "num_warnings", "warnings")):
        if line["warnings"]:
            found.setdefault(line["case"], []).append(f"{line['class']} {line['warnings']}".strip())
            if not line["num_warnings"].isdecimal():
                raise OutputError(
                    f"{path}: num_warnings of case {line['case']} is {line['num_warnings']!r}, not a whole number. "
                    "Remove the file, and write it again with `segbundle report`."
                )
            counts[line["case"]] += int(line["num_warnings"])
    return {case: "; ".join(found[case]) for case in sorted(found, key=lambda case: (-counts[case], case))}
