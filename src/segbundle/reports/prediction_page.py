"""Predictions without references as one page: volumes, what looks wrong, and every scan in three planes."""

from __future__ import annotations

import itertools
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from segbundle.errors import SegbundleError, describe
from segbundle.files import written_whole
from segbundle.reports.charts import Figure, Point, strip_plot
from segbundle.reports.colours import style_of
from segbundle.reports.expectations import Expected, Warnings, expectations, warnings_of
from segbundle.reports.measurements import measure, write_measurements
from segbundle.reports.rendering import as_yaml, number, render
from segbundle.reports.runs import CaseFiles, prediction_files, read_predictions, short_name, window_of
from segbundle.reports.slices import CaseVolumes, overview_slices, where_to_look
from segbundle.reports.structures import Structure, read_training_cases

_logger = logging.getLogger(__name__)
_MOST_BYTES = 7e6
"""Of pictures: a page of a hundred scans stays below ten megabytes."""
_AT_ONCE = 2  # a scan of clinical size takes about a gigabyte
_COLUMNS = ("case", "class", "warning", "volume, ml", "parts", "mean intensity")
_MOST_UNUSUAL = 0.5
Warned = Mapping[tuple[str, str], Warnings]
"""By case and class; what is not there has no warning."""


@dataclass
class _Looked:
    """What was seen in the scans.

    Attributes:
        structures: of all scans.
        slices: pictures of each scan.
        notes: what is the matter with a scan itself.
        failed: scans that cannot be shown or measured, and why.
    """

    structures: list[Structure] = field(default_factory=list)
    slices: dict[str, list[Markup]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def write_prediction_report(
    folder: str | Path, output: str | Path | None = None, dataset_dir: str | Path | None = None
) -> Path:
    """Write the page of a folder of predictions, and `measurements.csv`.

    Args:
        folder: what `segbundle predict` wrote.
        output: the page to write, with `measurements.csv` beside it; `report.html` in the folder if None.
        dataset_dir: where the scans are now, if they were moved.

    Returns:
        where it is.

    Raises:
        OutputError: the folder holds no predictions, or it cannot be written.
    """
    folder = Path(folder)
    records, made_by, class_names = read_predictions(folder)
    done = [record for record in records if record["status"] == "ok"]
    training, window = read_training_cases(folder), window_of(made_by)
    known = expectations(training, [], class_names, intensities=window is not None)
    files = {record["case"]: prediction_files(folder, record).moved_to(dataset_dir) for record in done}
    seen = _look(files, class_names, known, window)
    expected = expectations(training, seen.structures, class_names, intensities=window is not None)
    every = {(one.case, one.name): warnings_of(one, expected) for one in seen.structures}
    warned = {key: warnings for key, warnings in every.items() if warnings.words}
    failed = {record["case"]: record["error"] for record in records if record["status"] == "failed"} | seen.failed
    path = folder / "report.html" if output is None else Path(output)
    words = {key: [*warnings.words, *seen.notes.get(key[0], [])] for key, warnings in every.items()}
    write_measurements(path.parent / "measurements.csv", seen.structures, words, failed, class_names)
    by_scan = _by_scan(seen, warned)
    order = sorted(seen.slices, key=lambda scan: (-len(by_scan.get(scan, [])), scan))
    anchors = {scan: f"scan-{place}" for place, scan in enumerate(_within_budget(order, seen.slices))}
    text = render(
        "prediction.html",
        title=f"Predictions: {short_name(folder)}",
        num_scans=len(done),
        failed=failed,
        warnings=by_scan,
        unlike_training=_are_unlike_training(seen.structures, expected, warned),
        classes=[{"name": name, "style": style_of(index)} for index, name in enumerate(class_names, 1)],
        summaries=list(_summaries(seen.structures, expected, class_names)),
        strip=_strip(seen.structures, expected, class_names),
        columns=[{"label": label, "sort": None} for label in _COLUMNS],
        rows=[
            _row(one, words[one.case, one.name], anchors.get(one.case))
            for one in sorted(seen.structures, key=lambda one: (-len(words[one.case, one.name]), one.case))
        ],
        pictures=[
            {
                "scan": scan,
                "anchor": anchor,
                "slices": seen.slices[scan],
                "warnings": by_scan.get(scan, []),
                "found": any(one.case == scan and one.volume_ml > 0 for one in seen.structures),
            }
            for scan, anchor in anchors.items()
        ],
        anchors=anchors,
        num_left_out=len(order) - len(anchors),
        unchecked=[name for name in class_names if name not in expected],
        made_by={key: value for key, value in made_by.items() if key not in ("config", "cases")},
        config=as_yaml(made_by["config"]),
    )
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _look(
    files: Mapping[str, CaseFiles],
    class_names: Sequence[str],
    known: Mapping[str, Expected],
    window: Sequence[float] | None,
) -> _Looked:
    """Measure and draw every scan, where the training's cases let expect something else there."""
    seen = _Looked()

    def look(case: str) -> tuple[list[Structure], list[Markup], list[str]]:
        volumes = CaseVolumes.read(files[case], window)
        found = measure(case, volumes, class_names)
        warnings = {index: warnings_of(one, known) for index, one in enumerate(found, 1)}
        focus = where_to_look(
            volumes.prediction,
            [index for index, one in warnings.items() if one.unusual],
            [index for index, one in warnings.items() if one.at_edge],
        )
        constant = volumes.scan.min() == volumes.scan.max()
        notes = ["the scan has the same value everywhere"] if constant else []
        return found, list(overview_slices(volumes, len(class_names) + 1, focus)), notes

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        coming = [(case, pool.submit(look, case)) for case in files]
        for scan, result in tqdm(coming, desc="report", unit="scan", leave=False, disable=None):
            try:
                found, seen.slices[scan], notes = result.result()
                seen.structures += found
                if notes:
                    seen.notes[scan] = notes
            except (SegbundleError, OSError, ValueError, MemoryError) as error:
                seen.failed[scan] = f"no measurement: {describe(error)}"
                _logger.warning("report: %s", describe(error))
    return seen


def _within_budget(order: Sequence[str], pictures: Mapping[str, Sequence[Markup]]) -> list[str]:
    """The first scans, as many as there is room for on the page."""
    sizes = itertools.accumulate(sum(map(len, pictures[scan])) for scan in order)
    return [scan for scan, size in zip(order, sizes, strict=True) if size <= _MOST_BYTES]


def _by_scan(seen: _Looked, warned: Warned) -> dict[str, list[str]]:
    found = {scan: list(notes) for scan, notes in seen.notes.items()}
    for (scan, name), warnings in warned.items():
        found.setdefault(scan, []).extend(f"{name} {each}" for each in warnings.words)
    return found


def _are_unlike_training(found: Sequence[Structure], expected: Mapping[str, Expected], warned: Warned) -> bool:
    """Whether most of what was found, or not found, is something that the training's cases do not have."""
    checked = [one for one in found if one.name in expected and expected[one.name].from_training]
    unusual = [one for one in checked if (one.case, one.name) in warned and warned[one.case, one.name].unusual]
    return bool(checked) and len(unusual) >= _MOST_UNUSUAL * len(checked)


def _summaries(
    found: Sequence[Structure], expected: Mapping[str, Expected], class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(class_names, 1):
        volumes = sorted(one.volume_ml for one in found if one.name == name and one.volume_ml > 0)
        usual = expected.get(name)
        spread = usual.volume_ml if usual else None
        yield {
            "name": name,
            "style": style_of(index),
            "found": len(volumes),
            "median": statistics.median(volumes) if volumes else None,
            "range": [volumes[0], volumes[-1]] if volumes else [None],
            "usual": [spread.values[0], spread.values[-1]] if spread else [None],
            "low": spread.low if spread else None,
            "high": spread.high if spread else None,
            "present": f"{usual.present:.0%}" if usual else "–",
            "source": usual.source if usual else "too few cases",
        }


def _strip(found: Sequence[Structure], expected: Mapping[str, Expected], class_names: Sequence[str]) -> Figure | None:
    """Volumes of the scans, and under each class those of the training's cases."""
    groups: dict[str, Sequence[Point]] = {}
    for name in class_names:
        own = [Point(one.case, one.volume_ml) for one in found if one.name == name and one.volume_ml > 0]
        usual = expected.get(name)
        spread = usual.volume_ml if usual is not None and usual.from_training else None
        if own or spread:
            groups[name] = own
        if spread is not None:
            groups[f"{name}, training"] = [Point("a training case", value) for value in spread.values]
    if not groups:
        return None
    return strip_plot(
        "Volumes of every scan, per class", "volume, ml (logarithmic)", groups, one="scan, or a training case",
        logarithmic=True,
    )  # fmt: skip


def _row(one: Structure, words: Sequence[str], anchor: str | None) -> dict[str, Any]:
    values = ((one.volume_ml, 3), (float(one.components or 0), 0), (one.mean_intensity, 2))
    return {
        "case": one.case,
        "anchor": anchor,
        "name": one.name,
        "status": "warned" if words else "fine",
        "label": "; ".join(words),
        "numbers": [number(value, digits) for value, digits in values],
    }
