"""Command `check`: validation of every case of a dataset, or a table of the scans in a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.audit import refuse_untrusted
from segbundle.config.options import default_bundle
from segbundle.config.overlays import read_config, with_class_names
from segbundle.datasets.bids import is_bids
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.datasets.label_names import described_labels
from segbundle.datasets.monai_label import is_study
from segbundle.datasets.scan_table import list_scans, table_lines
from segbundle.errors import ConfigError, DataError
from segbundle.terminal import counted

_DATASET_PARTS = ("dataset.json", "imagesTr", "labelsTr", "imagesTs")


def print_check(
    dataset: Path, config: Sequence[Path] = (), trust: bool = False, allow_uneven: bool | None = None
) -> bool:
    """Check every case of a dataset. Print a summary to stdout, or all problems to stderr if there are any.

    For a folder that is not a dataset, a table of its scans is printed instead.

    Args:
        dataset: folder of the dataset, its `dataset.json`, or a datalist; or a folder with scans.
        config: task YAMLs whose classes and channels the cases must match (default none).
        trust: whether to use task YAMLs that the audit flags (default False).
        allow_uneven: see `segbundle.io.scans.read_scan`. Default: None (the value of the task YAMLs, or else False).

    Returns:
        True if no problem was found

    Raises:
        ConfigError: a task YAML is invalid, the audit flags it, or neither a task YAML nor the dataset defines the
            class names.
        DataError: the dataset does not exist.

    Example:
        >>> import contextlib, io, tempfile
        >>> from segbundle.datasets.samples import write_samples
        >>> output = io.StringIO()
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(output):
        ...     path = write_samples(folder, num_training=1, num_test=0)
        ...     valid = print_check(path.parent)
        >>> valid, output.getvalue().splitlines()[0]
        (True, '1 cases, no problem found. Classes: background, liver, kidney, vessel, lesion.')
    """
    refuse_untrusted(config, None, trust)
    if not config and dataset.is_dir() and not _is_dataset(dataset):
        return _print_scans(dataset, bool(allow_uneven))
    if config:
        with fast_imports():
            from segbundle.config.validation import check_task
        check_task(list(config), default_bundle() / "configs")
    names, classes, channels = _task_classes(dataset, config)
    cases = DatasetCheck(dataset, names, channels, _allows_uneven(config, allow_uneven), classes)
    found = [(case, problems) for case, problems in counted(cases, len(cases), "checking", "case")]
    messages = cases.problems + [message for _, problems in found for message in problems]
    if messages:
        bad = sum(bool(problems) for _, problems in found)
        count = f"{len(messages)} problem(s); {bad} of {len(cases)} cases cannot be used."
        messages.append(f"{count} Layout: {cases.layout}.")
        print("\n".join(messages), file=sys.stderr)
        return False
    unlabeled = sum(case.label is None for case, _ in found)
    without = f" ({unlabeled} without a label map)" if unlabeled else ""
    print(f"{len(cases)} cases{without}, no problem found. Classes: {', '.join(cases.class_names)}.")
    print(f"Layout: {cases.layout}")
    width = max(map(len, cases.tallies))
    print(f"{'':{width}}  labeled  absent  not annotated")
    for name, tally in cases.tallies.items():
        print(f"{name:{width}}  {tally.labeled:7}  {tally.absent:6}  {tally.unannotated:13}")
    if cases.partly_unknown:
        print(f"{cases.partly_unknown} cases have voxels of unknown class (ignore).")
    for note in cases.notes:
        print(f"Note: {note}")
    return True


def _is_dataset(folder: Path) -> bool:
    return any((folder / name).exists() for name in _DATASET_PARTS) or is_bids(folder) or is_study(folder)


def _print_scans(folder: Path, allow_uneven: bool) -> bool:
    """Print a table of the scans in a folder that is not a dataset; return whether all can be used."""
    rows = list_scans(folder, allow_uneven)
    print("\n".join(table_lines(rows)))
    problems = [row.problem for row in rows if row.problem is not None]
    if problems:
        num_scans = sum(row.is_volume for row in rows)
        print("\n".join([*problems, f"{len(problems)} of {num_scans} scans cannot be used."]), file=sys.stderr)
    return not problems


def _allows_uneven(config: Sequence[Path], given: bool | None) -> bool:
    """Return the setting `allow_uneven`: as given, or else that of the last task YAML that defines it."""
    found = [read_config(path).get("allow_uneven") for path in config]
    return [False, *(value for value in [*found, given] if isinstance(value, bool))][-1]


def _task_classes(dataset: Path, config: Sequence[Path]) -> tuple[list[str] | None, dict[str, Any] | None, int | None]:
    """Return the class names, the label values of the classes, and the number of channels that the cases must match.

    They come from the task YAMLs, or else from the dataset. The names are None if `dataset.json` is invalid, because
    this is reported with the other problems.
    """
    task: dict[str, Any] = {}
    if config:  # defaults come from the bundle, but class names from the dataset
        task = {**read_config(default_bundle() / "configs" / "train.yaml"), "class_names": None}
    for path in config:
        task |= with_class_names(read_config(path))
    names, classes = task.get("class_names"), task.get("classes")
    if names is None:
        try:
            names, classes = described_labels(dataset).class_names, described_labels(dataset).classes
        except DataError:
            return None, None, None
    if names is None:
        raise ConfigError(f"{dataset}: has no dataset.json with class names. Pass a task YAML with --config.")
    if not isinstance(names, (list, type(None))):
        raise ConfigError(f"class_names is {names!r}; `segbundle check` needs a plain list of names.")
    channels = task.get("network_def#in_channels", (task.get("network_def") or {}).get("in_channels"))
    return None if names is None else [str(name) for name in names], classes, channels
