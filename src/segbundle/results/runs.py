"""What a run's folder tells: its scores, what made it, and where the scans of its cases are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from segbundle.credentials import without_credentials
from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import write_json
from segbundle.files.documents import read_json, validate
from segbundle.results.case_files import CaseFiles
from segbundle.results.journal import damage_named, journals, read_records
from segbundle.results.scores import Row, read_rows

_UNFINISHED = {
    run_files.TASK: "its training has not been validated",
    run_files.CROSS_VALIDATION: "its cross-validation has not ended",
}
"""Files that runs leave from their beginning, and what is the matter if they have left no scores."""
_ABOUT_CASES = ("cases", "trained_on", "chosen_by")
_OF_SURFACES = {"hd95_mm_mean": None, "hd95_mm_ci95": [None, None], "nsd_mean": None, "nsd_ci95": [None, None]}
"""What `summary.json` has of classes whose surfaces were measured."""


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
    write_json(folder / run_files.RUN_FILE, {**made_by, "cases": cases})


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
    if (folder / run_files.METRICS).is_file():
        return True
    for name, what in _UNFINISHED.items():
        if (folder / name).is_file():
            raise OutputError(f"{folder}: {what}, so that it holds no metrics.csv yet.")
    if not (folder / run_files.PREDICTIONS).is_file() and not journals(folder):
        raise OutputError(
            f"{folder}: holds neither metrics.csv nor predictions.json; give the output_dir of `segbundle evaluate`, "
            "`cross-validate`, `train` or `predict`."
        )
    if not (folder / run_files.RUN_FILE).is_file():
        done = sum(record["status"] == "ok" for record in read_records(folder))
        raise OutputError(
            f"{folder}: holds no {run_files.RUN_FILE}, which is written when a run ends; {done} scans are done so far. "
            "Run the same predict or evaluate command with --resume."
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
    records, made_by = read_records(folder), _made_by(folder)
    class_names = made_by.get("config", {}).get("class_names")
    if not isinstance(class_names, list):
        raise OutputError(f"{folder / run_files.RUN_FILE}: tells no class_names; predict again.")
    files, failed = {}, _failed(records)
    for record in records:
        if record["status"] == "ok":
            scan, written = record.get("image"), record.get("prediction")
            if scan is None or written is None:
                missing = "image" if scan is None else "prediction"
                raise OutputError(
                    f"{folder / run_files.PREDICTIONS}: case {record['case']!r} has no {missing}; predict again."
                )
            found = CaseFiles(scan, None, str(folder / Path(written).name))
            files[record["case"]] = found.moved_to(dataset_dir)
    return Predictions(folder, class_names[1:], made_by, files, failed)


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
    if not (folder / run_files.SUMMARY).is_file():
        raise OutputError(f"{folder}: holds no summary.json; evaluate again.")
    parts = {int(one.name.removeprefix("fold_")): one / "evaluation" for one in fold_folders(folder)}
    parts = {fold: part for fold, part in parts.items() if (part / run_files.SUMMARY).is_file()}
    told = {part: _made_by(part) for part in (folder, *parts.values())}
    records = [record for part in told for record in read_records(part)]
    summary, rows = _summary(folder), read_rows(folder / run_files.METRICS)
    if others := {row.name for row in rows} - set(summary["classes"]):
        raise OutputError(
            f"{folder}: {run_files.METRICS} has the class {min(others)!r}, {run_files.SUMMARY} has not; evaluate again."
        )
    return Run(
        folder,
        rows,
        summary,
        {key: value for key, value in told[folder].items() if key not in _ABOUT_CASES},
        {case: files for part, made in told.items() for case, files in _files(part, made, dataset_dir)},
        _failed(records),
        _trained_on([told[part] for part in parts.values()] or [told[folder]]),
        frozenset(case for made in told.values() for case in made.get("chosen_by", [])),
        {fold: _summary(part) for fold, part in parts.items()},
        {case: fold for fold, part in parts.items() for case in told[part].get("cases", {})},
    )


def _failed(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Scans that failed, and why; those of one name together."""
    found: dict[str, str] = {}
    for record in records:
        if record["status"] == "failed":
            reason = record.get("error") or "no reason is known"
            found[record["case"]] = f"{found[record['case']]} {reason}" if record["case"] in found else reason
    return found


def _trained_on(told: Sequence[dict[str, Any]]) -> frozenset[str] | None:
    known = [made.get("trained_on") for made in told]
    return None if None in known else frozenset(case for cases in known for case in cases or ())


def _files(folder: Path, made_by: dict[str, Any], dataset_dir: str | Path | None) -> list[tuple[str, CaseFiles]]:
    return [
        (
            case,
            CaseFiles(
                given["image"], given["reference"], str(run_files.label_map(folder, case)), given.get("ignore_label")
            ).moved_to(dataset_dir),
        )
        for case, given in made_by.get("cases", {}).items()
    ]


def _summary(folder: Path) -> dict[str, Any]:
    """`summary.json`, with nothing where an earlier version did not measure surfaces."""
    from segbundle.results.schemas import Summary

    path = folder / run_files.SUMMARY
    summary: dict[str, Any] = read_validated(path, Summary)
    classes = {name: {**_OF_SURFACES, "nsd_tolerance_mm": None, **one} for name, one in summary["classes"].items()}
    return {"mean_dice_ci95": [None, None], **summary, "classes": classes}


def _made_by(folder: Path) -> dict[str, Any]:
    """`run.json`, with a configuration, or nothing at all."""
    from segbundle.results.schemas import MadeBy

    path = folder / run_files.RUN_FILE
    made_by: dict[str, Any] = read_validated(path, MadeBy) if os.path.lexists(path) else {}
    if not made_by:
        return {}
    shown = {key: without_credentials(made_by[key]) for key in ("command",) if key in made_by}
    return {**made_by, **shown, "config": without_credentials(made_by.get("config") or {})}


def read_validated(path: Path, schema: Any) -> Any:
    """Return the content of a run's JSON file as it is, if it fits a schema.

    Raises:
        OutputError: it cannot be read, or does not fit.
    """
    with damage_named(path):
        content: Any = read_json(path, error=OutputError)
        validate(content, schema, str(path), OutputError)
    return content


def window_of(made_by: dict[str, Any]) -> tuple[float, float] | None:
    """The intensities that a task clips its scans to, which show what it is about; None if it does not, as with MR."""
    intensity = made_by.get("config", {}).get("intensity")
    lower, upper = (intensity.get(key) if isinstance(intensity, dict) else None for key in ("lower", "upper"))
    if not isinstance(lower, (int, float)) or not isinstance(upper, (int, float)):
        return None
    return float(lower), float(upper)


def short_name(folder: Path) -> str:
    """Return the last parts of a folder's path, for display."""
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
    """Return the last parts of a path, for display."""
    return "/".join(PurePath(path).parts[-3:])
