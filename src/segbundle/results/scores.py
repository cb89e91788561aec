"""Scores of cases: `metrics.csv`, `summary.json`, and the table on the terminal."""

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
_MAYBE_NAN = ("dice", "hd95_mm", "nsd")
_BOOTSTRAP_RESAMPLES = 2000
_WIDE = 100  # terminal columns that intervals and surface metrics need
_COUNTED = (Status.SCORED, Status.MISSED, Status.FALSE_POSITIVE)
_PRESENT = (Status.SCORED, Status.MISSED)


@dataclass(frozen=True)
class Row:
    """Row of `metrics.csv` with the scores of one class in one case; empty cells are None.

    Attributes:
        case: name of the case.
        name: name of the class.
        status: whether and how the class could be scored.
        dice: Dice score in [0, 1]; None if the class was not scored.
        hd95_mm: 95th percentile Hausdorff distance in mm; None if reference or prediction lacks the class, or if
            surfaces were not measured.
        nsd: normalized surface Dice in [0, 1]; None if the class was not scored, or if surfaces were not measured.
        volume_ref_ml: volume in the reference in ml; None if the class was not annotated.
        volume_pred_ml: volume in the prediction in ml.
        components_ref: number of connected components in the reference; None if unknown.
        components_pred: number of connected components in the prediction; None if unknown.

    Example:
        >>> Row("case_1", "liver", Status.MISSED, 0.0, None, 0.0, 12.5, 0.0, 1, 0).status.value
        'missed'
    """

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
    """Scores of one case.

    Attributes:
        case: name of the case.
        scores: scores per class, background first.
        voxel_ml: volume of a voxel in ml.

    Example:
        >>> scores = [ClassScore(Status.SCORED, 0.99, 900, 900), ClassScore(Status.SCORED, 0.8, 90, 110)]
        >>> CaseScores("case_1", scores, voxel_ml=0.001).scores[1].dice
        0.8
    """

    case: str
    scores: Sequence[ClassScore]
    voxel_ml: float


def scores_to_json(case: CaseScores) -> dict[str, Any]:
    """Return the scores of a case as JSON values, in which null stands for NaN.

    `scores_from_json` restores the scores exactly.

    Args:
        case: scores of the case.

    Example:
        >>> scores_to_json(CaseScores("case_1", [], voxel_ml=0.001))
        {'voxel_ml': 0.001, 'classes': []}
    """
    return {"voxel_ml": case.voxel_ml, "classes": [_class_to_json(score) for score in case.scores]}


def _class_to_json(score: ClassScore) -> dict[str, Any]:
    numbers = {key: None if math.isnan(getattr(score, key)) else getattr(score, key) for key in _MAYBE_NAN}
    return {**asdict(score), **numbers, "status": score.status.value}


def scores_from_json(case: str, content: Mapping[str, Any]) -> CaseScores:
    """Return the scores of a case from JSON values.

    Args:
        case: name of the case.
        content: JSON values from `scores_to_json`.

    Example:
        >>> scores_from_json("case_1", {"voxel_ml": 0.001, "classes": []})
        CaseScores(case='case_1', scores=[], voxel_ml=0.001)
    """
    return CaseScores(case, [_class_from_json(score) for score in content["classes"]], content["voxel_ml"])


def _class_from_json(content: Mapping[str, Any]) -> ClassScore:
    values = {field.name: content[field.name] for field in fields(ClassScore)}
    numbers = {key: math.nan if values[key] is None else values[key] for key in _MAYBE_NAN}
    return ClassScore(**{**values, **numbers, "status": Status(values["status"])})


def metrics_rows(cases: Sequence[CaseScores], class_names: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of `metrics.csv` as text, one per case and foreground class.

    Args:
        cases: scores of the cases.
        class_names: names of the classes, background first.

    Returns:
        dicts with `COLUMNS` as keys. Values that cannot be computed are empty strings.

    Example:
        >>> scores = [ClassScore(Status.SCORED, 0.99, 900, 900), ClassScore(Status.SCORED, 0.8, 90, 110)]
        >>> rows = metrics_rows([CaseScores("case_1", scores, 0.001)], ["background", "liver"])
        >>> rows[0]["dice"], rows[0]["volume_ref_ml"]
        ('0.800000', '0.09')
    """
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
        nsd_tolerance_mm: tolerance of the NSD per class in mm, background first; None if surfaces were not measured.

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
        nsd_tolerance_mm: tolerance of the NSD per class in mm, background first; None if surfaces were not measured.
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


def read_rows(path: Path) -> list[Row]:
    """Return the rows of `metrics.csv`.

    Args:
        path: path of the file.

    Raises:
        OutputError: the file cannot be read, lacks columns, or has invalid values or duplicate rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "metrics.csv"
        ...     _ = path.write_text("case,class,status,dice\\ncase_1,liver,scored,0.8")
        ...     read_rows(path)[0].dice
        0.8
    """
    rows, known = [], set[tuple[str, str]]()
    for number, line in enumerate(read_csv(path, ("case", "class", "status", "dice")), 1):
        try:
            rows.append(_read_row(line))
        except ValueError as error:
            raise OutputError(f"{path}: row {number} cannot be read ({error}). Evaluate again.") from error
        if (key := (rows[-1].case, rows[-1].name)) in known:
            raise OutputError(
                f"{path}: row {number} is a duplicate of case {key[0]!r}, class {key[1]!r}. Evaluate again."
            )
        known.add(key)
    return rows


def _read_row(line: dict[str, str]) -> Row:
    numbers = {key: finite_number(line[key]) if line.get(key) else None for key in _NUMBERS}
    for key, value in numbers.items():
        if value is not None and not 0 <= value <= (1 if key in _FRACTIONS else math.inf):
            raise ValueError(f"{key} is {line[key]}; it is out of range")
    return Row(line["case"], line["class"], Status(line["status"]), **numbers)


def finite_number(text: str) -> float:
    """Return the number in a CSV cell.

    Args:
        text: content of the cell.

    Raises:
        ValueError: the text is not a finite number.

    Example:
        >>> finite_number("2.5")
        2.5
        >>> finite_number("nan")
        Traceback (most recent call last):
        ValueError: nan is not a finite number
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_scores(output_dir: str | Path, class_names: Sequence[str]) -> list[CaseScores]:
    """Return the scores in `metrics.csv` of a folder, one `CaseScores` per case.

    The file has volumes in ml instead of voxel counts, and no scores of the background. In the returned scores,
    `voxels_ref` and `voxels_pred` are therefore volumes in ml, `voxel_ml` is 1, and the background is unannotated.

    Args:
        output_dir: folder that `write_scores` wrote to.
        class_names: names of the classes, background first.

    Raises:
        OutputError: the file is missing, cannot be read, or has other classes.

    Example:
        >>> import tempfile
        >>> scores = [ClassScore(Status.SCORED, 0.99, 900, 900), ClassScore(Status.SCORED, 0.8, 90, 110)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_scores(folder, [CaseScores("case_1", scores, 0.001)], ["background", "liver"])
        ...     read_scores(folder, ["background", "liver"])[0].scores[1].voxels_ref
        0.09
    """
    path = Path(output_dir) / run_files.METRICS
    if not path.is_file():
        raise OutputError(
            f"{path} does not exist: the evaluation has not finished. Run the same command again to continue it."
        )
    by_case: dict[str, list[ClassScore]] = {}
    for row, name in zip(read_rows(path), itertools.cycle(class_names[1:])):  # the classes repeat for every case
        if row.name != name:
            raise OutputError(
                f"{path} has class {row.name!r} instead of {name!r}. Evaluate again with the same class_names."
            )
        scores = by_case.setdefault(row.case, [ClassScore(Status.UNANNOTATED, math.nan, 0, 0)])
        dice, hd95_mm, nsd = (math.nan if value is None else value for value in (row.dice, row.hd95_mm, row.nsd))
        components = (None if value is None else int(value) for value in (row.components_ref, row.components_pred))
        volumes = (row.volume_ref_ml or 0.0, row.volume_pred_ml or 0.0)
        scores.append(ClassScore(row.status, dice, *volumes, hd95_mm, nsd, *components))
    return [CaseScores(case, scores, voxel_ml=1.0) for case, scores in by_case.items()]


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
