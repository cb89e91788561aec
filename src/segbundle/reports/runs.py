"""What a run's folder tells: its scores, what made it, and where the scans of its cases are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import write_json
from segbundle.reports.scores import Row, read_rows

Curves = dict[str, list[tuple[float, float]]]
"""Values of a training by their names, as (epoch, value)."""
RUN_FILE = "run.json"
RESULTS = ("metrics.csv", "summary.json", "report.html", "measurements.csv")
"""What is made of predictions, and is outdated when they are made anew."""
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

    def moved_to(self, dataset_dir: str | Path | None) -> CaseFiles:
        """The same where the dataset is now: files whose folder and name are found in it are taken from there."""
        if dataset_dir is None:
            return self
        folder, image = Path(dataset_dir), self.image
        image = _found_in(folder, image) if isinstance(image, str) else [_found_in(folder, one) for one in image]
        reference = None if self.reference is None else _found_in(folder, self.reference)
        return replace(self, image=image, reference=reference)


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
        trained_on: those of its cases that its models were trained on; None if nobody knows.
        folds: of a cross-validation, what `summary.json` of each fold tells, by the number of the fold.
        fold_of: of a cross-validation, the fold that held a case out.
    """

    folder: Path
    rows: Sequence[Row]
    summary: dict[str, Any]
    made_by: dict[str, Any]
    files: dict[str, CaseFiles]
    failed: dict[str, str]
    trained_on: frozenset[str] | None = None
    folds: dict[int, dict[str, Any]] = field(default_factory=dict)
    fold_of: dict[str, int] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        """Whether the scores are those of a training's own validation."""
        return (self.folder / "task.json").is_file()

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
        near = [self.folder]
        if isinstance(weights, str):
            training, above = Path(weights).parent, self.folder.resolve().parent
            near += [training, *([above] if above.name == training.name else [])]  # both may have been moved
        folds = {place.name.replace("_", " "): place for place in fold_folders(self.folder)}
        if folds:
            return {name: place for name, place in folds.items() if (place / "tensorboard").is_dir()}
        return dict([("", place) for place in near if (place / "tensorboard").is_dir()][:1])


def fold_folders(folder: Path) -> list[Path]:
    """The folders of a cross-validation's folds, in their order; none if the folder is something else."""
    found = {int(match[1]): path for path in folder.glob("fold_*") if (match := re.fullmatch(r"fold_(\d+)", path.name))}
    return [found[fold] for fold in sorted(found)]


def _found_in(folder: Path, given: str) -> str:
    parts = PurePath(given).parts
    ends = [parts[-count:] for count in range(len(parts) - 1, 1, -1)]  # a name alone may be an image's or a label map's
    return next((str(place) for end in ends if (place := folder.joinpath(*end)).exists()), given)


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


def files_of_run(
    folder: str | Path, dataset_dir: str | Path | None = None
) -> tuple[list[tuple[str, str, CaseFiles]], list[str], dict[str, Any]]:
    """The cases of an evaluation or of predictions whose files are known, worst first.

    Args:
        folder: of the run.
        dataset_dir: where the scans are now, if they were moved.

    Returns:
        name, Dice in words, and files of each case; the names of the classes without the background; and `run.json`.

    Raises:
        OutputError: as `read_run` or `read_predictions`.
    """
    folder = Path(folder)
    if not holds_scores(folder):
        records, made_by, class_names = read_predictions(folder)
        done = [record for record in records if record["status"] == "ok"]
        found = [(record["case"], "", prediction_files(folder, record).moved_to(dataset_dir)) for record in done]
        return found, class_names, made_by
    run = read_run(folder, dataset_dir)
    dice = {
        case: [(row.dice, row.name) for row in run.rows if row.case == case and row.dice is not None]
        for case in run.files
    }
    order = sorted(run.files, key=lambda case: (min(dice[case], default=(2.0, "")), case))
    words = {case: ", ".join(f"{name} {value:.3f}" for value, name in dice[case]) for case in order}
    return [(case, words[case], run.files[case]) for case in order], run.class_names, run.made_by


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


def window_of(made_by: dict[str, Any]) -> tuple[float, float] | None:
    """The intensities that a task clips its scans to, which show what it is about; None if it does not, as with MR."""
    intensity = made_by.get("config", {}).get("intensity") or {}
    return (float(intensity["lower"]), float(intensity["upper"])) if "lower" in intensity else None


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


def read_run(folder: str | Path, dataset_dir: str | Path | None = None) -> Run:
    """Everything that a folder tells of an evaluation, a cross-validation or a training.

    Args:
        folder: of the run.
        dataset_dir: where the scans are now, if they were moved.

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
        parts = {int(one.name.removeprefix("fold_")): one / "evaluation" for one in fold_folders(folder)}
        told: dict[Path, dict[str, Any]] = {part: _read_json(part / RUN_FILE, {}) for part in (folder, *parts.values())}
        records = [record for part in told for record in _read_json(part / "predictions.json", [])]
        if not isinstance(summary["classes"], dict):
            raise TypeError("classes")
        return Run(
            folder,
            rows,
            summary,
            {key: value for key, value in told[folder].items() if key not in ("cases", "trained_on")},
            {case: files for part, made in told.items() for case, files in _files(part, made, dataset_dir)},
            {record["case"]: record["error"] for record in records if record["status"] == "failed"},
            _trained_on([told[part] for part in parts.values()] or [told[folder]]),
            {fold: _read_json(part / "summary.json", {}) for fold, part in parts.items()},
            {case: fold for fold, part in parts.items() for case in told[part].get("cases", {})},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{folder}: its scores cannot be read ({error!r}); evaluate again.") from error


def _trained_on(told: Sequence[dict[str, Any]]) -> frozenset[str] | None:
    known = [made.get("trained_on") for made in told]
    return None if None in known else frozenset(case for cases in known for case in cases or ())


def _files(folder: Path, made_by: dict[str, Any], dataset_dir: str | Path | None) -> list[tuple[str, CaseFiles]]:
    return [
        (case, CaseFiles(prediction=str(folder / f"{case}_seg.nii.gz"), **given).moved_to(dataset_dir))
        for case, given in made_by.get("cases", {}).items()
    ]


def _read_json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else otherwise


def training_curves(folder: Path) -> Curves:
    """Every scalar that TensorBoard has of a training, as (epoch, value), by its name."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
