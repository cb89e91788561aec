"""Ignite handlers for training: seeds, NaN checks, final validation, early stopping and logging."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch.optim import Optimizer
from torch.utils.data import DistributedSampler
from tqdm import tqdm

from segbundle.distributed import all_gather, mean_over_ranks, rank
from segbundle.errors import TrainingError
from segbundle.files.run_files import MODEL
from segbundle.hardware.memory_usage import PeakMemory
from segbundle.inference.scoring import MeanDice
from segbundle.report.pictures import compared
from segbundle.sampling.loader import PatchLoader
from segbundle.segmentations.class_entries import colors_of
from segbundle.terminal import LineLimit, duration, is_terminal
from segbundle.training.next_steps import next_commands
from segbundle.training.tracking import MLflowWriter

_logger = logging.getLogger(__name__)
_PICTURES = 3
_FREE_LINES = 100
"""Number of epochs whose lines are logged without a rate limit."""
_ESTIMATE_AFTER = 10.0
"""Seconds of training after which the remaining time is estimated."""
_SLOW_RATE, _SLOW_EPOCHS = 1e-3, 0.1
"""Fraction of the initial learning rate that is practically 0, and fraction of all epochs that may have such a rate."""
_SHOWN = (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)


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
        """Attach the handler to the trainer."""
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
        """Attach the handler to the trainer."""
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
        """Attach the handler to the trainer."""
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
        """
        if self.patience is not None:
            engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        assert self.patience is not None
        best, epoch = self.validator.state.best_metric_epoch, engine.state.epoch
        if best > 0 and self.validator.state.epoch == epoch and epoch - best >= self.patience:
            _logger.info("training stops after epoch %d: validation has not improved since epoch %d", epoch, best)
            engine.terminate()


class TrainingLog:
    """Handler that writes the progress of training to the log, to TensorBoard and, optionally, to MLflow.

    The log has a line per validation and an estimate of the remaining time. Without a terminal, the log also has lines
    for the epochs in between, at a limited rate. At the end, the path and the Dice of the model, the training time, the
    peak memory and the next commands are logged.

    TensorBoard receives the loss, the learning rate and the gradient norm of every epoch. After every validation,
    TensorBoard also receives the mean Dice, the Dice of every class, and for each of the first three cases a slice with
    the reference and the prediction as overlays.

    With several ranks, every rank needs the handler, because the loss is the mean over the ranks. Only rank 0 writes to
    TensorBoard and MLflow.

    Args:
        output_dir: output folder of the run. The TensorBoard files are written to its folder `tensorboard`.
        optimizer: optimizer whose learning rate is logged.
        evaluator: validation engine.
        metric: metric with the scores of the last validation.
        mlflow_uri: URI of the MLflow server or database that receives the same values (see `MLflowWriter`). Default: no
            MLflow.
        class_colors: colors of the classes in pictures, see `colors_of`. Default: a palette.

    Raises:
        ConfigError: MLflow cannot be used (raised at the start of training).

    Example:
        >>> trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> TrainingLog("runs/training", optimizer, evaluator, MeanDice(["background", "liver"])).attach(trainer)
    """

    def __init__(
        self,
        output_dir: str,
        optimizer: Optimizer,
        evaluator: Evaluator,
        metric: MeanDice,
        mlflow_uri: str | None = None,
        class_colors: Mapping[str, Any] | None = None,
    ) -> None:
        self.log_dir = Path(output_dir) / "tensorboard"
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.metric = metric
        self.mlflow_uri = mlflow_uri
        self.class_colors = class_colors
        self.output_dir = Path(output_dir)
        self._writers: list[Any] = []
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._started = 0.0
        self._first_epoch = 0  # number of finished epochs when the training was resumed
        self._estimated = False
        self._rate = 0.0
        self._slow_epochs = 0
        self._too_slow = False
        self._pictures: dict[str, Any] = {}
        self._limit: LineLimit | None = None
        self._memory: PeakMemory | None = None

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_STARTED, self._record_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        engine.add_event_handler(Events.COMPLETED, self._close)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_is_pictured), self._draw)

    def _open(self, engine: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._started, self._first_epoch = time.monotonic(), engine.state.epoch
        self._limit = None if is_terminal() else LineLimit(_FREE_LINES, self._started)
        self._memory = PeakMemory(torch.device(engine.state.device))
        cases = len(engine.data_loader.dataset)
        held_out = sum(all_gather([len(self.evaluator.data_loader.dataset)]))
        where = (engine.state.device, self.log_dir.parent)
        if engine.state.epoch < (engine.state.max_epochs or 0):
            _logger.info("training on %d cases, validating on %d; device %s; output in %s", cases, held_out, *where)
        if rank() == 0:
            self._writers = [SummaryWriter(str(self.log_dir), purge_step=engine.state.epoch + 1)]
            if self.mlflow_uri is not None:
                self._writers.append(MLflowWriter(self.mlflow_uri, self.log_dir.parent))

    def _record_rate(self, engine: Engine) -> None:
        group = self.optimizer.param_groups[0]
        rate = group["lr"]  # the schedule changes it before the epoch is logged
        self._slow_epochs = self._slow_epochs + 1 if rate < _SLOW_RATE * group.get("initial_lr", rate) else 0
        too_slow = self._slow_epochs > _SLOW_EPOCHS * (engine.state.max_epochs or 0)
        if (rate == 0 and self._rate > 0) or (too_slow and not self._too_slow and rate > 0):
            _logger.warning(
                "epoch %d: the learning rate is %.3g, so %s max_epochs (%s). Configure lr_scheduler "
                "for max_epochs steps, one per epoch.",
                engine.state.epoch,
                rate,
                "the network hardly learns; lr_scheduler does not fit"
                if rate
                else "the network does not learn; lr_scheduler ends before",
                engine.state.max_epochs,
            )
        self._rate, self._too_slow = rate, too_slow

    def _record_loss(self, engine: Engine) -> None:
        state: Any = engine.state
        self._losses.append(state.output[CommonKeys.LOSS].detach())  # stays on the device, to avoid synchronization
        self._norms.append(state.gradient_norm)

    def _draw(self, evaluator: Engine) -> None:
        if self._writers:
            (item,), (output,) = cast(Any, evaluator.state.batch), cast(Any, evaluator.state.output)
            colors = colors_of(self.metric.class_names, self.class_colors)
            image, reference, prediction = (output[key] for key in _SHOWN)
            self._pictures[item["case"]] = compared(image, reference, prediction, colors)

    def _log(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        loss, norm = mean_over_ranks(torch.stack(self._losses).mean()), float(torch.stack(self._norms).mean())
        self._losses, self._norms = [], []
        if not self._writers:
            return
        self._add_scalars({"train/loss": loss, "train/learning_rate": self._rate, "train/gradient_norm": norm}, epoch)
        now = time.monotonic()
        minutes = (now - self._started) / 60
        left = minutes * ((engine.state.max_epochs or epoch) - epoch) / (epoch - self._first_epoch)
        done = f"epoch {epoch}/{engine.state.max_epochs}  {minutes:.1f} min, about {left:.1f} min left  loss {loss:.4f}"
        if self.evaluator.state.epoch == epoch:
            self._log_validation(epoch, done)
        elif self._limit is not None and self._limit.passes(now):
            _logger.info("%s", done)
        self._estimate_time(engine, now)

    def _estimate_time(self, engine: Engine, now: float) -> None:
        """Log an estimate of the remaining time once, for log files without a progress bar."""
        seconds, left = now - self._started, (engine.state.max_epochs or 0) - engine.state.epoch
        if self._estimated or seconds < _ESTIMATE_AFTER or not left:
            return
        self._estimated = True
        each = seconds / (engine.state.epoch - self._first_epoch)
        with tqdm.external_write_mode():
            _logger.info("%.1f s per epoch: about %.0f min for the remaining %d epochs", each, each * left / 60, left)

    def _log_validation(self, epoch: int, done: str) -> None:
        summary = self.metric.summary()
        dice = {name: row["dice_mean"] for name, row in summary["classes"].items()}
        scored = {f"validation/dice/{name}": value for name, value in dice.items() if value is not None}
        self._add_scalars({"validation/mean_dice": self.metric.compute(), **scored}, epoch)
        for case, picture in self._pictures.items():
            for writer in self._writers:
                writer.add_image(f"validation/{case}", picture, epoch, dataformats="HWC")
        self._pictures = {}
        shown = ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in dice.items())
        with tqdm.external_write_mode():
            _logger.info(
                "%s  mean Dice %.4f (%s)  best %.4f in epoch %d",
                done,
                self.metric.compute(),
                shown,
                self.evaluator.state.best_metric,
                self.evaluator.state.best_metric_epoch,
            )

    def _add_scalars(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            for writer in self._writers:
                writer.add_scalar(name, value, epoch)

    def _close(self, engine: Engine) -> None:
        for writer in self._writers:
            writer.close()
        model, state = self.output_dir / MODEL, self.evaluator.state
        if not self._writers or not model.exists() or engine.state.epoch == self._first_epoch or self._memory is None:
            return
        peaks = self._memory.peaks()
        on_gpu = f", {peaks['peak_gpu_memory_mb'] / 1000:.1f} GB on the GPU" if "peak_gpu_memory_mb" in peaks else ""
        with tqdm.external_write_mode():
            _logger.info(
                "model: %s, mean Dice %.4f in epoch %d of %d",
                model, state.best_metric, state.best_metric_epoch, engine.state.epoch,
            )  # fmt: skip
            _logger.info(
                "training took %s; peak memory %.1f GB%s",
                duration(time.monotonic() - self._started), peaks["peak_memory_mb"] / 1000, on_gpu,
            )  # fmt: skip
            for command in next_commands(model):
                _logger.info("next: %s", command)


def _is_pictured(engine: Engine, event: int) -> bool:
    """Return whether a case of a validation gets a picture. Only the first few do."""
    return event <= _PICTURES
