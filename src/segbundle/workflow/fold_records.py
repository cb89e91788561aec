"""Record the folds of a run: a table in the log, and `splits_final.json` in the output folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.datasets.datalist import folds_of_task
from segbundle.datasets.folders import some
from segbundle.datasets.folds import Split
from segbundle.distributed import rank
from segbundle.files import run_files
from segbundle.files.atomic import write_json
from segbundle.terminal import say

_MOST_CLASSES = 8


def record_folds(settings: Mapping[str, Any]) -> None:
    """Print the folds of a training run, and write them to `splits_final.json`. Only rank 0 does this.

    Without a validation fold (`fold` is null), nothing is printed or written.

    Args:
        settings: settings of the run, with `output_dir` and the arguments of `dataset_folds`.

    Raises:
        DataError: see `dataset_folds`.
        ConfigError: see `dataset_folds`.
        OutputError: the file cannot be written.

    Example:
        >>> record_folds({"fold": None})
    """
    if settings["fold"] is None or rank() > 0:
        return
    split = folds_of_task(settings)
    write_folds(settings["output_dir"], split)
    for line in folds_in_words(split, settings["class_names"]):
        say(line)


def write_folds(output_dir: str | Path, split: Split) -> Path:
    """Write folds in the format of nnU-Net's `splits_final.json`, and return the path of the file.

    Args:
        output_dir: folder of the run.
        split: folds.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_folds(folder, Split.of("here", ["a", "b"])).name
        'splits_final.json'
    """
    path = Path(output_dir) / run_files.SPLITS
    write_json(path, [{"train": sorted(training), "val": sorted(held_out)} for training, held_out in split.folds])
    return path


def folds_in_words(split: Split, class_names: Sequence[str]) -> list[str]:
    """Return one line for each fold: its numbers of cases and, if known, how many held-out cases contain each class.

    With more than eight foreground classes, the line lists only the classes that no held-out case contains.

    Args:
        split: folds.
        class_names: classes of the task, background first.

    Example:
        >>> split = Split.of("here", ["ab", "c"], classes={"a": {"liver"}, "b": set(), "c": {"liver"}})
        >>> folds_in_words(split, ["background", "liver"])
        ['fold 0: 1 training, 2 validation: liver 1', 'fold 1: 2 training, 1 validation: liver 1']
    """
    return [
        f"fold {number}: {len(training)} training, {len(held_out)} validation"
        + ("" if split.classes is None else f": {_classes_in_words(split.classes, held_out, class_names[1:])}")
        for number, (training, held_out) in enumerate(split.folds)
    ]


def _classes_in_words(classes: Mapping[str, Collection[Any]], cases: Collection[str], foreground: Sequence[str]) -> str:
    count = Counter(name for case in cases for name in classes.get(case, ()))
    if len(foreground) <= _MOST_CLASSES:
        return ", ".join(f"{name} {count[name]}" for name in foreground)
    absent = [name for name in foreground if not count[name]]
    return f"without {some(absent)}" if absent else f"all {len(foreground)} classes"
