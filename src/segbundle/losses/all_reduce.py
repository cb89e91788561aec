"""Differentiable sum over all ranks of distributed training."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks, with gradients.

    In distributed training, every rank must call this function and run its backward pass, because the function and the
    backward pass wait for all ranks. The backward pass sums the gradients of all ranks. DistributedDataParallel then
    averages the gradients of the weights. The result is the gradient of a single loss over the whole batch.

    Args:
        values: any shape; the same shape on every rank.

    Returns:
        the sum, the same on every rank; or `values` itself if there is no process group, or if gradients are disabled,
        so that validation on a single rank does not wait for the other ranks

    Example:
        >>> sum_over_ranks(torch.tensor([1.0, 2.0]))  # no process group
        tensor([1., 2.])
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and torch.is_grad_enabled()):
        return values
    return _AllReduce.apply(values)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _AllReduce.apply(gradient)
