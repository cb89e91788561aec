"""Predictions without references as one page: volumes, what looks wrong, and every scan in three planes."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.files import run_files
from segbundle.files.atomic import write_text
from segbundle.files.output_folders import refuse_to_replace
from segbundle.report.charts import Figure, Point, strip_plot
from segbundle.report.colors import style_of
from segbundle.report.measurements import measure, write_measurements
from segbundle.report.rendering import as_yaml, number, render, room_for_pictures
from segbundle.report.slices import CaseVolumes, overview_slices, where_to_look
from segbundle.results.case_files import refuse_if_moved
from segbundle.results.expectations import Expectations, Warnings, of_all_scans, unchecked, warnings_of
from segbundle.results.runs import Predictions, about, read_predictions, short_name, window_of
from segbundle.results.structures import Structure, read_training_cases
from segbundle.terminal import counted

_logger = logging.getLogger(__name__)
_AT_ONCE = 2  # a scan of clinical size takes about a gigabyte
_COLUMNS = ("case", "class", "warning", "volume, ml", "parts", "mean intensity")
_MOST_UNUSUAL = 0.5
T = TypeVar("T")


@dataclass
class _Found:
    """What was measured in the scans, and what of it is worth a look.

    Attributes:
        structures: of all scans.
        notes: what is the matter with a scan itself.
        failed: scans that were not measured, and why.
        warnings: of each scan and class.
        undrawn: scans that cannot be drawn, and why.
    """

    structures: list[Structure] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[tuple[str, str], Warnings] = field(default_factory=dict)
    undrawn: dict[str, str] = field(default_factory=dict)

    def words(self, one: Structure) -> list[str]:
        """Everything that is worth a look at a structure."""
        return [*self.warnings[one.case, one.name].words, *self.notes.get(one.case, [])]

    def by_scan(self) -> dict[str, list[str]]:
        """Everything that is worth a look in a scan, of those in which something is."""
        found = {scan: list(notes) for scan, notes in self.notes.items()}
        for (scan, name), warnings in self.warnings.items():
            if warnings.words:
                found.setdefault(scan, []).extend(f"{name} {each}" for each in warnings.words)
        return {scan: found[scan] for scan in sorted(found, key=lambda scan: (-len(found[scan]), scan))}


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
        OutputError: the folder holds no predictions, or cannot be written, or another program wrote the files.
    """
    path = Path(folder) / run_files.REPORT if output is None else Path(output)
    measurements = path.with_name(run_files.MEASUREMENTS)
    given = read_predictions(folder, dataset_dir)
    refuse_to_replace(path, measurements)
    refuse_if_moved(given.files, dataset_dir, every=True)
    found = _measured(given)
    comparable = window_of(given.made_by) is not None
    expected = Expectations(read_training_cases(given.folder), found.structures, given.class_names, comparable)
    found.warnings = {(one.case, one.name): warnings_of(one, expected.of(one)) for one in found.structures}
    words = {key: warnings.words for key, warnings in found.warnings.items()}
    write_measurements(measurements, found.structures, words, found.notes, found.failed, given.class_names)
    text = _page(given, found, expected, _drawn(given, found))
    write_text(path, text)
    return path


def _page(given: Predictions, found: _Found, expected: Expectations, pictures: Mapping[str, Sequence[Markup]]) -> str:
    names, by_scan = given.class_names, found.by_scan()
    anchors = {scan: f"scan-{place}" for place, scan in enumerate(pictures)}
    filled = {one.case for one in found.structures if one.volume_ml > 0}
    return render(
        "prediction.html",
        title=f"Predictions: {short_name(given.folder)}",
        num_scans=len(given.files),
        failed=found.failed,
        undrawn=found.undrawn,
        about=about(given.made_by),
        of_all=list(of_all_scans(found.structures, expected.of_training)),
        warnings=by_scan,
        unlike_training=_is_unlike_training(found, expected),
        classes=[{"name": name, "style": style_of(index)} for index, name in enumerate(names, 1)],
        summaries=list(_summaries(found.structures, expected, names)),
        strip=_strip(found.structures, expected, names),
        columns=[{"label": label, "sort": None} for label in _COLUMNS],
        rows=[
            _row(one, found.words(one), anchors.get(one.case))
            for one in sorted(found.structures, key=lambda one: (-len(found.words(one)), one.case))
        ],
        pictures=[
            {
                "scan": scan,
                "anchor": anchors[scan],
                "slices": slices,
                "warnings": by_scan.get(scan, []),
                "found": scan in filled,
            }
            for scan, slices in pictures.items()
        ],
        anchors=anchors,
        num_left_out=len({one.case for one in found.structures} - pictures.keys() - found.undrawn.keys()),
        unchecked=list(
            unchecked({name: expected.of_class(name) for name in names}, window_of(given.made_by) is not None)
        ),
        made_by={key: value for key, value in given.made_by.items() if key not in ("config", "cases")},
        config=as_yaml(given.made_by["config"]),
    )


def _measured(given: Predictions) -> _Found:
    found = _Found(failed=dict(given.failed))

    def look(case: str) -> tuple[list[Structure], list[str]]:
        volumes = CaseVolumes.read(given.files[case])
        return measure(case, volumes, given.class_names), list(_notes(volumes.scan))

    for case, result in _each(look, list(given.files), "measuring"):
        if isinstance(result, Exception):
            found.failed[case] = f"no measurement: {describe(result)}"
            _logger.warning("report: %s", describe(result))
            continue
        structures, notes = result
        found.structures += structures
        if notes:
            found.notes[case] = notes
    return found


def _notes(scan: np.ndarray) -> Iterator[str]:
    """What is the matter with a scan, whatever was found in it."""
    known = scan if np.isfinite(scan.min()) and np.isfinite(scan.max()) else scan[np.isfinite(scan)]
    if known.size == 0:
        yield "the scan has no finite value"
    elif known.min() == known.max():
        yield "the scan has the same value everywhere"


def _drawn(given: Predictions, found: _Found) -> dict[str, list[Markup]]:
    """Slices of the scans, most warnings first, as many as there is room for on the page."""
    by_scan, window = found.by_scan(), window_of(given.made_by)
    scans = {one.case for one in found.structures}
    pictures: dict[str, list[Markup]] = {}
    left = room_for_pictures(len(scans) * len(given.class_names))

    def draw(case: str) -> list[Markup]:
        volumes = CaseVolumes.read(given.files[case], window)
        warned = [(place, found.warnings[case, name]) for place, name in enumerate(given.class_names, 1)]
        unusual = [place for place, one in warned if one.unusual]
        at_edge = [place for place, one in warned if one.at_edge]
        focus = where_to_look(volumes.prediction, unusual, at_edge)
        return list(overview_slices(volumes, len(given.class_names) + 1, focus))

    for case, slices in _each(draw, sorted(scans, key=lambda case: (-len(by_scan.get(case, [])), case)), "drawing"):
        if isinstance(slices, Exception):
            found.undrawn[case] = describe(slices)
            _logger.warning("report: %s", describe(slices))
            continue
        left -= sum(map(len, slices))
        if left < 0:
            break
        pictures[case] = slices
    return pictures


def _each(work: Callable[[str], T], cases: Sequence[str], what: str) -> Iterator[tuple[str, T | Exception]]:
    """Do something with each case, in order, two at a time; give what came of it, or the error."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        coming = [(case, pool.submit(work, case)) for case in cases]
        for case, result in counted(coming, len(coming), what, "scan", leave=False):
            try:
                yield case, result.result()
            except (SegbundleError, OSError, ValueError, MemoryError) as error:
                yield case, error
    finally:
        pool.shutdown(cancel_futures=True)


def _is_unlike_training(found: _Found, expected: Expectations) -> bool:
    """Whether most of what was found, or not found, is something that the training's cases do not have."""
    checked = [one for one in found.structures if one.name in expected.of_training]
    unusual = [one for one in checked if found.warnings[one.case, one.name].unusual]
    return len(unusual) > _MOST_UNUSUAL * len(checked)


def _summaries(
    found: Sequence[Structure], expected: Expectations, class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(class_names, 1):
        volumes = sorted(one.volume_ml for one in found if one.name == name and one.volume_ml > 0)
        usual = expected.of_class(name)
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
            "source": usual.cases if usual else "too few cases",
        }


def _strip(found: Sequence[Structure], expected: Expectations, class_names: Sequence[str]) -> Figure | None:
    """Volumes of the scans, and under each class those of the training's cases."""
    groups: dict[str, Sequence[Point]] = {}
    for name in class_names:
        own = [Point(one.case, one.volume_ml) for one in found if one.name == name and one.volume_ml > 0]
        usual = expected.of_training.get(name)
        spread = None if usual is None else usual.volume_ml
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
