"""HTML page of a run with scores: tables, distributions, volumes, and slices with the largest errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.files import run_files
from segbundle.files.atomic import write_text
from segbundle.files.output_folders import refuse_to_replace
from segbundle.metrics import Status
from segbundle.report.caveats import caveats, few
from segbundle.report.charts import Figure, Point, bland_altman, strip_plot
from segbundle.report.class_groups import MANY, group_classes
from segbundle.report.colors import color_classes, colors_of_run
from segbundle.report.gallery import farthest, gallery, worst_first
from segbundle.report.rendering import LABELS, as_yaml, number, render
from segbundle.report.trainings import drawn, read_curves, unfinished
from segbundle.results.case_files import refuse_if_moved
from segbundle.results.made_by import about
from segbundle.results.runs import Run, read_run, short_name
from segbundle.results.scores import Row
from segbundle.results.source_series import series_columns

_logger = logging.getLogger(__name__)
_MIN_POINTS = 3
"""Smallest number of cases of a volume plot on a page of many classes; two points have no limits of agreement."""
_COLUMNS = (
    ("dice", "Dice", 4),
    ("hd95_mm", "HD95 (mm)", 2),
    ("nsd", "NSD", 3),
    ("volume_ref_ml", "reference (ml)", 3),
    ("volume_pred_ml", "prediction (ml)", 3),
    ("components_ref", "components, reference", 0),
    ("components_pred", "components, prediction", 0),
)
_STRIPS = (
    ("dice", "Dice"),
    ("hd95_mm", "95th percentile of the Hausdorff distance (mm)"),
    ("nsd", "normalized surface Dice"),
)


def write_report(folder: str | Path, output: str | Path | None = None, dataset_dir: str | Path | None = None) -> Path:
    """Write the HTML page of an evaluation, a cross-validation or a training run.

    Args:
        folder: folder of the run.
        output: path of the page. Default: `report.html` in `folder`.
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.

    Returns:
        path of the page

    Raises:
        OutputError: the folder has no scores or cannot be read, scans are missing in `dataset_dir`, or the page cannot
            be written or would replace a file that segbundle did not write.

    Example:
        >>> import tempfile
        >>> from segbundle.metrics import ClassScore
        >>> from segbundle.results.scores import CaseScores
        >>> from segbundle.results.summary import write_scores
        >>> scores = [ClassScore(Status.SCORED, 0.99, 900, 900), ClassScore(Status.SCORED, 0.8, 90, 110)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_scores(folder, [CaseScores("case_1", scores, 0.001)], ["background", "liver"])
        ...     page = write_report(folder)
        ...     "Mean Dice <strong>0.8000</strong>" in page.read_text("utf-8")
        True
    """
    path = Path(folder) / run_files.REPORT if output is None else Path(output)
    run = read_run(folder, dataset_dir)
    refuse_to_replace(path)
    if dataset_dir is not None:
        refuse_if_moved(run.files, dataset_dir)
    text = _page(run)
    write_text(path, text)
    return path


def _page(run: Run) -> str:
    cases = {row.case for row in run.rows}
    pictures = gallery(run)
    anchors = {
        (case["case"], case["name"]): case["anchor"] for group in pictures for case in group["cases"] if case["slices"]
    }
    curves, class_colors = read_curves(run), color_classes(run.class_names)
    volumes, trained = _volumes(run), drawn(curves, class_colors)
    sections = {
        "summary": "Per class",
        "distribution": "Distribution",
        **({"volumes": "Volumes"} if volumes else {}),
        **({"pictures": "Slices"} if pictures else {}),
        "cases": "Cases",
        **({"training": "Training"} if trained else {}),
        "made-by": "Provenance",
    }
    return render(
        "report.html",
        colors_of_run(run.folder, run.made_by, run.class_names),
        class_colors=class_colors,
        title=f"Scores: {short_name(run.folder)}",
        summary=run.summary,
        classes=run.summary["classes"],
        groups=group_classes(run.summary["classes"]),
        many=len(run.class_names) > MANY,
        surfaces=any(row.get("nsd_mean") is not None for row in run.summary["classes"].values()),
        failed=run.failed,
        about=about(run.made_by),
        gone=next((gone for files in run.files.values() if (gone := files.gone)), None),
        caveats=list(caveats(run, cases, run.class_names)),
        few=few(_num_values(run)),
        first=_cases_to_review(run, anchors),
        folds=run.folds,
        unfinished=unfinished(run, curves),
        sections=sections.items(),
        strips=_strips(run),
        volumes=volumes,
        columns=_columns(run),
        rows=[_table_row(run, row, anchors.get((row.case, row.name))) for row in sorted(run.rows, key=worst_first)],
        pictures=pictures,
        curves=trained,
        series=run.series,
        series_columns=series_columns(run.series),
        made_by={name: value for name, value in run.made_by.items() if name != "config"},
        config=as_yaml(run.made_by.get("config", {})),
    )


def _num_values(run: Run) -> list[int]:
    """Return the number of values behind the mean Dice and the mean HD95 of each class."""
    return [
        sum(getattr(row, key) is not None for row in run.rows_of(name))
        for name in run.class_names
        for key in ("dice", "hd95_mm")
    ]


def _cases_to_review(run: Run, anchors: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Return the case with the worst Dice, and the case with the largest HD95 if it is a different row."""
    scored = [row for row in run.rows if row.dice is not None]
    if not scored:
        return []
    worst, largest_hd95 = min(scored, key=worst_first), farthest(run)
    status = "" if worst.status is Status.SCORED else f" ({LABELS[worst.status]})"
    found = [(worst, f"Dice {number(worst.dice, 3)}{status}")]
    if largest_hd95 is not None and largest_hd95 is not worst:
        found.append((largest_hd95, f"HD95 {number(largest_hd95.hd95_mm, 1)} mm"))
    return [
        {"case": row.case, "name": row.name, "score": score, "anchor": anchors.get((row.case, row.name))}
        for row, score in found
    ]


def _columns(run: Run) -> list[dict[str, str | None]]:
    names = ["case", "class", "status", *(label for _, label, _ in _COLUMNS), *(["fold"] if run.folds else [])]
    return [{"label": name, "sort": "ascending" if name == "Dice" else None} for name in names]


def _table_row(run: Run, row: Row, anchor: str | None) -> dict[str, Any]:
    numbers = [number(getattr(row, key), digits) for key, _, digits in _COLUMNS]
    fold = [number(run.fold_of.get(row.case), 0)] if run.folds else []
    seen = ", training case" if run.trained_on and row.case in run.trained_on else ""
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
            title = f"{label} of every case per class"
            found.append(
                strip_plot(title, label, groups, styles=color_classes(run.class_names), compact=len(groups) > MANY)
            )
    return found


def _volumes(run: Run) -> list[dict[str, Any]]:
    found = []
    for name, style in color_classes(run.class_names).items():
        pairs = [(row.case, row.volume_pred_ml, row.volume_ref_ml) for row in run.rows_of(name) if row.dice is not None]
        points = [
            Point(case, pred - ref, (pred + ref) / 2)
            for case, pred, ref in pairs
            if pred is not None and ref is not None
        ]
        if len(points) >= (_MIN_POINTS if len(run.class_names) > MANY else 1):
            found.append({"name": name, "plot": bland_altman(f"Volume differences of {name}", points, style)})
    return found
