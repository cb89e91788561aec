"""A moving average of a network's weights, which is steadier than the weights themselves."""

from __future__ import annotations

import copy

import torch
from ignite.engine import Engine, Events


class WeightAverage:
    """Keeps an exponential moving average of the weights that a training passes through (Polyak averaging).

    After step t the average moves by 1 - d towards the weights, where d is the smaller of `decay` and
    (1 + t) / (10 + t), so that it follows the first steps closely. Buffers, such as the statistics of batch norms, are
    copied.

    Args:
        network: what is trained, on its device.
        decay: less than 1, for instance 0.999; None for no average: `network` is then the trained one itself.

    Attributes:
        network: has the average as its weights.
    """

    def __init__(self, network: torch.nn.Module, decay: float | None = 0.999) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}.")
        self.decay = decay
        self.trained = network
        self.network = network if decay is None else copy.deepcopy(network).requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self.decay is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    @torch.no_grad()
    def _update(self, engine: Engine) -> None:
        assert self.decay is not None
        step = engine.state.iteration
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(self.trained.parameters()), 1 - kept)
        for average, current in zip(self.network.buffers(), self.trained.buffers(), strict=True):
            average.copy_(current)


def averaged_network(average: WeightAverage) -> torch.nn.Module:
    """The network that has the average as its weights."""
    return average.network
