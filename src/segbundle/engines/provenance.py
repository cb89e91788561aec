"""What made a run: its command, versions, machine, configuration, and a fingerprint of its data."""

from __future__ import annotations

import hashlib
import logging
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from segbundle.data.scan_files import files_of
from segbundle.engines.ranks import rank
from segbundle.engines.records import ScanRecords
from segbundle.engines.workflow import running_workflow
from segbundle.reports import write_report, write_run

_logger = logging.getLogger(__name__)
_RELEASES = ("segbundle", "monai", "torch")


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
        write_run(output_dir, _made_by(device, config), [])


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
    if rank() > 0 or not (Path(output_dir) / "summary.json").exists():
        return
    write_run(output_dir, {**_made_by(device, config), "data_fingerprint": _fingerprint(data)}, data)
    _logger.info("report: %s", write_report(output_dir))


def _made_by(device: torch.device | str, config: Mapping[str, Any]) -> dict[str, Any]:
    workflow = running_workflow()
    network = {} if workflow is None else {"network_def": workflow.parser.get("network_def")}
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _RELEASES}},
        "device": _name(torch.device(device)),
        "config": {**config, **network},
    }


def _name(device: torch.device) -> str:
    """What a device is called by those who sell it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = f"{torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()} CPU, {cores}"


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
