"""Inferer for the forward pass on patches in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import monai.inferers
import torch
from monai.data import MetaTensor

from segbundle.config.choices import Precision
from segbundle.inference.backends import autocast


class PatchInferer(monai.inferers.Inferer):
    """Inferer for training that runs the network once on the whole batch, in a given precision.

    Args:
        precision: see `segbundle.inference.autocast`. Default: `auto`.

    Example:
        >>> PatchInferer(precision="fp32")(torch.zeros(2, 1, 8, 8, 8), torch.nn.Conv3d(1, 3, 1)).shape
        torch.Size([2, 3, 8, 8, 8])
    """

    def __init__(self, precision: Precision = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (B, num_classes, *spatial) in float32, whatever the precision of the network.

        A network with deep supervision returns the logits of all resolutions. They are returned in the same form: a
        stacked tensor or a list of tensors.

        Args:
            inputs: patches (B, C, *spatial).
            network: network to run.
            args: additional positional arguments of the network.
            kwargs: additional keyword arguments of the network.
        """
        inputs = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with autocast(inputs.device, self.precision):
            logits = network(inputs, *args, **kwargs)
        return logits.float() if isinstance(logits, torch.Tensor) else [each.float() for each in logits]
