"""Find the dataset, output folder and task of `segbundle train`; plan the task if only a dataset is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segbundle.cli.running import print_log
from segbundle.config.options import default_bundle, split_overrides, switches_of
from segbundle.config.overlays import read_config, workflow_file
from segbundle.errors import ConfigError, OutputError
from segbundle.files import run_files
from segbundle.terminal import escaped

if TYPE_CHECKING:
    from segbundle.cli.slurm import Submission

_RUNS = Path("runs")
_GIVEN_BY_OPTION = "Pass the dataset as `segbundle train DATASET`, or with --dataset_dir."


class Training(NamedTuple):
    """Arguments of a training run.

    Attributes:
        dataset_dir: folder of the dataset.
        output_dir: folder for the results.
        config: paths of task YAMLs; empty if there are none.
        words: remaining command-line arguments, without the dataset.

    Example:
        >>> Training(Path("data"), Path("runs/data"), [], []).output_dir
        PosixPath('runs/data')
    """

    dataset_dir: Path
    output_dir: Path
    config: list[Path]
    words: list[str]


def training_of(
    dataset_dir: Path | None,
    output_dir: Path | None,
    config: list[Path] | None,
    bundle: Path | None,
    device: str | None,
    words: list[str] | None,
    slurm: Submission | None = None,
) -> Training:
    """Return the arguments of a training run, given those of the command line.

    If the dataset is a plain word instead of `--dataset_dir`, the default of the output folder is `runs/<name of the
    dataset>`. Without a task file, the task is then planned, printed and written to `task.yaml` in the output folder. A
    resumed run uses this file.

    Args:
        dataset_dir, output_dir: values of the options; None if they were not given.
        config: task files; None or empty without one.
        bundle: folder of the bundle; None for that of the project.
        device: name of the device; None for a GPU if present.
        words: rest of the command line.
        slurm: SLURM job to submit, which plans the task itself. Default: None.

    Raises:
        ConfigError: the dataset or the output folder is missing, or no task can be planned.
        DataError: the dataset cannot be used.
        OutputError: the output folder contains a training run or an edited task.

    Example:
        >>> training = training_of(None, None, [Path("a.yaml")], None, None, ["data", "--max_epochs", "3"])
        >>> training.dataset_dir, training.output_dir, training.words
        (PosixPath('data'), PosixPath('runs/data'), ['--max_epochs', '3'])
    """
    tasks = list(config or [])
    if dataset_dir is not None:
        if output_dir is None:
            raise ConfigError("--output_dir is missing. Set it to the folder for the results.")
        return Training(dataset_dir, output_dir, tasks, list(words or []))
    dataset, rest = _dataset_of(list(words or []))
    if dataset is None:
        raise ConfigError(f"no dataset given. {_GIVEN_BY_OPTION}")
    folder = output_dir or _RUNS / (dataset.resolve().stem if dataset.suffix else dataset.resolve().name)
    if not tasks and (slurm.num_processes if slurm else int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            "a task can be planned by one process only. Run `segbundle plan` first, and pass its file as --config."
        )
    if not tasks and slurm is None:
        tasks = [_planned(dataset, folder, bundle, device, rest)]
    return Training(dataset, folder, tasks, rest)


def _dataset_of(words: list[str]) -> tuple[Path | None, list[str]]:
    """Return the first plain word of a command line as the path of the dataset, and the other words."""
    switches = switches_of(read_config(workflow_file(default_bundle() / "configs", "train")))
    for position in range(len(words)):
        plain, _ = split_overrides(words[: position + 1], switches)
        if plain:
            return Path(plain[0]), [*words[:position], *words[position + 1 :]]
    return None, words


def _planned(dataset: Path, folder: Path, bundle: Path | None, device: str | None, words: list[str]) -> Path:
    """Plan a task and write it into the output folder; return its path."""
    from segbundle.cli.plan_dataset import print_task
    from segbundle.planning import Request, plan_task, write_plan

    task = folder / run_files.PLANNED_TASK
    options = split_overrides(words, switches_of({"resume": False}))[1]
    if options.get("resume") and task.is_file():
        print(f"task: {task}", flush=True)
        return task
    existing = [name for name in (run_files.LAST, run_files.MODEL) if (folder / name).exists()]
    if existing:
        raise OutputError(
            f"{folder}: already contains a training run ({existing[0]}). Continue it with --resume true, or choose "
            "another --output_dir."
        )
    if bundle is not None:
        raise ConfigError(
            "--bundle: a task can only be planned for the bundle of segbundle. Pass a task YAML with --config."
        )
    with print_log():
        request = Request(device=device, class_names=options.get("class_names"))
        plan = plan_task(dataset, request, task.with_suffix(".fingerprint.json"))
    print_task(plan)
    try:
        write_plan(plan, task)
    except OutputError as error:
        raise OutputError(
            f"{escaped(task)}: exists, and its settings differ from the plan. To use the file, pass it as --config; to "
            "plan again, move it away."
        ) from error
    print(f"\n{task}: the task of this training run", file=sys.stdout, flush=True)
    return task
