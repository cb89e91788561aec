"""Commands to run after training, with the options of the current command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.config.current_workflow import running_workflow
from segbundle.config.literals import restore

_PREDICTION_KEYS = (
    *("config", "bundle", "device", "trust", "class_names", "axcodes", "spacing", "intensity", "patch_size"),
    *("window_size", "overlap", "sw_batch_size", "precision", "backend", "test_time_flips", "skip_air"),
    *("largest_component", "network_def", "network"),
)
"""Options and config keys of a training run that a prediction needs with the same values."""
_UNRECORDED_KEYS = ("device", "trust", "sw_batch_size", "skip_air")
"""Those of them that are not read from the folder of the model."""
_EVALUATION_KEYS = ("dataset_dir", "num_folds", "split_seed", "data_list_key", "nsd_tolerance_mm")
"""Further keys that an evaluation needs with the same values."""


def next_commands(model: Path) -> list[str]:
    """Return the shell commands that evaluate a model and predict with it, with the options of the current command.

    Args:
        model: path of the trained model.

    Returns:
        the command for evaluation, then the command for prediction. The list is empty unless the current command is
        `segbundle train` or MONAI's `run` with the training workflow.

    Example:
        >>> from unittest.mock import patch
        >>> with patch("sys.argv", ["segbundle", "train", "--dataset_dir", "data", "--config", "ct.yaml"]):
        ...     commands = next_commands(Path("runs/model.pt"))
        >>> commands[0]
        'segbundle evaluate --dataset_dir data --ckpt_path runs/model.pt --output_dir runs/evaluation'
        >>> commands[1]
        'segbundle predict SCANS --ckpt_path runs/model.pt --output_dir runs/predictions'
    """
    program, *words = sys.argv
    workflow = running_workflow()
    fold = None if workflow is None else workflow.parser.get("fold")
    options, held_out = _options(words), ["--fold", str(fold)] if isinstance(fold, int) else []
    kept = [*_select(options, (*_PREDICTION_KEYS, *_EVALUATION_KEYS)), *held_out]
    if words[:1] == ["train"]:
        keys = ("dataset_dir", "data_list_key", "nsd_tolerance_mm", *_needed_keys(options))
        return [
            _command(
                ["segbundle", "evaluate", *_dataset(options, workflow), *_select(options, keys), *held_out],
                model,
                model.with_name("evaluation"),
            ),
            prediction_command(model, model.parent),
        ]
    files = dict(options).get("config_file")
    if Path(program).name != "__main__.py" or files is None:
        return []
    start = ["python", "-m", "monai.bundle", "run", "--config_file"]
    evaluate = [*start, _evaluation_files(files), *kept]
    predict = [*start, files.replace("train.yaml", "inference.yaml"), "--dataset_dir", "SCANS"]
    return [
        _command(evaluate, model, model.with_name("evaluation")),
        _command([*predict, *_select(options, _PREDICTION_KEYS)], model, model.with_name("predictions")),
    ]


def _evaluation_files(files: str) -> str:
    """Return `--config_file` of an evaluation, given that of a training run: a path, or a list of paths."""
    found: list[str] = []
    for path in (part.strip(" '\"") for part in files.strip("[] ").split(",")):
        if Path(path).name == "train.yaml":
            found.append(path.replace("train.yaml", "inference.yaml"))
        found.append(path.replace("train.yaml", "evaluate.yaml"))
    return str(found)


def prediction_command(weights: Path, folder: Path) -> str:
    """Return the shell command that predicts scans with a model, or with the ensemble of a cross-validation.

    Options of the current command line that affect predictions are included.

    Args:
        weights: path of the model, or output folder of the cross-validation.
        folder: folder in which the command creates its output folder, `predictions`.

    Returns:
        the command. The user must replace the word `SCANS` with the paths of the scans.

    Example:
        >>> from unittest.mock import patch
        >>> with patch("sys.argv", ["segbundle", "cross-validate", "--config", "ct.yaml"]):
        ...     prediction_command(Path("runs/cv"), Path("runs/cv"))
        'segbundle predict SCANS --ckpt_path runs/cv --output_dir runs/cv/predictions'
    """
    options = _options(sys.argv[1:])
    words = ["segbundle", "predict", "SCANS", *_select(options, _needed_keys(options))]
    return _command(words, weights, folder / "predictions")


def _needed_keys(options: Sequence[tuple[str, str | None]]) -> Sequence[str]:
    """Return the options that a prediction needs; with `--bundle`, it does not read the folder of the model."""
    return _PREDICTION_KEYS if "bundle" in dict(options) else _UNRECORDED_KEYS


def _dataset(options: Sequence[tuple[str, str | None]], workflow: Any) -> list[str]:
    """Return the option for the dataset of `segbundle train DATASET`; empty for any other training."""
    if sys.argv[1:2] != ["train"] or workflow is None or {"dataset_dir", "config"} & dict(options).keys():
        return []
    return ["--dataset_dir", str(restore(workflow.parser.get("dataset_dir")))]


def _command(words: Sequence[str], weights: Path, output_dir: Path) -> str:
    return shlex.join([*words, "--ckpt_path", str(weights), "--output_dir", str(output_dir)])


def _select(options: Sequence[tuple[str, str | None]], keys: Sequence[str]) -> list[str]:
    """Return the words of the options with these keys, or with keys below them, such as `network_def#filters`."""
    kept = [(key, value) for key, value in options if key.replace("::", "#").partition("#")[0] in keys]
    return [word for key, value in kept for word in (f"--{key}", *([] if value is None else [value]))]


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the options of a command line with their values; None for options without a value."""
    found: list[tuple[str, str | None]] = []
    for position, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        following = words[position + 1] if position + 1 < len(words) else "--"
        found.append((key, value if equals else None if following.startswith("--") else following))
    return found
