"""Package names of earlier versions, for older task files and bundles that refer to them."""

from __future__ import annotations

import importlib
from typing import Any

CURRENT_PACKAGES = {
    "data": ("io", "datasets"),
    "engines": ("workflow", "config", "checkpoints", "training", "inference", "distributed"),
    "inferers": ("inference", "acceleration", "config.choices"),
    "patches": ("sampling",),
}
"""Former package → packages that contain its components today."""
CURRENT_NAMES = {"labelled_data": "labeled_data"}
"""Former component → its name today, where it differs."""


def find_component(package: str, name: str) -> Any:
    """Return the component that had a given name in a former package.

    Args:
        package: name of the former package, a key of `CURRENT_PACKAGES`.
        name: name of the component in the former package.

    Raises:
        AttributeError: none of the current packages contains the component.

    Example:
        >>> find_component("inferers", "PatchInferer").__name__
        'PatchInferer'
    """
    current_name = CURRENT_NAMES.get(name, name)
    for current in CURRENT_PACKAGES[package]:
        module = importlib.import_module(f"segbundle.{current}")
        if hasattr(module, current_name):
            return getattr(module, current_name)
    raise AttributeError(f"module 'segbundle.{package}' has no attribute {name!r}")
