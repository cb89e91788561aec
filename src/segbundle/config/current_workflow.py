"""The workflow that is evaluating its configuration, and the place of its bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

Caller = TypeVar("Caller")


def locate_bundle() -> str:
    """Return the folder of the bundle whose configuration is running, whatever the working directory.

    A MONAI configuration cannot name its own file, so the running workflow is asked. Outside a workflow, for instance
    in a configuration parsed by hand, the working directory is returned, as in the Model Zoo.
    """
    workflow = running_workflow()
    if workflow is None:
        return str(Path.cwd())
    configs = Path(workflow.config_root_path).resolve()
    return str(configs.parent if configs.name == "configs" else configs)


def running_workflow() -> ConfigWorkflow | None:
    """Return the `ConfigWorkflow` further up the call stack, or None outside a workflow."""
    return _caller(ConfigWorkflow)


def running_parser() -> ConfigParser | None:
    """Return the parser that is evaluating a configuration further up the call stack, or None if there is none."""
    return _caller(ConfigParser)


def _caller(kind: type[Caller]) -> Caller | None:
    """Return the nearest object of a class whose method is running."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, kind):
            return candidate
        frame = frame.f_back
    return None


def in_bundle(bundle_root: str, path: str) -> str:
    """Return a path inside the bundle."""
    return str(Path(bundle_root) / path)
