"""How a command runs one of the bundle's workflows, and how it ends when something is wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Any

import typer

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.config.options import default_bundle, refuse_missing_values, split_overrides, switches_of
from segbundle.errors import ConfigError, show_error

_GRACE = 10.0
"""Seconds in which a command that is stopped finishes what it writes."""
_stopped_by: list[int] = []
"""Signals that have asked this process to end."""
_told = False
"""Whether the user knows that the command was stopped."""
_again = ""
"""How to go on with the command that is running."""
_GO_ON = {
    "train": " Go on after the last finished epoch with --resume.",
    "evaluate": " Run the same command with --resume to score the remaining cases.",
    "inference": " Go on with the scans that are left with --resume.",
}


def stop_on_signals() -> None:
    """Let SIGTERM stop a command as Ctrl-C does: with one line and exit code 128 plus the signal's number.

    During imports the process ends at once, as `pydoc`, which MONAI imports with, swallows the exception. So it does
    after a second signal, or ten seconds.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell lets programs in the background ignore Ctrl-C
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _stopped_by or _is_importing(frame):
        _end(number)
    _stopped_by.append(number)
    timer = Timer(_GRACE, _end, [number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _stopped() -> int:
    """Say once that the command was stopped, and how to go on; the exit code."""
    global _told
    if not _told:
        print(f"Stopped.{_again}", file=sys.stderr, flush=True)
    _told = True
    return 128 + (_stopped_by or [signal.SIGINT])[0]


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end(number: int) -> None:
    _stopped()
    os._exit(128 + number)


@contextmanager
def stopped_plainly() -> Iterator[None]:
    """Say so if a signal stops a command that has not begun its work; typer would end it without a word."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not _stopped_by:
            raise
        raise SystemExit(_stopped()) from None


@contextmanager
def plain_errors(again: str = "") -> Iterator[None]:
    """Turn every error into a message and exit code 1, without a traceback (see `segbundle.errors.show_error`).

    Args:
        again: what the message of a command that was stopped adds, for instance how to go on.
    """
    global _again
    _again = again or _again
    try:
        yield
    except (typer.Exit, BrokenPipeError):  # nobody reads the output any more, which typer ends quietly
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _stopped_by or isinstance(error, KeyboardInterrupt):
            raise typer.Exit(_stopped()) from None
        show_error(error)
        raise typer.Exit(1) from None


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what segbundle logs, for commands that run no workflow, whose configuration would say so."""
    import logging
    import sys

    logger, handler = logging.getLogger("segbundle"), logging.StreamHandler(sys.stdout)
    level, handled = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = handled


def run_workflow(
    name: str,
    bundle: Path | None,
    config: list[Path] | None,
    given: dict[str, Any],
    words: list[str] | None,
    words_are: str | None = None,
    trust: bool = False,
    again: str | None = None,
) -> None:
    """Run one of the bundle's workflows, as `python -m monai.bundle run` would.

    Args:
        name: of the workflow.
        bundle, config: the bundle's folder and the task YAMLs.
        given: values of the command's own options; None where one was not given.
        words: the rest of the command line.
        words_are: the key that words which are no `--key value` pair belong to, if any do.
        trust: whether to run a bundle and task YAMLs that the audit flags.
        again: see `plain_errors`; by default how to resume the workflow.
    """
    from segbundle.audit import refuse_untrusted
    from segbundle.config.overlays import read_config, workflow_file

    with plain_errors(_GO_ON.get(name, "") if again is None else again):
        refuse_untrusted(config or [], bundle, trust)
        configs = (bundle or default_bundle()) / "configs"
        files = [workflow_file(configs, name), *(config or [])]
        defaults, *_ = [read_config(path) for path in files]
        plain, overrides = split_overrides(words or [], switches_of(defaults))
        if plain and (words_are is None or words_are in overrides):
            raise ConfigError(f"unexpected argument {plain[0]!r}; config keys are given as --key value.")
        if words_are is not None and words_are not in overrides:
            if not plain:
                raise ConfigError("name at least one scan or folder of scans.")
            overrides[words_are] = plain
            if not given.get("resume"):
                _begin_reading(plain[0])
        refuse_untrusted([], None, trust, overrides)
        refuse_missing_values(overrides, defaults)
        workflow = _workflow(files, configs, {**_chosen(given), **overrides}, trust)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def run_cross_validation(
    output_dir: Path,
    bundle: Path | None,
    config: list[Path] | None,
    given: dict[str, Any],
    words: list[str] | None,
    trust: bool = False,
) -> None:
    """Train and score every fold, and put the scores together (see `segbundle.workflow.cross_validation`).

    Args:
        output_dir: where folds and scores go.
        bundle, config, given, words, trust: as of `run_workflow`.
    """
    from segbundle.audit import refuse_untrusted
    from segbundle.config.overlays import check_steps, read_config, workflow_file

    with fast_imports():
        from segbundle.workflow import cross_validation

    again = " Run the same command to continue."
    with plain_errors(again):
        refuse_untrusted(config or [], bundle, trust)
        workflow = workflow_file((bundle or default_bundle()) / "configs", "train")
        task = read_config(workflow)
        switches = switches_of(task)
        for path in config or []:
            task |= read_config(path)
        own = split_overrides(words or [], switches)[1]
        refuse_missing_values(own, task)
        check_steps([workflow, *(config or [])], own)
        for key in ("fold", "resume", "ckpt_path"):
            if key in own:
                raise ConfigError(f"{key}: every fold has its own in a cross-validation; leave it out.")
        task |= {**own, "dataset_dir": str(given["dataset_dir"])}
        cross_validation.cross_validate(
            output_dir,
            task,
            lambda name, keys: run_workflow(
                name, bundle, config, {**given, **keys}, words=words, trust=trust, again=again
            ),
        )


def _begin_reading(scan: str) -> None:
    """Read the first scan while everything else is imported."""
    from segbundle.io.read_ahead import begin_reading

    begin_reading(scan)


def _chosen(given: dict[str, Any]) -> dict[str, Any]:
    """The command's own options that were given, paths as text.

    Raises:
        ConfigError: an option without a value, which has taken the next option for it.
    """
    chosen = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    for key, given_value in chosen.items():
        for value in given_value if isinstance(given_value, list) else [given_value]:
            if isinstance(value, str) and value.startswith("--"):
                raise ConfigError(
                    f"--{key} needs a value, and is followed by {value}. A file of that name is ./{value}."
                )
    return {key: value for key, value in chosen.items() if value is not None}


def _workflow(files: list[Path], configs: Path, overrides: dict[str, Any], trust: bool) -> Any:
    """Return MONAI's workflow for these files and the values of the command line, which are data.

    Unless the bundle is trusted, its folder is not searched for Python modules.
    """
    import logging
    import warnings

    from segbundle.config.overlays import check_steps, merged_config

    for category in (FutureWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    with fast_imports():
        from monai.bundle import ConfigWorkflow, workflows

    class AuditedWorkflow(ConfigWorkflow):
        """Workflow that runs without the bundle's folder in `sys.path`, where MONAI's `run` puts it."""

        def run(self) -> Any:
            if self.run_id not in self.parser:
                raise ConfigError(f"{files[0]}: has no key {self.run_id!r}, which lists what the workflow runs.")
            return self._run_expr(id=self.run_id)

    workflows.logger.setLevel(logging.ERROR)  # it reports the files that it was given
    check_steps(files, overrides)
    config = merged_config(files, overrides)
    workflow = (ConfigWorkflow if trust else AuditedWorkflow)(
        config_file=str(files[0]),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train" if files[0].stem == "train" else "infer",
    )
    workflow.parser.set({**config, workflow.parser.meta_key: workflow.parser.get(workflow.parser.meta_key)})
    return workflow
