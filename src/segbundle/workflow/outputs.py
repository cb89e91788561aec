"""Output folders of runs: made, locked and checked before the work begins."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from segbundle.config.current_workflow import running_workflow
from segbundle.distributed import barrier, rank
from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import keep_others_out, make_folder, remove_partial
from segbundle.files.output_folders import OutputFolder, claim, resolve

_logger = logging.getLogger(__name__)


def prepare_training_output(output_dir: str, resume: bool = False) -> None:
    """Make the output folder of a training, and refuse to overwrite an earlier run.

    Raises:
        OutputError: the folder cannot be written, has a run while `resume` is false, or has files of others under names
            that the training writes.
    """
    if rank() == 0:
        _make_writable(output_dir)
    barrier()
    held = [name for name in (run_files.LAST, run_files.MODEL) if (Path(output_dir) / name).exists()]
    if held and not resume:
        raise OutputError(
            f"{output_dir}: already holds a training run ({held[0]}). Continue it with --resume true, "
            "or choose another --output_dir."
        )
    folder = _claim(output_dir)
    if run_files.LAST in held and not folder.wrote(last := folder.folder / run_files.LAST) and not last.is_symlink():
        folder.adopt(last)  # it may be a copy; nothing is replaced before the training has resumed
    folder.refuse_foreign(run_files.TRAINING)
    folder.refuse_links([run_files.TENSORBOARD, run_files.CACHE])
    workflow = running_workflow()
    weights = None if workflow is None else workflow.parser.get("ckpt_path")
    folder.refuse_inputs(run_files.TRAINING, [weights] if isinstance(weights, str) else [])
    if rank() == 0:
        remove_partial(output_dir)
    if resume and run_files.LAST not in held:
        _logger.warning("%s: holds no last.pt to resume from; starting from the beginning", output_dir)


def prepare_output(output_dir: str) -> None:
    """Make an output folder and check that it can be written before the run starts.

    Raises:
        OutputError: the folder cannot be written, or has a training run, whose scores would be replaced.
    """
    if any((resolve(output_dir) / name).exists() for name in (run_files.LAST, run_files.TASK)):
        raise OutputError(f"{output_dir}: holds a training run; choose another --output_dir, for instance a subfolder.")
    if rank() == 0:
        _make_writable(output_dir)
    barrier()
    _claim(output_dir)


def prepare_prediction_output(output_dir: str) -> None:
    """Make an output folder as `prepare_output` does, for predictions without scores.

    Raises:
        OutputError: see `prepare_output`; or the folder has scores, which would seem to belong to the predictions.
    """
    if (resolve(output_dir) / run_files.METRICS).exists():
        raise OutputError(
            f"{output_dir}: holds the scores of an evaluation; choose another --output_dir, for instance a subfolder."
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
    keep_others_out(output_dir)


def _claim(output_dir: str) -> OutputFolder:
    """Start the record of written files in a folder that the first process has locked, and return the folder."""
    if rank() == 0:
        claim(output_dir).shorten()
    barrier()
    return claim(output_dir)
