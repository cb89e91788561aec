"""Several checkpoints of one network, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


def members(
    network: Callable[..., torch.Tensor], checkpoints: Sequence[str]
) -> Iterator[tuple[str | None, Callable[..., torch.Tensor]]]:
    """The network with the weights of each checkpoint in turn; as it is if there are none.

    Files are mapped into memory, so that beside the network's own no weights are held.

    Args:
        network: a `torch.nn.Module`; any callable if there are no checkpoints.
        checkpoints: files with plain state dicts.

    Yields:
        the checkpoint (None if there are none) and the network, always the same object.
    """
    if not checkpoints:
        yield None, network
        return
    if not isinstance(network, torch.nn.Module):
        raise ValueError("checkpoints need a torch.nn.Module to load them into.")
    for path in checkpoints:
        weights: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        network.load_state_dict(weights, strict=False)  # without what only a training with deep supervision needs
        yield path, network
