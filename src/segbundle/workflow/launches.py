"""Runs of `torchrun` on one or several nodes: the same configuration, shared storage, and resuming after a restart.

If a rank fails, the elastic agents (the `torchrun` processes) start all ranks again with the same command line. The
agents are recorded in the output folder, so that the new ranks resume their own run, but never that of an earlier
launch.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from pydantic import BaseModel

from segbundle.distributed import all_gather, barrier, broadcast, elastic_agent, rank, world_size
from segbundle.errors import ConfigError, OutputError
from segbundle.files import run_files
from segbundle.files.atomic import write_json
from segbundle.files.documents import read_json, shortened

_logger = logging.getLogger(__name__)
_OWN_KEYS = ("device", "num_workers", "cache_dir")
"""Config keys whose values may differ between nodes."""
_VISIBLE_AFTER = 60.0
"""Seconds after which a new file must be visible on all nodes; network file systems cache folders."""


class _Launch(BaseModel):
    """Content of the record.

    Attributes:
        agents: agents of the run.
        start: random text for each start of the ranks.
    """

    agents: list[str] = []
    start: str = ""


def refuse_different_configs(config: Mapping[str, Any]) -> None:
    """Raise an error if the ranks have different configurations, which would lead to a deadlock.

    Every rank must call this function, because it waits for all ranks.

    Args:
        config: configuration of this rank, with unresolved references.

    Raises:
        ConfigError: a key differs. `device`, `num_workers` and `cache_dir` may differ.

    Example:
        >>> refuse_different_configs({"max_epochs": 3})  # no process group
    """
    if world_size() == 1:
        return
    own = {str(key): value for key, value in config.items() if key not in _OWN_KEYS}
    first, *others = all_gather([(socket.gethostname(), own)])
    for number, (host, other) in enumerate(others, start=1):
        for key in sorted({*first[1], *other}):
            here, there = first[1].get(key, "missing"), other.get(key, "missing")
            if here != there:
                raise ConfigError(
                    f"{key} is {shortened(here)} in process 0 ({first[0]}), but {shortened(there)} in process "
                    f"{number} ({host}). Start the same command on every node."
                )


def resume_after_restart(parser: ConfigParser, output_dir: str) -> None:
    """Set `resume` to true if `torchrun` has restarted the ranks of this run.

    Every rank must call this function, because it waits for all ranks.

    Args:
        parser: configuration, changed in place.
        output_dir: output folder of the run.

    Example:
        >>> parser = ConfigParser({"resume": False})
        >>> resume_after_restart(parser, "/nowhere")  # not started by torchrun
        >>> parser["resume"]
        False
    """
    agents = set(all_gather([elastic_agent()])) - {None}
    if not agents or "resume" not in parser:
        return
    if broadcast(not agents.isdisjoint(_read_launch(output_dir).agents)):
        if rank() == 0:
            _logger.info("torchrun has restarted the processes; the run is resumed")
        parser["resume"] = True
        parser.parse(reset=True)


def record_launch(output_dir: str) -> None:
    """Record the agents of `torchrun` in the output folder, and check that all ranks see this folder.

    Every rank must call this function, because it waits for all ranks. Rank 0 must have claimed the folder.

    Args:
        output_dir: output folder of the run.

    Raises:
        OutputError: the folder is not on storage that all nodes share, or the record cannot be written.

    Example:
        >>> record_launch("runs/demo")  # not started by torchrun
    """
    agents = [agent for agent in all_gather([elastic_agent()]) if agent is not None]
    if not agents:
        return
    start = broadcast(uuid.uuid4().hex)
    if rank() == 0:
        launch = _Launch(agents=sorted(set(agents)), start=start)
        write_json(Path(output_dir) / run_files.LAUNCH, launch.model_dump())
    barrier()
    hosts = all_gather([None if _is_visible(output_dir, start) else socket.gethostname()])
    if missing := sorted({host for host in hosts if host is not None}):
        raise OutputError(
            f"{output_dir}: {', '.join(missing)} does not see the files of process 0. Choose an --output_dir on "
            "storage that all nodes share."
        )


def _is_visible(output_dir: str, start: str) -> bool:
    deadline = time.monotonic() + _VISIBLE_AFTER
    while not (found := _read_launch(output_dir).start == start) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _read_launch(output_dir: str) -> _Launch:
    """Return the record in an output folder; empty if there is no valid record."""
    path = Path(output_dir) / run_files.LAUNCH
    try:
        return read_json(path, _Launch, OutputError)
    except (OSError, OutputError):
        return _Launch()
