"""Loss weights that change during training."""

from __future__ import annotations

import math


class LinearRamp:
    """Linear ramp of a loss weight over the course of training.

    The value changes linearly from `start` to `end` until the fraction `until` of training is completed, and then stays
    at `end`.

    Args:
        start: value at the beginning, 0 or more. Default: 0.0.
        end: value from `until` to the end of training, 0 or more. Default: 1.0.
        until: completed fraction of training at which `end` is reached, in (0, 1]. Default: 1.0.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> ramp = LinearRamp(start=0.0, end=1.0, until=0.5)
        >>> ramp(0.0), ramp(0.25), ramp(1.0)
        (0.0, 0.5, 1.0)
    """

    def __init__(self, start: float = 0.0, end: float = 1.0, until: float = 1.0) -> None:
        if not (0 <= start < math.inf and 0 <= end < math.inf):
            raise ValueError(f"start and end must be finite and not negative, got {start} and {end}.")
        if not 0 < until <= 1:
            raise ValueError(f"until must be a fraction of training in (0, 1], got {until}.")
        self.start, self.end, self.until = float(start), float(end), float(until)

    def __call__(self, progress: float) -> float:
        """Return the value of the ramp at a point of training.

        Args:
            progress: completed fraction of training, from 0 to 1.
        """
        return self.start + (self.end - self.start) * min(max(progress / self.until, 0.0), 1.0)

    def __repr__(self) -> str:
        return f"LinearRamp(start={self.start}, end={self.end}, until={self.until})"
