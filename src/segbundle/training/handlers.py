"""Handlers of a training: seeds, the last validation, and what a person sees while it runs."""

from __future__ import annotations

import logging
import math
import time
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
from segbundle.hardware.peak_memory import PeakMemory
from segbundle.inference.scoring import MeanDice
from segbundle.report.pictures import compared
from segbundle.sampling.loader import PatchLoader
from segbundle.terminal import LineLimit, duration, is_terminal
from segbundle.training.next_steps import after_training
from segbundle.training.tracking import MLflowWriter

_logger = logging.getLogger(__name__)
_PICTURES = 3
_FREE_LINES = 100
"""Epochs whose lines are written however short they are."""
_SETTLED = 10.0
"""Seconds of training after which its speed tells how long the rest will take."""
_SLOW_RATE, _SLOW_EPOCHS = 1e-3, 0.1
"""Fraction of the initial learning rate that is practically 0, and fraction of all epochs for which it may last."""
_SHOWN = (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)


class SeedEpochs:
    """Seeds order, patches and augmentation of every epoch from the run's seed and the epoch's number.

    An epoch thus never depends on what came before it in the process: two runs agree, and so does a resumed one. Of
    several processes each draws other random transforms.

    Args:
        seed: the run's seed, or None to leave randomness alone.
        loader: of the training's batches: ours, which only needs to know the epoch, or PyTorch's, whose random
            transforms are seeded (worker processes are seeded by their loader from PyTorch's generator).
    """

    def __init__(self, seed: int | None, loader: Any) -> None:
        self.seed = seed
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        for sampled in (self.loader, getattr(self.loader, "sampler", None)):
            if isinstance(sampled, (PatchLoader, DistributedSampler)):
                sampled.set_epoch(engine.state.epoch)
        if self.seed is None:
            return
        entropy = [self.seed, engine.state.epoch, *([rank()] if rank() else [])]
        for_torch, for_transform = np.random.SeedSequence(entropy).generate_state(2)
        torch.manual_seed(int(for_torch))
        if not isinstance(self.loader, PatchLoader):
            self.loader.dataset.transform.set_random_state(seed=int(for_transform))


class StopAtNaN:
    """Ends a training whose loss or gradient is not finite any more, before weights of that epoch are saved.

    On a GPU, a loss is looked at when the next one has been computed, so that nothing has to wait. A gradient that is
    not finite makes the next loss the same, so only that of an epoch's last step is looked at.

    Raises:
        TrainingError: in training; names the cases of the batch.
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, Any, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._remember)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_all)

    def _remember(self, engine: Engine) -> None:
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
        self._last = loss, copied, _place(engine)
        if copied is None:
            self._check()

    def _check(self) -> None:
        if self._last is None:
            return
        (loss, copied, place), self._last = self._last, None
        if copied is not None:
            copied.synchronize()
        _refuse_what_is_not_finite("loss", float(loss), place)

    def _check_all(self, engine: Engine) -> None:
        self._check()
        state: Any = engine.state
        _refuse_what_is_not_finite("gradient's norm", float(state.gradient_norm), _place(engine))


def _place(engine: Engine) -> tuple[Any, int, int]:
    """Where a training is: the cases of the batch, the step and the epoch."""
    batch: Any = engine.state.batch
    return batch.get("case", ()), engine.state.iteration, engine.state.epoch


def _refuse_what_is_not_finite(name: str, value: float, place: tuple[Any, int, int]) -> None:
    if math.isfinite(value):
        return
    cases, step, epoch = place
    raise TrainingError(
        f"the {name} is {value} in step {step}, cases {', '.join(cases)}; "
        + (
            "last.pt holds the epoch before. Look at these cases with `segbundle check`, or lower optimizer#lr and go "
            "on with --resume true."
            if epoch > 1
            else "nothing is saved yet. Look at these cases with `segbundle check`, or lower optimizer#lr."
        )
    )


class FinalValidation:
    """Validates after the last epoch where MONAI's `ValidationHandler`, which counts intervals, would not.

    Args:
        validator: the validation engine.
        interval: the interval of the `ValidationHandler`.
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        self.validator = validator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs and engine.state.epoch % self.interval:
            self.validator.run(engine.state.epoch)


class EarlyStopping:
    """Ends a training after an epoch if no validation was better than the best for long enough; if resumed, again.

    Args:
        validator: the validation engine.
        patience: epochs since the best one; None for never.
    """

    def __init__(self, validator: Evaluator, patience: int | None) -> None:
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after what validates."""
        if self.patience is not None:
            engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        assert self.patience is not None
        best, epoch = self.validator.state.best_metric_epoch, engine.state.epoch
        if best > 0 and self.validator.state.epoch == epoch and epoch - best >= self.patience:
            _logger.info("no validation was better than that of epoch %d; stopping after epoch %d", best, epoch)
            engine.terminate()


class TrainingLog:
    """Log lines: how long it will take, one per validation, without a terminal also one per epoch; and TensorBoard.

    The last lines say where the model is, its score, time and memory, and which commands come next.

    There go loss, learning rate and gradient norm per epoch, and Dice per class.

    And for the first few held-out cases a slice with the reference and the prediction laid over it.

    Of several processes the first one writes; the loss is the mean of all.
    With `mlflow_uri` the same goes to MLflow.

    Args:
        output_dir: TensorBoard's files go to `<output_dir>/tensorboard`.
        optimizer: for the learning rate.
        evaluator: the validation engine.
        metric: holds the scores of the last validation.
        mlflow_uri: where MLflow keeps its runs (`MLflowWriter`); None for TensorBoard alone.
    """

    def __init__(
        self,
        output_dir: str,
        optimizer: Optimizer,
        evaluator: Evaluator,
        metric: MeanDice,
        mlflow_uri: str | None = None,
    ) -> None:
        self.log_dir = Path(output_dir) / "tensorboard"
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.metric = metric
        self.mlflow_uri = mlflow_uri
        self.output_dir = Path(output_dir)
        self._writers: list[Any] = []
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._started = 0.0
        self._began = 0  # epochs that were done before
        self._foretold = False
        self._rate = 0.0
        self._slow_epochs = 0
        self._too_slow = False
        self._pictures: dict[str, Any] = {}
        self._limit: LineLimit | None = None
        self._memory: PeakMemory | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_STARTED, self._remember_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        engine.add_event_handler(Events.COMPLETED, self._close)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_of_the_first), self._draw)

    def _open(self, engine: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._started, self._began = time.monotonic(), engine.state.epoch
        self._limit = None if is_terminal() else LineLimit(_FREE_LINES, self._started)
        self._memory = PeakMemory(torch.device(engine.state.device))
        cases = len(engine.data_loader.dataset)
        held_out = sum(all_gather([len(self.evaluator.data_loader.dataset)]))
        where = (engine.state.device, self.log_dir.parent)
        if engine.state.epoch < (engine.state.max_epochs or 0):
            _logger.info("training on %d cases, validating on %d, on %s: %s", cases, held_out, *where)
        if rank() == 0:
            self._writers = [SummaryWriter(str(self.log_dir), purge_step=engine.state.epoch + 1)]
            if self.mlflow_uri is not None:
                self._writers.append(MLflowWriter(self.mlflow_uri, self.log_dir.parent))

    def _remember_rate(self, engine: Engine) -> None:
        group = self.optimizer.param_groups[0]
        rate = group["lr"]  # the schedule changes it before the epoch is logged
        self._slow_epochs = self._slow_epochs + 1 if rate < _SLOW_RATE * group.get("initial_lr", rate) else 0
        too_slow = self._slow_epochs > _SLOW_EPOCHS * (engine.state.max_epochs or 0)
        if (rate == 0 and self._rate > 0) or (too_slow and not self._too_slow and rate > 0):
            _logger.warning(
                "epoch %d: the learning rate is %.3g, so %s max_epochs, %s",
                engine.state.epoch,
                rate,
                "hardly anything is learned; lr_scheduler does not fit"
                if rate
                else "nothing is learned; lr_scheduler ends before",
                engine.state.max_epochs,
            )
        self._rate, self._too_slow = rate, too_slow

    def _remember_loss(self, engine: Engine) -> None:
        state: Any = engine.state
        self._losses.append(state.output[CommonKeys.LOSS].detach())  # stays on the device: no waiting
        self._norms.append(state.gradient_norm)

    def _draw(self, evaluator: Engine) -> None:
        if self._writers:
            (item,), (output,) = cast(Any, evaluator.state.batch), cast(Any, evaluator.state.output)
            self._pictures[item["case"]] = compared(*(output[key] for key in _SHOWN))

    def _log(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        loss, norm = mean_over_ranks(torch.stack(self._losses).mean()), float(torch.stack(self._norms).mean())
        self._losses, self._norms = [], []
        if not self._writers:
            return
        self._add_scalars({"train/loss": loss, "train/learning_rate": self._rate, "train/gradient_norm": norm}, epoch)
        now = time.monotonic()
        minutes = (now - self._started) / 60
        left = minutes * ((engine.state.max_epochs or epoch) - epoch) / (epoch - self._began)
        done = f"epoch {epoch}/{engine.state.max_epochs}  {minutes:.1f} min, about {left:.1f} left  loss {loss:.4f}"
        if self.evaluator.state.epoch == epoch:
            self._log_validation(epoch, done)
        elif self._limit is not None and self._limit.passes(now):
            _logger.info("%s", done)
        self._foretell(engine, now)

    def _foretell(self, engine: Engine, now: float) -> None:
        """Say once how long the training will take, which a log file without a progress bar does not show."""
        seconds, left = now - self._started, (engine.state.max_epochs or 0) - engine.state.epoch
        if self._foretold or seconds < _SETTLED or not left:
            return
        self._foretold = True
        each = seconds / (engine.state.epoch - self._began)
        with tqdm.external_write_mode():
            _logger.info("%.1f s per epoch: about %.0f min for the %d that are left", each, each * left / 60, left)

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
        if not self._writers or not model.exists() or engine.state.epoch == self._began or self._memory is None:
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
            for command in after_training(model):
                _logger.info("next: %s", command)


def _of_the_first(engine: Engine, event: int) -> bool:
    """Whether a case is one of the first of a validation."""
    return event <= _PICTURES
