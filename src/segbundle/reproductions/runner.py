"""Running a reproduction by its name: values from `configs/reproductions/NAME.yaml`, logic from its module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.configs import read_config
from segbundle.errors import ConfigError, suggestion
from segbundle.literals import protect
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
    for key in overrides or {}:
        if key not in config or key.startswith("_"):
            raise ConfigError(f"reproduction {name!r} has no value {key!r}{suggestion(key, config)}")
    parser = ConfigParser({"tables": {**config, **protect(overrides or {})}})
    tables: list[Table] = parser.get_parsed_content("tables")
    return tables
