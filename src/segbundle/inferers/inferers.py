"""How a batch passes through the network: whole patches in training, sliding windows over scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import monai.inferers
import torch
from monai.data import MetaTensor

from segbundle.inferers.precision import Precision, autocast


class PatchInferer(monai.inferers.Inferer):
    """Forward pass of a training step: the whole batch at once, in the device's best precision.

    Args:
        precision: see `segbundle.inferers.precision.autocast`.
    """

    def __init__(self, precision: Precision = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Scores (B, num_classes, *spatial) in float32, whatever the network computed in."""
        inputs = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with autocast(inputs.device, self.precision):
            scores = network(inputs, *args, **kwargs)
        return scores.float()


class SlidingWindowInferer(monai.inferers.SlidingWindowInferer):
    """MONAI's sliding windows, with Gaussian weights by default and in the device's best precision.

    Args:
        roi_size, sw_batch_size, overlap, mode, and any other: as in `monai.inferers.SlidingWindowInferer`.
        precision: see `segbundle.inferers.precision.autocast`. Overlapping windows are summed in float32.
    """

    def __init__(
        self,
        roi_size: Any,
        sw_batch_size: int = 1,
        overlap: float = 0.5,
        mode: str = "gaussian",
        precision: Precision = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(roi_size=roi_size, sw_batch_size=sw_batch_size, overlap=overlap, mode=mode, **kwargs)
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Scores (B, num_classes, *spatial) in float32 for a whole volume (B, C, *spatial)."""
        with autocast(inputs.device, self.precision):
            scores: torch.Tensor = super().__call__(inputs, network, *args, **kwargs)
        return scores
