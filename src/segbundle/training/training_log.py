"""Progress of training in the log, in TensorBoard and in MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer
from monai.utils import CommonKeys
from torch.optim import Optimizer
from tqdm import tqdm

from segbundle.distributed import all_gather, mean_over_ranks, rank
from segbundle.files.run_files import MODEL
from segbundle.hardware.memory_usage import PeakMemory
from segbundle.inference.scoring import MeanDice
from segbundle.report.pictures import compared
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
        self._first_epoch = 0  # number of finished epochs when the run was resumed
        self._estimated = False
        self._rate = 0.0
        self._slow_epochs = 0
        self._too_slow = False
        self._pictures: dict[str, Any] = {}
        self._limit: LineLimit | None = None
        self._memory: PeakMemory | None = None

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer.

        Args:
            engine: trainer.
        """
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
