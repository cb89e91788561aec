"""Merge configuration files and command-line values into one configuration for MONAI."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from segbundle.class_values import class_values
from segbundle.config.literals import protect, protect_text
from segbundle.config.settings import BY_KEY
from segbundle.config.values import find_key
from segbundle.errors import ConfigError
from segbundle.files.documents import read_json, read_yaml, shortened

_STEPS = ("initialize", "run", "finalize")
"""Keys of a workflow with lists of steps."""
_FIRST_STEPS = ("segbundle.workflow.start_workflow", "segbundle.engines.start_workflow")
"""First step of segbundle's workflows: current and former name."""
_HANDLERS = ("handlers", "train#handlers")
"""Keys with lists of handlers."""
_WRITERS = ("Checkpoints", "TrainingLog", "ScoreReport")
"""Handlers that write the documented output files of a command."""
_BASES = {"evaluate": "inference"}
"""Base workflow of each overlay."""
SUFFIXES = (".yaml", ".yml", ".json")


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a configuration file.

    Args:
        path: path of a YAML file, or of a JSON file if the suffix is `.json`.

    Raises:
        ConfigError: the file cannot be read or is not valid (see `read_yaml` and `read_json`).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "task.yaml"
        ...     _ = path.write_text("max_epochs: 3")
        ...     read_config(path)
        {'max_epochs': 3}
    """
    path = Path(path)
    known = path.stat() if path.is_file() else None
    return copy.deepcopy(_read(path, known and (known.st_mtime_ns, known.st_size)))


@lru_cache(maxsize=32)
def _read(path: Path, version: tuple[int, int] | None) -> dict[str, Any]:
    if path.suffix.lower() == ".json":
        return read_json(path, dict[str, Any], ConfigError)
    return read_yaml(path)


def workflow_file(configs: Path, name: str) -> Path:
    """Return the path of the configuration file of a workflow in a bundle, such as `train.yaml`.

    The suffixes of `SUFFIXES` are tried in order. If no file exists, the returned path has the suffix `.yaml`.

    Args:
        configs: folder `configs` of a bundle.
        name: name of the workflow, such as `train`.

    Example:
        >>> workflow_file(Path("bundle/configs"), "train").name
        'train.yaml'
    """
    paths = [configs / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def workflow_files(configs: Path, name: str) -> list[Path]:
    """Return the paths of the configuration files of a workflow, in the order in which they are merged.

    A workflow has one file, with one exception: an `evaluate` file without a key `run` extends the `inference` file, so
    the two files are returned.

    Args:
        configs: folder `configs` of a bundle.
        name: name of the workflow, such as `train`.

    Raises:
        ConfigError: a file cannot be read or is not valid (see `read_config`).

    Example:
        >>> [path.name for path in workflow_files(Path("bundle/configs"), "evaluate")]
        ['inference.yaml', 'evaluate.yaml']
    """
    path = workflow_file(configs, name)
    base = workflow_file(configs, _BASES.get(name, name))
    return [path] if base == path or not base.is_file() or "run" in read_config(path) else [base, path]


def merged_config(
    files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None, values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Merge configuration files and command-line values by MONAI's rules, and return the configuration.

    A file or mapping that sets `classes` without `class_names` also sets `class_names`.

    Args:
        files: configuration files; later files override earlier files. In a key, `#` and `::` separate levels, and a
            leading `+` extends a list or mapping.
        overrides: command-line values by key, which override everything else. Expressions and references in these
            values are not evaluated. Default: none.
        values: further values by key, merged after the files and before `overrides`. Default: none.

    Raises:
        ConfigError: a file, or a file that a macro (`%FILE`) refers to, cannot be read (see `read_config`), or a key
            cannot be set.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "task.yaml"
        ...     _ = path.write_text("max_epochs: 3")
        ...     merged_config([path], {"fold": 1})
        {'max_epochs': 3, 'fold': 1}
    """
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    parser = ConfigParser(config={})
    for path in files:
        for key, value in with_class_names(read_config(path)).items():
            if not key.strip("+#:"):
                raise ConfigError(f"{path}: key {key!r} is not a valid name. Rename or remove it.")
            with _name_key_in_errors(f"{path}: key {key!r}"):
                merge_kv(parser, key, protect_text(value))
        _check_step_lists(parser.get(), f"{path}: ")
    for key, value in with_class_names(values or {}).items():
        with _name_key_in_errors(f"key {key!r}"):
            merge_kv(parser, key, protect_text(value))
    for text in texts(parser.get()):
        if text.startswith("%") and (path := ConfigParser.split_path_id(text[1:])[0]):
            read_config(path)
    for key, value in with_class_names(overrides or {}).items():
        with _name_key_in_errors(f"--{key}"):
            parser[key] = protect(value)
    config: dict[str, Any] = parser.get()
    _check_step_lists(config, "")
    return config


def with_class_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a task, with `class_names` added if only `classes` is set.

    Args:
        config: values by key. If `classes` is invalid, the values are returned unchanged, because
            `segbundle.config.values.check_values` raises the error.

    Example:
        >>> with_class_names({"classes": {"liver": 5}})["class_names"]
        ['background', 'liver']
    """
    classes = config.get("classes")
    if "class_names" in config or not isinstance(classes, Mapping) or "_target_" in classes:
        return config
    try:
        return {**config, "class_names": class_values(classes).names}
    except ConfigError:
        return config


def check_steps(
    files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None, num_workflow_files: int = 1
) -> None:
    """Raise an error if a task removes or changes a step of segbundle's workflows.

    A task may add steps. A task must also keep the handlers that write the documented output files, but may change the
    arguments of these handlers. Workflows that do not begin with segbundle's first step (`start_workflow`) belong to
    other bundles and are not checked.

    Args:
        files: files of the workflow, followed by the task files.
        overrides: command-line values by key. Default: none.
        num_workflow_files: number of files of the workflow at the start of `files`, see `workflow_files`. Default: 1.

    Raises:
        ConfigError: a step or handler is missing or changed (the message names the file or the command line), or the
            files cannot be merged (see `merged_config`).

    Example:
        >>> check_steps([Path("bundle/configs/train.yaml")], {"finalize": []})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: command line: config key 'finalize' removes or changes the step ...
    """
    workflow = merged_config(files[:num_workflow_files])
    first = next(iter(workflow.get("initialize") or []), None)
    if not isinstance(first, dict) or first.get("_target_") not in _FIRST_STEPS:
        return
    for count in range(num_workflow_files + 1, len(files) + 1):
        _check_steps_kept(workflow, merged_config(files[:count]), f"{files[count - 1]}: ")
    _check_steps_kept(workflow, merged_config(files, overrides), "command line: ")


def _check_steps_kept(workflow: Mapping[str, Any], config: Mapping[str, Any], source: str) -> None:
    """Raise a `ConfigError` if a configuration lacks a step of a workflow, or has its steps in another order."""
    for key in _STEPS:
        found = config.get(key)
        steps = iter(found if isinstance(found, list) else [])
        for step in workflow.get(key, []):
            if not any(_is_kept(step, candidate) for candidate in steps):
                name = step["_target_"] if isinstance(step, dict) else step
                raise ConfigError(
                    f"{source}config key {key!r} removes or changes the step {name}. Leave out {key}; to add steps, "
                    f"write +{key}: [STEP]."
                )
    for key in _HANDLERS:
        found = find_key(config, key)[1]
        if not isinstance(found, list):  # `check_config` raises the error
            continue
        kept = {step.get("_target_") for step in found if isinstance(step, dict)}
        for step in find_key(workflow, key)[1] or []:
            if step["_target_"].rpartition(".")[2] in _WRITERS and step["_target_"] not in kept:
                raise ConfigError(
                    f"{source}config key {key!r} removes the handler {step['_target_']}. It writes results. To add "
                    f"handlers, write +{key}: [HANDLER]."
                )


def _is_kept(step: Any, found: Any) -> bool:
    """Return whether a step is unchanged, except for added arguments that do not replace a setting."""
    if not isinstance(step, dict) or not isinstance(found, dict):
        return bool(step == found)
    added = found.keys() - step.keys()
    replaces = any(key.startswith("_") or ("settings" in step and key in BY_KEY) for key in added)
    return {**found, **step} == found and not replaces


def _check_step_lists(config: Mapping[str, Any], source: str) -> None:
    for key in _STEPS:
        if key in config and not isinstance(config[key], (list, str)):
            value = shortened(config[key])
            raise ConfigError(f"{source}config key {key!r} is {value}; a list of components or expressions is needed.")


@contextmanager
def _name_key_in_errors(name: str) -> Iterator[None]:
    """Name the key in errors that MONAI raises when it cannot set a value."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{name} cannot be set: the configuration has no such list or mapping to change. "
            "Check the spelling of the key and the type of its value."
        ) from error


def texts(config: Any) -> Iterator[str]:
    """Yield every string value in a configuration. Keys are not included.

    Args:
        config: configuration or a part of it.

    Example:
        >>> list(texts({"a": ["b", 1], "c": "d"}))
        ['b', 'd']
    """
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list, tuple)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from texts(value)
