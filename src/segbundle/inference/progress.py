"""One progress bar per long loop."""

from __future__ import annotations

from typing import NoReturn

from ignite.engine import Engine, Events
from tqdm import tqdm

from segbundle.distributed import rank


class ProgressBar:
    """Shows how far an engine is, on a terminal only: logs stay free of it.

    Args:
        description: what stands before the bar.
        unit: what is counted.
        leave: whether the full bar stays when the loop is over.
    """

    def __init__(self, description: str, unit: str = "scan", leave: bool = True) -> None:
        self.description = description
        self.unit = unit
        self.leave = leave
        self._bar: tqdm[NoReturn] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, whose epochs share one bar, or with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _open(self, engine: Engine) -> None:
        epochs = (engine.state.max_epochs or 1) - engine.state.epoch
        self._bar = tqdm(
            total=epochs * (engine.state.epoch_length or 0),
            desc=self.description,
            unit=self.unit,
            leave=self.leave,
            disable=True if rank() else None,
        )

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
        if error is not None:
            raise error
