"""Scores of cases, and their file `metrics.csv`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import read_csv
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


@dataclass(frozen=True)
class Row:
    """Row of `metrics.csv` with the scores of one class in one case; empty cells are None.

    Attributes:
        case: name of the case.
        name: name of the class.
        status: whether and how the class could be scored, see `segbundle.metrics.Status`.
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

    Returns:
        dict with the keys `voxel_ml` and `classes`, see `segbundle.results.schemas.Scores`

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


def read_rows(path: Path) -> list[Row]:
    """Return the rows of `metrics.csv`, one `Row` per case and class, in the order of the file.

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
    """Convert the text of a CSV cell to a finite number.

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
        >>> from segbundle.results.summary import write_scores
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
