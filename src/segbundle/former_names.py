"""Former packages, which task files and bundles written for earlier versions refer to."""

from __future__ import annotations

import importlib
from typing import Any

ROOMS = {
    "data": ("io", "datasets"),
    "engines": ("workflow", "config", "checkpoints", "training", "inference", "distributed"),
    "inferers": ("inference", "acceleration", "config.choices"),
    "patches": ("sampling",),
}
"""Former package → where its components are now."""


def find_component(package: str, name: str) -> Any:
    """Return a component of a former package.

    Args:
        package: a key of `ROOMS`.
        name: of the component.

    Raises:
        AttributeError: none of the rooms has it.

    Example:
        >>> find_component("inferers", "PatchInferer").__name__
        'PatchInferer'
    """
    for room in ROOMS[package]:
        module = importlib.import_module(f"segbundle.{room}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'segbundle.{package}' has no attribute {name!r}")
