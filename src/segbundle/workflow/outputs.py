"""Output folders of runs: creation, locks and checks before a run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from segbundle.config.current_workflow import running_workflow
from segbundle.distributed import barrier, rank
from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import lock_folder, make_folder, remove_partial
from segbundle.files.output_folders import OutputFolder, claim, resolve
from segbundle.workflow.launches import record_launch

_logger = logging.getLogger(__name__)


def prepare_training_output(output_dir: str, resume: bool = False) -> None:
    """Create and lock the output folder of a training run, and check that no file would be overwritten.

    Every rank must call this function, because it waits for all ranks.

    Args:
        output_dir: output folder.
        resume: whether an earlier training run in the folder is resumed (default False). If True and the folder has no
            `last.pt`, a warning is logged.

    Raises:
        OutputError: the folder cannot be written or is locked, contains a training run although `resume` is False,
            contains files of other programs with the names of output files, or the initial weights (`ckpt_path`) are
            one of the files that would be replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare_training_output(f"{folder}/training")
        ...     Path(f"{folder}/training").is_dir()
        True
    """
    if rank() == 0:
        _make_writable(output_dir)
    barrier()
    existing = [name for name in (run_files.LAST, run_files.MODEL) if (Path(output_dir) / name).exists()]
    if existing and not resume:
        raise OutputError(
            f"{output_dir}: already contains a training run ({existing[0]}). Continue it with --resume true, "
            "or choose another --output_dir."
        )
    folder = _claim(output_dir)
    if (
        run_files.LAST in existing
        and not folder.wrote(last := folder.folder / run_files.LAST)
        and not last.is_symlink()
    ):
        folder.adopt(last)  # it may be a copy; no file is replaced before the run has been resumed
    folder.refuse_foreign(run_files.TRAINING)
    folder.refuse_links([run_files.TENSORBOARD, run_files.CACHE])
    workflow = running_workflow()
    weights = None if workflow is None else workflow.parser.get("ckpt_path")
    folder.refuse_inputs(run_files.TRAINING, [weights] if isinstance(weights, str) else [])
    if rank() == 0:
        remove_partial(output_dir)
    if resume and run_files.LAST not in existing:
        _logger.warning("%s: contains no last.pt to resume from; starting from the beginning", output_dir)


def prepare_output(output_dir: str) -> None:
    """Create and lock the output folder of an evaluation or a cross-validation, and check that it can be written to.

    Every rank must call this function, because it waits for all ranks.

    Args:
        output_dir: output folder.

    Raises:
        OutputError: the folder cannot be written or is locked, or contains a training run, whose scores would be
            replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare_output(f"{folder}/evaluation")
        ...     Path(f"{folder}/evaluation").is_dir()
        True
    """
    if any((resolve(output_dir) / name).exists() for name in (run_files.LAST, run_files.TASK)):
        raise OutputError(
            f"{output_dir}: contains a training run. Choose another --output_dir, for instance a subfolder."
        )
    if rank() == 0:
        _make_writable(output_dir)
    barrier()
    _claim(output_dir)


def prepare_prediction_output(output_dir: str) -> None:
    """Create and lock the output folder of predictions without scores, and check that it can be written to.

    Every rank must call this function, because it waits for all ranks.

    Args:
        output_dir: output folder.

    Raises:
        OutputError: the folder cannot be written or is locked, or contains a training run or the scores of an
            evaluation.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare_prediction_output(f"{folder}/predictions")
        ...     Path(f"{folder}/predictions").is_dir()
        True
    """
    if (resolve(output_dir) / run_files.METRICS).exists():
        raise OutputError(
            f"{output_dir}: contains scores of an evaluation. Choose another --output_dir, for instance a subfolder."
        )
    prepare_output(output_dir)


def _make_writable(output_dir: str) -> None:
    try:
        make_folder(output_dir)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OutputError(
            f"{output_dir}: cannot be written ({error.strerror}); choose another --output_dir."
        ) from error
    lock_folder(output_dir)


def _claim(output_dir: str) -> OutputFolder:
    """Start the record of written files in a folder that rank 0 has locked, and return the folder."""
    if rank() == 0:
        claim(output_dir).shorten()
    barrier()
    record_launch(output_dir)
    return claim(output_dir)
