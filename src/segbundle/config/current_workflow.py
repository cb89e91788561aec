"""The running workflow, and the folder of its bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

Caller = TypeVar("Caller")


def locate_bundle() -> str:
    """Return the folder of the running bundle, independent of the working directory.

    A MONAI configuration cannot refer to its own file. The folder is therefore found from the running workflow. If no
    workflow is running, the working directory is returned, as for bundles of the MONAI Model Zoo.

    Example:
        >>> locate_bundle() == str(Path.cwd())
        True
    """
    workflow = running_workflow()
    if workflow is None:
        return str(Path.cwd())
    configs = Path(workflow.config_root_path).resolve()
    return str(configs.parent if configs.name == "configs" else configs)


def running_workflow() -> ConfigWorkflow | None:
    """Return the running `ConfigWorkflow`, found on the call stack, or None if no workflow is running.

    Example:
        >>> running_workflow() is None
        True
    """
    return _caller(ConfigWorkflow)


def running_parser() -> ConfigParser | None:
    """Return the `ConfigParser` on the call stack, or None if no configuration is being evaluated.

    Example:
        >>> running_parser() is None
        True
    """
    return _caller(ConfigParser)


def _caller(kind: type[Caller]) -> Caller | None:
    """Return the nearest object on the call stack that is an instance of a class and runs a method."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, kind):
            return candidate
        frame = frame.f_back
    return None


def in_bundle(bundle_root: str, path: str) -> str:
    """Join the folder of a bundle and a relative path, and return the path as text.

    Args:
        bundle_root: folder of the bundle.
        path: path relative to the bundle.

    Example:
        >>> in_bundle("bundle", "models/model.pt")
        'bundle/models/model.pt'
    """
    return str(Path(bundle_root) / path)
