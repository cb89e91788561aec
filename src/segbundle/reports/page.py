"""A run as one HTML page that needs nothing else: numbers, distributions, volumes, the slices to look at first."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.files import written_whole
from segbundle.metrics import Status
from segbundle.reports.caveats import caveats, few
from segbundle.reports.charts import Figure, Point, bland_altman, strip_plot
from segbundle.reports.rendering import LABELS, MOST_BYTES, about, as_yaml, number, render
from segbundle.reports.runs import Run, read_run, refuse_if_moved, short_name, window_of
from segbundle.reports.scores import Row
from segbundle.reports.slices import CaseVolumes, worst_slices
from segbundle.reports.trainings import drawn, read_curves, unfinished

_logger = logging.getLogger(__name__)
_COLUMNS = (
    ("dice", "Dice", 4),
    ("hd95_mm", "HD95, mm", 2),
    ("nsd", "NSD", 3),
    ("volume_ref_ml", "reference, ml", 3),
    ("volume_pred_ml", "prediction, ml", 3),
    ("components_ref", "parts, ref.", 0),
    ("components_pred", "parts, pred.", 0),
)
_STRIPS = (
    ("dice", "Dice"),
    ("hd95_mm", "95th percentile of the Hausdorff distance, mm"),
    ("nsd", "normalized surface Dice"),
)
_MOST_PICTURED = 120
"""Cases of classes that are drawn in three planes."""


def write_report(folder: str | Path, output: str | Path | None = None, dataset_dir: str | Path | None = None) -> Path:
    """Write the page of an evaluation, a cross-validation or a training.

    Args:
        folder: of the run.
        output: the page to write; `report.html` in the folder if None.
        dataset_dir: where the scans are now, if they were moved.

    Returns:
        where it is.

    Raises:
        OutputError: the folder holds no scores, or cannot be written.
    """
    run = read_run(folder, dataset_dir)
    if dataset_dir is not None:
        refuse_if_moved(run.files, dataset_dir)
    path = Path(folder) / "report.html" if output is None else Path(output)
    text = _page(run)
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _page(run: Run) -> str:
    cases = {row.case for row in run.rows}
    pictures = _pictures(run)
    anchors = {
        (case["case"], case["name"]): case["anchor"] for group in pictures for case in group["cases"] if case["slices"]
    }
    curves = read_curves(run)
    volumes, trained = _volumes(run), drawn(curves)
    sections = {
        "summary": "Per class",
        "distribution": "Distribution",
        **({"volumes": "Volumes"} if volumes else {}),
        **({"pictures": "Pictures"} if pictures else {}),
        "cases": "Cases",
        **({"training": "Training"} if trained else {}),
        "made-by": "How it was made",
    }
    return render(
        "report.html",
        title=f"Scores: {short_name(run.folder)}",
        summary=run.summary,
        classes=run.summary["classes"],
        surfaces=any(row.get("nsd_mean") is not None for row in run.summary["classes"].values()),
        failed=run.failed,
        about=about(run.made_by),
        gone=next((gone for files in run.files.values() if (gone := files.gone)), None),
        caveats=list(caveats(run, cases)),
        few=few([sum(row.dice is not None for row in run.rows_of(name)) for name in run.class_names]),
        first=_first(run, anchors),
        folds=run.folds,
        unfinished=unfinished(run, curves),
        sections=sections.items(),
        strips=_strips(run),
        volumes=volumes,
        columns=_columns(run),
        rows=[_table_row(run, row, anchors.get((row.case, row.name))) for row in sorted(run.rows, key=_worst_first)],
        pictures=pictures,
        curves=trained,
        made_by={name: value for name, value in run.made_by.items() if name != "config"},
        config=as_yaml(run.made_by.get("config", {})),
    )


def _worst_first(row: Row) -> tuple[bool, float, float, str, str]:
    """Of those without any overlap the one with the largest volume comes first."""
    largest = max(row.volume_ref_ml or 0.0, row.volume_pred_ml or 0.0)
    return row.dice is None, row.dice or 0.0, -largest, row.case, row.name


def _first(run: Run, anchors: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """What to look at first: the worst Dice, and the farthest surfaces if they are in another place."""
    scored = [row for row in run.rows if row.dice is not None]
    if not scored:
        return []
    worst, farthest = min(scored, key=_worst_first), _farthest(run)
    status = "" if worst.status is Status.SCORED else f" ({LABELS[worst.status]})"
    found = [(worst, f"Dice {number(worst.dice, 3)}{status}")]
    if farthest is not None and farthest is not worst:
        found.append((farthest, f"HD95 {number(farthest.hd95_mm, 1)} mm"))
    return [
        {"case": row.case, "name": row.name, "words": words, "anchor": anchors.get((row.case, row.name))}
        for row, words in found
    ]


def _farthest(run: Run) -> Row | None:
    """Where the surfaces lie farthest apart, if anywhere; of several places that with the worst Dice."""
    apart = [row for row in run.rows if row.hd95_mm]
    return min(apart, key=lambda row: (-(row.hd95_mm or 0.0), *_worst_first(row))) if apart else None


def _columns(run: Run) -> list[dict[str, str | None]]:
    names = ["case", "class", "status", *(label for _, label, _ in _COLUMNS), *(["fold"] if run.folds else [])]
    return [{"label": name, "sort": "ascending" if name == "Dice" else None} for name in names]


def _table_row(run: Run, row: Row, anchor: str | None) -> dict[str, Any]:
    numbers = [number(getattr(row, key), digits) for key, _, digits in _COLUMNS]
    fold = [number(run.fold_of.get(row.case), 0)] if run.folds else []
    seen = ", trained on" if run.trained_on and row.case in run.trained_on else ""
    return {
        "case": row.case,
        "anchor": anchor,
        "name": row.name,
        "status": row.status.value,
        "label": LABELS[row.status] + seen,
        "numbers": [*numbers, *fold],
    }


def _strips(run: Run) -> list[Figure]:
    found = []
    for key, label in _STRIPS:
        groups = {
            name: [Point(row.case, value) for row in run.rows_of(name) if (value := getattr(row, key)) is not None]
            for name in run.class_names
        }
        if any(groups.values()):
            found.append(strip_plot(f"{label} of every case, per class", label, groups))
    return found


def _volumes(run: Run) -> list[dict[str, Any]]:
    found = []
    for name in run.class_names:
        pairs = [(row.case, row.volume_pred_ml, row.volume_ref_ml) for row in run.rows_of(name) if row.dice is not None]
        points = [
            Point(case, pred - ref, (pred + ref) / 2)
            for case, pred, ref in pairs
            if pred is not None and ref is not None
        ]
        if points:
            found.append({"name": name, "plot": bland_altman(f"Differences in volume of {name}", points)})
    return found


def _chosen(run: Run, name: str) -> list[tuple[str, Row]]:
    """The worst, the median and the best case of a class, as far as there are so many, and the farthest of all."""
    rows = sorted((row for row in run.rows_of(name) if row.dice is not None), key=_worst_first)
    farthest = _farthest(run)
    places = {place: "surfaces farthest apart" for place, row in enumerate(rows) if row is farthest}
    places |= {(len(rows) - 1) // 2: "median", len(rows) - 1: "best", 0: "worst"} if rows else {}
    return [("only" if len(rows) == 1 else rank, rows[place]) for place, rank in sorted(places.items())]


def _in_order(chosen: dict[str, list[tuple[str, Row]]]) -> list[Row]:
    """What to show if there is not room for all: first the worst of each class, then the second worst, and so on."""
    ranked = [(place, _worst_first(row), row) for rows in chosen.values() for place, (_, row) in enumerate(rows)]
    return [row for _, _, row in sorted(ranked, key=lambda one: one[:2])][:_MOST_PICTURED]


def _pictures(run: Run) -> list[dict[str, Any]]:
    """Slices of every class, as far as there is room for them on the page."""
    chosen = {name: _chosen(run, name) for name in run.class_names}
    wanted = [row for row in _in_order(chosen) if row.case in run.files]
    drawn, problems = _drawn(run, wanted)
    left, shown = MOST_BYTES, set()
    for row in wanted:
        left -= sum(map(len, drawn.get((row.case, row.name), ())))
        if left >= 0:
            shown.add((row.case, row.name))
    found = []
    for index, (name, rows) in enumerate(chosen.items()):
        cases = [
            {
                "anchor": f"picture-{index}-{place}", "rank": rank, "case": row.case, "name": name, "dice": row.dice,
                "label": LABELS[row.status], "problem": problems.get(row.case),
                "slices": drawn.get((row.case, name), []),
            }
            for place, (rank, row) in enumerate(rows) if (row.case, name) in shown
        ]  # fmt: skip
        if cases:
            found.append({"name": name, "cases": cases})
    return found


def _drawn(run: Run, wanted: Iterable[Row]) -> tuple[dict[tuple[str, str], list[Markup]], dict[str, str]]:
    """Slices by case and class, and why those of a case cannot be drawn; it is read once for all of its classes."""
    by_case: dict[str, list[str]] = {}
    for row in wanted:
        by_case.setdefault(row.case, []).append(row.name)
    drawn: dict[tuple[str, str], list[Markup]] = {}
    problems: dict[str, str] = {}
    for case, names in _progress(by_case):
        try:
            volumes = CaseVolumes.read(run.files[case], window_of(run.made_by))
            for name in names:
                drawn[case, name] = list(worst_slices(volumes, run.class_names.index(name) + 1))
        except (SegbundleError, OSError, ValueError, MemoryError) as error:
            problems[case] = f"No picture: {describe(error)}"
            _logger.warning("report: %s", describe(error))
    return drawn, problems


def _progress(wanted: dict[str, list[str]]) -> Any:
    from tqdm import tqdm

    return tqdm(wanted.items(), desc="report", unit="case", leave=False, disable=None)
