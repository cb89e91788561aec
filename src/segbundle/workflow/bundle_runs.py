"""MONAI workflows of a bundle, created from config files and values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.config.overlays import check_steps, merged_config
from segbundle.errors import ConfigError


def create_workflow(
    files: Sequence[Path],
    tasks: Sequence[Path],
    overrides: Mapping[str, Any],
    trust: bool = False,
    values: Mapping[str, Any] | None = None,
    logs: bool = True,
) -> Any:
    """Return a MONAI `ConfigWorkflow`, not yet initialized, for the files of a workflow, task files and values.

    Python modules in the folder of the bundle can only be imported if the bundle is trusted.

    Args:
        files: files of the workflow, see `segbundle.config.overlays.workflow_files`.
        tasks: task files; later files override earlier files.
        overrides: values by key from the command line or Python code. Expressions in these values are not evaluated.
        trust: whether the bundle is trusted (default False).
        values: further values by key, merged after the task files and before `overrides`. Expressions in these values
            are evaluated, so the caller must have inspected the values. Default: none.
        logs: whether to configure logging by the bundle's `logging.conf` (default True).

    Raises:
        ConfigError: the files cannot be merged (see `merged_config`), or a task removes or changes a step of the
            workflow (see `check_steps`).

    Example:
        >>> from segbundle.config.options import default_bundle
        >>> from segbundle.config.overlays import workflow_files
        >>> files = workflow_files(default_bundle() / "configs", "inference")
        >>> create_workflow(files, [], {"dataset_dir": "scans"}, logs=False).parser["dataset_dir"]
        'scans'
    """
    for category in (FutureWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    with fast_imports():
        from monai.bundle import ConfigWorkflow, workflows

    class AuditedWorkflow(ConfigWorkflow):
        """Workflow that does not add the bundle's folder to `sys.path`, unlike MONAI's."""

        def run(self) -> Any:
            if self.run_id not in self.parser:
                raise ConfigError(f"{files[-1]}: has no key {self.run_id!r}. Add it with the list of steps to run.")
            return self._run_expr(id=self.run_id)

    workflows.logger.setLevel(logging.ERROR)  # it logs the names of the config files
    check_steps([*files, *tasks], overrides, len(files))
    config = merged_config([*files, *tasks], overrides, values)
    configs = files[0].parent
    workflow = (ConfigWorkflow if trust else AuditedWorkflow)(
        config_file=str(files[0]),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf") if logs else False,
        workflow_type="train" if files[0].stem == "train" else "infer",
    )
    workflow.parser.set({**config, workflow.parser.meta_key: workflow.parser.get(workflow.parser.meta_key)})
    return workflow
