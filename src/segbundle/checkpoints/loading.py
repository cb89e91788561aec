"""Loading of trained weights, and of the files that the training run saved next to the weights."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from segbundle.checkpoints.nnunet import WEIGHTS, for_dynunet
from segbundle.checkpoints.trained_classes import class_names_of, read_task
from segbundle.checkpoints.weights import load_state_dict, read_checkpoint
from segbundle.class_values import regions
from segbundle.config.from_settings import from_settings
from segbundle.errors import CheckpointError
from segbundle.files import run_files
from segbundle.masking import name_of
from segbundle.results.runs import fold_folders
from segbundle.results.scores import read_rows
from segbundle.results.structures import training_cases_of

_logger = logging.getLogger(__name__)
PREPROCESSING = ("spacing", "axcodes", "intensity")
"""Settings that a model must be used with as it was trained."""
_WRAPPERS = ("model", "network", "state_dict", WEIGHTS)
"""Keys of the state dict in checkpoints that contain more than weights, such as `last.pt`."""
_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of all names in the state dict of a wrapped network."""


def ensemble_members(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[str]:
    """Return the paths of the checkpoints of an ensemble, for an inferer that loads them one after another.

    Args:
        ckpt_path: list of checkpoints, or output folder of a cross-validation. A single checkpoint and None are not
            ensembles.

    Returns:
        paths of the members; empty for a single checkpoint and for None

    Example:
        >>> ensemble_members(["fold_0/model.pt", "fold_1/model.pt"]), ensemble_members("model.pt")
        (['fold_0/model.pt', 'fold_1/model.pt'], [])
    """
    paths = checkpoint_paths(ckpt_path)
    return [str(path) for path in paths] if len(paths) > 1 else []


def checkpoint_paths(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Return the paths of all checkpoints that `ckpt_path` refers to, such as those of a cross-validation.

    Args:
        ckpt_path: checkpoint, output folder of a training run or of a cross-validation, list of these, or None.

    Returns:
        the given paths in their order, with the folder of a training run replaced by its model, and the folder of a
        cross-validation by the existing models of its folds; empty for None. Other paths are not checked.

    Example:
        >>> checkpoint_paths("model.pt"), checkpoint_paths(None)
        ([PosixPath('model.pt')], [])
    """
    return [path for given in _as_paths(ckpt_path) for path in fold_models(given) or [_model_in(given)]]


def _model_in(path: Path) -> Path:
    """Return the model in the folder of a training run, or the path itself if there is none."""
    inside = path / run_files.MODEL
    return inside if inside.is_file() else path


def _as_paths(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if ckpt_path is None:
        return []
    return [Path(ckpt_path)] if isinstance(ckpt_path, (str, Path)) else [Path(path) for path in ckpt_path]


def _warn_if_unfinished(ckpt_path: str | Path | Sequence[str | Path] | None) -> None:
    for folder in _as_paths(ckpt_path):
        models = fold_models(folder)
        if models and not (folder / "summary.json").exists():
            _logger.warning(
                "%s: the cross-validation is not finished. Number of models used: %d. "
                "To finish it, run segbundle cross-validate again with the same --output_dir.",
                folder,
                len(models),
            )


def fold_models(folder: Path) -> list[Path]:
    """Return the paths of the existing fold models of a cross-validation; empty for any other folder or file.

    Args:
        folder: output folder of a cross-validation.

    Example:
        >>> fold_models(Path("/nowhere"))
        []
    """
    return [path for fold in fold_folders(folder) if os.path.lexists(path := fold / "model.pt")]


@from_settings
def load_weights(
    network: torch.nn.Module,
    ckpt_path: str | Path | Sequence[str | Path] | None,
    class_names: Sequence[str] | None = None,
    resume: bool = False,
    required: bool = False,
    classes: Mapping[str, Any] | None = None,
) -> None:
    """Load the weights of a checkpoint into a network, after checking that they fit.

    The members of an ensemble are loaded one after another, to check each of them. Afterwards, the network has the
    weights of the last member. The layers of deep supervision may be missing in the file or in the network.

    Args:
        network: network on any device.
        ckpt_path: checkpoint with a state dict (`model.pt`), or with a dict that contains one (see `state_dict_in`),
            such as a checkpoint of nnU-Net v2. For an ensemble, a list of checkpoints with state dicts, or the output
            folder of a cross-validation. None keeps the weights of the network.
        class_names: classes of the task, background first. If the classes of the training run are known (see
            `class_names_of`), these must be the same. Default: not compared.
        resume: whether the layers of deep supervision are required, as for resuming a training run (default False).
        required: whether `ckpt_path` must not be None, as for inference (default False).
        classes: label values by class name, see `segbundle.class_values.class_values`. If the training run is known,
            the same classes must overlap. Default: None.

    Raises:
        CheckpointError: the checkpoint or the `task.json` next to it cannot be read; the weights do not fit the network
            or are not finite (see `load_state_dict`); the checkpoint was trained for other classes; or `ckpt_path` is
            None although `required` is True.

    Example:
        >>> import tempfile
        >>> trained, network = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(trained.state_dict(), f"{folder}/model.pt")
        ...     load_weights(network, f"{folder}/model.pt")
        >>> torch.equal(network.weight, trained.weight)
        True
    """
    paths = checkpoint_paths(ckpt_path)
    if required and not paths:
        raise CheckpointError(
            f"ckpt_path is {ckpt_path}: a prediction needs the weights of a trained network. Give --ckpt_path, for "
            "instance runs/training/model.pt."
        )
    _warn_if_unfinished(ckpt_path)
    for path in paths:
        if class_names is not None:
            _check_regions(path, classes)
        _load(network, path, class_names, plain=len(paths) > 1, resume=resume)


def _load(
    network: torch.nn.Module, ckpt_path: Path, class_names: Sequence[str] | None, plain: bool, resume: bool
) -> None:
    content = read_checkpoint(ckpt_path)
    if class_names is not None:
        _check_classes(ckpt_path, list(class_names), content)
    weights = content if plain else state_dict_in(content, network, str(ckpt_path))
    load_state_dict(network, weights, str(ckpt_path), complete=resume)
    _logger.info("weights: %s", ckpt_path)


def state_dict_in(content: Mapping[str, Any], network: torch.nn.Module, source: str) -> dict[str, Any]:
    """Return the state dict in a checkpoint, with the names that a network has for its tensors.

    Args:
        content: state dict, or a dict that contains one under `model`, `network`, `state_dict` or nnU-Net's
            `network_weights`. A prefix of all names that `DistributedDataParallel` or `torch.compile` adds is removed.
        network: network on any device. The weights of nnU-Net get the names of `DynUNet`, see `for_dynunet`.
        source: origin of the weights for messages, such as the path of the file.

    Raises:
        CheckpointError: the weights are those of a residual encoder, but the network is a `DynUNet`.

    Example:
        >>> state_dict_in({"model": {"module.weight": 1}, "epoch": 3}, torch.nn.Linear(1, 1), "model.pt")
        {'weight': 1}
    """
    weights = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    for prefix in _PREFIXES:
        if weights and all(isinstance(name, str) and name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return for_dynunet(weights, network, source) if WEIGHTS in content else dict(weights)


def _check_classes(ckpt_path: Path, class_names: list[str], content: Mapping[str, Any]) -> None:
    trained_for = class_names_of(ckpt_path, content)
    if trained_for is not None and trained_for != class_names:
        raise CheckpointError(
            f"{ckpt_path}: was trained for the classes {trained_for}, but class_names is {class_names}. "
            "Use the task YAML that it was trained with (--config), or another ckpt_path."
        )


def _check_regions(ckpt_path: Path, classes: Mapping[str, Any] | None) -> None:
    """Raise an error if a model was trained for other regions: its output would be decoded in another way."""
    task = read_task(ckpt_path)
    trained_for = task.get("classes")
    if task and regions(trained_for if isinstance(trained_for, dict) else None) != regions(classes):
        raise CheckpointError(
            f"{ckpt_path}: was trained with classes {trained_for}, but classes is {classes and dict(classes)}. "
            "Use the task YAML that it was trained with (--config), or another ckpt_path."
        )


def cases_trained_on(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str] | None:
    """Return the names of the training cases of a checkpoint, or of all members of an ensemble.

    The names are read from `task.json` and `training_cases.csv` next to each checkpoint.

    Args:
        ckpt_path: checkpoint, output folder of a cross-validation, list of these, or None.

    Returns:
        the names; None if the training cases of the checkpoint, or of any member, are unknown

    Raises:
        CheckpointError: `task.json` is damaged.

    Example:
        >>> cases_trained_on("/nowhere/model.pt") is None
        True
    """
    found = [
        {*read_task(path).get("training_cases", ()), *(one.case for one in training_cases_of(path))}
        for path in checkpoint_paths(ckpt_path)
    ]
    return set[str]().union(*found) if found and all(found) else None


def cases_validated_on(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str]:
    """Return the names of the validation cases whose Dice selected the best epoch of a checkpoint.

    For an ensemble, the cases of all members are returned. The names are read from the `metrics.csv` that the training
    run saved next to the checkpoint. Without this file or without `task.json`, no cases are returned. A `metrics.csv`
    of another program is ignored.

    Args:
        ckpt_path: checkpoint, output folder of a cross-validation, list of these, or None.

    Raises:
        CheckpointError: `task.json` is damaged.

    Example:
        >>> cases_validated_on("/nowhere/model.pt")
        set()
    """
    found: set[str] = set()
    for path in checkpoint_paths(ckpt_path):
        if read_task(path) and path.with_name("metrics.csv").is_file():
            with suppress(KeyError, ValueError, TypeError, csv.Error):
                found |= {row.case for row in read_rows(path.with_name("metrics.csv"))}
    return found


def warn_about_training_cases(
    data: Sequence[dict[str, Any]], ckpt_path: str | Path | Sequence[str | Path] | None
) -> None:
    """Log a warning if an evaluation includes training cases of the checkpoint, or of any member of an ensemble.

    The training cases are read from the files next to each checkpoint (see `cases_trained_on`). If those of any member
    are unknown, nothing is logged.

    Args:
        data: datalist entries of the cases to score; only the name in `case` is used.
        ckpt_path: checkpoint, output folder of a cross-validation, list of these, or None.

    Raises:
        CheckpointError: `task.json` is damaged.

    Example:
        >>> warn_about_training_cases([{"case": "a"}], "/nowhere/model.pt")  # unknown: no warning
    """
    seen = cases_trained_on(ckpt_path) or ()
    known = [entry["case"] for entry in data if name_of(entry["case"]) in seen]
    if known:
        _logger.warning(
            "%d of the %d cases have the names of training cases of %s. "
            "Their scores overestimate the performance on new cases.%s",
            len(known),
            len(data),
            ckpt_path,
            " Use --fold to score only the held-out cases." if len(known) < len(data) else "",
        )


def warn_about_preprocessing(
    ckpt_path: str | Path | Sequence[str | Path] | None, preprocessing: Mapping[str, Any]
) -> None:
    """Log a warning if the preprocessing differs from that in the training run of a checkpoint.

    Args:
        ckpt_path: checkpoint, output folder of a cross-validation, list of these, or None. The preprocessing of the
            training run is read from `task.json` next to each checkpoint. Without this file, nothing is compared.
        preprocessing: settings by key; only `spacing`, `axcodes` and `intensity` are compared.

    Raises:
        CheckpointError: `task.json` is damaged.

    Example:
        >>> warn_about_preprocessing("/nowhere/model.pt", {"spacing": [1.0, 1.0, 1.0]})  # unknown: no warning
    """
    for path in checkpoint_paths(ckpt_path):
        task = read_task(path)
        for key, value in preprocessing.items():
            if key in PREPROCESSING and key in task and task[key] != json.loads(json.dumps(value)):
                _logger.warning(
                    "%s: was trained with %s %s, but %s is now %s. Predictions will be poor. "
                    "Use the task YAML that it was trained with (--config).",
                    path,
                    key,
                    task[key],
                    key,
                    value,
                )
