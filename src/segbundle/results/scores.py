"""From the scores of single cases to `metrics.csv`, `summary.json` and the table on the terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import read_csv, write_csv, write_json
from segbundle.metrics import ClassScore, Status

COLUMNS = (
    "case",
    "class",
    "status",
    "dice",
    "hd95_mm",
    "nsd",
    "volume_ref_ml",
    "volume_pred_ml",
    "components_ref",
    "components_pred",
)
_NUMBERS = ("dice", "hd95_mm", "nsd", "volume_ref_ml", "volume_pred_ml", "components_ref", "components_pred")
_FRACTIONS = ("dice", "nsd")
_OR_NAN = ("dice", "hd95_mm", "nsd")
_BOOTSTRAP_RESAMPLES = 2000
_WIDE = 100  # letters of a terminal that holds intervals beside the surfaces
_COUNTED = (Status.SCORED, Status.MISSED, Status.FALSE_POSITIVE)
_PRESENT = (Status.SCORED, Status.MISSED)


@dataclass(frozen=True)
class Row:
    """A row of `metrics.csv`; what is empty there is None."""

    case: str
    name: str
    status: Status
    dice: float | None
    hd95_mm: float | None
    nsd: float | None
    volume_ref_ml: float | None
    volume_pred_ml: float | None
    components_ref: float | None
    components_pred: float | None


@dataclass(frozen=True)
class CaseScores:
    """Scores of every class of one case, the background first; `voxel_ml` is the volume of one voxel in ml."""

    case: str
    scores: Sequence[ClassScore]
    voxel_ml: float


def scores_to_json(case: CaseScores) -> dict[str, Any]:
    """Return the scores of a case for its record; NaN becomes null. `scores_from_json` returns the same numbers."""
    return {"voxel_ml": case.voxel_ml, "classes": [_class_to_json(score) for score in case.scores]}


def _class_to_json(score: ClassScore) -> dict[str, Any]:
    numbers = {key: None if math.isnan(getattr(score, key)) else getattr(score, key) for key in _OR_NAN}
    return {**asdict(score), **numbers, "status": score.status.value}


def scores_from_json(case: str, content: Mapping[str, Any]) -> CaseScores:
    """Return the scores of a case from its record.

    Args:
        case: name of the case.
        content: as `scores_to_json` returns it.
    """
    return CaseScores(case, [_class_from_json(score) for score in content["classes"]], content["voxel_ml"])


def _class_from_json(content: Mapping[str, Any]) -> ClassScore:
    values = {field.name: content[field.name] for field in fields(ClassScore)}
    numbers = {key: math.nan if values[key] is None else values[key] for key in _OR_NAN}
    return ClassScore(**{**values, **numbers, "status": Status(values["status"])})


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
        "dice": _csv_number(score.dice, 6),
        "hd95_mm": _csv_number(score.hd95_mm, 4),
        "nsd": _csv_number(score.nsd, 6),
        "volume_ref_ml": f"{score.voxels_ref * case.voxel_ml:.8g}" if annotated else "",
        "volume_pred_ml": f"{score.voxels_pred * case.voxel_ml:.8g}",
        "components_ref": "" if score.components_ref is None else str(score.components_ref),
        "components_pred": "" if score.components_pred is None else str(score.components_pred),
    }


def _csv_number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def summarize(
    cases: Sequence[CaseScores], class_names: Sequence[str], nsd_tolerance_mm: Sequence[float] | None = None
) -> dict[str, Any]:
    """The content of `summary.json`.

    `mean_dice` is the mean over foreground classes of the mean over cases, a false positive counting as 0, as
    nnU-Net reports it; `mean_dice_present` leaves false positives out. A class that no case could score is left
    out of both and has `dice_mean` null. `dice_ci95` is the percentile bootstrap interval over cases (Efron 1979,
    2000 resamples, fixed seed), null with fewer than two, `mean_dice_ci95` that of `mean_dice`, for which a case is
    drawn with all of its classes. `hd95_mm_mean` is over the cases that have the class in both
    (elsewhere there is no distance), `nsd_mean` over the same as `dice_mean`; each has its interval, and the latter its
    tolerance. All three are null where surfaces were not looked at.

    Args:
        cases: the scores.
        class_names: the background first.
        nsd_tolerance_mm: what the NSD was computed with, one per class, the background's included.
    """
    tolerances = nsd_tolerance_mm[1:] if nsd_tolerance_mm is not None else [None] * (len(class_names) - 1)
    by_class = {name: [case.scores[index] for case in cases] for index, name in enumerate(class_names) if index > 0}
    return {
        "cases": len(cases),
        "mean_dice": _mean([_mean(_dice(scores, _COUNTED)) for scores in by_class.values()]),
        "mean_dice_ci95": _interval_of_mean(list(by_class.values())),
        "mean_dice_present": _mean([_mean(_dice(scores, _PRESENT)) for scores in by_class.values()]),
        "classes": {
            name: {**_summarize_class(scores), "nsd_tolerance_mm": None if tolerance is None else float(tolerance)}
            for (name, scores), tolerance in zip(by_class.items(), tolerances, strict=True)
        },
    }


def _summarize_class(scores: Sequence[ClassScore]) -> dict[str, Any]:
    values = {
        "dice": _dice(scores, _COUNTED),
        "hd95_mm": [score.hd95_mm for score in scores if not math.isnan(score.hd95_mm)],
        "nsd": [score.nsd for score in scores if not math.isnan(score.nsd)],
    }
    means = {
        key: value
        for name, known in values.items()
        for key, value in ((f"{name}_mean", _mean(known)), (f"{name}_ci95", bootstrap_interval(known)))
    }
    return {**means, **{f"n_{status.value}": sum(score.status is status for score in scores) for status in Status}}


def _dice(scores: Sequence[ClassScore], statuses: Sequence[Status]) -> list[float]:
    return [score.dice for score in scores if score.status in statuses]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def mean_dice(rows: Sequence[Row], class_names: Sequence[str]) -> float | None:
    """`mean_dice` of some rows of a `metrics.csv`, as `summarize` defines it; None if nothing is scored."""
    by_class = [[row.dice for row in rows if row.name == name] for name in class_names]
    return _mean([_mean(dice) for dice in by_class])


def bootstrap_interval(values: Sequence[float]) -> list[float | None]:
    """The 95 % percentile bootstrap interval of a mean (Efron 1979); nulls for fewer than two values."""
    if len(values) < 2:
        return [None, None]
    rng = np.random.default_rng(0)
    sample = rng.choice(np.asarray(values), size=(_BOOTSTRAP_RESAMPLES, len(values)))
    low, high = np.percentile(sample.mean(axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def _interval_of_mean(by_class: Sequence[Sequence[ClassScore]]) -> list[float | None]:
    """The bootstrap interval of the mean over classes of the means over cases; nulls for fewer than two cases."""
    dice = np.array([[s.dice if s.status in _COUNTED else math.nan for s in scores] for scores in by_class])
    dice = dice[:, ~np.isnan(dice).all(axis=0)] if dice.size else dice
    if dice.size == 0 or dice.shape[1] < 2:
        return [None, None]
    rng, known = np.random.default_rng(0), ~np.isnan(dice)
    times = rng.multinomial(dice.shape[1], np.full(dice.shape[1], 1 / dice.shape[1]), _BOOTSTRAP_RESAMPLES)
    sums, counts = times @ np.where(known, dice, 0.0).T, times @ known.T  # (resamples, classes)
    with np.errstate(invalid="ignore"):
        means = np.nanmean(np.where(counts > 0, sums / counts, math.nan), axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


def write_scores(
    output_dir: str | Path,
    cases: Sequence[CaseScores],
    class_names: Sequence[str],
    nsd_tolerance_mm: Sequence[float] | None = None,
    epoch: int | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Write `metrics.csv` and `summary.json` into a folder and return the summary.

    Args:
        output_dir: the folder.
        cases, class_names, nsd_tolerance_mm: as in `summarize`.
        epoch: of a training, that after which it was validated.
        model: of a training, why its model was not chosen by these scores.

    Raises:
        OutputError: the folder cannot be written.
    """
    output_dir = Path(output_dir)
    summary = summarize(cases, class_names, nsd_tolerance_mm)
    if epoch is not None:
        summary["epoch"] = epoch
    if model is not None:
        summary["model"] = model
    try:
        rows = [list(row.values()) for row in metrics_rows(cases, class_names)]
        write_csv(output_dir / run_files.METRICS, COLUMNS, rows)
    finally:  # one of the two is better than none
        write_json(output_dir / run_files.SUMMARY, summary)
    return summary


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a `metrics.csv`.

    Raises:
        OutputError: the file cannot be read, lacks columns, or holds other values than `write_scores` writes.
    """
    rows, known = [], set[tuple[str, str]]()
    for number, line in enumerate(read_csv(path, ("case", "class", "status", "dice")), 1):
        try:
            rows.append(_read_row(line))
        except ValueError as error:
            raise OutputError(f"{path}: row {number} cannot be read ({error}); evaluate again.") from error
        if (key := (rows[-1].case, rows[-1].name)) in known:
            raise OutputError(
                f"{path}: row {number} is the second of case {key[0]!r} and class {key[1]!r}; evaluate again."
            )
        known.add(key)
    return rows


def _read_row(line: dict[str, str]) -> Row:
    numbers = {key: finite_number(line[key]) if line.get(key) else None for key in _NUMBERS}
    for key, value in numbers.items():
        if value is not None and not 0 <= value <= (1 if key in _FRACTIONS else math.inf):
            raise ValueError(f"{key} is {line[key]}, which cannot be")
    return Row(line["case"], line["class"], Status(line["status"]), **numbers)


def finite_number(text: str) -> float:
    """Return the number that a cell holds.

    Raises:
        ValueError: it holds none, or one that is not finite.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_scores(output_dir: str | Path, class_names: Sequence[str]) -> list[CaseScores]:
    """The scores that `write_scores` has written into a folder's `metrics.csv`, as far as it holds them.

    Volumes are in ml there, and so are these: a voxel counts as 1 ml. Nothing is known of the background.

    Raises:
        OutputError: no such file, or one of other classes.
    """
    path = Path(output_dir) / run_files.METRICS
    if not path.is_file():
        raise OutputError(f"{path}: no such file; the evaluation that writes it has not ended.")
    by_case: dict[str, list[ClassScore]] = {}
    for row, name in zip(read_rows(path), itertools.cycle(class_names[1:])):  # as often as there are cases
        if row.name != name:
            raise OutputError(f"{path}: holds scores of class {row.name!r} where {name!r} was expected.")
        scores = by_case.setdefault(row.case, [ClassScore(Status.UNANNOTATED, math.nan, 0, 0)])
        dice, hd95_mm, nsd = (math.nan if value is None else value for value in (row.dice, row.hd95_mm, row.nsd))
        parts = (None if value is None else int(value) for value in (row.components_ref, row.components_pred))
        volumes = (row.volume_ref_ml or 0.0, row.volume_pred_ml or 0.0)
        scores.append(ClassScore(row.status, dice, *volumes, hd95_mm, nsd, *parts))
    return [CaseScores(case, scores, voxel_ml=1.0) for case, scores in by_case.items()]


def print_summary(summary: dict[str, Any], title: str) -> None:
    """Print one row per class, then the mean, as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    surfaces = any(row["nsd_mean"] is not None for row in summary["classes"].values())
    table.add_column("class", overflow="fold")
    console = Console()
    intervals = not surfaces or console.width >= _WIDE
    columns = [*(["95 % interval"] if intervals else []), *(["HD95 mm", "NSD"] if surfaces else [])]
    for column in ("Dice", *columns, "scored", "missed", "false+", "absent", "unann."):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in summary["classes"].items():
        interval = [_interval(row["dice_ci95"])] if intervals else []
        apart = [_number(row["hd95_mm_mean"], 2), _number(row["nsd_mean"], 3)] if surfaces else []
        table.add_row(name, _number(row["dice_mean"]), *interval, *apart, *_counts(row))
    table.add_section()
    table.add_row("mean", _number(summary["mean_dice"]))
    table.add_row("mean without false+", _number(summary["mean_dice_present"]))
    console.print(table)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(interval: Sequence[float | None]) -> str:
    return "-" if interval[0] is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def _counts(row: dict[str, Any]) -> list[str]:
    return [str(row[f"n_{status.value}"]) for status in Status]
