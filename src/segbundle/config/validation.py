"""Whether a configuration can be run: its keys, the values of the bundle's own, the arguments of its components."""

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
"""Components that may be left out, in any section."""
_VALUES = frozenset({"bundle_root", "ckpt_path", "device", "output_dir"})
"""Keys whose defaults are components, and which may be plain values."""


def bundle_configs(folder: Path) -> dict[str, Any]:
    """All workflows in a bundle's `configs` folder merged: the keys that a task YAML may set, with their defaults."""
    merged: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.stem != "metadata":
            for key, value in read_config(path).items():
                if "#" in key or "::" in key:  # in an overlay: a change of a key that another file has
                    continue
                merged[key] = {**merged[key], **value} if _is_section(value) and key in merged else value
    return merged


def check_task(task: Sequence[Path], configs: Path) -> None:
    """Refuse task YAMLs with keys that no workflow reads, without running one.

    Args:
        task: the YAMLs, laid over the bundle's.
        configs: the bundle's folder of workflows.

    Raises:
        ConfigError: see `check_config`.
    """
    check_config(ConfigParser(merged_config([configs / "train.yaml", *task])), bundle_configs(configs))


def check_config(parser: ConfigParser, known: dict[str, Any]) -> None:
    """Refuse a configuration that no run can come of, before anything of it is made.

    Args:
        parser: holds what is to be run.
        known: the bundle's own keys with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: see `check_config_keys`, `check_arguments`, `check_references` and `check_values`.
    """
    config = {key: value for key, value in parser.get().items() if key != parser.meta_key}
    check_config_keys(config, known)
    check_values(config)
    changed = {key: value for key, value in config.items() if value != known.get(key)}
    check_arguments(changed, parser.locator)
    check_references(config, known)


def check_config_keys(config: dict[str, Any], known: dict[str, Any]) -> None:
    """Refuse keys of a configuration that nothing reads, and components that an overlay has damaged.

    A key is read if the bundle's own workflows have it or another key refers to it. The keys within sections that
    are no component (`train`, `validate`) are checked likewise.

    Args:
        config: what is to be run.
        known: the bundle's own keys with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: naming the key and the nearest known one, or the component that lost its `_target_`.
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
            raise ConfigError(f"config key {path!r} is read by no workflow{suggestion(key, known)}")
        default = known[key]
        _check_kind(path, value, default)
        if isinstance(default, dict) and "_target_" in default and isinstance(value, dict) and "_target_" not in value:
            first = next(iter(value), "KEY")
            raise ConfigError(
                f"config key {path!r} lost its _target_: to change single arguments write {path}#{first}: VALUE; "
                "to replace the component give a _target_."
            )


def _check_kind(path: str, value: Any, default: Any) -> None:
    """Refuse anything but a component, a section or a list where the default is one."""
    if isinstance(value, type(default)) or is_evaluated_later(value) or path in _VALUES:
        return
    if isinstance(default, dict) and (_is_section(default) or "_target_" in default):
        if value is None and path.rpartition("#")[2] in _MAY_BE_NULL:
            return
        needed = (
            "a mapping of components" if _is_section(default) else "a component, that is a mapping with a _target_,"
        )
        raise ConfigError(f"config key {path!r} is {shortened(value)}; {needed} is needed.")
    if isinstance(default, list) and any(isinstance(one, dict) for one in default):
        raise ConfigError(f"config key {path!r} is {shortened(value)}; a list of components is needed.")


def _is_section(default: Any) -> bool:
    """Whether a default groups components, as `train` does, rather than holding values, as `intensity` does."""
    return (
        isinstance(default, dict) and "_target_" not in default and any(isinstance(v, dict) for v in default.values())
    )
