"""Weights that change while a training goes on."""

from __future__ import annotations

import math


class LinearRamp:
    """From `start` at the beginning of a training to `end`, which is reached after the part `until` of it.

    Args:
        start, end: values, not negative.
        until: in (0, 1].

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, start: float = 0.0, end: float = 1.0, until: float = 1.0) -> None:
        if not (0 <= start < math.inf and 0 <= end < math.inf):
            raise ValueError(f"start and end must be finite and not negative, got {start} and {end}.")
        if not 0 < until <= 1:
            raise ValueError(f"until must lie in (0, 1], a part of the training, got {until}.")
        self.start, self.end, self.until = float(start), float(end), float(until)

    def __call__(self, progress: float) -> float:
        """The value when the part `progress`, in [0, 1], of the training is over."""
        return self.start + (self.end - self.start) * min(max(progress / self.until, 0.0), 1.0)

    def __repr__(self) -> str:
        return f"LinearRamp(start={self.start}, end={self.end}, until={self.until})"
