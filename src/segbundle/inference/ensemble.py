"""Ensembles of several checkpoints of a network, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


def members(
    network: Callable[..., torch.Tensor], checkpoints: Sequence[str]
) -> Iterator[tuple[str | None, Callable[..., torch.Tensor]]]:
    """Yield the network with the weights of each checkpoint in turn.

    The weights are loaded into the network itself, so that it ends with those of the last checkpoint. Checkpoints are
    memory-mapped, so that only the network's own weights are in memory.

    Args:
        network: a `torch.nn.Module`; any callable if there are no checkpoints.
        checkpoints: paths of files with plain state dicts; if empty, the network is yielded once with its current
            weights.

    Yields:
        The path of the checkpoint (None without checkpoints), and the network, which is always the same object.

    Raises:
        ValueError: if checkpoints are given for a network that is not a module.
        RuntimeError: if the shapes of the weights do not fit the network.
        OSError: if a checkpoint cannot be read.

    Example:
        >>> network = torch.nn.Conv3d(1, 2, 3)
        >>> [(checkpoint, member is network) for checkpoint, member in members(network, [])]
        [(None, True)]
    """
    if not checkpoints:
        yield None, network
        return
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"checkpoints need a network that is a torch.nn.Module, got {type(network).__name__}.")
    for path in checkpoints:
        weights: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        network.load_state_dict(weights, strict=False)  # without layers that only deep supervision needs
        yield path, network
