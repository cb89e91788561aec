"""Several processes that train or evaluate together, one per device, as `torchrun` starts them."""

from __future__ import annotations

import datetime
import gc
import logging
import os
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from segbundle.errors import ConfigError

_T = TypeVar("_T")
_PATIENCE = datetime.timedelta(days=7)
_sharing: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def world_size() -> int:
    """How many processes work together; 1 where nobody started several."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return dist.get_rank() if world_size() > 1 else 0


def processes_here() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world_size() > 1 else 1


def start_ranks() -> None:
    """Meet the other processes that `torchrun` has started: by NCCL on GPUs, one for each, and by Gloo on CPUs.

    They wait for each other as long as it takes: scans take more or less time, and a lost process ends the others.
    All but the first say nothing but warnings from here on. Nothing happens if the process is alone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if on_gpu:
        torch.cuda.set_device(local_device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    if rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
        logging.disable(logging.INFO)


def refuse_lone_ranks() -> None:
    """End a workflow that `torchrun` has started several times without the configuration for it.

    Raises:
        ConfigError: there are several processes, and they have not met.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and world_size() == 1:
        raise ConfigError(
            "torchrun has started several processes, each of which would do all of the work: "
            "add multi_gpu_train.yaml, multi_gpu_evaluate.yaml or multi_gpu_inference.yaml to --config_file."
        )


def stop_ranks() -> None:
    """Part from the other processes; networks that share gradients are of no use afterwards.

    Whatever holds on to the group keeps its threads alive, and one of them that still frees a tensor while Python exits
    aborts the process. So the networks let go of it first, and its threads have ended when this returns.
    """
    if dist.is_available() and dist.is_initialized():
        for network in list(_sharing):
            vars(network).clear()
        gc.collect()
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The device of this process: the GPU of its number on this machine, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}")


def shared_gradients(network: torch.nn.Module) -> torch.nn.Module:
    """The network for a training step: gradients are averaged over the processes (DistributedDataParallel)."""
    if world_size() == 1:
        return network
    shared = torch.nn.parallel.DistributedDataParallel(network)
    _sharing.add(shared)
    return shared


def share_of_rank(data: Sequence[_T]) -> list[_T]:
    """Every n-th entry, from the one with this process's number on: none twice, none left out.

    Raises:
        ConfigError: there are fewer entries than processes.
    """
    if len(data) < world_size():
        raise ConfigError(f"{len(data)} cases cannot be shared by {world_size()} processes; start fewer.")
    return list(data[rank() :: world_size()])


def gathered(share: Sequence[_T]) -> list[_T]:
    """The entries of all processes in their order before `share_of_rank`, the same in each."""
    if world_size() == 1:
        return list(share)
    shares: list[Any] = [None] * world_size()
    dist.all_gather_object(shares, list(share))
    most = max(map(len, shares))
    return [one[index] for index in range(most) for one in shares if index < len(one)]


def of_the_first(value: _T) -> _T:
    """What the first process has, in all of them."""
    return gathered([value])[0]


def averaged(value: torch.Tensor) -> float:
    """The mean of a number over the processes."""
    total = value.detach().clone().float()
    if world_size() > 1:
        dist.all_reduce(total)
    return float(total) / world_size()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world_size() > 1:
        dist.barrier()
