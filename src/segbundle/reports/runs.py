"""What a run's folder tells: its scores, what made it, and where the scans of its cases are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import write_json
from segbundle.reports.scores import Row, read_rows

RUN_FILE = "run.json"
_FOLDS = "fold_*/evaluation"
_UNFINISHED = {
    "task.json": "its training has not been validated",
    "cross_validation.json": "its cross-validation has not ended",
}
"""Files that runs leave from their beginning, and what is the matter if they have left no scores."""


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's files are.

    Attributes:
        image: the scan; a list of files if channels have one each.
        reference: the label map, as it was annotated, if there is one.
        prediction: the label map that was written.
        ignore_label: value of unknown voxels in the reference, if it has any.
    """

    image: str | list[str]
    reference: str | None
    prediction: str
    ignore_label: int | None = None

    @property
    def first_image(self) -> str:
        """The scan, or its first channel."""
        return self.image if isinstance(self.image, str) else self.image[0]


@dataclass(frozen=True)
class Run:
    """A run's scores, in the order of `metrics.csv`, and what is known about it.

    Attributes:
        folder: where it is.
        rows: a row for each case and class.
        summary: `summary.json`.
        made_by: `run.json`: command, versions, configuration; empty if there is none.
        files: of the cases, as far as known.
        failed: cases without scores, with the reason.
    """

    folder: Path
    rows: Sequence[Row]
    summary: dict[str, Any]
    made_by: dict[str, Any]
    files: dict[str, CaseFiles]
    failed: dict[str, str]

    @property
    def class_names(self) -> list[str]:
        """Without the background, with the index of a class less by one."""
        return list(self.summary["classes"])

    def rows_of(self, name: str) -> list[Row]:
        """The rows of one class."""
        return [row for row in self.rows if row.name == name]

    @property
    def trainings(self) -> dict[str, Path]:
        """Folders of the trainings that made the models, by the names of their folds, as far as they have curves."""
        weights = self.made_by.get("config", {}).get("ckpt_path")
        near = [self.folder, *([Path(weights).parent] if isinstance(weights, str) else [])]
        folds = {place.name.replace("_", " "): place for place in fold_folders(self.folder)}
        if folds:
            return {name: place for name, place in folds.items() if (place / "tensorboard").is_dir()}
        return dict([("", place) for place in near if (place / "tensorboard").is_dir()][:1])


def fold_folders(folder: Path) -> list[Path]:
    """The folders of a cross-validation's folds, in their order; none if the folder is something else."""
    found = {int(match[1]): path for path in folder.glob("fold_*") if (match := re.fullmatch(r"fold_(\d+)", path.name))}
    return [found[fold] for fold in sorted(found)]


def write_run(folder: str | Path, made_by: dict[str, Any], data: Sequence[dict[str, Any]]) -> None:
    """Write `run.json`: what made a run, and the files of its cases.

    Args:
        folder: of the run.
        made_by: command, versions, configuration.
        data: datalist entries with `case`, `image` and `label`.

    Raises:
        OutputError: it cannot be written.
    """
    folder = Path(folder)
    cases = {
        entry["case"]: {
            "image": _absolute(entry["image"]),
            "reference": _absolute(entry["label"]),
            "ignore_label": entry.get("ignore_label"),
        }
        for entry in data
    }
    write_json(folder / RUN_FILE, {**made_by, "cases": cases})


def files_of_run(folder: str | Path) -> tuple[list[tuple[str, str, CaseFiles]], list[str]]:
    """The cases of an evaluation or of predictions whose files are known, worst first.

    Returns:
        name, Dice in words, and files of each case; and the names of the classes without the background.

    Raises:
        OutputError: as `read_run` or `read_predictions`.
    """
    folder = Path(folder)
    if not holds_scores(folder):
        records, _, class_names = read_predictions(folder)
        found = [
            (record["case"], "", prediction_files(folder, record)) for record in records if record["status"] == "ok"
        ]
        return found, class_names
    run = read_run(folder)
    dice = {
        case: [(row.dice, row.name) for row in run.rows if row.case == case and row.dice is not None]
        for case in run.files
    }
    order = sorted(run.files, key=lambda case: (min(dice[case], default=(2.0, "")), case))
    words = {case: ", ".join(f"{name} {value:.3f}" for value, name in dice[case]) for case in order}
    return [(case, words[case], run.files[case]) for case in order], run.class_names


def prediction_files(folder: Path, record: dict[str, Any]) -> CaseFiles:
    """The files that a record of `predictions.json` tells of, also if its folder was moved."""
    return CaseFiles(record["image"], None, str(folder / Path(record["prediction"]).name))


def holds_scores(folder: str | Path) -> bool:
    """Whether a folder is that of an evaluation, a cross-validation or a training, and not one of predictions.

    Raises:
        OutputError: it is neither, or what it is has not ended.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OutputError(f"{folder}: is no folder; give the output_dir of a run.")
    if (folder / "metrics.csv").is_file():
        return True
    for name, what in _UNFINISHED.items():
        if (folder / name).is_file():
            raise OutputError(f"{folder}: {what}, so that it holds no metrics.csv yet.")
    if not (folder / "predictions.json").is_file():
        raise OutputError(
            f"{folder}: holds neither metrics.csv nor predictions.json; give the output_dir of `segbundle evaluate`, "
            "`cross-validate`, `train` or `predict`."
        )
    if not (folder / RUN_FILE).is_file():
        raise OutputError(f"{folder}: holds no {RUN_FILE}, which tells what was done; predict or evaluate again.")
    if _json(folder / RUN_FILE).get("cases"):
        raise OutputError(f"{folder}: is an evaluation without metrics.csv; evaluate again.")
    return False


def read_predictions(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """`predictions.json` and `run.json` of a folder, and the names of the classes without the background.

    Raises:
        OutputError: it does not hold them, or they cannot be read.
    """
    if holds_scores(folder):
        raise OutputError(f"{folder}: holds scores, not predictions alone.")
    records, made_by = _json(folder / "predictions.json"), _json(folder / RUN_FILE)
    try:
        return records, made_by, [str(name) for name in made_by["config"]["class_names"][1:]]
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder / RUN_FILE}: tells no class_names; predict again.") from error


def short_name(folder: Path) -> str:
    """The end of a folder's path, which tells people what it is."""
    return "/".join(folder.resolve().parts[-2:])


def _json(path: Path) -> Any:
    try:
        return _read_json(path, None)
    except ValueError as error:
        raise OutputError(f"{path}: cannot be read ({error}); predict again.") from error


def _absolute(path: str | list[str]) -> str | list[str]:
    return str(Path(path).resolve()) if isinstance(path, str) else [str(Path(one).resolve()) for one in path]


def read_run(folder: str | Path) -> Run:
    """Everything that a folder tells of an evaluation, a cross-validation or a training.

    Raises:
        OutputError: it holds no scores, or they cannot be read.
    """
    folder = Path(folder)
    if not holds_scores(folder):
        raise OutputError(
            f"{folder}: holds predictions without scores; `segbundle evaluate` scores scans that have references."
        )
    if not (folder / "summary.json").is_file():
        raise OutputError(f"{folder}: holds no summary.json; evaluate again.")
    try:
        rows = read_rows(folder / "metrics.csv")
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        parts = [folder, *sorted(folder.glob(_FOLDS))]
        made_by: list[dict[str, Any]] = [_read_json(part / RUN_FILE, {}) for part in parts]
        records = [_read_json(part / "predictions.json", []) for part in parts]
        if not isinstance(summary["classes"], dict):
            raise TypeError("classes")
        return Run(
            folder,
            rows,
            summary,
            {key: value for key, value in made_by[0].items() if key != "cases"},
            {case: files for part, made in zip(parts, made_by, strict=True) for case, files in _files(part, made)},
            {record["case"]: record["error"] for part in records for record in part if record["status"] == "failed"},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{folder}: its scores cannot be read ({error!r}); evaluate again.") from error


def _files(folder: Path, made_by: dict[str, Any]) -> list[tuple[str, CaseFiles]]:
    return [
        (case, CaseFiles(prediction=str(folder / f"{case}_seg.nii.gz"), **given))
        for case, given in made_by.get("cases", {}).items()
    ]


def _read_json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else otherwise


def training_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Every scalar that TensorBoard has of a training, as (epoch, value), by its name."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
