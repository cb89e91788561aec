"""Trained weights for a workflow, and what the files beside them tell of their training."""

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
from typing_extensions import TypedDict

from segbundle.checkpoints.weights import put_weights, read_checkpoint
from segbundle.errors import CheckpointError
from segbundle.files.documents import read_json
from segbundle.results.runs import fold_folders
from segbundle.results.scores import read_rows
from segbundle.results.structures import training_cases_of

_logger = logging.getLogger(__name__)
_WRAPPERS = ("model", "network", "state_dict")
"""Under which key other programs (and our own last.pt) keep the weights, where the file is not the weights alone."""


class _Task(TypedDict, total=False):
    """What is known of a `task.json`; further keys are kept."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]  # noqa: RUF012

    class_names: list[str | int]
    training_cases: list[str]


class _Prediction(TypedDict, total=False):
    channel_def: dict[str, str]


class _Outputs(TypedDict, total=False):
    pred: _Prediction


class _Format(TypedDict, total=False):
    outputs: _Outputs


class _Metadata(TypedDict, total=False):
    """The part of a bundle's `metadata.json` that names the classes."""

    network_data_format: _Format


def ensemble_members(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[str]:
    """The checkpoints of an ensemble, for an inferer that loads them in turn; none if there is only one."""
    paths = checkpoint_paths(ckpt_path)
    return [str(path) for path in paths] if len(paths) > 1 else []


def checkpoint_paths(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """The files of a checkpoint, of the members of an ensemble, or of the models of a cross-validation."""
    return [path for one in _given(ckpt_path) for path in models_of_folds(one) or [one]]


def _given(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if ckpt_path is None:
        return []
    return [Path(ckpt_path)] if isinstance(ckpt_path, (str, Path)) else [Path(path) for path in ckpt_path]


def _warn_if_unfinished(ckpt_path: str | Path | Sequence[str | Path] | None) -> None:
    for folder in _given(ckpt_path):
        models = models_of_folds(folder)
        if models and not (folder / "summary.json").exists():
            _logger.warning(
                "%s: the cross-validation has not ended; its %d models so far are used", folder, len(models)
            )


def models_of_folds(folder: Path) -> list[Path]:
    """The models of a cross-validation's folds; none if the folder is something else."""
    return [path for place in fold_folders(folder) if os.path.lexists(path := place / "model.pt")]


def load_weights(
    network: torch.nn.Module,
    ckpt_path: str | Path | Sequence[str | Path] | None,
    class_names: Sequence[str] | None = None,
    resume: bool = False,
    required: bool = False,
) -> None:
    """Load a checkpoint into a network; of the members of an ensemble each, to prove that all fit.

    What only a training with deep supervision uses may be missing, in the file or in the network.

    Args:
        network: on any device.
        ckpt_path: a plain state dict (`model.pt`), a dict that holds one under `model`, `network` or `state_dict`,
            or None to keep the network's weights as they are; for an ensemble, a list of plain state dicts, or the
            folder of a cross-validation.
        class_names: the task's classes; compared with those that the checkpoint was trained for, as far as
            `task.json` beside it, or the metadata of the bundle it lies in, tell.
        resume: the training goes on, and nothing may be missing.
        required: whether None is refused, since the network is not trained afterwards.

    Raises:
        CheckpointError: no such file, unreadable, weights that do not fit the network or are not finite (see
            `put_weights`), or trained for other classes; or None if weights are required.
    """
    paths = checkpoint_paths(ckpt_path)
    if required and not paths:
        raise CheckpointError(
            f"ckpt_path is {ckpt_path}: a prediction needs the weights of a trained network. Give --ckpt_path, for "
            "instance runs/training/model.pt."
        )
    _warn_if_unfinished(ckpt_path)
    for path in paths:
        _load(network, path, class_names, plain=len(paths) > 1, resume=resume)


def _load(
    network: torch.nn.Module, ckpt_path: Path, class_names: Sequence[str] | None, plain: bool, resume: bool
) -> None:
    weights = read_checkpoint(ckpt_path)
    if class_names is not None:
        _refuse_other_classes(ckpt_path, list(class_names))
    for key in _WRAPPERS:
        if isinstance(weights.get(key), Mapping) and not plain:
            weights = dict(weights[key])
            break
    put_weights(network, weights, str(ckpt_path), complete=resume)
    _logger.info("weights: %s", ckpt_path)


def _refuse_other_classes(ckpt_path: Path, class_names: list[str]) -> None:
    trained_for = _class_names_of(ckpt_path)
    if trained_for is not None and trained_for != class_names:
        raise CheckpointError(
            f"{ckpt_path}: was trained for the classes {trained_for}, the task's class_names are {class_names}; "
            "give the task YAML it was trained with (--config), or another ckpt_path."
        )


def _class_names_of(ckpt_path: Path) -> list[Any] | None:
    """Return which classes a checkpoint was trained for, if a file beside it says so."""
    task = read_task(ckpt_path)
    if "class_names" in task:
        return list(task["class_names"])
    metadata = ckpt_path.parent.parent / "configs" / "metadata.json"
    if ckpt_path.parent.name != "models" or not metadata.is_file():
        return None
    try:
        content: _Metadata = read_json(metadata, _Metadata, CheckpointError)
        channels = content["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [channels[str(index)] for index in range(len(channels))]
    except CheckpointError as error:
        _logger.warning("the classes of %s are not compared with the task's: %s", ckpt_path, error)
    except KeyError:  # of another program's bundle
        _logger.debug("%s names no classes", metadata)
    return None


def read_task(ckpt_path: str | Path) -> dict[str, Any]:
    """Return what a training wrote into `task.json` beside its checkpoints: classes, fold, and its training cases.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(ckpt_path).parent / "task.json"
    if not path.is_file():
        return {}
    task: dict[str, Any] = read_json(path, _Task, CheckpointError)
    return task


def cases_trained_on(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str] | None:
    """Names of the cases that a checkpoint, or a member of an ensemble, was trained on, as files beside it tell.

    None if no file tells for one of them.
    """
    found = [
        {*read_task(path).get("training_cases", ()), *(one.case for one in training_cases_of(path))}
        for path in checkpoint_paths(ckpt_path)
    ]
    return set[str]().union(*found) if found and all(found) else None


def cases_that_chose(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str]:
    """Names of the cases whose Dice chose the epoch of a checkpoint, or of a member of an ensemble.

    That is, those of the `metrics.csv` that a training keeps beside its best weights; another program's tells nothing.
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
    """Say so if cases that are to be scored were used to train the checkpoint, or a member of the ensemble."""
    seen = cases_trained_on(ckpt_path) or ()
    known = [entry["case"] for entry in data if entry["case"] in seen]
    if known:
        _logger.warning(
            "%d of these %d cases were, by their names, trained on by %s, and will look better than new ones%s",
            len(known),
            len(data),
            ckpt_path,
            "; --fold scores only the cases that were held out" if len(known) < len(data) else "",
        )


def warn_about_preprocessing(
    ckpt_path: str | Path | Sequence[str | Path] | None, preprocessing: Mapping[str, Any]
) -> None:
    """Say so if scans are to be preprocessed otherwise than in the training of a checkpoint.

    Args:
        ckpt_path: as in `load_weights`; what `task.json` beside it tells is compared.
        preprocessing: config keys, such as `spacing` and `intensity`, and their values.
    """
    for path in checkpoint_paths(ckpt_path):
        task = read_task(path)
        for key, value in preprocessing.items():
            if key in task and task[key] != json.loads(json.dumps(value)):
                _logger.warning(
                    "%s: was trained with %s %s, now it is %s, with which it will hardly work; "
                    "give the task YAML that it was trained with (--config)",
                    path,
                    key,
                    task[key],
                    value,
                )
