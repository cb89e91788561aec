"""Deep supervision: compute a loss at several resolutions of a network.

Lee et al., Deeply-Supervised Nets, AISTATS 2015 (arXiv:1409.5185).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812


def depths_of(logits: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> list[torch.Tensor]:
    """Return the logits of every supervised resolution as a list, the finest first.

    Args:
        logits: a single output (B, C, *spatial); stacked outputs of equal size (B, depths, C, *spatial), as MONAI's
            `DynUNet` returns in training; or a sequence of tensors of decreasing size, as `SegResNetDS` returns.
        target: (B, 1 or C, *spatial) at full resolution.

    Returns:
        one tensor (B, C, *spatial) per resolution

    Example:
        >>> target = torch.zeros(1, 1, 8, 8, 8)
        >>> len(depths_of(torch.zeros(1, 2, 8, 8, 8), target)), len(depths_of(torch.zeros(1, 3, 2, 8, 8, 8), target))
        (1, 3)
    """
    if not isinstance(logits, torch.Tensor):
        return list(logits)
    return list(logits.unbind(dim=1)) if logits.ndim == target.ndim + 1 else [logits]


def loss_over_depths(
    loss: Callable[..., torch.Tensor],
    logits: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor,
    **kwargs: Any,
) -> torch.Tensor:
    """Compute the weighted mean of a loss over all supervised resolutions.

    Each resolution has half the weight of the next finer one, and the weights sum to 1, as in nnU-Net. The target is
    resized to the logits of each resolution by nearest neighbor, so that unknown voxels stay unknown and classes are
    not mixed.

    Args:
        loss: loss function, called as `loss(logits, target, **kwargs)`.
        logits: output of the network; see `depths_of`.
        target: (B, 1, *spatial) class indices or (B, C, *spatial) one-hot.
        kwargs: keyword arguments of the loss function, the same for all resolutions.

    Returns:
        a scalar tensor. With a single resolution, this is the loss itself.

    Example:
        >>> from segbundle.losses import DiceLoss
        >>> logits = [torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 2, 2, 2)]
        >>> target = torch.zeros(1, 1, 4, 4, 4)
        >>> loss_over_depths(DiceLoss(softmax=True, to_onehot_y=True), logits, target).shape
        torch.Size([])
    """
    depths = depths_of(logits, target)
    weights = [0.5**depth for depth in range(len(depths))]
    losses = [loss(each, _resized(target, each.shape[2:]), **kwargs) for each in depths]
    return torch.stack([weight * value for weight, value in zip(weights, losses, strict=True)]).sum() / sum(weights)


def _resized(target: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return target if target.shape[2:] == size else F.interpolate(target, size=size, mode="nearest-exact")
