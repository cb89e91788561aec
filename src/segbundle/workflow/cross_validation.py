"""Cross-validation: training and evaluation of every fold, and combined scores of the held-out cases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.config.settings import BY_KEY, KEYS, default_values
from segbundle.config.values import check_values, nsd_tolerances
from segbundle.credentials import without_credentials
from segbundle.datasets.datalist import folds_of_task
from segbundle.datasets.folds import refuse_repeated_cases
from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import remove_partial, write_json
from segbundle.files.documents import read_json, shortened
from segbundle.files.output_folders import folder_of
from segbundle.files.unwritten import UnwrittenFiles
from segbundle.results.made_by import write_run
from segbundle.results.scores import read_scores
from segbundle.results.summary import print_summary, summarize, write_scores
from segbundle.terminal import say
from segbundle.training.next_steps import prediction_command
from segbundle.workflow.fold_records import folds_in_words, write_folds
from segbundle.workflow.outputs import prepare_output
from segbundle.workflow.provenance import made_by, write_page

_FOLD = "fold_"
_IGNORED_KEYS = (
    "device",
    "num_workers",
    "cache_dir",
    "mlflow_uri",
    "splits",
    "bundle_root",
    "dataset_dir",
    "output_dir",
    *("train", "validate", "initialize", "run", "finalize"),
)
"""Config keys that may change between calls: they do not affect the results, or are set for each fold."""
Run = Callable[[str, dict[str, Any]], None]


class Fold(NamedTuple):
    """Fold of a cross-validation.

    Attributes:
        number: number of the fold.
        folder: output folder of the training run. Its subfolder `evaluation` contains the scores.
        splits: path of the file with the cases of all folds.

    Example:
        >>> [(name, keys["fold"]) for name, keys in Fold(1, Path("cv/fold_1"), Path("cv/splits_final.json")).runs()]
        [('train', 1), ('evaluate', 1)]
    """

    number: int
    folder: Path
    splits: Path

    @property
    def scored(self) -> Path:
        """Output folder of the evaluation."""
        return self.folder / "evaluation"

    @property
    def is_done(self) -> bool:
        """True if the held-out cases have been scored."""
        return (self.scored / run_files.SUMMARY).exists()

    def runs(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the workflows to run for the fold, in order, with the config keys that differ from the task.

        Returns:
            pairs of the name of a workflow (`train`, then `evaluate`) and its values by config key; `resume` of the
            training run is True if the folder contains `last.pt`
        """
        own = {"fold": self.number, "splits": str(self.splits)}
        resume = (self.folder / run_files.LAST).exists()
        return [
            ("train", {"output_dir": str(self.folder), "resume": resume, **own}),
            ("evaluate", {"output_dir": str(self.scored), "ckpt_path": str(self.folder / run_files.MODEL), **own}),
        ]


def cross_validate(output_dir: str | Path, task: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Train and evaluate all folds, and combine the scores of their held-out cases.

    A call continues where an earlier call was stopped: finished folds are skipped, and a started training run is
    resumed. The output folder contains:

    - `fold_0`, `fold_1`, ...: the training run of each fold; their subfolders `evaluation` contain the predictions and
      scores of the held-out cases.
    - `metrics.csv`, `summary.json`, `run.json` and `report.html` of all cases.
    - `cross_validation.json`: the task.
    - `splits_final.json`: the cases of each fold.
    - `cache`: prepared cases, until all folds are trained; not if the task has a `cache_dir`.

    Args:
        output_dir: output folder.
        task: config keys of the training runs, with unresolved references. If the dataset defines folds, their number
            replaces `num_folds`.
        run: function that runs a workflow (`train` or `evaluate`) with the given config keys in addition to the task.

    Returns:
        the content of `summary.json`

    Raises:
        ConfigError: a setting is invalid, there are fewer than two folds, or the number of folds differs from that of
            the dataset.
        DataError: the folds of the dataset hold out a case more than once.
        OutputError: the output folder cannot be written or is locked, or contains a cross-validation of another task or
            files of other programs; or a case was held out in several folds, because the dataset has changed.
        SegbundleError: `run` fails for a fold.

    Example:
        >>> from segbundle.config.overlays import read_config
        >>> task = read_config("bundle/configs/train.yaml") | {"dataset_dir": "data_samples"}  # doctest: +SKIP
        >>> summary = cross_validate("runs/cross_validation", task, run)  # doctest: +SKIP
    """
    output_dir = Path(output_dir)
    folds = prepare_folds(output_dir, task)
    own_cache = _own_cache(output_dir, task)
    cache = {} if own_cache is None else {"cache_dir": str(own_cache)}
    for fold in folds:
        if fold.is_done:
            say(f"fold {fold.number} of {len(folds)} is done: {fold.scored}")
            continue
        say(f"fold {fold.number} of {len(folds)}: {fold.folder}")
        if own_cache is not None and not own_cache.exists():
            folder_of(output_dir).record(own_cache)
        for name, keys in fold.runs():
            run(name, {**keys, **(cache if name == "train" else {})})
    summary, unwritten = _combine(output_dir, [fold.folder for fold in folds], _complete(task, len(folds)))
    if own_cache is not None:
        _remove_cache(own_cache)
    say(f"models of {len(folds)} folds and the scores of all cases: {output_dir}")
    say(f"next: {prediction_command(output_dir, output_dir)}")
    unwritten.raise_error()
    return summary


def prepare_folds(output_dir: Path, task: Mapping[str, Any]) -> list[Fold]:
    """Create and lock the output folder of a cross-validation, write its task and its folds, and return the folds.

    Args:
        output_dir: output folder.
        task: config keys of the training runs, see `cross_validate`.

    Raises:
        ConfigError: see `cross_validate`.
        DataError: see `cross_validate`.
        OutputError: see `cross_validate`.

    Example:
        >>> prepare_folds(Path("runs/cross_validation"), task)  # doctest: +SKIP
    """
    check_values(task)
    split = folds_of_task(task)
    refuse_repeated_cases(split)
    prepare_output(str(output_dir))
    folders = [output_dir / f"{_FOLD}{number}" for number in range(len(split.folds))]
    _check_foreign_files(output_dir, folders, _own_cache(output_dir, task))
    _save_task(output_dir / run_files.CROSS_VALIDATION, _complete(task, len(folders)))
    splits = write_folds(output_dir, split)
    say(f"{len(folders)} folds from {split.origin}")
    for line in folds_in_words(split, [str(name) for name in task["class_names"]]):
        say(line)
    return [Fold(number, folder, splits) for number, folder in enumerate(folders)]


def _complete(task: Mapping[str, Any], num_folds: int) -> dict[str, Any]:
    """Return the task with the settings of the evaluation, which `train.yaml` does not have."""
    return {**default_values("evaluate"), **task, "num_folds": num_folds}


def _own_cache(output_dir: Path, task: Mapping[str, Any]) -> Path | None:
    """Return the folder of prepared cases; None if the task has its own."""
    return output_dir / run_files.CACHE if task.get("cache_dir") is None else None


def _combine(
    output_dir: Path, folders: Sequence[Path], task: Mapping[str, Any]
) -> tuple[dict[str, Any], UnwrittenFiles]:
    """Write scores, `run.json` and report of all folds; return the summary, and the files that were not written."""
    class_names = [str(name) for name in task["class_names"]]
    cases = [case for folder in folders for case in read_scores(folder / "evaluation", class_names)]
    _check_scored_once(output_dir, cases)
    tolerances = nsd_tolerances(task.get("nsd_tolerance_mm"), class_names)
    unwritten = UnwrittenFiles()
    with unwritten.defer_error(f"{run_files.METRICS} or {run_files.SUMMARY}"):
        write_scores(output_dir, cases, class_names, tolerances)
    summary = summarize(cases, class_names, tolerances)
    print_summary(
        summary, f"{len(folders)} folds, {len(cases)} cases, each scored with the model that was not trained on it"
    )
    paths = [folder / "evaluation" / run_files.RUN_FILE for folder in folders]
    folds = [_read(path) for path in paths if path.exists()]  # earlier versions did not write it
    config = {key: task[key] for key in (*KEYS, "network_def", "loss", "optimizer") if key in task and key != "fold"}
    devices = ", ".join(dict.fromkeys(str(fold.get("device", "")) for fold in folds))
    fingerprints = ", ".join(str(fold.get("data_fingerprint", "")) for fold in folds)
    with unwritten.defer_error(run_files.RUN_FILE):
        write_run(output_dir, {**made_by(config), "device": devices, "data_fingerprint": fingerprints}, [])
    with unwritten.defer_error(run_files.REPORT):
        write_page(output_dir)
    return summary, unwritten


def _check_foreign_files(output_dir: Path, folders: Sequence[Path], own_cache: Path | None) -> None:
    """Raise an error if the run would replace files that segbundle has not written."""
    own = (
        run_files.CROSS_VALIDATION,
        run_files.SPLITS,
        run_files.RUN_FILE,
        run_files.METRICS,
        run_files.SUMMARY,
        run_files.REPORT,
    )
    parts: list[tuple[Path, Sequence[str]]] = [(output_dir, own)]
    for folder in folders:
        parts += [(folder, run_files.TRAINING), (folder / "evaluation", (*run_files.RESULTS, run_files.PREDICTIONS))]
    for part, files in parts:
        folder_of(part).refuse_foreign(files)
        folder_of(part).refuse_links([folder.name for folder in folders] if part == output_dir else ["evaluation"])
    if own_cache is not None and folder_of(output_dir).foreign([run_files.CACHE]):
        raise OutputError(
            f"{own_cache}: was not written by segbundle, but would be removed at the end. Move it away, choose another "
            "--output_dir, or set a --cache_dir for the prepared cases."
        )


def _remove_cache(folder: Path) -> None:
    """Remove the prepared cases, and the folder if it is empty afterwards."""
    remove_partial(folder)
    with suppress(OSError):
        folder_of(folder.parent).remove(list(folder.resolve().glob("*.pt")))
        folder.rmdir()


def _save_task(path: Path, task: Mapping[str, Any]) -> None:
    """Save the task of the cross-validation, or compare it with the saved task."""
    compared = {key: value for key, value in task.items() if key not in _IGNORED_KEYS}
    now = without_credentials(json.loads(json.dumps(compared, default=str)))
    if not path.exists() or not any(path.parent.glob(f"{_FOLD}*/last.pt")):  # no epoch is finished yet
        write_json(path, now)
        return
    before = without_credentials(_read(path))
    before = {**{key: value for key, value in now.items() if key in BY_KEY}, **before}  # settings of later versions
    for key in sorted({*before, *now}.difference(_IGNORED_KEYS)):
        if before.get(key) != now.get(key):
            raise OutputError(
                f"{path.parent}: contains a cross-validation with {key} {_as_text(before.get(key))}, but {key} is now "
                f"{_as_text(now.get(key))}. Undo the change, or choose another --output_dir."
            )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 60 else shortened(value)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, dict[str, Any], OutputError)
    return content


def _check_scored_once(output_dir: Path, cases: list[Any]) -> None:
    """Raise an error if a case was held out twice, because the dataset has changed between folds."""
    twice = [name for name, count in Counter(case.case for case in cases).items() if count > 1]
    if twice:
        raise OutputError(
            f"{output_dir}: case {twice[0]} was held out in several folds, because the cases have changed since the "
            "first fold. Start over in another --output_dir."
        )
