"""Summary of the scores of a run: statistics per class, `summary.json`, and the table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.files import run_files
from segbundle.files.atomic import write_csv, write_json
from segbundle.metrics import ClassScore, Status
from segbundle.results.scores import COLUMNS, CaseScores, Row, metrics_rows

_BOOTSTRAP_RESAMPLES = 2000
_WIDE = 100  # terminal columns that intervals and surface metrics need
_COUNTED = (Status.SCORED, Status.MISSED, Status.FALSE_POSITIVE)
_PRESENT = (Status.SCORED, Status.MISSED)


def summarize(
    cases: Sequence[CaseScores], class_names: Sequence[str], nsd_tolerance_mm: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the content of `summary.json`: mean scores over cases, per class and over all classes.

    Keys of the summary:

    - `cases`: number of cases.
    - `mean_dice`: mean of `dice_mean` over the foreground classes.
    - `mean_dice_ci95`: bootstrap interval of `mean_dice`; each case is resampled with all its classes.
    - `mean_dice_present`: like `mean_dice`, but without false positives.
    - `classes`: scores by name of the class.

    Keys of each class:

    - `dice_mean`: mean Dice over the cases in which the class was scored, missed or a false positive. Missed classes
      and false positives count as 0, as in nnU-Net.
    - `hd95_mm_mean`: mean HD95 in mm over the cases with the class in reference and prediction.
    - `nsd_mean`: mean NSD over the same cases as `dice_mean`.
    - `dice_ci95`, `hd95_mm_ci95`, `nsd_ci95`: 95 % percentile bootstrap intervals of these means over cases (Efron
      1979; 2000 resamples, fixed seed).
    - `nsd_tolerance_mm`: tolerance of the NSD in mm.
    - `n_scored`, `n_missed`, `n_false_positive`, `n_true_absent`, `n_unannotated`: number of cases with this status.

    A mean without any case is None, and so are surface metrics that were not computed. Means over classes skip classes
    whose mean is None. Intervals for fewer than two cases are [None, None].

    Args:
        cases: scores of the cases.
        class_names: names of the classes, background first.
        nsd_tolerance_mm: tolerance of the NSD per class in mm, background first. Default: None (surfaces were not
            measured).

    Example:
        >>> background = ClassScore(Status.SCORED, 0.99, 900, 900)
        >>> liver = [ClassScore(Status.SCORED, 0.8, 90, 110), ClassScore(Status.FALSE_POSITIVE, 0.0, 0, 10)]
        >>> cases = [CaseScores(f"case_{i}", [background, score], 0.001) for i, score in enumerate(liver)]
        >>> summary = summarize(cases, ["background", "liver"])
        >>> summary["mean_dice"], summary["mean_dice_present"]
        (0.4, 0.8)
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
    """Return the mean Dice of rows of `metrics.csv`, as `summarize` defines it, or None if no row has a Dice.

    Args:
        rows: rows of one run.
        class_names: foreground classes over which to average.

    Example:
        >>> rows = [Row(case, "liver", Status.SCORED, dice, *[None] * 6) for case, dice in (("a", 0.5), ("b", 1.0))]
        >>> mean_dice(rows, ["liver"])
        0.75
    """
    by_class = [[row.dice for row in rows if row.name == name] for name in class_names]
    return _mean([_mean(dice) for dice in by_class])


def bootstrap_interval(values: Sequence[float]) -> list[float | None]:
    """Return the 95 % percentile bootstrap interval of a mean (Efron 1979; 2000 resamples, fixed seed).

    Args:
        values: one value per case.

    Returns:
        lower and upper limit; [None, None] for fewer than two values

    Example:
        >>> bootstrap_interval([0.5, 0.5]), bootstrap_interval([0.5])
        ([0.5, 0.5], [None, None])
    """
    if len(values) < 2:
        return [None, None]
    rng = np.random.default_rng(0)
    sample = rng.choice(np.asarray(values), size=(_BOOTSTRAP_RESAMPLES, len(values)))
    low, high = np.percentile(sample.mean(axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def _interval_of_mean(by_class: Sequence[Sequence[ClassScore]]) -> list[float | None]:
    """Return the bootstrap interval of the mean over classes of the means over cases, as in `bootstrap_interval`."""
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
    """Write `metrics.csv` and `summary.json`, and return the summary.

    `summary.json` is written even if writing `metrics.csv` fails.

    Args:
        output_dir: folder to write to.
        cases: scores of the cases.
        class_names: names of the classes, background first.
        nsd_tolerance_mm: tolerance of the NSD per class in mm, background first. Default: None (surfaces were not
            measured).
        epoch: for a training run, the epoch after which the network was validated. None (default) for other runs.
        model: reason why the model of a training run has the newest instead of the best weights. None (default) if the
            model has the best weights, and for other runs.

    Returns:
        content of `summary.json`, see `summarize`; also with the keys `epoch` and `model`, unless these arguments are
        None

    Raises:
        OutputError: a file cannot be written, or would replace a file that segbundle did not write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = write_scores(folder, [], ["background", "liver"])
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['metrics.csv', 'summary.json']
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
    finally:  # write the summary even if the table fails
        write_json(output_dir / run_files.SUMMARY, summary)
    return summary


def print_summary(summary: dict[str, Any], title: str) -> None:
    """Print a table of scores: one row per class, and the mean Dice over classes with and without false positives.

    Surface metrics are shown if they were computed. On a terminal with fewer than 100 columns, surface metrics replace
    the bootstrap intervals.

    Args:
        summary: mean scores from `summarize`.
        title: line above the table.

    Example:
        >>> print_summary(summarize([], ["background", "liver"]), "0 cases")  # doctest: +ELLIPSIS
        0 cases...
    """
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
        distances = [_number(row["hd95_mm_mean"], 2), _number(row["nsd_mean"], 3)] if surfaces else []
        table.add_row(name, _number(row["dice_mean"]), *interval, *distances, *_counts(row))
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
