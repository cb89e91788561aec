"""Progress bars of engines."""

from __future__ import annotations

from typing import NoReturn

from ignite.engine import Engine, Events
from tqdm import tqdm

from segbundle.distributed import rank


class ProgressBar:
    """Handler that shows the progress of an engine as a bar.

    The bar is shown on terminals only, so that log files do not contain the bar. With several ranks, only rank 0 shows
    the bar.

    Args:
        description: text before the bar.
        unit: name of the item that one iteration processes. Default: `scan`.
        leave: whether the bar stays on the terminal when the engine has finished. Default: True.

    Example:
        >>> engine = Engine(lambda engine, batch: batch)
        >>> ProgressBar("predicting", leave=False).attach(engine)
        >>> engine.run([1, 2]).iteration
        2
    """

    def __init__(self, description: str, unit: str = "scan", leave: bool = True) -> None:
        self.description = description
        self.unit = unit
        self.leave = leave
        self._bar: tqdm[NoReturn] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach the handler to a trainer or an evaluator. The epochs of a trainer share one bar.

        Args:
            engine: trainer or evaluator.
        """
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
