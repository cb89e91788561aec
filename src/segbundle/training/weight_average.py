"""Exponential moving average of the weights of a network."""

from __future__ import annotations

import copy

import torch
from ignite.engine import Engine, Events


class WeightAverage:
    """Exponential moving average (EMA) of the weights of a network during training.

    After step t, the new average is d times the previous average plus 1 - d times the weights, with d = min(`decay`,
    (1 + t) / (10 + t)). In the first steps, the average therefore follows the weights closely. Buffers, such as the
    statistics of batch normalization, are not averaged but copied.

    Args:
        network: trained network, on its device.
        decay: decay of the average per step, in [0, 1) (default 0.999); None disables averaging.

    Attributes:
        network: copy of the network whose weights are the average; without averaging, the trained network itself.

    Raises:
        ValueError: `decay` is out of range.

    Example:
        >>> trained = torch.nn.Linear(2, 1)
        >>> WeightAverage(trained, decay=None).network is trained
        True
    """

    def __init__(self, network: torch.nn.Module, decay: float | None = 0.999) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}.")
        self.decay = decay
        self.trained = network
        self.network = network if decay is None else copy.deepcopy(network).requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Attach the average to a trainer, so that the average is updated after every step.

        Args:
            engine: trainer of the network.
        """
        if self.decay is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    @torch.no_grad()
    def _update(self, engine: Engine) -> None:
        assert self.decay is not None
        step = engine.state.iteration
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(self.trained.parameters()), 1 - decay)
        for average, current in zip(self.network.buffers(), self.trained.buffers(), strict=True):
            average.copy_(current)


def averaged_network(average: WeightAverage) -> torch.nn.Module:
    """Return the network with the averaged weights, for use in a configuration.

    Args:
        average: moving average of the weights of a network.

    Returns:
        `average.network`: a copy of the trained network, or the trained network itself if averaging is disabled

    Example:
        >>> trained = torch.nn.Linear(2, 1)
        >>> averaged_network(WeightAverage(trained)) is trained
        False
    """
    return average.network
