"""HTML page of predictions without references: volumes, warnings, and slices of the scans."""

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
from segbundle.report.colors import color_classes, colors_of_run, style_of
from segbundle.report.measurements import measure, write_measurements
from segbundle.report.rendering import as_yaml, number, render, room_for_pictures
from segbundle.report.slices import CaseVolumes, overview_slices, where_to_look
from segbundle.results.case_files import refuse_if_moved
from segbundle.results.expectations import Expectations, Warnings, of_all_scans, unchecked, warnings_of
from segbundle.results.made_by import about, regions_of, window_of
from segbundle.results.runs import Predictions, read_predictions, short_name
from segbundle.results.source_series import series_columns
from segbundle.results.structures import Structure, read_training_cases
from segbundle.terminal import counted

_logger = logging.getLogger(__name__)
_NUM_THREADS = 2  # a scan of clinical size uses about 1 GB of memory
_COLUMNS = ("case", "class", "warnings", "volume (ml)", "components", "mean intensity")
_MAX_UNUSUAL_FRACTION = 0.5
_MOST_UNWRITTEN = 20
"""Maximum number of output formats that are listed as not written."""
T = TypeVar("T")


@dataclass
class _Measured:
    """Measurements of all scans, and warnings about them.

    Attributes:
        structures: measurements of all scans.
        notes: problems of a scan itself, by scan.
        failed: error messages by scan, for scans without measurements.
        warnings: warnings by (scan, class).
        undrawn: error messages by scan, for scans without slices.
    """

    structures: list[Structure] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[tuple[str, str], Warnings] = field(default_factory=dict)
    undrawn: dict[str, str] = field(default_factory=dict)

    def words(self, one: Structure) -> list[str]:
        """Return all warnings about a structure, including those about its scan."""
        return [*self.warnings[one.case, one.name].words, *self.notes.get(one.case, [])]

    def by_scan(self) -> dict[str, list[str]]:
        """Return all warnings by scan, the scan with most warnings first; scans without warnings are omitted."""
        found = {scan: list(notes) for scan, notes in self.notes.items()}
        for (scan, name), warnings in self.warnings.items():
            if warnings.words:
                found.setdefault(scan, []).extend(f"{name} {each}" for each in warnings.words)
        return {scan: found[scan] for scan in sorted(found, key=lambda scan: (-len(found[scan]), scan))}


def write_prediction_report(
    folder: str | Path, output: str | Path | None = None, dataset_dir: str | Path | None = None
) -> Path:
    """Write the HTML page of a folder of predictions, and `measurements.csv` next to it.

    A scan that cannot be measured or drawn is listed on the page with its error message.

    Args:
        folder: output folder of `segbundle predict`.
        output: path of the page. Default: `report.html` in `folder`.
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.

    Returns:
        path of the page

    Raises:
        OutputError: the folder has no predictions or cannot be read, all scans are missing, or a file cannot be written
            or would replace a file that segbundle did not write.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> from segbundle.files.atomic import write_json
        >>> from segbundle.results.made_by import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, dtype in (("a.nii.gz", np.float32), ("a_seg.nii.gz", np.uint8)):
        ...         nib.save(nib.Nifti1Image(np.ones((4, 4, 4), dtype), np.eye(4)), f"{folder}/{name}")
        ...     record = {"case": "a", "status": "ok", "image": f"{folder}/a.nii.gz", "prediction": "a_seg.nii.gz"}
        ...     write_json(Path(folder) / "predictions.json", [record])
        ...     write_run(folder, {"config": {"class_names": ["background", "liver"]}}, [])
        ...     write_prediction_report(folder).name
        'report.html'
    """
    path = Path(folder) / run_files.REPORT if output is None else Path(output)
    measurements = path.with_name(run_files.MEASUREMENTS)
    given = read_predictions(folder, dataset_dir)
    refuse_to_replace(path, measurements)
    refuse_if_moved(given.files, dataset_dir, every=True)
    found = _measure_scans(given)
    comparable = window_of(given.made_by) is not None
    expected = Expectations(read_training_cases(given.folder), found.structures, given.class_names, comparable)
    found.warnings = {(one.case, one.name): warnings_of(one, expected.of(one)) for one in found.structures}
    words = {key: warnings.words for key, warnings in found.warnings.items()}
    write_measurements(
        measurements, found.structures, words, found.notes, found.failed, given.class_names, given.series
    )
    text = _page(given, found, expected, _draw_scans(given, found))
    write_text(path, text)
    return path


def _page(
    given: Predictions, found: _Measured, expected: Expectations, pictures: Mapping[str, Sequence[Markup]]
) -> str:
    names, by_scan = given.class_names, found.by_scan()
    anchors = {scan: f"scan-{number}" for number, scan in enumerate(pictures)}
    unwritten = [(case, *entry) for case, reasons in given.failed_formats.items() for entry in reasons.items()]
    with_foreground = {one.case for one in found.structures if one.volume_ml > 0}
    return render(
        "prediction.html",
        colors_of_run(given.folder, given.made_by, names),
        class_colors=color_classes(names),
        title=f"Predictions: {short_name(given.folder)}",
        num_scans=len(given.files),
        failed=found.failed,
        failed_formats=given.failed_formats,
        unwritten=unwritten[:_MOST_UNWRITTEN],
        num_unwritten=len(unwritten),
        undrawn=found.undrawn,
        about=about(given.made_by),
        of_all=list(of_all_scans(found.structures, expected.of_training)),
        warnings=by_scan,
        unlike_training=_differs_from_training(found, expected),
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
                "found": scan in with_foreground,
            }
            for scan, slices in pictures.items()
        ],
        anchors=anchors,
        num_left_out=len({one.case for one in found.structures} - pictures.keys() - found.undrawn.keys()),
        unchecked=list(
            unchecked({name: expected.of_class(name) for name in names}, window_of(given.made_by) is not None)
        ),
        series=given.series,
        series_columns=series_columns(given.series),
        made_by={key: value for key, value in given.made_by.items() if key not in ("config", "cases")},
        config=as_yaml(given.made_by["config"]),
    )


def _measure_scans(given: Predictions) -> _Measured:
    found = _Measured(failed=dict(given.failed))

    def measure_scan(case: str) -> tuple[list[Structure], list[str]]:
        volumes = CaseVolumes.read(given.files[case], regions=regions_of(given.made_by))
        return measure(case, volumes, given.class_names), list(_problems_of_scan(volumes.scan))

    for case, result in _map(measure_scan, list(given.files), "measuring"):
        if isinstance(result, Exception):
            found.failed[case] = f"not measured: {describe(result)}"
            _logger.warning("report: scan %s was not measured: %s", case, describe(result))
            continue
        structures, notes = result
        found.structures += structures
        if notes:
            found.notes[case] = notes
    return found


def _problems_of_scan(scan: np.ndarray) -> Iterator[str]:
    """Yield problems of a scan itself, independent of the prediction."""
    known = scan if np.isfinite(scan.min()) and np.isfinite(scan.max()) else scan[np.isfinite(scan)]
    if known.size == 0:
        yield "the scan has no finite value"
    elif known.min() == known.max():
        yield "the scan has the same value everywhere"


def _draw_scans(given: Predictions, found: _Measured) -> dict[str, list[Markup]]:
    """Return slices of the scans within the size budget of the page, the scans with most warnings first."""
    by_scan, window = found.by_scan(), window_of(given.made_by)
    scans = {one.case for one in found.structures}
    pictures: dict[str, list[Markup]] = {}
    bytes_left = room_for_pictures(len(scans) * len(given.class_names))

    def draw(case: str) -> list[Markup]:
        volumes = CaseVolumes.read(given.files[case], window)
        warnings = [(index, found.warnings[case, name]) for index, name in enumerate(given.class_names, 1)]
        unusual = [index for index, each in warnings if each.unusual]
        at_edge = [index for index, each in warnings if each.at_edge]
        focus = where_to_look(volumes.prediction, unusual, at_edge)
        return list(overview_slices(volumes, len(given.class_names) + 1, focus))

    for case, slices in _map(draw, sorted(scans, key=lambda case: (-len(by_scan.get(case, [])), case)), "drawing"):
        if isinstance(slices, Exception):
            found.undrawn[case] = describe(slices)
            _logger.warning("report: no slices for scan %s: %s", case, describe(slices))
            continue
        bytes_left -= sum(map(len, slices))
        if bytes_left < 0:
            break
        pictures[case] = slices
    return pictures


def _map(work: Callable[[str], T], cases: Sequence[str], what: str) -> Iterator[tuple[str, T | Exception]]:
    """Apply a function to all cases in a thread pool; yield results or errors in the order of the cases."""
    pool = ThreadPoolExecutor(_NUM_THREADS)
    try:
        futures = [(case, pool.submit(work, case)) for case in cases]
        for case, future in counted(futures, len(futures), what, "scan", leave=False):
            try:
                yield case, future.result()
            except (SegbundleError, OSError, ValueError, MemoryError) as error:
                yield case, error
    finally:
        pool.shutdown(cancel_futures=True)


def _differs_from_training(found: _Measured, expected: Expectations) -> bool:
    """Return whether most structures deviate from the training cases."""
    checked = [one for one in found.structures if one.name in expected.of_training]
    unusual = [one for one in checked if found.warnings[one.case, one.name].unusual]
    return len(unusual) > _MAX_UNUSUAL_FRACTION * len(checked)


def _summaries(
    found: Sequence[Structure], expected: Expectations, class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for name in class_names:
        volumes = sorted(one.volume_ml for one in found if one.name == name and one.volume_ml > 0)
        usual = expected.of_class(name)
        spread = usual.volume_ml if usual else None
        yield {
            "name": name,
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
    """Return the strip plot of the volumes, with the training cases below the scans of each class."""
    groups: dict[str, Sequence[Point]] = {}
    styles: dict[str, str] = {}
    for name, style in color_classes(class_names).items():
        points = [Point(one.case, one.volume_ml) for one in found if one.name == name and one.volume_ml > 0]
        usual = expected.of_training.get(name)
        styles |= {name: style, f"{name}, training": style}
        spread = None if usual is None else usual.volume_ml
        if points or spread:
            groups[name] = points
        if spread is not None:
            groups[f"{name}, training"] = [Point("training case", value) for value in spread.values]
    if not groups:
        return None
    return strip_plot(
        "Volumes of every scan per class", "volume (ml, logarithmic)", groups, one="scan or a training case",
        logarithmic=True, styles=styles,
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
