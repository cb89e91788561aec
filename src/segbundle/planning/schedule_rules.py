"""Rules for the length of a training run: steps, epochs and validations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from segbundle.planning.choice import Choice, amount
from segbundle.terminal import duration

_STEPS_PER_ROOT = 200
"""Training steps per square root of the number of training cases, on a CPU: 720 for the 13 cases of data_samples, 2,500
for the 160 of the hippocampus task, which are enough for both (docs/benchmarks.md)."""
_GPU_FACTOR = 10
"""Factor of the number of steps on a GPU."""
_FEWEST_STEPS, _MOST_STEPS = 20, 250_000
_EPOCHS = 100
"""Target number of epochs: the learning rate changes once per epoch."""
_MOST_PER_EPOCH = 250
_VALIDATIONS = 10


class Timing(NamedTuple):
    """Measured or assumed durations.

    Attributes:
        step: seconds of a training step.
        validation: seconds of a validation of all held-out cases.

    Example:
        >>> Timing(0.5, 20.0).step
        0.5
    """

    step: float
    validation: float


class Schedule(NamedTuple):
    """Number of steps and epochs of a training run, and its expected duration.

    Attributes:
        steps_per_epoch: training steps per epoch.
        max_epochs: number of epochs.
        val_interval: epochs between validations.
        seconds: expected duration in seconds.

    Example:
        >>> Schedule(25, 100, 10, 3600.0).steps
        2500
    """

    steps_per_epoch: int
    max_epochs: int
    val_interval: int
    seconds: float

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.steps_per_epoch * self.max_epochs


def choose_schedule(num_cases: int, timing: Timing, hours: float | None, on_gpu: bool) -> Schedule:
    """Return the number of steps and epochs of a training run, and its expected duration.

    A run has 20 to 250,000 steps in about 100 epochs of at most 250 steps, and about 10 validations.

    Args:
        num_cases: number of training cases.
        timing: durations of a step and of a validation.
        hours: duration of the training run in hours; None for a number of steps that grows with the square root
            of `num_cases`.
        on_gpu: whether the training run uses a GPU; the default number of steps is then ten times as large.

    Example:
        >>> schedule = choose_schedule(160, Timing(0.5, 10.0), None, on_gpu=False)
        >>> schedule.steps_per_epoch, schedule.max_epochs, schedule.val_interval
        (25, 101, 10)
        >>> choose_schedule(160, Timing(0.5, 10.0), hours=1, on_gpu=False).steps
        7000
    """
    if hours is None:
        steps = _STEPS_PER_ROOT * math.sqrt(num_cases) * (_GPU_FACTOR if on_gpu else 1)
    else:
        steps = (3600 * hours - _VALIDATIONS * timing.validation) / timing.step
    steps = min(max(steps, _FEWEST_STEPS), _MOST_STEPS)
    per_epoch = min(max(round(steps / _EPOCHS), 1), _MOST_PER_EPOCH)
    epochs = max(round(steps / per_epoch), 1)
    interval = max(round(epochs / _VALIDATIONS), 1)
    seconds = epochs * per_epoch * timing.step + math.ceil(epochs / interval) * timing.validation
    return Schedule(per_epoch, epochs, interval, seconds)


def schedule_choices(schedule: Schedule, timing: Timing, num_cases: int, batch_size: int, asked: bool) -> list[Choice]:
    """Return the settings `steps_per_epoch`, `max_epochs` and `val_interval` of a schedule, with their reasons.

    Args:
        schedule: steps, epochs and expected duration.
        timing: durations that it was derived from.
        num_cases: number of training cases.
        batch_size: patches per step.
        asked: whether the user set the duration.

    Example:
        >>> timing = Timing(0.5, 10.0)
        >>> choices = schedule_choices(choose_schedule(160, timing, None, False), timing, 160, 2, asked=False)
        >>> choices[0].key, choices[0].value, choices[0].reason
        ('steps_per_epoch', 25, '50 patches; one pass over 160 training cases takes 3.2 epochs')
    """
    patches = schedule.steps_per_epoch * batch_size
    passes = num_cases / patches
    why = (
        "as many as --hours allows"
        if asked
        else f"{amount(schedule.steps, 'step')} for {amount(num_cases, 'training case')}"
    )
    each = f"{1000 * timing.step:.0f} ms" if timing.step < 1 else f"{timing.step:.1f} s"
    return [
        Choice(
            "steps_per_epoch",
            schedule.steps_per_epoch,
            f"{patches} patches; one pass over {amount(num_cases, 'training case')} takes {passes:.2g} epochs",
        ),
        Choice("max_epochs", schedule.max_epochs, f"{why}: about {duration(schedule.seconds)} with {each} per step"),
        Choice(
            "val_interval",
            schedule.val_interval,
            f"{math.ceil(schedule.max_epochs / schedule.val_interval)} validations of {duration(timing.validation)}",
        ),
    ]


def count_windows(shape: Sequence[int], patch_size: Sequence[int]) -> int:
    """Return the number of inference windows of a volume, which overlap by half.

    Args:
        shape: (X, Y, Z) of the volume in voxels.
        patch_size: (X, Y, Z) of a window in voxels.

    Example:
        >>> count_windows([100, 100, 40], [64, 64, 40])
        9
    """
    return math.prod(
        max(math.ceil((side - size) / max(size // 2, 1)), 0) + 1 for side, size in zip(shape, patch_size, strict=True)
    )
