"""First step of every workflow: preparation of the process and validation of the configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from segbundle.acceleration.process import keep_freed_memory, warm_up_mkl
from segbundle.config.current_workflow import running_workflow
from segbundle.config.literals import restore
from segbundle.config.settings import KEYS
from segbundle.config.validation import bundle_configs, check_config
from segbundle.config.values import check_values, is_evaluated_later
from segbundle.distributed import require_process_group, start_ranks
from segbundle.errors import show_plain_errors
from segbundle.masking import show_names
from segbundle.workflow.launches import refuse_different_configs, resume_after_restart
from segbundle.workflow.network_size import check_network_size


def start_workflow(ranks: bool = False) -> None:
    """Prepare the process, and validate the configuration of the running workflow.

    If `python -m monai.bundle` runs the workflow, later errors are printed without a traceback. Without a running
    workflow, only the process is prepared. If `torchrun` has restarted the ranks of a run, the run is resumed.

    Args:
        ranks: whether to initialize the process group if `torchrun` started several ranks (default False). Every rank
            must then call this function.

    Raises:
        ConfigError: the configuration is invalid (see `check_config` and `check_values`), the network is too large (see
            `check_network_size`), there is no process group although several ranks were started (see
            `require_process_group`), or the ranks have different configurations (see `refuse_different_configs`).

    Example:
        >>> start_workflow()  # no running workflow: prepares the process only
    """
    show_names()
    keep_freed_memory()
    warm_up_mkl()
    if ranks:
        start_ranks()
    require_process_group()
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is not None and program.name == "monai.bundle.__main__":
        show_plain_errors()
    workflow = running_workflow()
    if workflow is not None:
        follow_trainer(workflow.parser)
        refuse_different_configs(workflow.parser.get())
        check_config(workflow.parser, bundle_configs(Path(workflow.config_root_path)))
        values = _evaluated_values(workflow.parser)
        check_values(values, evaluated=True)
        if "patch_size" in values:
            check_network_size(workflow.parser, values["patch_size"])
        if "output_dir" in workflow.parser:
            resume_after_restart(workflow.parser, str(workflow.parser.get_parsed_content("output_dir")))


def follow_trainer(parser: ConfigParser) -> None:
    """Set `max_epochs` to the value of `train#trainer#max_epochs` if the values differ.

    MONAI's federated clients change only the trainer's value. The learning rate schedule refers to `max_epochs`, so the
    two values must be equal for the schedule to end with the last epoch. The value is not changed if the configuration
    has no trainer, or if the trainer's value is an expression or a reference.

    Args:
        parser: configuration, changed in place.

    Example:
        >>> parser = ConfigParser({"max_epochs": 40, "train": {"trainer": {"max_epochs": 10}}})
        >>> follow_trainer(parser)
        >>> parser["max_epochs"]
        10
    """
    epochs = restore(parser.get("train::trainer::max_epochs"))
    if epochs is not None and not is_evaluated_later(epochs) and parser.get("max_epochs", epochs) != epochs:
        parser["max_epochs"] = epochs
        parser.parse(reset=True)


def _evaluated_values(parser: ConfigParser) -> dict[str, Any]:
    """Return the config keys of segbundle with their values, with references and expressions evaluated."""
    config = {key: parser.get(key) for key in KEYS if key in parser}
    resolved = parser.ref_resolver.get_resolved_content
    return {key: resolved(key) if is_evaluated_later(value) else value for key, value in config.items()}
