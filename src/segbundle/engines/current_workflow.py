"""The workflow that is evaluating its configuration, and the place of its bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from monai.bundle import ConfigWorkflow


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
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigWorkflow):
            return candidate
        frame = frame.f_back
    return None


def in_bundle(bundle_root: str, path: str) -> str:
    """Return a path inside the bundle."""
    return str(Path(bundle_root) / path)
