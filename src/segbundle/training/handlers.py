"""Ignite handlers for training: seeds, NaN checks, final validation and early stopping."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch.utils.data import DistributedSampler

from segbundle.distributed import rank
from segbundle.errors import TrainingError
from segbundle.sampling.loader import PatchLoader

_logger = logging.getLogger(__name__)


class SeedEpochs:
    """Handler that seeds every epoch, so that its batches depend only on the seed of the run and the epoch number.

    Repeated runs and resumed runs therefore have the same order of cases, patches and augmentation. Random transforms
    differ between ranks.

    Args:
        seed: seed of the run; None disables seeding.
        loader: training loader. A `PatchLoader` has a seed of its own, so only the epoch is set. For other loaders,
            PyTorch's generator and the random transforms of the dataset are seeded. (Worker processes are seeded from
            PyTorch's generator.)

    Example:
        >>> from segbundle.sampling.augmentation import Augmentation
        >>> loader = PatchLoader([], (8, 8, 8), 1, Augmentation())
        >>> trainer = Engine(lambda engine, batch: None)
        >>> SeedEpochs(0, loader).attach(trainer)
    """

    def __init__(self, seed: int | None, loader: Any) -> None:
        self.seed = seed
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        for sampler in (self.loader, getattr(self.loader, "sampler", None)):
            if isinstance(sampler, (PatchLoader, DistributedSampler)):
                sampler.set_epoch(engine.state.epoch)
        if self.seed is None:
            return
        entropy = [self.seed, engine.state.epoch, *([rank()] if rank() else [])]
        torch_seed, transform_seed = np.random.SeedSequence(entropy).generate_state(2)
        torch.manual_seed(int(torch_seed))
        if not isinstance(self.loader, PatchLoader):
            self.loader.dataset.transform.set_random_state(seed=int(transform_seed))


class StopAtNaN:
    """Handler that stops training if the loss or the gradient is NaN or infinite, before the epoch is saved.

    The loss is checked in every step; on a GPU, during the next step, to avoid synchronization. The gradient is checked
    only in the last step of an epoch, because a gradient that is not finite leads to a NaN loss in the next step. The
    trainer must set `state.gradient_norm`, as `SegmentationTrainer` does.

    Raises:
        TrainingError: the loss or the gradient is not finite (raised during training). The message names the cases of
            the batch.

    Example:
        >>> trainer = Engine(lambda engine, batch: None)
        >>> trainer.register_events(*IterationEvents)
        >>> StopAtNaN().attach(trainer)
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, Any, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._record_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_epoch)

    def _record_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = output[CommonKeys.LOSS].detach()
        if loss.is_cuda:
            self._check()
        copied = None
        if loss.is_cuda:
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            loss = host.copy_(loss, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._last = loss, copied, _position(engine)
        if copied is None:
            self._check()

    def _check(self) -> None:
        if self._last is None:
            return
        (loss, copied, position), self._last = self._last, None
        if copied is not None:
            copied.synchronize()
        _check_finite("loss", float(loss), position)

    def _check_epoch(self, engine: Engine) -> None:
        self._check()
        state: Any = engine.state
        _check_finite("gradient norm", float(state.gradient_norm), _position(engine))


def _position(engine: Engine) -> tuple[Any, int, int]:
    """Return the case names of the current batch, the step and the epoch."""
    batch: Any = engine.state.batch
    return batch.get("case", ()), engine.state.iteration, engine.state.epoch


def _check_finite(name: str, value: float, position: tuple[Any, int, int]) -> None:
    if math.isfinite(value):
        return
    cases, step, epoch = position
    raise TrainingError(
        f"the {name} is {value} in step {step}{', cases ' if cases else ''}{', '.join(cases)}. "
        + (
            "last.pt contains the previous epoch. Check these cases with `segbundle check`, or lower optimizer#lr and "
            "continue with --resume true."
            if epoch > 1
            else "Nothing is saved yet. Check these cases with `segbundle check`, or lower optimizer#lr."
        )
    )


class FinalValidation:
    """Handler that validates after the last epoch, unless MONAI's `ValidationHandler` does so.

    Args:
        validator: validation engine.
        interval: number of epochs between the validations of the `ValidationHandler`.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer = Engine(lambda engine, batch: None)
        >>> FinalValidation(SimpleNamespace(run=lambda epoch: print(f"validation in epoch {epoch}")), 5).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=7)
        validation in epoch 7
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        self.validator = validator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs and engine.state.epoch % self.interval:
            self.validator.run(engine.state.epoch)


class EarlyStopping:
    """Handler that stops training when the validation metric has not improved for `patience` epochs.

    The metric is checked at the start and after every epoch with a validation. A run that has stopped early therefore
    stops again as soon as it is resumed, unless `patience` has been increased.

    Args:
        validator: validation engine with a key metric.
        patience: number of epochs without improvement after which training stops; None disables early stopping.

    Example:
        >>> from types import SimpleNamespace
        >>> validator = SimpleNamespace(state=SimpleNamespace(epoch=0, best_metric_epoch=1))
        >>> trainer = Engine(lambda engine, batch: None)
        >>> @trainer.on(Events.EPOCH_COMPLETED)
        ... def validate():
        ...     validator.state.epoch = trainer.state.epoch
        >>> EarlyStopping(validator, patience=3).attach(trainer)
        >>> trainer.run([0], max_epochs=9).epoch
        4
    """

    def __init__(self, validator: Evaluator, patience: int | None) -> None:
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer.

        Call this method after the validation handlers are attached, because handlers run in the order in which they
        were attached.

        Args:
            engine: trainer.
        """
        if self.patience is not None:
            engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        assert self.patience is not None
        best, epoch = self.validator.state.best_metric_epoch, engine.state.epoch
        if best > 0 and self.validator.state.epoch == epoch and epoch - best >= self.patience:
            _logger.info("training stops after epoch %d: validation has not improved since epoch %d", epoch, best)
            engine.terminate()
