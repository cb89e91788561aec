"""Execution of the bundle's workflows from the command line, with handling of errors and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from segbundle.config.options import default_bundle, refuse_missing_values, split_overrides, switches_of
from segbundle.errors import ConfigError, show_error

if TYPE_CHECKING:
    from segbundle.cli.slurm import Submission

_GRACE_PERIOD = 10.0
"""Seconds after a signal in which a command finishes writing its files."""
_signals: list[int] = []
"""Signals that this process has received."""
_reported = False
"""Whether the message that the command was stopped has been printed."""
_resume_hint = ""
"""How to continue the current command."""
_RESUME_HINTS = {
    "train": " Run the same command with --resume to continue after the last finished epoch.",
    "evaluate": " Run the same command with --resume to score the remaining cases.",
    "inference": " Run the same command with --resume to predict the remaining scans.",
}


def stop_on_signals() -> None:
    """Handle SIGTERM and Ctrl-C: print one line, and exit with 128 plus the signal number.

    The command first finishes writing its files, for at most ten seconds. After a second signal, or after a signal
    during imports, the process exits immediately. (MONAI imports modules with `pydoc`, which swallows the exception.)

    Example:
        >>> stop_on_signals()  # doctest: +SKIP
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # shells start background programs with Ctrl-C ignored
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _signals or _is_importing(frame):
        _exit_now(number)
    _signals.append(number)
    timer = Timer(_GRACE_PERIOD, _exit_now, [number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _report_stop() -> int:
    """Print once that the command was stopped and how to continue, and return the exit code."""
    global _reported
    if not _reported:
        print(f"Stopped.{_resume_hint}", file=sys.stderr, flush=True)
    _reported = True
    return 128 + (_signals or [signal.SIGINT])[0]


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _exit_now(number: int) -> None:
    _report_stop()
    os._exit(128 + number)


@contextmanager
def report_early_stop() -> Iterator[None]:
    """Print a line if a signal stops a command before its work has begun; typer would exit silently.

    Raises:
        SystemExit: a signal stopped the command. The exit code is 128 plus the signal number.

    Example:
        >>> with report_early_stop():
        ...     pass
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not _signals:
            raise
        raise SystemExit(_report_stop()) from None


@contextmanager
def plain_errors(resume_hint: str = "") -> Iterator[None]:
    """Turn every error into a message and exit code 1, without a traceback (see `segbundle.errors.show_error`).

    Args:
        resume_hint: sentence on how to continue the command, appended to the message if the command is stopped.
            Default: none.

    Raises:
        typer.Exit: an error occurred (exit code 1), or the command was stopped (128 plus the signal number).

    Example:
        >>> try:
        ...     with plain_errors():  # prints the error to stderr
        ...         raise ConfigError("fold is 7; a whole number below num_folds (5) is needed.")
        ... except typer.Exit as error:
        ...     print(error.exit_code)
        1
    """
    global _resume_hint
    _resume_hint = resume_hint or _resume_hint
    try:
        yield
    except (typer.Exit, BrokenPipeError):  # the reader of the output has ended; typer exits silently
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _signals or isinstance(error, KeyboardInterrupt):
            raise typer.Exit(_report_stop()) from None
        show_error(error)
        raise typer.Exit(1) from None


@contextmanager
def print_log() -> Iterator[None]:
    """Print the log messages of segbundle to stdout, for commands that do not configure logging as workflows do.

    Example:
        >>> import logging
        >>> with print_log():
        ...     logging.getLogger("segbundle").info("5 cases")
        5 cases
    """
    import logging
    import sys

    logger, handler = logging.getLogger("segbundle"), logging.StreamHandler(sys.stdout)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def run_workflow(
    name: str,
    bundle: Path | None,
    config: list[Path] | None,
    given: dict[str, Any],
    words: list[str] | None,
    positional_key: str | None = None,
    trust: bool = False,
    resume_hint: str | None = None,
    slurm: Submission | None = None,
) -> None:
    """Run one of the bundle's workflows, as `python -m monai.bundle run` does, with messages instead of tracebacks.

    If `torchrun` has started several processes, the workflow's overlay for several GPUs is added.

    Args:
        name: name of the workflow: `train`, `evaluate` or `inference`.
        bundle: folder of the bundle. Default: the bundle of the project.
        config: task YAMLs.
        given: values of the command's options; None for options that were not given.
        words: rest of the command line, with `--key value` pairs; None for an empty rest.
        positional_key: config key whose value is the list of words that are not in `--key value` pairs. Default: such
            words are an error.
        trust: whether to run a bundle and task YAMLs that the audit flags (default False).
        resume_hint: sentence on how to continue the command if it is stopped (see `plain_errors`). Default: the hint
            for the workflow.
        slurm: SLURM job to submit after the configuration and the output folder have been checked, instead of running
            the workflow. Default: None.

    Raises:
        typer.Exit: an error occurred, or the command was stopped (exit codes as in `plain_errors`).

    Example:
        >>> given = {"dataset_dir": "data_samples", "output_dir": "runs/demo"}
        >>> run_workflow("train", None, None, given, ["--max_epochs", "10"])  # doctest: +SKIP
    """
    from segbundle.audit import refuse_untrusted
    from segbundle.config.overlays import read_config, workflow_file, workflow_files
    from segbundle.workflow.bundle_runs import create_workflow

    with plain_errors(_RESUME_HINTS.get(name, "") if resume_hint is None else resume_hint):
        refuse_untrusted(config or [], bundle, trust)
        configs = (bundle or default_bundle()) / "configs"
        files = workflow_files(configs, name)
        overlay = workflow_file(configs, f"multi_gpu_{name}")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and overlay.is_file():
            files.append(overlay)
        defaults = {key: value for path in files for key, value in read_config(path).items()}  # without MONAI
        plain, overrides = split_overrides(words or [], switches_of(defaults))
        if plain and (positional_key is None or positional_key in overrides):
            raise ConfigError(f"unexpected argument {plain[0]!r}. Pass config keys as --key value.")
        if positional_key is not None and positional_key not in overrides:
            if not plain:
                raise ConfigError("no scans given. Pass at least one scan or folder of scans.")
            overrides[positional_key] = plain
            if not given.get("resume") and slurm is None:
                _begin_reading(plain[0])
        refuse_untrusted([], None, trust, overrides)
        refuse_missing_values(overrides, defaults)
        options = {**_given_options(given), **overrides}
        known = _settings_of_model(name, files, config or [], options, overrides, trust) if bundle is None else {}
        workflow = create_workflow(files, config or [], options, trust, known)
        if slurm is not None:
            _submit_workflow(name, workflow, configs, slurm)
            return
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _submit_workflow(name: str, workflow: Any, configs: Path, slurm: Submission) -> None:
    """Check the configuration and the output folder of a workflow, and submit its command as a SLURM job."""
    from segbundle.cli.slurm import submit
    from segbundle.config.validation import bundle_configs, check_config
    from segbundle.workflow.outputs import prepare_output, prepare_prediction_output, prepare_training_output

    check_config(workflow.parser, bundle_configs(configs))
    output_dir = str(workflow.parser["output_dir"])
    if name == "train":
        prepare_training_output(output_dir, resume=workflow.parser["resume"] is True)
    elif name == "evaluate":
        prepare_output(output_dir)
    else:
        prepare_prediction_output(output_dir)
    submit(Path(output_dir), slurm)


def _settings_of_model(
    name: str,
    files: list[Path],
    tasks: list[Path],
    options: dict[str, Any],
    overrides: dict[str, Any],
    trust: bool,
) -> dict[str, Any]:
    """Return the settings of the training run of a model, for an evaluation or prediction without task files.

    Raises:
        ConfigError: the task files contradict the training run (see `refuse_other_preprocessing`), or its settings
            could run code.
    """
    model = options.get("ckpt_path")
    if name == "train" or model is None:
        return {}
    from segbundle.acceleration.lazy_imports import fast_imports
    from segbundle.config.overlays import merged_config

    with fast_imports():  # the first use of PyTorch and MONAI
        from segbundle.checkpoints.model_settings import refuse_other_preprocessing, settings_of_model

        merged = merged_config([*files, *tasks])
    if not tasks:
        return settings_of_model(model, trust)
    refuse_other_preprocessing(model, merged, overrides)
    return {}


def run_cross_validation(
    output_dir: Path,
    bundle: Path | None,
    config: list[Path] | None,
    given: dict[str, Any],
    words: list[str] | None,
    trust: bool = False,
    slurm: Submission | None = None,
) -> None:
    """Train and evaluate every fold, and combine the scores (see `segbundle.workflow.cross_validation`).

    Args:
        output_dir: folder of the folds and the combined scores.
        bundle: folder of the bundle. Default: the bundle of the project.
        config: task YAMLs.
        given: values of the command's options, including `dataset_dir`; None for options that were not given.
        words: rest of the command line, with `--key value` pairs; None for an empty rest.
        trust: whether to run a bundle and task YAMLs that the audit flags (default False).
        slurm: SLURM jobs to submit, one per fold and one that combines the scores, instead of running the folds.
            Default: None.

    Raises:
        typer.Exit: an error occurred, or the command was stopped (exit codes as in `plain_errors`).

    Example:
        >>> given = {"dataset_dir": "data_samples"}
        >>> run_cross_validation(Path("runs/cv"), None, None, given, ["--max_epochs", "10"])  # doctest: +SKIP
    """
    from segbundle.acceleration.lazy_imports import fast_imports
    from segbundle.audit import refuse_untrusted
    from segbundle.config.overlays import check_steps, read_config, with_class_names, workflow_file

    with fast_imports():
        from segbundle.workflow import cross_validation

    resume_hint = " Run the same command to continue."
    with plain_errors(resume_hint):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "cross-validate cannot be started by torchrun. Run `segbundle train --fold K` and `segbundle evaluate "
                "--fold K` for each fold, or use --slurm."
            )
        refuse_untrusted(config or [], bundle, trust)
        workflow = workflow_file((bundle or default_bundle()) / "configs", "train")
        task = read_config(workflow)
        switches = switches_of(task)
        for path in config or []:
            task |= with_class_names(read_config(path))
        own = split_overrides(words or [], switches)[1]
        refuse_missing_values(own, task)
        check_steps([workflow, *(config or [])], own)
        for key in ("fold", "resume", "ckpt_path"):
            if key in own:
                raise ConfigError(f"--{key} cannot be set: a cross-validation sets {key} for every fold. Remove it.")
        task |= {**with_class_names(own), "dataset_dir": str(given["dataset_dir"])}
        if slurm is not None:
            from segbundle.cli.slurm import fold_words, submit_folds

            folds = [fold for fold in cross_validation.prepare_folds(output_dir, task) if not fold.is_done]
            commands = [
                [fold_words(name, keys, bundle, config, given, words, trust) for name, keys in fold.runs()]
                for fold in folds
            ]
            submit_folds(output_dir, slurm, commands)
            return
        cross_validation.cross_validate(
            output_dir,
            task,
            lambda name, keys: run_workflow(
                name, bundle, config, {**given, **keys}, words=words, trust=trust, resume_hint=resume_hint
            ),
        )


def _begin_reading(scan: str) -> None:
    """Start to read the first scan in the background, during imports."""
    from segbundle.io.read_ahead import begin_reading

    begin_reading(scan)


def _given_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the command's options that were given, with paths as text.

    Raises:
        ConfigError: the value of an option is missing, so the next option was parsed as its value.
    """
    options = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    for key, given_value in options.items():
        for value in given_value if isinstance(given_value, list) else [given_value]:
            if isinstance(value, str) and value.startswith("--"):
                raise ConfigError(
                    f"--{key} needs a value, but is followed by {value}. For a file with this name, use ./{value}."
                )
    return {key: value for key, value in options.items() if value is not None}
