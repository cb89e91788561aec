"""Cross-validation: a training per fold, every case scored by the model that has not seen it, one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segbundle.config.settings import KEYS
from segbundle.config.values import check_values, nsd_tolerances
from segbundle.credentials import without_credentials
from segbundle.datasets.datalist import num_folds_of
from segbundle.errors import ConfigError, OutputError
from segbundle.files import run_files
from segbundle.files.atomic import remove_partial, write_json
from segbundle.files.documents import read_json, shortened
from segbundle.files.output_folders import folder_of
from segbundle.files.unwritten import UnwrittenFiles
from segbundle.results.runs import write_run
from segbundle.results.scores import print_summary, read_scores, summarize, write_scores
from segbundle.terminal import say
from segbundle.training.next_steps import after_folds
from segbundle.workflow.outputs import prepare_output
from segbundle.workflow.provenance import made_by, write_page

_FOLD = "fold_"
_FREE = (
    "device",
    "num_workers",
    "cache_dir",
    "mlflow_uri",
    "bundle_root",
    "dataset_dir",
    "output_dir",
    *("train", "validate", "initialize", "run", "finalize"),
)
"""Keys that do not decide what comes of a fold, may be another path to the same, or are the bundle's own."""
Run = Callable[[str, dict[str, Any]], None]


def cross_validate(output_dir: str | Path, task: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Train and evaluate every fold that an earlier call has not finished, then put all scores together.

    `output_dir` gets a folder per fold, `fold_0`, `fold_1` and so on, each with its training and, in `evaluation`, the
    predictions and scores of its held-out cases; `metrics.csv` and `summary.json` of all cases; and the task, in
    `cross_validation.json`. Unless the task has a `cache_dir`, prepared cases are kept in `cache` until all folds are
    trained.

    Args:
        output_dir: where everything goes; where an earlier call was stopped, this one goes on.
        task: the config keys of the training, without references resolved; a dataset's own folds replace `num_folds`.
        run: runs the workflow of a name (`train`, `evaluate`) with these config keys over the task's.

    Returns:
        the content of `summary.json`.

    Raises:
        ConfigError: fewer than two folds, or other ones than the dataset defines.
        DataError: by the dataset's folds a case would be scored several times.
        OutputError: an earlier call had another task, or a case is scored by several folds.
    """
    check_values(task)
    class_names = [str(name) for name in task["class_names"]]
    num_folds = num_folds_of(task["dataset_dir"], int(task["num_folds"]), task.get("data_list_key", "training"))
    task = {**task, "num_folds": num_folds}
    if num_folds < 2:
        raise ConfigError(f"num_folds is {num_folds}; a cross-validation needs at least 2.")
    output_dir = Path(output_dir)
    prepare_output(str(output_dir))
    folders = [output_dir / f"{_FOLD}{fold}" for fold in range(num_folds)]
    own_cache = output_dir / run_files.CACHE if task["cache_dir"] is None else None
    _refuse_files_of_others(output_dir, folders, own_cache)
    _keep_task(output_dir / run_files.CROSS_VALIDATION, task)
    cache = {} if own_cache is None else {"cache_dir": str(own_cache)}
    for fold, folder in enumerate(folders):
        scored = folder / "evaluation"
        if (scored / run_files.SUMMARY).exists():
            say(f"fold {fold} of {num_folds} is done: {scored}")
            continue
        say(f"fold {fold} of {num_folds}: {folder}")
        if own_cache is not None and not own_cache.exists():
            folder_of(output_dir).record(own_cache)
        resume = (folder / run_files.LAST).exists()
        run("train", {"output_dir": str(folder), "fold": fold, "resume": resume, **cache})
        run("evaluate", {"output_dir": str(scored), "fold": fold, "ckpt_path": str(folder / "model.pt")})
    cases = [case for folder in folders for case in read_scores(folder / "evaluation", class_names)]
    _refuse_cases_scored_twice(output_dir, cases)
    tolerances = nsd_tolerances(task.get("nsd_tolerance_mm"), class_names)
    unwritten = UnwrittenFiles()
    with unwritten.promised(f"{run_files.METRICS} or {run_files.SUMMARY}"):
        write_scores(output_dir, cases, class_names, tolerances)
    summary = summarize(cases, class_names, tolerances)
    print_summary(summary, f"{num_folds} folds, {len(cases)} cases, each by the model that has not seen it")
    made = [folder / "evaluation" / run_files.RUN_FILE for folder in folders]
    folds = [_read(path) for path in made if path.exists()]  # not those made before
    config = {key: task[key] for key in (*KEYS, "network_def", "loss", "optimizer") if key in task and key != "fold"}
    devices = ", ".join(dict.fromkeys(str(fold.get("device", "")) for fold in folds))
    fingerprints = ", ".join(str(fold.get("data_fingerprint", "")) for fold in folds)
    with unwritten.promised(run_files.RUN_FILE):
        write_run(output_dir, {**made_by(config), "device": devices, "data_fingerprint": fingerprints}, [])
    with unwritten.promised(run_files.REPORT):
        write_page(output_dir)
    if own_cache is not None:
        _remove_cache(own_cache)
    say(f"models of {num_folds} folds and the scores of all cases: {output_dir}")
    say(f"next: {after_folds(output_dir, output_dir)}")
    unwritten.raise_error()
    return summary


def _refuse_files_of_others(output_dir: Path, folders: Sequence[Path], own_cache: Path | None) -> None:
    """Refuse to begin if files of others have the places of those that the run will write."""
    own = (run_files.CROSS_VALIDATION, run_files.RUN_FILE, run_files.METRICS, run_files.SUMMARY, run_files.REPORT)
    parts: list[tuple[Path, Sequence[str]]] = [(output_dir, own)]
    for folder in folders:
        parts += [(folder, run_files.TRAINING), (folder / "evaluation", (*run_files.RESULTS, run_files.PREDICTIONS))]
    for place, files in parts:
        folder_of(place).refuse_foreign(files)
        folder_of(place).refuse_links([folder.name for folder in folders] if place == output_dir else ["evaluation"])
    if own_cache is not None and folder_of(output_dir).foreign([run_files.CACHE]):
        raise OutputError(
            f"{own_cache}: was not made by segbundle, and would be removed at the end. Move it away, give another "
            "--output_dir, or a --cache_dir to keep prepared cases in."
        )


def _remove_cache(folder: Path) -> None:
    """Remove prepared cases, and the folder if it held nothing else."""
    remove_partial(folder)
    with suppress(OSError):
        folder_of(folder.parent).remove(list(folder.resolve().glob("*.pt")))
        folder.rmdir()


def _keep_task(path: Path, task: Mapping[str, Any]) -> None:
    """Write down what is cross-validated, or compare it with what was."""
    kept = {key: value for key, value in task.items() if key not in _FREE}
    now = without_credentials(json.loads(json.dumps(kept, default=str)))
    if not path.exists() or not any(path.parent.glob(f"{_FOLD}*/last.pt")):  # nothing has come of it yet
        write_json(path, now)
        return
    before = without_credentials(_read(path))
    before.setdefault("nsd_tolerance_mm", now.get("nsd_tolerance_mm"))  # which earlier versions did not write down
    for key in sorted({*before, *now}.difference(_FREE)):
        if before.get(key) != now.get(key):
            raise OutputError(
                f"{path.parent}: holds a cross-validation with {key} {_words(before.get(key))}, now it is "
                f"{_words(now.get(key))}; "
                "go on with what it began with, or choose another --output_dir."
            )


def _words(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 60 else shortened(value)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, dict[str, Any], OutputError)
    return content


def _refuse_cases_scored_twice(output_dir: Path, cases: list[Any]) -> None:
    """The dataset has changed between folds if one case was held out twice."""
    twice = [name for name, count in Counter(case.case for case in cases).items() if count > 1]
    if twice:
        raise OutputError(
            f"{output_dir}: case {twice[0]} was held out by several folds, as the cases have changed since the "
            "first; start anew in another --output_dir."
        )
