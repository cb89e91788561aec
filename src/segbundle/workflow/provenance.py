"""What made a run: its command, versions, machine, configuration, and a fingerprint of its data."""

from __future__ import annotations

import logging
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import segbundle
from segbundle.checkpoints.loading import cases_that_chose, cases_trained_on, checkpoint_paths
from segbundle.config.current_workflow import running_workflow
from segbundle.config.literals import restore
from segbundle.config.settings import KEYS
from segbundle.credentials import without_credentials
from segbundle.distributed import rank
from segbundle.errors import OutputError, describe
from segbundle.files import run_files
from segbundle.files.hashing import add_ends, new_digest, shortened
from segbundle.io.scan_files import files_of
from segbundle.report.page import write_report
from segbundle.results.runs import write_run
from segbundle.results.structures import training_cases_of, write_training_cases

if TYPE_CHECKING:
    from segbundle.inference.scan_records import ScanRecords

_logger = logging.getLogger(__name__)
_COMPONENTS = ("network_def", "loss", "optimizer", "lr_scheduler")


def describe_training(output_dir: str, data: Sequence[dict[str, Any]], device: torch.device | str) -> None:
    """Before a training: write `run.json`; of several processes, the first.

    Args:
        output_dir: where the training goes.
        data: datalist entries of the cases it trains on, with `case`, `image` and `label`.
        device: on which it runs.
    """
    if rank() == 0:
        workflow = running_workflow()
        config = {} if workflow is None else restore(workflow.parser.get())
        values = {key: config[key] for key in ("dataset_dir", "ckpt_path", *KEYS, *_COMPONENTS) if key in config}
        write_run(output_dir, {**made_by(values, device), "data_fingerprint": _fingerprint(data)}, [])


def describe_run(output_dir: str, records: ScanRecords, device: torch.device | str, config: Mapping[str, Any]) -> None:
    """After an inference: write `run.json`, and what training cases let expect; of several processes, the first.

    Args:
        output_dir: holds the label maps.
        records: what became of each scan.
        device: on which it ran.
        config: the keys that decided what came of it, and their values.
    """
    records.collect()
    if records.nothing_left and (Path(output_dir) / run_files.RUN_FILE).exists():  # which tells what made them
        return
    if rank() == 0:
        data = [{"case": one["case"], "image": one["image"]} for one in records.all]
        with records.unwritten.promised(run_files.RUN_FILE):
            write_run(output_dir, {**made_by(config, device), "data_fingerprint": _fingerprint(data)}, [])
        with records.unwritten.promised(run_files.TRAINING_CASES):
            write_training_cases(output_dir, training_cases_of(config.get("ckpt_path")))


def report_run(
    output_dir: str,
    data: Sequence[dict[str, Any]],
    records: ScanRecords,
    device: torch.device | str,
    config: Mapping[str, Any],
) -> None:
    """After an evaluation: write `run.json` and `report.html`; of several processes, the first.

    Args:
        data: datalist entries of all cases, with `case`, `image` and `label`.
        others: as in `describe_run`.
    """
    records.collect()
    if rank() > 0:
        return
    seen = cases_trained_on(config.get("ckpt_path"))
    trained_on = None if seen is None else sorted({entry["case"] for entry in data} & seen)
    chosen_by = sorted({entry["case"] for entry in data} & cases_that_chose(config.get("ckpt_path")))
    known = {"trained_on": trained_on, "chosen_by": chosen_by}
    made = {**made_by(config, device), "data_fingerprint": _fingerprint(data), **known}
    with records.unwritten.promised(run_files.RUN_FILE):
        write_run(output_dir, made, [entry for entry in data if "error" not in entry])
    if (Path(output_dir) / run_files.SUMMARY).exists():
        with records.unwritten.promised(run_files.REPORT):
            write_page(output_dir)


def write_page(output_dir: str | Path) -> None:
    """Write `report.html`.

    Raises:
        OutputError: it cannot be written, for whatever reason; the message says how to write it later.
    """
    try:
        _logger.info("report: %s", write_report(output_dir))
    except Exception as error:
        reason = describe(error).rstrip(".")
        raise OutputError(f"{reason}; once that is mended: segbundle report {shlex.quote(str(output_dir))}") from error


def made_by(config: Mapping[str, Any], device: torch.device | str | None = None) -> dict[str, Any]:
    """Command, date, versions, device where one is given, and configuration as JSON values; without credentials."""
    workflow = running_workflow()
    network = {} if workflow is None else {"network_def": restore(workflow.parser.get("network_def"))}
    values = {**config, **network}
    if (given := values.get("ckpt_path")) is not None:
        one = isinstance(given, (str, Path))
        values["ckpt_path"] = str(Path(given).resolve()) if one else [str(Path(path).resolve()) for path in given]
    return {
        "command": _command(),
        "working_directory": str(Path.cwd()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "segbundle": segbundle.__version__,
            "monai": version("monai"),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **_models(values.get("ckpt_path")),
        **({} if device is None else {"device": _name(torch.device(device))}),
        "config": without_credentials(_as_json(values)),
    }


def _as_json(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite, and objects, are text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    finite = isinstance(value, float) and math.isfinite(value)
    return value if finite or value is None or isinstance(value, (bool, int, str)) else str(value)


def _command() -> str:
    """The command line that began this process, without the folders of programs."""
    program, *words = sys.argv
    if Path(program).name == "__main__.py":  # python -m something
        program, *words = sys.orig_argv
    return shlex.join(without_credentials([Path(program).name, *words]))


def _name(device: torch.device) -> str:
    """What a device is called by those who sell it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def _models(ckpt_path: str | list[str] | None) -> dict[str, str]:
    """A fingerprint of the weights that were loaded, or of each member of an ensemble, if they are files."""
    prints = [_print_of(path) for path in checkpoint_paths(ckpt_path) if path.is_file()]
    return {"model_fingerprint": ", ".join(prints)} if prints else {}


def _print_of(path: Path) -> str:
    digest = new_digest()
    add_ends(digest, path)
    return shortened(digest)


def _fingerprint(data: Sequence[dict[str, Any]]) -> str:
    """Twelve hexadecimal digits that change with the cases' names and files.

    Of a file its name, size, beginning and end count: the ends of gzip files and checkpoints hold checksums of their
    contents.
    """
    digest = new_digest()
    for entry in sorted(data, key=lambda entry: str(entry["case"])):
        digest.update(os.fsencode(str(entry["case"])))
        for given in (entry["image"], entry.get("label", [])):
            for one in [given] if isinstance(given, str) else given:
                with suppress(OSError):  # of a scan that failed
                    for file in files_of(Path(one)):
                        digest.update(b" " + os.fsencode(file.name) + b" ")
                        add_ends(digest, file)
    return shortened(digest)
