"""Running a reproduction by its name: values from `configs/reproductions/NAME.yaml`, logic from its module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.config.literals import protect
from segbundle.config.overlays import read_config
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened
from segbundle.reproductions.tables import Table


def _folder() -> Path:
    """Where the YAMLs are, in a checkout or an installed package."""
    package = Path(__file__).parents[1]
    installed = package / "_reproductions"
    return installed if installed.is_dir() else package.parents[1] / "configs" / "reproductions"


def titles() -> dict[str, str]:
    """Every reproduction there is, with what it is about, the first line of its YAML."""
    files = sorted(_folder().glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in files}


def reproduce(name: str, overrides: Mapping[str, Any] | None = None) -> list[Table]:
    """Run one reproduction.

    Args:
        name: one of `titles()`.
        overrides: values that replace those of its YAML, for instance fewer steps.

    Returns:
        its tables, in the order in which they tell the story.

    Raises:
        ConfigError: there is no reproduction of that name, or it has no value that an override names.
    """
    from monai.bundle import ConfigParser

    if name not in titles():
        raise ConfigError(f"there is no reproduction {name!r}{suggestion(name, titles())}")
    config = read_config(_folder() / f"{name}.yaml")
    overrides = overrides or {}
    for key in overrides:
        if key not in config or key.startswith("_"):
            raise ConfigError(f"reproduction {name!r} has no value {key!r}{suggestion(key, config)}")
        if not _is_like(overrides[key], config[key]):
            raise ConfigError(f"{key} is {shortened(overrides[key])}; a value like {config[key]!r} is needed.")
    parser = ConfigParser({"tables": {**config, **protect(overrides)}})
    tables: list[Table] = parser.get_parsed_content("tables")
    return tables


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a value has the type and the sign of a default, in lists also the depth."""
    if isinstance(default, list):
        return (
            isinstance(value, list)
            and bool(value)
            and all(any(_is_like(one, known) for known in default) for one in value)
        )
    if isinstance(default, (bool, str)) or default is None:
        return type(value) is type(default)
    if isinstance(value, bool) or not isinstance(value, int if isinstance(default, int) else (int, float)):
        return False
    return math.isfinite(value) and value >= 0 and (value > 0 or default == 0)
