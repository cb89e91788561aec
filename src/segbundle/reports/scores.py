"""From the scores of single cases to `metrics.csv`, `summary.json` and the table on the terminal."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import OutputError
from segbundle.files import write_json, written_whole
from segbundle.metrics import ClassScore, Status

COLUMNS = ("case", "class", "status", "dice", "hd95_mm", "nsd", "volume_ref_ml", "volume_pred_ml")
_BOOTSTRAP_RESAMPLES = 2000
_COUNTED = (Status.SCORED, Status.MISSED, Status.FALSE_POSITIVE)
_PRESENT = (Status.SCORED, Status.MISSED)


@dataclass(frozen=True)
class CaseScores:
    """Scores of every class of one case, the background first; `voxel_ml` is the volume of one voxel in ml."""

    case: str
    scores: Sequence[ClassScore]
    voxel_ml: float


def metrics_rows(cases: Sequence[CaseScores], class_names: Sequence[str]) -> list[dict[str, str]]:
    """One row per case and foreground class, with `COLUMNS` as keys; what cannot be scored is empty."""
    return [
        _row(case, name, score) for case in cases for name, score in zip(class_names[1:], case.scores[1:], strict=True)
    ]


def _row(case: CaseScores, name: str, score: ClassScore) -> dict[str, str]:
    annotated = score.status is not Status.UNANNOTATED
    return {
        "case": case.case,
        "class": name,
        "status": score.status.value,
        "dice": "" if math.isnan(score.dice) else f"{score.dice:.6f}",
        "hd95_mm": "",
        "nsd": "",
        "volume_ref_ml": f"{score.voxels_ref * case.voxel_ml:.4f}" if annotated else "",
        "volume_pred_ml": f"{score.voxels_pred * case.voxel_ml:.4f}",
    }


def summarize(cases: Sequence[CaseScores], class_names: Sequence[str]) -> dict[str, Any]:
    """The content of `summary.json`.

    `mean_dice` is the mean over foreground classes of the mean over cases, a false positive counting as 0, as
    nnU-Net reports it; `mean_dice_present` leaves false positives out. A class that no case could score is left
    out of both and has `dice_mean` null. `dice_ci95` is the percentile bootstrap interval over cases (Efron 1979,
    2000 resamples, fixed seed), null with fewer than two.
    """
    by_class = {name: [case.scores[index] for case in cases] for index, name in enumerate(class_names) if index > 0}
    return {
        "cases": len(cases),
        "mean_dice": _mean([_mean(_dice(scores, _COUNTED)) for scores in by_class.values()]),
        "mean_dice_present": _mean([_mean(_dice(scores, _PRESENT)) for scores in by_class.values()]),
        "classes": {name: _summarize_class(scores) for name, scores in by_class.items()},
    }


def _summarize_class(scores: Sequence[ClassScore]) -> dict[str, Any]:
    counted = _dice(scores, _COUNTED)
    counts = {f"n_{status.value}": sum(score.status is status for score in scores) for status in Status}
    return {"dice_mean": _mean(counted), "dice_ci95": _bootstrap_interval(counted), **counts}


def _dice(scores: Sequence[ClassScore], statuses: Sequence[Status]) -> list[float]:
    return [score.dice for score in scores if score.status in statuses]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _bootstrap_interval(values: Sequence[float]) -> list[float | None]:
    if len(values) < 2:
        return [None, None]
    rng = np.random.default_rng(0)
    sample = rng.choice(np.asarray(values), size=(_BOOTSTRAP_RESAMPLES, len(values)))
    low, high = np.percentile(sample.mean(axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def write_scores(output_dir: str | Path, cases: Sequence[CaseScores], class_names: Sequence[str]) -> dict[str, Any]:
    """Write `metrics.csv` and `summary.json` into a folder and return the summary.

    Raises:
        OutputError: the folder cannot be written.
    """
    output_dir = Path(output_dir)
    with written_whole(output_dir / "metrics.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(metrics_rows(cases, class_names))
    summary = summarize(cases, class_names)
    write_json(output_dir / "summary.json", summary)
    return summary


def read_scores(output_dir: str | Path, class_names: Sequence[str]) -> list[CaseScores]:
    """The scores that `write_scores` has written into a folder's `metrics.csv`, as far as it holds them.

    Volumes are in ml there, and so are these: a voxel counts as 1 ml. Nothing is known of the background.

    Raises:
        OutputError: no such file, or one of other classes.
    """
    path = Path(output_dir) / "metrics.csv"
    if not path.is_file():
        raise OutputError(f"{path}: no such file; the evaluation that writes it has not ended.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_case: dict[str, list[ClassScore]] = {}
    for row, name in zip(rows, itertools.cycle(class_names[1:])):  # as often as there are cases
        if row["class"] != name:
            raise OutputError(f"{path}: holds scores of class {row['class']!r} where {name!r} was expected.")
        scores = by_case.setdefault(row["case"], [ClassScore(Status.UNANNOTATED, math.nan, 0, 0)])
        ref, pred = (float(row[f"volume_{which}_ml"] or 0) for which in ("ref", "pred"))
        scores.append(ClassScore(Status(row["status"]), float(row["dice"] or math.nan), ref, pred))
    return [CaseScores(case, scores, voxel_ml=1.0) for case, scores in by_case.items()]


def print_summary(summary: dict[str, Any], title: str) -> None:
    """Print one row per class, then the mean, as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("Dice", "95 % interval", "scored", "missed", "false+", "absent", "unann."):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in summary["classes"].items():
        table.add_row(name, _number(row["dice_mean"]), _interval(row["dice_ci95"]), *_counts(row))
    table.add_section()
    table.add_row("mean", _number(summary["mean_dice"]))
    table.add_row("mean without false+", _number(summary["mean_dice_present"]))
    Console().print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(interval: Sequence[float | None]) -> str:
    return "-" if interval[0] is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def _counts(row: dict[str, Any]) -> list[str]:
    return [str(row[f"n_{status.value}"]) for status in Status]
