"""Process group of workflows that `torchrun` starts on several ranks, one per device."""

from __future__ import annotations

import datetime
import gc
import logging
import os
import socket
import time
import uuid
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from segbundle.errors import ConfigError

_T = TypeVar("_T")
_c10d: Any = dist
"""`torch.distributed`, including its stores, which have no type annotations."""
_TIMEOUT = datetime.timedelta(days=7)
_ddp_networks: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def world_size() -> int:
    """Return the number of ranks; 1 without a process group.

    Example:
        >>> world_size()  # no process group
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process; 0 without a process group.

    Example:
        >>> rank()  # no process group
        0
    """
    return dist.get_rank() if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of ranks on this machine; 1 without a process group.

    Example:
        >>> local_world_size()  # no process group
        1
    """
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world_size() > 1 else 1


def start_ranks() -> None:
    """Initialize the process group if `torchrun` has started several ranks; otherwise, do nothing.

    Every rank must call this function. The backend is NCCL if every rank has a GPU, else Gloo. Collective operations
    time out only after 7 days, because scans may take very different times, and `torchrun` ends the other ranks if one
    rank fails. Ranks above 0 log only warnings and errors.

    Example:
        >>> start_ranks()  # not started by torchrun
        >>> world_size()
        1
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if on_gpu:
        torch.cuda.set_device(local_device())
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store: dict[str, Any] = {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = {"store": _unused_store(number, count), "rank": number, "world_size": count}
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT, **store)
    if rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
        logging.disable(logging.INFO)


def _unused_store(number: int, count: int) -> Any:
    """Return a part of the agents' store that has no entries of ranks that were replaced.

    After a restart, PyTorch gives the new ranks the store of the former ranks, in which they would find addresses of
    processes that no longer exist. Rank 0 therefore chooses a new prefix. It sends the prefix to each rank in answer to
    a random word of this rank, because entries of former ranks cannot be told from entries of ranks that are slow.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = _c10d.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
    word = uuid.uuid4().hex
    if number > 0:
        store.set(f"word/{number}", word)
        prefix = store.get(f"answer/{word}").decode()
        store.set(f"{prefix}/received/{number}", "")
        return _c10d.PrefixStore(prefix, store)
    for other in range(1, count):
        while not store.check([f"{word}/received/{other}"]):
            store.set(f"answer/{store.get(f'word/{other}').decode()}", word)
            time.sleep(0.05)
    return _c10d.PrefixStore(word, store)


def elastic_agent() -> str | None:
    """Return an identifier of the `torchrun` process (elastic agent) that has started this rank.

    The identifier is made of host name, process ID and start time. It is the same for all ranks that an agent starts,
    also when the agent replaces failed ranks.

    Returns:
        the identifier, or None if this process was not started by `torchrun`

    Example:
        >>> elastic_agent() is None  # not started by torchrun
        True
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    agent = psutil.Process(os.getppid())
    return f"{socket.gethostname()} {agent.pid} {agent.create_time()}"


def require_process_group() -> None:
    """Raise an error if `torchrun` has started several ranks, but the configuration does not connect them.

    Raises:
        ConfigError: several ranks run without a process group.

    Example:
        >>> require_process_group()  # not started by torchrun
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and world_size() == 1:
        raise ConfigError(
            "torchrun has started several processes, but each of them would do all the work. "
            "Add multi_gpu_train.yaml, multi_gpu_evaluate.yaml or multi_gpu_inference.yaml to --config_file."
        )


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error occurred because another rank has ended.

    Args:
        error: exception of a step that communicates with other ranks.

    Example:
        >>> is_lost_connection(RuntimeError("Read error: Connection reset by peer"))  # no process group
        False
    """
    if world_size() == 1:
        return False
    return isinstance(error, _c10d.DistError) or (isinstance(error, RuntimeError) and "/gloo/transport/" in str(error))


def stop_ranks() -> None:
    """Wait for all ranks, and destroy the process group; do nothing without a process group.

    Every rank must call this function. Networks that `shared_gradients` returned cannot be used afterwards.

    Because of the barrier, no rank ends while rank 0 is still writing files: `torchrun` can replace rank 0 only as long
    as the other ranks exist.

    The threads of a process group live as long as any object refers to the group. If such a thread frees a tensor while
    Python exits, the process aborts. The references of these networks to the group are therefore dropped first, so that
    all threads end in this call.

    Example:
        >>> stop_ranks()  # no process group
    """
    if dist.is_available() and dist.is_initialized():
        barrier()
        for network in list(_ddp_networks):
            vars(network).clear()
        gc.collect()
        dist.destroy_process_group()


def local_device() -> torch.device:
    """Return the device of this rank: the GPU whose index is the local rank, or the CPU if there are no GPUs.

    If a machine has more ranks than GPUs, several ranks get the same GPU.

    Example:
        >>> local_device().type in ("cpu", "cuda")
        True
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}")


def shared_gradients(network: torch.nn.Module) -> torch.nn.Module:
    """Wrap a network in DistributedDataParallel, which averages its gradients over the ranks.

    Every rank must call this function, because the weights of rank 0 are copied to all ranks.

    Args:
        network: network on the device of this rank.

    Returns:
        the wrapped network, or `network` itself without a process group

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> shared_gradients(network) is network  # no process group
        True
    """
    if world_size() == 1:
        return network
    shared = torch.nn.parallel.DistributedDataParallel(network)
    _ddp_networks.add(shared)
    return shared


def share_of_rank(data: Sequence[_T]) -> list[_T]:
    """Return this rank's shard of `data`: `data[rank::world_size]`.

    Args:
        data: entries in the same order on every rank.

    Raises:
        ConfigError: the number of entries is less than the number of ranks.

    Example:
        >>> share_of_rank(["a", "b", "c"])  # no process group
        ['a', 'b', 'c']
    """
    if len(data) < world_size():
        remedy = f"Start at most {len(data)} processes." if data else "Add cases."
        raise ConfigError(f"{len(data)} cases cannot be shared by {world_size()} processes. {remedy}")
    return list(data[rank() :: world_size()])


def all_gather(shard: Sequence[_T]) -> list[_T]:
    """Return the entries of all ranks, in the order that they had before `share_of_rank`.

    Every rank must call this function, because it waits for all ranks. All ranks get the same list.

    Args:
        shard: entries of this rank, which must be picklable.

    Example:
        >>> all_gather(["a", "b", "c"])  # no process group
        ['a', 'b', 'c']
    """
    if world_size() == 1:
        return list(shard)
    shards: list[Any] = [None] * world_size()
    dist.all_gather_object(shards, list(shard))
    most = max(map(len, shards))
    return [entries[index] for index in range(most) for entries in shards if index < len(entries)]


def broadcast(value: _T) -> _T:
    """Return the value of rank 0 on every rank.

    Every rank must call this function, because it waits for all ranks.

    Args:
        value: any picklable object; only the object of rank 0 is used.

    Example:
        >>> broadcast(3)  # no process group
        3
    """
    return all_gather([value])[0]


def mean_over_ranks(value: torch.Tensor) -> float:
    """Return the mean of a scalar over the ranks.

    Every rank must call this function, because it waits for all ranks.

    Args:
        value: scalar tensor on the device of this rank.

    Example:
        >>> mean_over_ranks(torch.tensor(2.5))  # no process group
        2.5
    """
    total = value.detach().clone().float()
    if world_size() > 1:
        dist.all_reduce(total)
    return float(total) / world_size()


def barrier() -> None:
    """Wait until every rank has reached this call.

    Example:
        >>> barrier()  # no process group
    """
    if world_size() > 1:
        dist.barrier()
