"""The check of a dataset: every case opened, every problem printed at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.audit import refuse_untrusted
from segbundle.config.options import default_bundle
from segbundle.config.overlays import read_config
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.datasets.description import described_labels
from segbundle.errors import ConfigError, DataError
from segbundle.terminal import counted


def print_check(dataset: Path, config: Sequence[Path] = (), trust: bool = False) -> bool:
    """Print what a dataset holds, or every problem of it on stderr.

    Args:
        dataset: its folder or `dataset.json`.
        config: task YAMLs whose classes and channels the cases must fit.
        trust: whether to read task YAMLs that the audit flags.

    Returns:
        whether every case can be used.

    Raises:
        ConfigError: a task YAML that no workflow can use, or one that the audit flags.
        DataError: there is no such dataset.
    """
    refuse_untrusted(config, None, trust)
    if config:
        with fast_imports():
            from segbundle.config.validation import check_task
        check_task(list(config), default_bundle() / "configs")
    cases = DatasetCheck(dataset, *_task_classes(dataset, config))
    found = [(case, problems) for case, problems in counted(cases, len(cases), "checking", "case")]
    messages = cases.problems + [message for _, problems in found for message in problems]
    if messages:
        bad = sum(bool(problems) for _, problems in found)
        messages.append(f"{len(messages)} problem(s); {bad} of {len(cases)} cases cannot be used.")
        print("\n".join(messages), file=sys.stderr)
        return False
    unlabelled = sum(case.label is None for case, _ in found)
    without = f" ({unlabelled} without a label map)" if unlabelled else ""
    print(f"{len(cases)} cases{without}, no problem found. Classes: {', '.join(cases.class_names)}.")
    width = max(map(len, cases.tallies))
    print(f"{'':{width}}  labelled  absent  not annotated")
    for name, tally in cases.tallies.items():
        print(f"{name:{width}}  {tally.labelled:8}  {tally.absent:6}  {tally.unannotated:13}")
    if cases.partly_unknown:
        print(f"{cases.partly_unknown} cases have voxels of unknown class (ignore).")
    for note in cases.notes:
        print(f"Note: {note}")
    return True


def _task_classes(dataset: Path, config: Sequence[Path]) -> tuple[list[str] | None, int | None]:
    """Class names and channels that the cases must fit: of the task YAMLs, or else those that the dataset describes.

    There are no names where a `dataset.json` cannot be used, which is reported with the other problems.
    """
    task: dict[str, Any] = {}
    if config:  # what the task leaves out is the bundle's, but for the classes, which the dataset knows better
        task = {**read_config(default_bundle() / "configs" / "train.yaml"), "class_names": None}
    for path in config:
        task |= read_config(path)
    names = task.get("class_names")
    if names is None:
        try:
            names = described_labels(dataset).class_names
        except DataError:
            return None, None
    if names is None and dataset.is_dir():
        raise ConfigError(f"{dataset}: has no dataset.json that names the classes; give a task YAML by --config.")
    if not isinstance(names, (list, type(None))):
        raise ConfigError(f"class_names is {names!r}; a check needs the names themselves, in a list.")
    channels = task.get("network_def#in_channels", (task.get("network_def") or {}).get("in_channels"))
    return None if names is None else [str(name) for name in names], channels
