"""Validation of a configuration before a run: keys, values of settings, and arguments of components."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from segbundle.config.component_arguments import check_arguments
from segbundle.config.overlays import SUFFIXES, merged_config, read_config, texts
from segbundle.config.references import check_references
from segbundle.config.values import check_values, is_evaluated_later
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened

_REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*(?:(?:#|::)\w+)*)")
_MONAI_KEYS = frozenset(
    {"_meta_", "experiment_name", "is_not_rank0", "run_name", "save_execute_config", "tracking_uri"}
)
"""Keys that MONAI adds: metadata, settings of its experiment tracking, and `run_name` of its federated clients."""
_MAY_BE_NULL = frozenset({"inferer", "postprocessing"})
"""Components that may be null, in any section."""
_VALUES = frozenset({"bundle_root", "ckpt_path", "device", "output_dir"})
"""Keys that accept plain values although their defaults may be components."""


def bundle_configs(folder: Path) -> dict[str, Any]:
    """Return the keys that a task YAML may set, with their defaults, merged from all workflows of a bundle.

    Args:
        folder: existing folder `configs` of the bundle.

    Raises:
        ConfigError: a file cannot be read or is not valid (see `read_config`).

    Example:
        >>> from segbundle.config.options import default_bundle
        >>> bundle_configs(default_bundle() / "configs")["num_folds"]
        5
    """
    merged: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.stem != "metadata":
            for key, value in read_config(path).items():
                if "#" in key or "::" in key:  # in an overlay: a change of a key that another file has
                    continue
                merged[key] = {**merged[key], **value} if _is_section(value) and key in merged else value
    return merged


def check_task(task: Sequence[Path], configs: Path) -> None:
    """Raise an error if task YAML files are invalid for training. No workflow is run.

    Args:
        task: task YAML files, which override the bundle's `train.yaml`.
        configs: folder `configs` of the bundle.

    Raises:
        ConfigError: the files cannot be merged (see `merged_config`), or the configuration is invalid (see
            `check_config`).

    Example:
        >>> import tempfile
        >>> from segbundle.config.options import default_bundle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "task.yaml"
        ...     _ = path.write_text("max_epochs: 3")
        ...     check_task([path], default_bundle() / "configs")
    """
    check_config(ConfigParser(merged_config([configs / "train.yaml", *task])), bundle_configs(configs))


def check_config(parser: ConfigParser, known: dict[str, Any]) -> None:
    """Raise an error if a configuration is invalid. No component is instantiated.

    Args:
        parser: parser with the configuration to run.
        known: keys of the bundle with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: a key, value or argument is invalid (see `check_config_keys`, `check_values`, `check_arguments` and
            `check_references`).

    Example:
        >>> check_config(ConfigParser({"max_epochs": 3}), {"max_epochs": 40})
        >>> check_config(ConfigParser({"max_epochs": 0}), {"max_epochs": 40})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: max_epochs is 0; a positive whole number is needed.
    """
    config = {key: value for key, value in parser.get().items() if key != parser.meta_key}
    check_config_keys(config, known)
    check_values(config)
    changed = {key: value for key, value in config.items() if value != known.get(key)}
    check_arguments(changed, parser.locator)
    check_references(config, known)


def check_config_keys(config: dict[str, Any], known: dict[str, Any]) -> None:
    """Raise an error if a configuration has unused keys, or other values in place of components.

    A key is used if the bundle's workflows define it or another key refers to it. A component needs a `_target_`. A
    section (`train`, `validate`) or a list of components cannot be replaced by another kind of value. Keys nested in
    sections are checked in the same way.

    Args:
        config: configuration to run.
        known: keys of the bundle with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: a key is not used (the message suggests the closest known key), a component has no `_target_`, or
            a component, section or list of components is replaced by another kind of value.

    Example:
        >>> check_config_keys({"max_epoch": 3}, {"max_epochs": 40})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: config key 'max_epoch' is not used by any workflow: did you mean 'max_epochs'?
    """
    referred = {match.replace("::", "#") for text in texts(config) for match in _REFERENCE.findall(text)}
    _check_keys(config, known, referred, "")
    for key, default in known.items():
        if _is_section(default) and key in config:
            _check_keys(config[key], default, referred, f"{key}#")


def _check_keys(config: dict[str, Any], known: dict[str, Any], referred: set[str], section: str) -> None:
    for key, value in config.items():
        path = f"{section}{key}"
        if key not in known:
            if path in _MONAI_KEYS or any(id == path or id.startswith(f"{path}#") for id in referred):
                continue
            raise ConfigError(f"config key {path!r} is not used by any workflow{suggestion(key, known)}")
        default = known[key]
        _check_kind(path, value, default)
        if isinstance(default, dict) and "_target_" in default and isinstance(value, dict) and "_target_" not in value:
            first = next(iter(value), "KEY")
            raise ConfigError(
                f"config key {path!r} has no _target_. To change single arguments, write {path}#{first}: VALUE. "
                "To replace the component, add a _target_."
            )


def _check_kind(path: str, value: Any, default: Any) -> None:
    """Raise a `ConfigError` if a value is of another kind than a default that is a component, section or list."""
    if isinstance(value, type(default)) or is_evaluated_later(value) or path in _VALUES:
        return
    if isinstance(default, dict) and (_is_section(default) or "_target_" in default):
        if value is None and path.rpartition("#")[2] in _MAY_BE_NULL:
            return
        needed = "a mapping of components" if _is_section(default) else "a component (a mapping with a _target_)"
        raise ConfigError(f"config key {path!r} is {shortened(value)}; {needed} is needed.")
    if isinstance(default, list) and any(isinstance(entry, dict) for entry in default):
        raise ConfigError(f"config key {path!r} is {shortened(value)}; a list of components is needed.")


def _is_section(default: Any) -> bool:
    """Return whether a default is a group of components (like `train`), not a mapping of values (like `intensity`)."""
    return (
        isinstance(default, dict) and "_target_" not in default and any(isinstance(v, dict) for v in default.values())
    )
