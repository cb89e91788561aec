"""A loss at several depths of a network: Lee et al., Deeply-Supervised Nets, AISTATS 2015 (arXiv:1409.5185)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812


def depths_of(scores: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> list[torch.Tensor]:
    """The scores of every depth, the finest first.

    Args:
        scores: of one depth, (B, C, *spatial); of several stacked, (B, depths, C, *spatial), as MONAI's `DynUNet`
            gives them in training; or a sequence of tensors of decreasing size, as its `SegResNetDS` does.
        target: (B, 1 or C, *spatial) of the finest.
    """
    if not isinstance(scores, torch.Tensor):
        return list(scores)
    return list(scores.unbind(dim=1)) if scores.ndim == target.ndim + 1 else [scores]


def loss_over_depths(
    loss: Callable[..., torch.Tensor],
    scores: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor,
    **kwargs: Any,
) -> torch.Tensor:
    """The weighted mean of a loss at every depth; of one depth, the loss itself.

    Each depth counts half as much as the next finer one and the weights add up to 1, as in nnU-Net. Where scores are
    smaller than the target, every n-th voxel of the target (the nearest one) is looked at, so that unknown voxels stay
    unknown and no classes are mixed.

    Args:
        loss: called as `loss(scores, target, **kwargs)`.
        scores: see `depths_of`.
        target: (B, 1, *spatial) indices or (B, C, *spatial) one-hot.
        kwargs: for every call.

    Returns:
        a number.
    """
    depths = depths_of(scores, target)
    weights = [0.5**depth for depth in range(len(depths))]
    losses = [loss(each, _resized(target, each.shape[2:]), **kwargs) for each in depths]
    return torch.stack([weight * value for weight, value in zip(weights, losses, strict=True)]).sum() / sum(weights)


def _resized(target: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return target if target.shape[2:] == size else F.interpolate(target, size=size, mode="nearest-exact")
