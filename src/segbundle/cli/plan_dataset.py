"""Command `plan`: measure a dataset, and write a task for it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.cli.option_types import names_in
from segbundle.errors import OutputError
from segbundle.terminal import escaped

if TYPE_CHECKING:
    from segbundle.planning import Plan

_FINGERPRINTS = ".fingerprint.json"


def print_plan(
    dataset: Path,
    output: Path,
    memory: str | None = None,
    preset: str | None = None,
    hours: float | None = None,
    class_names: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Plan the training of a dataset, print the plan, and write it as a task file.

    The fingerprints of the cases are cached next to the file, in `<name>.fingerprint.json`.

    Args:
        dataset: folder of the dataset, or a datalist.
        output: task file.
        memory, preset, hours, device: see `segbundle.planning.Request`.
        class_names: names of the classes, background first, as a list on the command line. Default: those of the
            dataset.
        overwrite: whether to replace an existing file (default False).

    Raises:
        DataError: the dataset cannot be used.
        ConfigError: an option is invalid, or no plan fits into the memory.
        OutputError: the file exists and has other settings (the differences are printed), or cannot be written.

    Example:
        >>> print_plan(Path("data_samples"), Path("planned.yaml"))  # doctest: +SKIP
    """
    with fast_imports():
        from segbundle.planning import Request, plan_task, write_plan
        from segbundle.planning.plan_file import check_path, plan_diff

    check_path(output)
    names = None if class_names is None else names_in(class_names)
    plan = plan_task(dataset, Request(memory, preset, hours, device, names), output.with_suffix(_FINGERPRINTS))
    print_task(plan)
    try:
        written = write_plan(plan, output, overwrite)
    except OutputError:
        print(f"\n{plan_diff(plan, output)}")
        raise
    name = dataset.resolve().name
    train = [
        "segbundle",
        "train",
        "--config",
        str(output),
        "--dataset_dir",
        str(dataset),
        "--output_dir",
        f"runs/{name}",
    ]
    print(f"\n{output}: {'written' if written else 'already has these settings, so it was not changed'}")
    print(f"next: {shlex.join(train)}")


def print_task(plan: Plan) -> None:
    """Print the fingerprint, the settings and the notes of a plan to stdout, and its warnings to stderr.

    Args:
        plan: plan of a task.

    Example:
        >>> print_task(plan)  # doctest: +SKIP
    """
    from segbundle.planning.fingerprint_table import fingerprint_lines
    from segbundle.planning.plan_file import setting_line

    settings = [setting_line(choice) for choice in plan.choices]
    print("\n".join([*fingerprint_lines(plan.fingerprint), "", *settings, "", *plan.notes]), flush=True)
    for warning in plan.warnings:
        print(f"Warning: {escaped(warning)}", file=sys.stderr)
    for problem in plan.fingerprint.problems[1:]:  # the first one is part of the warning
        print(escaped(problem), file=sys.stderr)
