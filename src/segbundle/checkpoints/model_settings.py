"""Settings that a model was trained with, from the files of its training run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.audit.entries import Document
from segbundle.audit.inspection import Inspection
from segbundle.checkpoints.loading import PREPROCESSING, checkpoint_paths
from segbundle.checkpoints.trained_classes import read_task
from segbundle.config.settings import BY_KEY, select_settings
from segbundle.errors import ConfigError
from segbundle.files import run_files
from segbundle.files.documents import read_json

_SPLIT = ("num_folds", "split_seed", "groups", "stratify")


def settings_of_model(
    ckpt_path: str | Path | Sequence[str | Path] | None, trust: bool, remedy: str = "add --trust"
) -> dict[str, Any]:
    """Return the settings that affect label maps and folds, from the `run.json` next to a model.

    Args:
        ckpt_path: model, folder of a training run or of a cross-validation, list of these, or None.
        trust: whether to skip the inspection of the settings.
        remedy: advice on how to skip the inspection, for messages. Default: "add --trust".

    Returns:
        settings by key; empty if there is no `run.json` next to any of the models. If the training run had its own
        splits, `splits` is the path of the `splits_final.json` next to the model; only for a single model.

    Raises:
        ConfigError: a `run.json` cannot be read; the settings could run code, and `trust` is False; or models were
            trained with different settings.

    Example:
        >>> settings_of_model("/nowhere/model.pt", trust=False)
        {}
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    for checkpoint in checkpoint_paths(ckpt_path):
        path = checkpoint.parent / run_files.RUN_FILE
        if path.is_file():
            config: dict[str, Any] = read_json(path, dict[str, Any], ConfigError).get("config", {})
            config.pop("ckpt_path", None)
            split = {key: config[key] for key in _SPLIT if key in config}
            found.append((path, {**select_settings(config, ["labels"]), **split}))
            own_splits = path.with_name(run_files.SPLITS) if config.get("splits") else None
    if not found:
        return {}
    path, values = found[0]
    for other, others in found[1:]:
        if others != values:
            raise ConfigError(
                f"{other}: the settings of this training run differ from those in {path}. Choose models of the same "
                "task, or set the task file to use."
            )
    if not trust:
        inspection = Inspection()
        inspection.add_document(Document(str(path), values, path.parent))
        if findings := inspection.findings():
            raise ConfigError(
                f"{findings[0]}. It could run any code on this computer. If you trust the author, {remedy}."
            )
    if len(found) == 1 and own_splits is not None and own_splits.is_file():
        values["splits"] = str(own_splits)
    return values


def refuse_other_preprocessing(
    ckpt_path: str | Path | Sequence[str | Path] | None, config: Mapping[str, Any], chosen: Collection[str]
) -> None:
    """Raise an error if the preprocessing in task files is not that of the training run of a model.

    Args:
        ckpt_path: model, folder of a training run or of a cross-validation, list of these, or None. Without a
            `task.json` next to a model, nothing is compared.
        config: configuration; `spacing`, `axcodes` and `intensity` are compared if they are valid plain values.
        chosen: keys that the user has set on the command line or in Python, which are not compared.

    Raises:
        CheckpointError: `task.json` is damaged.
        ConfigError: a value differs.

    Example:
        >>> refuse_other_preprocessing("/nowhere/model.pt", {"spacing": [1.0, 1.0, 1.0]}, [])  # unknown: no error
    """
    for path in checkpoint_paths(ckpt_path):
        task = read_task(path)
        for key in PREPROCESSING:
            if key not in task or any(name.partition("#")[0] == key for name in chosen):
                continue
            value = json.loads(json.dumps(config.get(key, task[key]), default=str))
            if value != task[key] and BY_KEY[key].kind.accepts(value):
                raise ConfigError(
                    f"{path}: was trained with {key} {task[key]}, but the task file has {key} {value}. Use the task "
                    "file of the training run, or no task file: the settings are read from the folder of the model."
                )
