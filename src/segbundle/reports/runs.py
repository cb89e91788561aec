"""What a run's folder tells: its scores, what made it, and where the scans of its cases are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import write_json
from segbundle.metrics import Status
from segbundle.reports.scores import Row, read_rows

RUN_FILE = "run.json"
TRAINING_CASES = "training_cases.csv"
RESULTS = (RUN_FILE, "metrics.csv", "summary.json", "report.html", "measurements.csv")
"""What tells of label maps, or was made of them, and is outdated when they are made anew."""
_UNFINISHED = {
    "task.json": "its training has not been validated",
    "cross_validation.json": "its cross-validation has not ended",
}
"""Files that runs leave from their beginning, and what is the matter if they have left no scores."""
_ABOUT_CASES = ("cases", "trained_on", "chosen_by")
_OF_SUMMARY = ("cases", "mean_dice", "mean_dice_present", "classes")
_OF_CLASS = ("dice_mean", "dice_ci95", *(f"n_{status.value}" for status in Status))
_OF_SURFACES = {"hd95_mm_mean": None, "hd95_mm_ci95": [None, None], "nsd_mean": None, "nsd_ci95": [None, None]}
"""What `summary.json` tells of all classes, of each, and of each whose surfaces were measured."""


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

    @property
    def gone(self) -> str | None:
        """The scan or the reference, if it is no longer there."""
        given = [self.first_image, *([] if self.reference is None else [self.reference])]
        return next((path for path in given if not Path(path).exists()), None)

    def moved_to(self, dataset_dir: str | Path | None) -> CaseFiles:
        """The same where the dataset is now: files whose folder and name are found in it are taken from there.

        Of a scan without a reference, which it could be taken for, the name is enough.
        """
        if dataset_dir is None:
            return self
        folder, image, least = Path(dataset_dir), self.image, 1 if self.reference is None else 2
        image = (
            _found_in(folder, image, least)
            if isinstance(image, str)
            else [_found_in(folder, one, least) for one in image]
        )
        reference = None if self.reference is None else _found_in(folder, self.reference, least)
        return replace(self, image=image, reference=reference)


def _found_in(folder: Path, given: str, least: int) -> str:
    """A path below a folder with the same end, of at least so many parts, or else the path that was given."""
    parts = PurePath(given).parts
    ends = [parts[-count:] for count in range(len(parts) - 1, least - 1, -1)]
    return next((str(place) for end in ends if (place := folder.joinpath(*end)).exists()), given)


@dataclass(frozen=True)
class Predictions:
    """Predictions without references, and what is known about them.

    Attributes:
        folder: where they are.
        class_names: without the background.
        made_by: `run.json`: command, versions, configuration.
        files: of the scans that were predicted.
        failed: scans that were not, with the reason.
    """

    folder: Path
    class_names: list[str]
    made_by: dict[str, Any]
    files: dict[str, CaseFiles]
    failed: dict[str, str]


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
        chosen_by: those of its cases whose Dice chose the epoch of a model.
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
    chosen_by: frozenset[str] = frozenset()
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


def _absolute(path: str | list[str]) -> str | list[str]:
    return str(Path(path).resolve()) if isinstance(path, str) else [str(Path(one).resolve()) for one in path]


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
        raise OutputError(
            f"{folder}: holds no {RUN_FILE}, which is written when a run ends; go on with predict ... --resume, or "
            "evaluate again."
        )
    if _made_by(folder).get("cases"):
        raise OutputError(f"{folder}: is an evaluation without metrics.csv; evaluate again.")
    return False


def read_predictions(folder: str | Path, dataset_dir: str | Path | None = None) -> Predictions:
    """Everything that a folder tells of predictions without references.

    Args:
        folder: where they are; it may have been moved.
        dataset_dir: where the scans are now, if they were moved.

    Raises:
        OutputError: it holds something else, or what it holds cannot be read.
    """
    folder = Path(folder)
    if holds_scores(folder):
        raise OutputError(f"{folder}: holds scores, not predictions alone.")
    records, made_by = _read_json(folder / "predictions.json", list, []), _made_by(folder)
    try:
        names = [str(name) for name in made_by["config"]["class_names"][1:]]
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder / RUN_FILE}: tells no class_names; predict again.") from error
    try:
        done = [record for record in records if record["status"] == "ok"]
        files = {
            one["case"]: CaseFiles(one["image"], None, str(folder / Path(one["prediction"]).name)).moved_to(dataset_dir)
            for one in done
        }
        failed = {record["case"]: record["error"] for record in records if record["status"] == "failed"}
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder / 'predictions.json'}: cannot be read ({error!r}); predict again.") from error
    return Predictions(folder, names, made_by, files, failed)


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
    parts = {int(one.name.removeprefix("fold_")): one / "evaluation" for one in fold_folders(folder)}
    parts = {fold: part for fold, part in parts.items() if (part / "summary.json").is_file()}
    told = {part: _made_by(part) for part in (folder, *parts.values())}
    records = [record for part in told for record in _read_json(part / "predictions.json", list, [])]
    summary = _summary(folder)
    try:
        rows = read_rows(folder / "metrics.csv")
        if others := {row.name for row in rows} - set(summary["classes"]):
            raise ValueError(f"metrics.csv has the class {min(others)!r}, summary.json has not")
        return Run(
            folder,
            rows,
            summary,
            {key: value for key, value in told[folder].items() if key not in _ABOUT_CASES},
            {case: files for part, made in told.items() for case, files in _files(part, made, dataset_dir)},
            {record["case"]: record["error"] for record in records if record["status"] == "failed"},
            _trained_on([told[part] for part in parts.values()] or [told[folder]]),
            frozenset(case for made in told.values() for case in made.get("chosen_by", [])),
            {fold: _summary(part) for fold, part in parts.items()},
            {case: fold for fold, part in parts.items() for case in told[part].get("cases", {})},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{folder}: its scores cannot be read ({error!r}); evaluate again.") from error


def refuse_if_moved(files: Mapping[str, CaseFiles], dataset_dir: str | Path | None, every: bool = False) -> None:
    """Raise an error if scans or references are not where they should be, before a page is replaced by an emptier one.

    Args:
        files: of the cases.
        dataset_dir: where they should be; None for where they were.
        every: only if all of them are gone.

    Raises:
        OutputError: they are not there.
    """
    gone = [path for one in files.values() if (path := one.gone)]
    if not gone or (every and len(gone) < len(files)):
        return
    if dataset_dir is None:
        raise OutputError(f"{gone[0]}: is no longer there; tell where the scans are now with --dataset_dir.")
    name = "/".join(PurePath(gone[0]).parts[-2:])
    raise OutputError(f"{dataset_dir}: holds no {name}; give the folder that the scans of the run are in now.")


def _trained_on(told: Sequence[dict[str, Any]]) -> frozenset[str] | None:
    known = [made.get("trained_on") for made in told]
    return None if None in known else frozenset(case for cases in known for case in cases or ())


def _files(folder: Path, made_by: dict[str, Any], dataset_dir: str | Path | None) -> list[tuple[str, CaseFiles]]:
    return [
        (case, CaseFiles(prediction=str(folder / f"{case}_seg.nii.gz"), **given).moved_to(dataset_dir))
        for case, given in made_by.get("cases", {}).items()
    ]


def _summary(folder: Path) -> dict[str, Any]:
    """`summary.json`, with nothing where an earlier version did not measure surfaces."""
    path = folder / "summary.json"
    summary = _read_json(path, dict, {})
    try:
        found = {**summary, **{key: summary[key] for key in _OF_SUMMARY}}
        classes = {
            name: {**_OF_SURFACES, "nsd_tolerance_mm": None, **one, **{key: one[key] for key in _OF_CLASS}}
            for name, one in summary["classes"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: cannot be read ({error!r}); evaluate again.") from error
    return {"mean_dice_ci95": [None, None], **found, "classes": classes}


def _made_by(folder: Path) -> dict[str, Any]:
    """`run.json`, with a configuration, or nothing at all."""
    made_by: dict[str, Any] = _read_json(folder / RUN_FILE, dict, {})
    return {**made_by, "config": made_by.get("config") or {}} if made_by else {}


def _read_json(path: Path, kind: type, otherwise: Any) -> Any:
    """What a file holds, if it is there."""
    if not path.is_file():
        return otherwise
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: cannot be read ({error}); predict or evaluate again.") from error
    if not isinstance(content, kind):
        raise OutputError(f"{path}: cannot be read (it holds no JSON {_JSON[kind]}); predict or evaluate again.")
    return content


_JSON: dict[type, str] = {dict: "object", list: "array"}


def window_of(made_by: dict[str, Any]) -> tuple[float, float] | None:
    """The intensities that a task clips its scans to, which show what it is about; None if it does not, as with MR."""
    intensity = made_by.get("config", {}).get("intensity") or {}
    return (float(intensity["lower"]), float(intensity["upper"])) if "lower" in intensity else None


def short_name(folder: Path) -> str:
    """The end of a folder's path, which tells people what it is."""
    return "/".join(folder.resolve().parts[-2:])


def about(made_by: Mapping[str, Any]) -> list[str]:
    """What a run is of, in a few words each: its data, the model, the day."""
    config = made_by.get("config", {})
    fold = config.get("fold")
    found = [
        ("Data", config.get("dataset_dir")),
        ("Held out", None if fold is None else f"fold {fold} of {config.get('num_folds')}"),
        ("Model", config.get("ckpt_path")),
        ("Date", str(made_by.get("date", ""))[:10]),
    ]
    return [
        f"{what}: {', '.join(_end(each) for each in (one if isinstance(one, list) else [one]))}"
        for what, one in found
        if one
    ]


def _end(path: str) -> str:
    """The end of a path, which tells people what it is."""
    return "/".join(PurePath(path).parts[-3:])
