"""Whether a configuration can be run: its keys, the values of the bundle's own, the arguments of its components."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from segbundle.engines.values import check_values
from segbundle.errors import ConfigError, suggestion

_REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*(?:(?:#|::)\w+)*)")
_MONAI_KEYS = frozenset({"_meta_", "save_execute_config"})


def bundle_configs(folder: Path) -> dict[str, Any]:
    """All workflows in a bundle's `configs` folder merged: the keys that a task YAML may set, with their defaults."""
    merged: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".yaml", ".yml", ".json") and path.stem != "metadata":
            for key, value in ConfigParser.load_config_file(path).items():
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
    parser = ConfigParser()
    parser.read_config([str(path) for path in (configs / "train.yaml", *task)])
    check_config(parser, bundle_configs(configs))


def check_config(parser: ConfigParser, known: dict[str, Any]) -> None:
    """Refuse a configuration that no run can come of, before anything of it is made.

    Args:
        parser: holds what is to be run.
        known: the bundle's own keys with their defaults, see `bundle_configs`.

    Raises:
        ConfigError: see `check_config_keys`, `check_arguments` and `check_values`.
    """
    config = parser.get()
    check_config_keys(config, known)
    check_values(config)
    changed = {key: value for key, value in config.items() if value != known.get(key)}
    check_arguments(changed, parser.locator)


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
    referred = {match.replace("::", "#") for text in _strings(config) for match in _REFERENCE.findall(text)}
    _check_keys(config, known, referred, "")
    for key, default in known.items():
        if _is_section(default) and isinstance(config.get(key), dict):
            _check_keys(config[key], default, referred, f"{key}#")


def _check_keys(config: dict[str, Any], known: dict[str, Any], referred: set[str], section: str) -> None:
    for key, value in config.items():
        path = f"{section}{key}"
        if key not in known:
            if path in _MONAI_KEYS or any(id == path or id.startswith(f"{path}#") for id in referred):
                continue
            raise ConfigError(f"config key {path!r} is read by no workflow{suggestion(key, known)}")
        default = known[key]
        if isinstance(default, dict) and "_target_" in default and isinstance(value, dict) and "_target_" not in value:
            first = next(iter(value), "KEY")
            raise ConfigError(
                f"config key {path!r} lost its _target_: to change single arguments write {path}#{first}: VALUE; "
                "to replace the component give a _target_."
            )


def check_arguments(config: Any, locator: ComponentLocator, path: str = "") -> None:
    """Refuse arguments that a component does not take, as far as its signature tells.

    Args:
        config: components, in any depth of mappings and lists.
        locator: finds the components that MONAI knows by their bare names.
        path: of `config`, for the message.

    Raises:
        ConfigError: naming the key, and the nearest argument that there is.
    """
    if isinstance(config, (list, tuple)):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return
    if isinstance(config.get("_target_"), str):
        _check_component(config, locator, path)
    for key, value in config.items():
        check_arguments(value, locator, f"{path}#{key}" if path else str(key))


def _check_component(component: dict[str, Any], locator: ComponentLocator, path: str) -> None:
    name = component["_target_"]
    module = locator.get_component_module_name(name)
    try:
        parameters = inspect.signature(pydoc.locate(f"{module}.{name}" if isinstance(module, str) else name)).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError, pydoc.ErrorDuringImport):  # not found, which MONAI tells, or it does not say
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in component:
        if not key.startswith("_") and key not in parameters:
            short = name.rpartition(".")[2]
            raise ConfigError(f"config key '{path}#{key}': {short} has no such argument{suggestion(key, parameters)}")


def _is_section(default: Any) -> bool:
    """Whether a default groups components, as `train` does, rather than holding values, as `intensity` does."""
    return (
        isinstance(default, dict) and "_target_" not in default and any(isinstance(v, dict) for v in default.values())
    )


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _strings(value)
