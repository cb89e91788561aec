"""Patches through the network in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import monai.inferers
import torch
from monai.data import MetaTensor

from segbundle.config.choices import Precision
from segbundle.inference.precision import autocast


class PatchInferer(monai.inferers.Inferer):
    """Forward pass of a training step: the whole batch at once, in the device's best precision.

    Args:
        precision: see `segbundle.inference.precision.autocast`.
    """

    def __init__(self, precision: Precision = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | list[torch.Tensor]:
        """Scores (B, num_classes, *spatial) in float32, whatever the network computed in.

        Of a network with deep supervision, what it returns: the scores of every depth, stacked or in a list.
        """
        inputs = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with autocast(inputs.device, self.precision):
            scores = network(inputs, *args, **kwargs)
        return scores.float() if isinstance(scores, torch.Tensor) else [each.float() for each in scores]
