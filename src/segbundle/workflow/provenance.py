"""Provenance of a run: command, versions, device, configuration, and fingerprints of model and data."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import segbundle
from segbundle.checkpoints.loading import cases_trained_on, cases_validated_on, checkpoint_paths
from segbundle.config.current_workflow import running_workflow
from segbundle.config.literals import restore
from segbundle.config.settings import KEYS
from segbundle.credentials import without_credentials
from segbundle.distributed import rank
from segbundle.errors import OutputError, describe
from segbundle.files import run_files
from segbundle.files.hashing import file_ends, shortened
from segbundle.io.scan_files import files_of
from segbundle.masking import hides_names, masked, name_of
from segbundle.report.page import write_report
from segbundle.results.made_by import write_run
from segbundle.results.structures import training_cases_of, write_training_cases

if TYPE_CHECKING:
    from segbundle.inference.scan_records import ScanRecords

_logger = logging.getLogger(__name__)
_COMPONENTS = ("network_def", "loss", "optimizer", "lr_scheduler")


def describe_training(output_dir: str, data: Sequence[dict[str, Any]], device: torch.device | str) -> None:
    """Write `run.json` before a training run. Only rank 0 writes the file.

    `run.json` records command, date, versions, device, configuration, and fingerprints of initial weights and data.

    Args:
        output_dir: folder of the training run.
        data: datalist entries of the training cases, with `case`, `image` and `label`.
        device: device of the training run.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     describe_training(folder, [], "cpu")
        ...     Path(f"{folder}/run.json").is_file()
        True
    """
    if rank() == 0:
        workflow = running_workflow()
        config = {} if workflow is None else restore(workflow.parser.get())
        values = {key: config[key] for key in ("dataset_dir", "ckpt_path", *KEYS, *_COMPONENTS) if key in config}
        write_run(output_dir, {**made_by(values, device), "data_fingerprint": _fingerprint(data)}, [])


def describe_run(output_dir: str, records: ScanRecords, device: torch.device | str, config: Mapping[str, Any]) -> None:
    """Collect the records of all ranks, and write `run.json` and `training_cases.csv` after inference.

    The records are written to `predictions.json`, see `ScanRecords.collect`. If a resumed run had nothing left to do
    and `run.json` exists, neither `run.json` nor `training_cases.csv` is written.

    Every rank must call this function, because it waits for all ranks; only rank 0 writes. If `run.json` or
    `training_cases.csv` cannot be written, no error is raised; the file is added to `records.unwritten`.

    Args:
        output_dir: folder of the label maps.
        records: records of all scans.
        device: device that the network ran on.
        config: config keys that affect the label maps, with their values.

    Raises:
        OutputError: `ScanRecords.collect` cannot write `predictions.json`, or cannot read a journal.

    Example:
        >>> from segbundle.inference.scan_records import ScanRecords
        >>> records = ScanRecords("runs/predictions")  # doctest: +SKIP
        >>> describe_run("runs/predictions", records, "cpu", {"ckpt_path": "model.pt"})  # doctest: +SKIP
    """
    records.collect()
    if records.nothing_left and (Path(output_dir) / run_files.RUN_FILE).exists():  # describes the existing label maps
        return
    if rank() == 0:
        data = [{"case": record["case"], "image": record["image"]} for record in records.all]
        with records.unwritten.defer_error(run_files.RUN_FILE):
            write_run(output_dir, {**made_by(config, device), "data_fingerprint": _fingerprint(data)}, [])
        with records.unwritten.defer_error(run_files.TRAINING_CASES):
            write_training_cases(output_dir, training_cases_of(config.get("ckpt_path")))


def report_run(
    output_dir: str,
    data: Sequence[dict[str, Any]],
    records: ScanRecords,
    device: torch.device | str,
    config: Mapping[str, Any],
) -> None:
    """Collect the records of all ranks, and write `run.json` and `report.html` after an evaluation.

    The records are written to `predictions.json`, see `ScanRecords.collect`. `run.json` also lists the evaluated cases
    that the model was trained on, or that selected its best epoch; these are read from the files next to each
    checkpoint (see `cases_trained_on` and `cases_validated_on`). Without a `summary.json`, no report is written.

    Every rank must call this function, because it waits for all ranks; only rank 0 writes. If `run.json` or
    `report.html` cannot be written, no error is raised; the file is added to `records.unwritten`.

    Args:
        output_dir: folder of the label maps and scores.
        data: datalist entries of all cases, with `case`, `image` and `label`. Entries with an `error` are not listed in
            `run.json`.
        records: records of all cases.
        device: device that the network ran on.
        config: config keys that affect the scores, with their values.

    Raises:
        CheckpointError: `task.json` next to a checkpoint is damaged.
        OutputError: `ScanRecords.collect` cannot write `predictions.json`, or cannot read a journal.

    Example:
        >>> from segbundle.inference.scan_records import ScanRecords
        >>> records = ScanRecords("runs/evaluation")  # doctest: +SKIP
        >>> report_run("runs/evaluation", data, records, "cpu", {"ckpt_path": "model.pt"})  # doctest: +SKIP
    """
    records.collect()
    if rank() > 0:
        return
    seen = cases_trained_on(config.get("ckpt_path"))
    cases = {name_of(entry["case"]): entry["case"] for entry in data}
    trained_on = None if seen is None else sorted(cases[name] for name in cases.keys() & seen)
    validated_on = cases_validated_on(config.get("ckpt_path"))
    chosen_by = sorted(cases[name] for name in cases.keys() & validated_on)
    known = {"trained_on": trained_on, "chosen_by": chosen_by}
    made = {**made_by(config, device), "data_fingerprint": _fingerprint(data), **known}
    with records.unwritten.defer_error(run_files.RUN_FILE):
        shown = [] if hides_names() else data
        write_run(output_dir, made, [entry for entry in shown if "error" not in entry])
    if (Path(output_dir) / run_files.SUMMARY).exists():
        with records.unwritten.defer_error(run_files.REPORT):
            write_page(output_dir, config.get("dataset_dir") if hides_names() else None)


def write_page(output_dir: str | Path, dataset_dir: str | Path | None = None) -> None:
    """Write `report.html` of a run.

    Args:
        output_dir: folder of the scores.
        dataset_dir: folder of the scans, if `run.json` does not contain their paths. Default: None.

    Raises:
        OutputError: the report cannot be written. The message contains the reason, and the command that writes the
            report later.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         write_page(folder)
        ...     except OutputError as error:
        ...         print(str(error).partition("run: ")[2].partition(" /")[0])
        segbundle report
    """
    try:
        _logger.info("report: %s", write_report(output_dir, dataset_dir=dataset_dir))
    except Exception as error:
        reason = describe(error).rstrip(".")
        folder = f"{shlex.quote(str(output_dir))}{' --dataset_dir FOLDER' * (dataset_dir is not None)}"
        raise OutputError(f"{reason}; when this is fixed, run: segbundle report {folder}") from error


def made_by(config: Mapping[str, Any], device: torch.device | str | None = None) -> dict[str, Any]:
    """Return the provenance of a run without credentials: command, date, versions, device, models, configuration.

    Args:
        config: config keys that affect the results, with their values. The `network_def` of the running workflow is
            added, and `ckpt_path` becomes absolute.
        device: device of the run. Default: left out.

    Returns:
        JSON values by name, as in `run.json`; without the names and the folder of the scans if these are hidden

    Example:
        >>> made_by({"fold": 0})["config"]
        {'fold': 0}
    """
    workflow = running_workflow()
    network = {} if workflow is None else {"network_def": restore(workflow.parser.get("network_def"))}
    values = {**config, **network}
    if (given := values.get("ckpt_path")) is not None:
        single = isinstance(given, (str, Path))
        values["ckpt_path"] = str(Path(given).resolve()) if single else [str(Path(path).resolve()) for path in given]
    if hides_names():
        values.pop("dataset_dir", None)
    return {
        "command": masked(_command()),
        "working_directory": masked(str(Path.cwd())),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "segbundle": segbundle.__version__,
            "monai": version("monai"),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **_model_fingerprints(values.get("ckpt_path")),
        **({} if device is None else {"device": _device_name(torch.device(device))}),
        "config": without_credentials(_as_json(values)),
    }


def _as_json(value: Any) -> Any:
    """Return a value as JSON value; non-finite numbers and objects become text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    finite = isinstance(value, float) and math.isfinite(value)
    return value if finite or value is None or isinstance(value, (bool, int, str)) else str(value)


def _command() -> str:
    """Return the command line of this process, without the folder of the program."""
    program, *words = sys.argv
    if Path(program).name == "__main__.py":  # python -m something
        program, *words = sys.orig_argv
    return shlex.join(without_credentials([Path(program).name, *words]))


def _device_name(device: torch.device) -> str:
    """Return the product name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def _model_fingerprints(ckpt_path: str | list[str] | None) -> dict[str, str]:
    """Return the fingerprint of a checkpoint, or of each member of an ensemble; empty without files."""
    paths = [path for path in checkpoint_paths(ckpt_path) if path.is_file()]
    fingerprints = [shortened(hashlib.sha256(file_ends(path))) for path in paths]
    return {"model_fingerprint": ", ".join(fingerprints)} if fingerprints else {}


def _fingerprint(data: Sequence[dict[str, Any]]) -> str:
    """Return twelve hexadecimal digits that change with the names and files of the cases.

    They depend on the name, the size, and the first and last bytes of each file. The last bytes of gzip files and
    checkpoints contain checksums of the content.
    """
    digest = hashlib.sha256()
    for entry in sorted(data, key=lambda entry: str(entry["case"])):
        digest.update(os.fsencode(str(entry["case"])))
        for given in (entry["image"], entry.get("label", [])):
            for path in [given] if isinstance(given, str) else given:
                with suppress(OSError):  # from failed scans
                    for file in files_of(Path(path)):
                        digest.update(b" " + os.fsencode(file.name) + b" ")
                        digest.update(file_ends(file))
    return shortened(digest)
