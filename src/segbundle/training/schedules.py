"""A learning rate schedule that covers a training of any length, also of one that is lengthened between two runs."""

from __future__ import annotations

import warnings

from monai.bundle import ConfigComponent, ConfigParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_SCHEDULE, _EPOCHS, _OPTIMIZER = "lr_scheduler", "max_epochs", "optimizer"


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
