"""Reading of runs from their output folders: scores, provenance, and the files of the cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.results.case_files import CaseFiles
from segbundle.results.journal import journals, read_records
from segbundle.results.made_by import read_made_by, read_validated
from segbundle.results.scores import Row, read_rows
from segbundle.results.source_series import series_by_case

_UNFINISHED = {
    run_files.TASK: "no epoch has been validated. Wait for the first validation, or continue a stopped run with "
    "--resume true",
    run_files.CROSS_VALIDATION: "the cross-validation has not finished. Run the same command again to continue it",
}
"""Files that a run writes when it starts, with the reason why their folder may have no scores, and what to do."""
_CASE_KEYS = ("cases", "trained_on", "chosen_by")
_NO_SURFACES = {"hd95_mm_mean": None, "hd95_mm_ci95": [None, None], "nsd_mean": None, "nsd_ci95": [None, None]}
"""Defaults for classes of `summary.json` without surface metrics."""


@dataclass(frozen=True)
class Predictions:
    """Predictions without references, as read from the output folder of `segbundle predict`.

    Attributes:
        folder: folder of the predictions.
        class_names: names of the foreground classes, in the order of their class indices.
        made_by: content of `run.json` (command, versions, configuration), without credentials.
        files: files by case, for all scans that were predicted.
        failed: error messages by case, for all scans that failed.
        series: fields of the DICOM series by case, for scans from DICOM.
        failed_formats: reason of each output format that could not be written, by case and format.

    Example:
        >>> Predictions(Path("predictions"), ["liver"], {}, {}, {"case_2": "cannot be read"}).failed
        {'case_2': 'cannot be read'}
    """

    folder: Path
    class_names: list[str]
    made_by: dict[str, Any]
    files: dict[str, CaseFiles]
    failed: dict[str, str]
    series: dict[str, dict[str, str]] = field(default_factory=dict)
    failed_formats: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Evaluation, cross-validation or training run with scores, as read from its folder.

    Attributes:
        folder: folder of the run.
        rows: rows of `metrics.csv`, one per case and class.
        summary: content of `summary.json`.
        made_by: content of `run.json` (command, versions, configuration) without credentials and without its lists of
            cases; empty if the file is missing.
        files: files by case, for the cases in `run.json`.
        failed: error messages by case, for cases that failed and have no scores.
        trained_on: names of the training cases of the models; None if unknown.
        chosen_by: names of the cases whose Dice selected the epoch of a model; empty if unknown.
        folds: content of `summary.json` by number of the fold; empty unless the run is a cross-validation.
        fold_of: number of the fold that held out each case; empty unless the run is a cross-validation.
        series: fields of the DICOM series by case, for scans from DICOM.

    Example:
        >>> run = Run(Path("run"), [], {"classes": {"liver": {}, "lesion": {}}}, {}, {}, {})
        >>> run.class_names
        ['liver', 'lesion']
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
    series: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        """True if the scores come from the validation of a training run."""
        return (self.folder / "task.json").is_file()

    @property
    def class_names(self) -> list[str]:
        """Names of the foreground classes; the class index is the position in the list plus 1."""
        return list(self.summary["classes"])

    def rows_of(self, name: str) -> list[Row]:
        """Return the rows of one class.

        Args:
            name: name of the class.
        """
        return [row for row in self.rows if row.name == name]

    @property
    def trainings(self) -> dict[str, Path]:
        """Folders with TensorBoard files of the training runs whose models were scored, by name.

        For a cross-validation, the keys are the names of the folds, such as "fold 0". Otherwise, there is at most one
        folder, with the key "": the folder of this run, or of the model that was evaluated.
        """
        ckpt_path = self.made_by.get("config", {}).get("ckpt_path")
        candidates = [self.folder]
        if isinstance(ckpt_path, str):
            training, parent = Path(ckpt_path).parent, self.folder.resolve().parent
            candidates += [training, *([parent] if parent.name == training.name else [])]  # both may have been moved
        folds = {path.name.replace("_", " "): path for path in fold_folders(self.folder)}
        if folds:
            return {name: path for name, path in folds.items() if (path / "tensorboard").is_dir()}
        return dict([("", path) for path in candidates if (path / "tensorboard").is_dir()][:1])


def fold_folders(folder: Path) -> list[Path]:
    """Return the folders `fold_0`, `fold_1`, ... of a cross-validation, sorted by number.

    Args:
        folder: output folder of a cross-validation.

    Returns:
        folders of the folds; empty if the folder contains no folds

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for fold in (10, 2):
        ...         (Path(folder) / f"fold_{fold}").mkdir()
        ...     [path.name for path in fold_folders(Path(folder))]
        ['fold_2', 'fold_10']
    """
    found = {int(match[1]): path for path in folder.glob("fold_*") if (match := re.fullmatch(r"fold_(\d+)", path.name))}
    return [found[fold] for fold in sorted(found)]


def holds_scores(folder: str | Path) -> bool:
    """Return whether a folder has scores: True for a run with references, False for predictions without references.

    Args:
        folder: folder of an evaluation, a cross-validation, a training run or predictions.

    Raises:
        OutputError: the folder does not belong to a run, the run has not finished, or `run.json` cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "metrics.csv").write_text("case,class,status,dice")
        ...     holds_scores(folder)
        True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder. Give the output_dir of a run.")
    if (folder / run_files.METRICS).is_file():
        return True
    for name, reason in _UNFINISHED.items():
        if (folder / name).is_file():
            raise OutputError(f"{folder} has no metrics.csv yet: {reason}.")
    if not (folder / run_files.PREDICTIONS).is_file() and not journals(folder):
        raise OutputError(
            f"{folder} contains neither metrics.csv nor predictions.json. Give the output_dir of `segbundle evaluate`, "
            "`cross-validate`, `train` or `predict`."
        )
    if not (folder / run_files.RUN_FILE).is_file():
        done = sum(record["status"] == "ok" for record in read_records(folder))
        raise OutputError(
            f"{folder} has no {run_files.RUN_FILE}: the run has not finished (scans done: {done}). Run the same "
            "predict or evaluate command with --resume."
        )
    if read_made_by(folder).get("cases"):
        raise OutputError(f"{folder} is an evaluation without metrics.csv. Evaluate again.")
    return False


def read_predictions(folder: str | Path, dataset_dir: str | Path | None = None) -> Predictions:
    """Return the content of a folder of predictions without references.

    Args:
        folder: folder of the predictions, which may have been moved.
        dataset_dir: new folder of the scans, if they were moved (see `CaseFiles.moved_to`), or their folder if the run
            does not record paths. Default: the recorded paths are used.

    Raises:
        OutputError: the folder has scores or does not belong to a run, the run has not finished, or a file cannot be
            read.

    Example:
        >>> import tempfile
        >>> from segbundle.files.atomic import write_json
        >>> from segbundle.results.made_by import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(folder, {"config": {"class_names": ["background", "liver"]}}, [])
        ...     record = {"case": "a", "status": "ok", "image": "a.nii.gz", "prediction": "a_seg.nii.gz"}
        ...     write_json(Path(folder) / "predictions.json", [record])
        ...     read_predictions(folder).class_names
        ['liver']
    """
    folder = Path(folder)
    if holds_scores(folder):
        raise OutputError(f"{folder} contains scores. Give an output_dir of `segbundle predict`.")
    records, made_by = read_records(folder), read_made_by(folder)
    class_names = made_by.get("config", {}).get("class_names")
    if not isinstance(class_names, list):
        raise OutputError(f"{folder / run_files.RUN_FILE} has no class_names. Predict again.")
    files, failed = {}, _failed_cases(records)
    hidden = _hidden(folder, dataset_dir, made_by["config"], records)
    for record in records:
        if record["status"] == "ok":
            scan, prediction = record.get("image") or hidden.get(record["case"]), record.get("prediction")
            if scan is None or prediction is None:
                missing = "image" if scan is None else "prediction"
                raise OutputError(
                    f"{folder / run_files.PREDICTIONS}: case {record['case']!r} has no {missing}. Predict again."
                )
            found = CaseFiles(scan, None, str(folder / Path(prediction).name))
            files[record["case"]] = found.moved_to(dataset_dir)
    formats = {record["case"]: record["failed_formats"] for record in records if record.get("failed_formats")}
    return Predictions(folder, class_names[1:], made_by, files, failed, series_by_case(records), formats)


def read_run(folder: str | Path, dataset_dir: str | Path | None = None) -> Run:
    """Return the content of the folder of an evaluation, a cross-validation or a training run.

    Args:
        folder: folder of the run.
        dataset_dir: new folder of the scans, if they were moved (see `CaseFiles.moved_to`), or their folder if the run
            does not record paths. Default: the recorded paths are used.

    Raises:
        OutputError: the folder has no scores, the run has not finished, or its files cannot be read or contradict each
            other.

    Example:
        >>> import tempfile
        >>> from segbundle.results.summary import write_scores
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_scores(folder, [], ["background", "liver"])
        ...     read_run(folder).class_names
        ['liver']
    """
    folder = Path(folder)
    if not holds_scores(folder):
        raise OutputError(
            f"{folder} contains predictions without scores. Use `segbundle evaluate` for scans with references."
        )
    if not (folder / run_files.SUMMARY).is_file():
        raise OutputError(f"{folder} has no summary.json. Evaluate again.")
    folds = {int(path.name.removeprefix("fold_")): path / "evaluation" for path in fold_folders(folder)}
    folds = {fold: path for fold, path in folds.items() if (path / run_files.SUMMARY).is_file()}
    made_by = {path: read_made_by(path) for path in (folder, *folds.values())}
    records = {path: read_records(path) for path in made_by}
    every = [record for found in records.values() for record in found]
    summary, rows = _read_summary(folder), read_rows(folder / run_files.METRICS)
    if others := {row.name for row in rows} - set(summary["classes"]):
        raise OutputError(
            f"{folder}: {run_files.METRICS} has the class {min(others)!r}, but {run_files.SUMMARY} does not. Evaluate "
            "again."
        )
    return Run(
        folder,
        rows,
        summary,
        {key: value for key, value in made_by[folder].items() if key not in _CASE_KEYS},
        {
            case: files
            for path, made in made_by.items()
            for case, files in _case_files(path, made, records[path], dataset_dir)
        },
        _failed_cases(every),
        _trained_on([made_by[path] for path in folds.values()] or [made_by[folder]]),
        frozenset(case for made in made_by.values() for case in made.get("chosen_by", [])),
        {fold: _read_summary(path) for fold, path in folds.items()},
        {case: fold for fold, path in folds.items() for case in made_by[path].get("cases", {})},
        series_by_case(every),
    )


def _hidden(
    folder: Path, dataset_dir: str | Path | None, config: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the scans by case that records do not contain because cases are named by pseudonyms.

    A scan that is not in the folder is named by its pseudonym, so that it counts as a missing file.
    """
    from segbundle.results.hidden_scans import find_hidden_scans, hides_scans

    cases = [record["case"] for record in records if record["status"] == "ok" and record.get("image") is None]
    if not cases or not hides_scans(folder):
        return {}
    found = find_hidden_scans(folder, dataset_dir, config, labeled=False)
    return {case: found[case]["image"] if case in found else case for case in cases}


def _failed_cases(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return error messages by case; the messages of scans with the same name are joined."""
    found: dict[str, str] = {}
    for record in records:
        if record["status"] == "failed":
            reason = record.get("error") or "unknown error"
            found[record["case"]] = f"{found[record['case']]} {reason}" if record["case"] in found else reason
    return found


def _trained_on(made_by: Sequence[dict[str, Any]]) -> frozenset[str] | None:
    known = [made.get("trained_on") for made in made_by]
    return None if None in known else frozenset(case for cases in known for case in cases or ())


def _case_files(
    folder: Path,
    made_by: dict[str, Any],
    records: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
) -> list[tuple[str, CaseFiles]]:
    """Return the files of each case. Label maps in other formats than NIfTI are listed in the records."""
    from segbundle.results.hidden_scans import find_hidden_scans, hides_scans

    written = {record["case"]: Path(record["prediction"]).name for record in records if record.get("prediction")}
    cases, found = made_by.get("cases", {}), []
    if not cases and written and dataset_dir is not None and hides_scans(folder):
        entries = find_hidden_scans(folder, dataset_dir, made_by.get("config", {}), labeled=True)
        scored = [entry for case, entry in entries.items() if case in written and "label" in entry]
        cases = {entry["case"]: {**entry, "reference": entry["label"]} for entry in scored}
    for case, given in cases.items():
        prediction = folder / written.get(case, run_files.label_map("", case))
        values = given.get("label_values")
        loaded = None if values is None else {int(value): index for value, index in values.items()}
        files = CaseFiles(given["image"], given["reference"], str(prediction), given.get("ignore_label"), loaded)
        found.append((case, files.moved_to(dataset_dir)))
    return found


def _read_summary(folder: Path) -> dict[str, Any]:
    """Return `summary.json`, with empty surface metrics in files of earlier versions."""
    from segbundle.results.schemas import Summary

    path = folder / run_files.SUMMARY
    summary: dict[str, Any] = read_validated(path, Summary)
    classes = {name: {**_NO_SURFACES, "nsd_tolerance_mm": None, **row} for name, row in summary["classes"].items()}
    return {"mean_dice_ci95": [None, None], **summary, "classes": classes}


def short_name(folder: Path) -> str:
    """Return the last two parts of the absolute path of a folder, for display.

    Args:
        folder: path of a folder.

    Example:
        >>> short_name(Path("/data/runs/liver"))
        'runs/liver'
    """
    return "/".join(folder.resolve().parts[-2:])
