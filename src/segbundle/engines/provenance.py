"""What made a run: its command, versions, machine, configuration, and a fingerprint of its data."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import segbundle
from segbundle.data.scan_files import files_of
from segbundle.engines.ranks import rank
from segbundle.engines.values import KEYS
from segbundle.engines.workflow import running_workflow
from segbundle.errors import describe
from segbundle.reports import write_report, write_run

if TYPE_CHECKING:
    from segbundle.engines.records import ScanRecords

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
        config = {} if workflow is None else workflow.parser.get()
        values = {key: config[key] for key in ("dataset_dir", "ckpt_path", *KEYS, *_COMPONENTS) if key in config}
        write_run(output_dir, {**made_by(values, device), "data_fingerprint": _fingerprint(data)}, [])


def describe_run(output_dir: str, records: ScanRecords, device: torch.device | str, config: Mapping[str, Any]) -> None:
    """After an inference: write `run.json`; of several processes, the first.

    Args:
        output_dir: holds the label maps.
        records: what became of each scan.
        device: on which it ran.
        config: the keys that decided what came of it, and their values.
    """
    records.collect()
    if rank() == 0:
        write_run(output_dir, made_by(config, device), [])


def report_run(
    output_dir: str,
    data: Sequence[dict[str, Any]],
    records: ScanRecords,
    device: torch.device | str,
    config: Mapping[str, Any],
) -> None:
    """After an evaluation: write `run.json` and `report.html`; of several processes, the first.

    Scores are on the disk by then: a page that cannot be made is told in the log, and is no reason to fail.

    Args:
        data: datalist entries of all cases, with `case`, `image` and `label`.
        others: as in `describe_run`.
    """
    records.collect()
    if rank() > 0 or not (Path(output_dir) / "summary.json").exists():
        return
    write_run(output_dir, {**made_by(config, device), "data_fingerprint": _fingerprint(data)}, data)
    try:
        _logger.info("report: %s", write_report(output_dir))
    except Exception as error:
        _logger.error("no report: %s; once that is mended: segbundle report %s", describe(error), output_dir)
        _logger.debug("report", exc_info=True)


def made_by(config: Mapping[str, Any], device: torch.device | str | None = None) -> dict[str, Any]:
    """Command, date, versions, device where one is given, and configuration as JSON values."""
    workflow = running_workflow()
    network = {} if workflow is None else {"network_def": workflow.parser.get("network_def")}
    values = {**config, **network}
    if (given := values.get("ckpt_path")) is not None:
        one = isinstance(given, (str, Path))
        values["ckpt_path"] = str(Path(given).resolve()) if one else [str(Path(path).resolve()) for path in given]
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "segbundle": segbundle.__version__,
            "monai": version("monai"),
            "torch": torch.__version__,
        },
        **({} if device is None else {"device": _name(torch.device(device))}),
        "config": json.loads(json.dumps(values, default=str)),
    }


def _name(device: torch.device) -> str:
    """What a device is called by those who sell it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def _fingerprint(data: Sequence[dict[str, Any]]) -> str:
    """Twelve hexadecimal digits that change with the names, sizes and number of the cases' files, and nothing else."""
    digest = hashlib.sha256()
    for entry in sorted(data, key=lambda entry: str(entry["case"])):
        digest.update(str(entry["case"]).encode())
        for given in (entry["image"], entry["label"]):
            for one in [given] if isinstance(given, str) else given:
                for file in files_of(Path(one)):
                    digest.update(f" {file.name} {file.stat().st_size if file.exists() else None}".encode())
    return digest.hexdigest()[:12]
