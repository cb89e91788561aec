"""A learning rate schedule that covers a training of any length, also of one that is lengthened between two runs."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from monai.bundle import ConfigComponent, ConfigParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segbundle.errors import ConfigError, first_cause, one_line

_SCHEDULE, _EPOCHS, _OPTIMIZER = "lr_scheduler", "max_epochs", "optimizer"
_MOST_TRIED = 20_000
"""Epochs of a longer training are not tried beforehand."""


def check_schedule(lr_scheduler: Any, max_epochs: int) -> None:
    """Refuse a schedule that fails within the training, by stepping a copy of it.

    Schedules that follow validations, and objects that are not PyTorch's schedules, are not tried.

    Args:
        lr_scheduler: at epoch 0; it stays as it is.
        max_epochs: of the training.

    Raises:
        ConfigError: a step fails, or makes a learning rate that is negative or not finite.
    """
    if not isinstance(lr_scheduler, LRScheduler) or isinstance(lr_scheduler, ReduceLROnPlateau):
        return
    try:
        trial = _copy_without_weights(lr_scheduler)
    except Exception:  # it holds what cannot be copied; the training will tell
        return
    name = f"lr_scheduler {type(lr_scheduler).__name__}"
    for epoch in range(1, min(max_epochs, _MOST_TRIED) + 1):
        try:
            rates = _rates_after_step(trial)
        except Exception as error:
            cause = one_line(first_cause(error)).rstrip(".")
            raise ConfigError(
                f"{name} fails after epoch {epoch} of {max_epochs} ({cause}). Set its arguments so that it covers "
                "max_epochs steps, one per epoch."
            ) from error
        wrong = [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]
        if wrong:
            raise ConfigError(
                f"{name}: the learning rate is {wrong[0]} after epoch {epoch} of {max_epochs}; a finite number from 0 "
                "is needed. Change the schedule's arguments."
            )


def _rates_after_step(schedule: LRScheduler) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer makes no step
        schedule.step()
    return [float(group["lr"]) for group in schedule.optimizer.param_groups]


def _copy_without_weights(schedule: LRScheduler) -> LRScheduler:
    """Return a copy of a schedule, whose optimizer has small tensors in place of the weights."""
    weights = [weight for group in schedule.optimizer.param_groups for weight in group["params"]]
    return copy.deepcopy(schedule, {id(weight): torch.nn.Parameter(torch.zeros(1)) for weight in weights})


def rebuild_schedule(schedule: LRScheduler, optimizer: Optimizer, parser: ConfigParser, epochs: int) -> None:
    """Set a schedule to epoch 0 of the one that its configuration describes for another `max_epochs`.

    The object stays the same, as handlers hold it.

    Args:
        schedule, optimizer: what `lr_scheduler` and `optimizer` of the configuration have become.
        parser: the configuration.
        epochs: the new `max_epochs`.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    fresh = ConfigParser(parser.get())
    fresh.parse()
    items, resolved = parser.ref_resolver.items, parser.ref_resolver.resolved_content
    components = {
        key: value
        for key, value in resolved.items()
        if isinstance(items.get(key), ConfigComponent) and key.split("::")[0] != _SCHEDULE
    }
    fresh.ref_resolver.resolved_content.update({**components, _OPTIMIZER: optimizer, _EPOCHS: epochs})
    longer = fresh.get_parsed_content(_SCHEDULE)
    vars(schedule).clear()
    vars(schedule).update(vars(longer))


def planned_epochs(parser: ConfigParser) -> int | None:
    """Return the `max_epochs` of a configuration whose schedule can be rebuilt; None if it has none."""
    if _SCHEDULE not in parser or _EPOCHS not in parser:
        return None
    return int(parser.get_parsed_content(_EPOCHS))


def replay_schedule(schedule: LRScheduler, epochs: int) -> None:
    """Step a schedule from epoch 0 to a later one, which gives the same learning rate to the bit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(epochs):
            schedule.step()
