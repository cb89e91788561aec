"""Learning rate schedules: checks before training, warm-up, and adaptation to a changed `max_epochs`."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigComponent, ConfigParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segbundle.errors import ConfigError, first_cause, one_line

_SCHEDULE, _EPOCHS, _OPTIMIZER = "lr_scheduler", "max_epochs", "optimizer"
_MAX_CHECKED = 20_000
"""Number of epochs that are checked; later epochs are not."""


def check_schedule(lr_scheduler: Any, max_epochs: int) -> None:
    """Raise an error if a schedule does not work for all epochs of a training run.

    A copy of the schedule is stepped, for at most 20,000 epochs. `ReduceLROnPlateau`, objects that are not PyTorch
    schedules, and schedules that cannot be copied are not checked.

    Args:
        lr_scheduler: schedule at epoch 0; not changed.
        max_epochs: number of epochs of the run.

    Raises:
        ConfigError: a step fails, or results in a learning rate that is negative or not finite; or the schedule has
            replaced the learning rates of `layer_decay` by a single one.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40)
        >>> check_schedule(schedule, max_epochs=40)
        >>> schedule.last_epoch
        0
    """
    if not isinstance(lr_scheduler, LRScheduler) or isinstance(lr_scheduler, ReduceLROnPlateau):
        return
    groups = lr_scheduler.optimizer.param_groups
    if len({group.get("lr_scale") for group in groups}) > 1 and len({float(group["lr"]) for group in groups}) == 1:
        raise ConfigError(
            f"lr_scheduler {type(lr_scheduler).__name__} sets one learning rate for all layers, so layer_decay has no "
            "effect. Use a schedule that scales learning rates, such as PolynomialLR, or set layer_decay to null."
        )
    try:
        trial = _copy_without_weights(lr_scheduler)
    except Exception:  # it cannot be copied; errors will occur during training
        return
    name = f"lr_scheduler {type(lr_scheduler).__name__}"
    for epoch in range(1, min(max_epochs, _MAX_CHECKED) + 1):
        try:
            rates = _rates_after_step(trial)
        except Exception as error:
            cause = one_line(first_cause(error)).rstrip(".")
            raise ConfigError(
                f"{name} fails after epoch {epoch} of {max_epochs} ({cause}). Set its arguments for "
                "max_epochs steps, one per epoch."
            ) from error
        wrong = [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]
        if wrong:
            raise ConfigError(
                f"{name}: the learning rate is {wrong[0]} after epoch {epoch} of {max_epochs}. It must be finite and "
                "not negative. Change the arguments of the schedule."
            )


def _rates_after_step(schedule: LRScheduler) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer makes no step
        schedule.step()
    return [float(group["lr"]) for group in schedule.optimizer.param_groups]


def _copy_without_weights(schedule: LRScheduler) -> LRScheduler:
    """Return a copy of a schedule. Its optimizer has small tensors instead of the weights."""
    weights = [weight for group in schedule.optimizer.param_groups for weight in group["params"]]
    return copy.deepcopy(schedule, {id(weight): torch.nn.Parameter(torch.zeros(1)) for weight in weights})


class WarmUp:
    """Handler that lowers the learning rates in the first epochs of training: linear warm-up.

    In epoch e of n = `warmup_epochs`, the learning rates are those of the schedule times e / (n + 1). They depend on
    the epoch only, so that a resumed run has the same learning rates. The schedule itself does not change: it ends with
    the last epoch, and may be any schedule of PyTorch, including schedules that are not chainable.

    Attach this handler before the handler that steps the schedule.

    Args:
        optimizer: optimizer whose learning rates are lowered.
        warmup_epochs: number of epochs with lower learning rates; 0 (default) for none.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        >>> trainer = Engine(lambda engine, batch: print(f"{optimizer.param_groups[0]['lr']:.1f}"))
        >>> WarmUp(optimizer, warmup_epochs=3).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=5)
        0.1
        0.2
        0.3
        0.4
        0.4
    """

    def __init__(self, optimizer: Optimizer, warmup_epochs: int = 0) -> None:
        self.optimizer = optimizer
        self.warmup_epochs = warmup_epochs
        self._full: list[Any] = []

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer. Call this method before the schedule's handler is attached.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._lower)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.TERMINATE | Events.INTERRUPT, self._restore)

    def _lower(self, engine: Engine) -> None:
        if engine.state.epoch <= self.warmup_epochs:
            self._full = [group["lr"] for group in self.optimizer.param_groups]
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * (engine.state.epoch / (self.warmup_epochs + 1))

    def _restore(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._full, strict=False):
            group["lr"] = rate
        self._full = []


def rebuild_schedule(schedule: LRScheduler, optimizer: Optimizer, parser: ConfigParser, epochs: int) -> None:
    """Rebuild a schedule from its configuration for another `max_epochs`, and reset it to epoch 0.

    The object is changed in place, because handlers refer to it. The learning rates of the optimizer are reset to their
    initial values.

    Args:
        schedule: instance of `lr_scheduler` in the configuration.
        optimizer: instance of `optimizer` in the configuration.
        parser: configuration.
        epochs: new value of `max_epochs`.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2)
        >>> definition = {"optimizer": "@optimizer", "total_iters": "@max_epochs"}
        >>> definition["_target_"] = "torch.optim.lr_scheduler.PolynomialLR"
        >>> parser = ConfigParser({"lr_scheduler": definition, "optimizer": None, "max_epochs": 2})
        >>> rebuild_schedule(schedule, optimizer, parser, epochs=4)
        >>> schedule.total_iters
        4
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
    """Return `max_epochs` of a configuration, or None if `max_epochs` or `lr_scheduler` is missing.

    Args:
        parser: configuration.

    Example:
        >>> planned_epochs(ConfigParser({"max_epochs": 40, "lr_scheduler": {}})), planned_epochs(ConfigParser({}))
        (40, None)
    """
    if _SCHEDULE not in parser or _EPOCHS not in parser:
        return None
    return int(parser.get_parsed_content(_EPOCHS))


def replay_schedule(schedule: LRScheduler, epochs: int) -> None:
    """Step a schedule from epoch 0 to a later epoch.

    Unlike a closed-form learning rate, the result is bitwise identical to that of a run without interruption.

    Args:
        schedule: schedule at epoch 0, changed in place.
        epochs: number of steps.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> replay_schedule(schedule, 2)
        >>> optimizer.param_groups[0]["lr"]
        0.025
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(epochs):
            schedule.step()
