"""Predictions without references as one page: volumes, what looks wrong, and every scan in three planes."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from segbundle.errors import SegbundleError, describe
from segbundle.files import written_whole
from segbundle.reports.charts import Figure, Point, strip_plot
from segbundle.reports.expectations import Expected, expectations, read_training_cases, warnings_of
from segbundle.reports.measurements import Measurement, measure, write_measurements
from segbundle.reports.rendering import number, render
from segbundle.reports.runs import prediction_files, read_predictions, short_name
from segbundle.reports.slices import CaseVolumes, overview_slices, style_of

_logger = logging.getLogger(__name__)
_MOST_BYTES = 7e6
"""Of pictures: a page of a hundred scans stays below ten megabytes."""
_AT_ONCE = 2  # a scan of clinical size takes about a gigabyte
_COLUMNS = ("scan", "class", "warning", "volume, ml", "parts", "mean intensity")


def write_prediction_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a folder of predictions, and `measurements.csv`.

    Args:
        folder: what `segbundle predict` wrote.
        output: the page to write, with `measurements.csv` beside it; `report.html` in the folder if None.

    Returns:
        where it is.

    Raises:
        OutputError: the folder holds no predictions, or it cannot be written.
    """
    folder = Path(folder)
    records, made_by, class_names = read_predictions(folder)
    done = [record for record in records if record["status"] == "ok"]
    found, pictures, problems = _measured(folder, done, class_names)
    expected = expectations(read_training_cases(folder), found, class_names)
    warnings = {(one.case, one.name): words for one in found if (words := warnings_of(one, expected))}
    path = folder / "report.html" if output is None else Path(output)
    write_measurements(path.parent / "measurements.csv", found, warnings)
    failed = {record["case"]: record["error"] for record in records if record["status"] == "failed"} | problems
    order = sorted(pictures, key=lambda scan: (-sum(key[0] == scan for key in warnings), scan))
    shown = _within_budget(order, pictures)
    text = render(
        "prediction.html",
        title=f"Predictions: {short_name(folder)}",
        num_scans=len(done),
        failed=failed,
        warnings=_by_scan(warnings),
        classes=[{"name": name, "style": style_of(index)} for index, name in enumerate(class_names, 1)],
        summaries=list(_summaries(found, expected, class_names)),
        strip=_strip(found, class_names),
        columns=[{"label": label, "sort": None} for label in _COLUMNS],
        rows=[
            _row(one, warnings.get((one.case, one.name), []))
            for one in sorted(found, key=lambda one: _rank(one, warnings))
        ],
        pictures=[{"scan": scan, "slices": pictures[scan]} for scan in shown],
        num_left_out=len(order) - len(shown),
        unchecked=[name for name in class_names if name not in expected],
        made_by={key: value for key, value in made_by.items() if key not in ("config", "cases")},
        config=json.dumps(made_by["config"], indent=2, ensure_ascii=False),
    )
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _measured(
    folder: Path, records: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> tuple[list[Measurement], dict[str, list[Markup]], dict[str, str]]:
    """Measurements and slices of every scan, and what is wrong with those that have none."""
    found: list[Measurement] = []
    pictures: dict[str, list[Markup]] = {}
    problems: dict[str, str] = {}

    def look(record: dict[str, Any]) -> tuple[list[Measurement], list[Markup]]:
        volumes = CaseVolumes.read(prediction_files(folder, record))
        return measure(record["case"], volumes, class_names), list(overview_slices(volumes, len(class_names) + 1))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        coming = [(record["case"], pool.submit(look, record)) for record in records]
        for scan, result in tqdm(coming, desc="report", unit="scan", leave=False, disable=None):
            try:
                measurements, pictures[scan] = result.result()
                found += measurements
            except (SegbundleError, OSError, ValueError, MemoryError) as error:
                problems[scan] = f"no measurement: {describe(error)}"
                _logger.warning("report: %s", describe(error))
    return found, pictures, problems


def _within_budget(order: Sequence[str], pictures: Mapping[str, Sequence[Markup]]) -> list[str]:
    """The first scans, as many as there is room for on the page."""
    sizes = itertools.accumulate(sum(map(len, pictures[scan])) for scan in order)
    return [scan for scan, size in zip(order, sizes, strict=True) if size <= _MOST_BYTES]


def _by_scan(warnings: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for (scan, name), words in warnings.items():
        found.setdefault(scan, []).extend(f"{name} {each}" for each in words)
    return found


def _summaries(
    found: Sequence[Measurement], expected: Mapping[str, Expected], class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(class_names, 1):
        volumes = sorted(one.volume_ml for one in found if one.name == name and one.volume_ml > 0)
        usual = expected.get(name)
        yield {
            "name": name,
            "style": style_of(index),
            "found": len(volumes),
            "median": statistics.median(volumes) if volumes else None,
            "range": [volumes[0], volumes[-1]] if volumes else [None],
            "expected": [usual.low, usual.high] if usual else [None],
            "source": usual.source if usual else "too few cases",
        }


def _strip(found: Sequence[Measurement], class_names: Sequence[str]) -> Figure | None:
    groups = {
        name: [Point(one.case, one.volume_ml) for one in found if one.name == name and one.volume_ml > 0]
        for name in class_names
    }
    if not any(groups.values()):
        return None
    return strip_plot("Volumes of every scan, per class", "volume, ml", groups, one="scan")


def _rank(one: Measurement, warnings: Mapping[tuple[str, str], Sequence[str]]) -> tuple[int, str]:
    return -len(warnings.get((one.case, one.name), ())), one.case


def _row(one: Measurement, words: Sequence[str]) -> dict[str, Any]:
    values = ((one.volume_ml, 3), (float(one.components), 0), (one.mean_intensity, 2))
    return {
        "case": one.case,
        "name": one.name,
        "status": "warned" if words else "fine",
        "label": "; ".join(words),
        "numbers": [number(value, digits) for value, digits in values],
    }
