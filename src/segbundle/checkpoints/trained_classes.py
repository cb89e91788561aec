"""Classes and cases that a checkpoint was trained for, from the files next to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from segbundle.checkpoints.nnunet import class_names_in
from segbundle.errors import CheckpointError
from segbundle.files.documents import read_json
from segbundle.files.run_files import MODEL, RUN_FILE

_logger = logging.getLogger(__name__)


class _Task(TypedDict, total=False):
    """Validated keys of a `task.json`. Other keys are kept."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]  # noqa: RUF012

    class_names: list[str | int]
    training_cases: list[str]


class _Run(TypedDict, total=False):
    """The configuration in a `run.json`."""

    config: dict[str, Any]


class _Prediction(TypedDict, total=False):
    channel_def: dict[str, str]


class _Outputs(TypedDict, total=False):
    pred: _Prediction


class _Format(TypedDict, total=False):
    outputs: _Outputs


class _Metadata(TypedDict, total=False):
    """The class names in the `metadata.json` of a bundle."""

    network_data_format: _Format


def class_names_of(ckpt_path: Path, content: Mapping[str, Any]) -> list[Any] | None:
    """Return the classes that a checkpoint was trained for, background first.

    The first source that has class names is used: `task.json` next to the checkpoint; `run.json` next to it; the
    checkpoint itself, if it is one of nnU-Net v2; `configs/metadata.json` of the bundle that contains the checkpoint.
    If this metadata cannot be read, a warning is logged.

    Args:
        ckpt_path: path of the checkpoint.
        content: content of the checkpoint.

    Returns:
        the classes; None if they are unknown

    Raises:
        CheckpointError: `task.json` or `run.json` cannot be read or parsed.

    Example:
        >>> class_names_of(Path("/nowhere/model.pt"), {}) is None
        True
    """
    task = read_task(ckpt_path)
    if "class_names" in task:
        return list(task["class_names"])
    if (run := ckpt_path.parent / RUN_FILE).is_file() and (ckpt_path.parent / MODEL).is_file():
        settings: _Run = read_json(run, _Run, CheckpointError)
        if isinstance(names := settings.get("config", {}).get("class_names"), list):
            return names
    if (found := class_names_in(content)) is not None:
        return list(found)
    metadata = ckpt_path.parent.parent / "configs" / "metadata.json"
    if ckpt_path.parent.name != "models" or not metadata.is_file():
        return None
    try:
        described: _Metadata = read_json(metadata, _Metadata, CheckpointError)
        channels = described["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [channels[str(index)] for index in range(len(channels))]
    except CheckpointError as error:
        _logger.warning("the classes of %s are not compared with class_names: %s", ckpt_path, error)
    except KeyError:  # in the bundle of another program
        _logger.debug("%s lists no class names", metadata)
    return None


def read_task(ckpt_path: str | Path) -> dict[str, Any]:
    """Return the content of `task.json` next to a checkpoint: classes, fold, preprocessing and training cases.

    Args:
        ckpt_path: path of the checkpoint.

    Returns:
        the content; empty if there is no `task.json`

    Raises:
        CheckpointError: `task.json` cannot be read or parsed.

    Example:
        >>> read_task("/nowhere/model.pt")
        {}
    """
    path = Path(ckpt_path).parent / "task.json"
    if not path.is_file():
        return {}
    task: dict[str, Any] = read_json(path, _Task, CheckpointError)
    return task
