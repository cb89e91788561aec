"""Runner of reproductions: values come from `configs/reproductions/NAME.yaml`, code from the module of that name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segbundle.config.literals import protect
from segbundle.config.options import default_configs
from segbundle.config.overlays import read_config
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened
from segbundle.reproductions.tables import Table


def titles() -> dict[str, str]:
    """Return the titles of all reproductions by name; a title is the first line of the YAML file.

    Example:
        >>> "fastai_dice_unet" in titles()
        True
    """
    files = sorted((default_configs() / "reproductions").glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in files}


def reproduce(name: str, overrides: Mapping[str, Any] | None = None) -> list[Table]:
    """Run a reproduction and return its tables.

    Args:
        name: name of the reproduction, a key of `titles()`.
        overrides: values by key that replace those in the YAML file, for instance fewer steps. Default: none.

    Returns:
        tables in the order of the documentation

    Raises:
        ConfigError: the reproduction does not exist, or an override has an unknown key or an invalid value.

    Example:
        >>> tables = reproduce("cross_validated_414358", {"steps": 2})  # doctest: +SKIP
        >>> print(tables[0].markdown())  # doctest: +SKIP
    """
    from monai.bundle import ConfigParser

    if name not in titles():
        raise ConfigError(f"reproduction {name!r} does not exist{suggestion(name, titles())}")
    config = read_config((default_configs() / "reproductions") / f"{name}.yaml")
    overrides = overrides or {}
    for key in overrides:
        if key not in config or key.startswith("_"):
            raise ConfigError(f"reproduction {name!r} has no key {key!r}{suggestion(key, config)}")
        if not _is_like(overrides[key], config[key]):
            raise ConfigError(
                f"reproduction {name!r}: {key} is {shortened(overrides[key])}; a value like {config[key]!r} is needed."
            )
    parser = ConfigParser({"tables": {**config, **protect(overrides)}})
    tables: list[Table] = parser.get_parsed_content("tables")
    return tables


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a value has the type, the sign and, for lists, the nesting of a default."""
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
