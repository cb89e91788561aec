"""The commands that follow a training, with the options of the one that was typed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from segbundle.config.current_workflow import running_workflow

_TASK = (
    *("config", "bundle", "device", "trust", "class_names", "axcodes", "spacing", "intensity", "patch_size"),
    *("window_size", "overlap", "sw_batch_size", "precision", "backend", "test_time_flips", "skip_air"),
    *("largest_component", "network_def", "network"),
)
"""Options and keys that prediction needs as the training had them."""
_SPLIT = ("dataset_dir", "num_folds", "split_seed", "data_list_key", "nsd_tolerance_mm")
"""The same of an evaluation, beside those."""


def after_training(model: Path) -> list[str]:
    """Return commands that evaluate and use a model; none if a command goes on with the model by itself.

    Args:
        model: that was trained.
    """
    program, *words = sys.argv
    workflow = running_workflow()
    fold = None if workflow is None else workflow.parser.get("fold")
    options, held_out = _options(words), ["--fold", str(fold)] if isinstance(fold, int) else []
    kept = [*_chosen(options, (*_TASK, *_SPLIT)), *held_out]
    if words[:1] == ["train"]:
        return [
            _command(["segbundle", "evaluate", *kept], model, model.with_name("evaluation")),
            after_folds(model, model.parent),
        ]
    files = dict(options).get("config_file")
    if Path(program).name != "__main__.py" or files is None:
        return []
    start = ["python", "-m", "monai.bundle", "run", "--config_file"]
    evaluate = [*start, files.replace("train.yaml", "evaluate.yaml"), *kept]
    predict = [*start, files.replace("train.yaml", "inference.yaml"), "--dataset_dir", "SCANS"]
    return [
        _command(evaluate, model, model.with_name("evaluation")),
        _command([*predict, *_chosen(options, _TASK)], model, model.with_name("predictions")),
    ]


def after_folds(weights: Path, folder: Path) -> str:
    """Return the command that predicts scans with a model, or with those of a cross-validation.

    Args:
        weights: the model, or the folder of the cross-validation.
        folder: in which the predictions get a folder.
    """
    words = ["segbundle", "predict", "SCANS", *_chosen(_options(sys.argv[1:]), _TASK)]
    return _command(words, weights, folder / "predictions")


def _command(words: Sequence[str], weights: Path, output_dir: Path) -> str:
    return shlex.join([*words, "--ckpt_path", str(weights), "--output_dir", str(output_dir)])


def _chosen(options: Sequence[tuple[str, str | None]], keys: Sequence[str]) -> list[str]:
    """Return the words of those options whose key, or the key that they are in, is one of some."""
    kept = [(key, value) for key, value in options if key.replace("::", "#").partition("#")[0] in keys]
    return [word for key, value in kept for word in (f"--{key}", *([] if value is None else [value]))]


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return options and their values; None for one without a value."""
    found: list[tuple[str, str | None]] = []
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        following = words[place + 1] if place + 1 < len(words) else "--"
        found.append((key, value if equals else None if following.startswith("--") else following))
    return found
