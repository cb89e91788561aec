"""A training kept on disk: the best model with its scores, and a run that can go on."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segbundle.checkpoints.weights import DEPTHS, put_weights, read_checkpoint, refuse_broken, some, without
from segbundle.config.current_workflow import running_parser
from segbundle.distributed import rank
from segbundle.errors import CheckpointError, ConfigError, OutputError, TrainingError
from segbundle.files.atomic import atomic_write, write_json
from segbundle.inference.scoring import MeanDice
from segbundle.results.scores import write_scores
from segbundle.results.structures import write_training_cases
from segbundle.training.caching import PreparedCases
from segbundle.training.schedules import planned_epochs, rebuild_schedule, replay_schedule
from segbundle.training.weight_average import WeightAverage

_logger = logging.getLogger(__name__)
_CASES = "training_cases"
_TYPES: dict[str, type] = {
    "network": Mapping,
    "average": Mapping,
    "optimizer": Mapping,
    "epoch": int,
    "iteration": int,
    "best_metric": Real,
    "best_metric_epoch": int,
    "validated": int,
    "task": Mapping,
}
"""What `last.pt` holds."""
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxstring = 60
_SHORT.maxlevel = 3


class Checkpoints:
    """Keeps a training: the best weights with their scores, and after every epoch all it needs to go on.

    Writes `model.pt` (state dict), `metrics.csv` and `summary.json` whenever validation reaches a new best mean
    Dice, and after every validation as long as the scores say nothing (`segbundle.inference.scoring.is_better`);
    `last.pt` at the end of every epoch; and at the start `task.json` (classes, fold, training cases) and
    `training_cases.csv` (their structures, which tell what to expect of a prediction). Files are replaced whole.

    Attach it before every other handler: it restores a run first thing, and saves after all the others. The schedule
    follows the trainer's `max_epochs`, which MONAI's federated clients raise before every round.

    Args:
        output_dir: where the files go.
        network, optimizer, lr_scheduler: what is trained.
        average: of the weights, which is what is validated and kept as the best model.
        evaluator: the validation engine, with `metric` as its key metric.
        metric: holds the scores of the last validation.
        task: what must not change when a run goes on, such as classes and fold; so must the cases that are trained on.
        resume: go on from `last.pt` if there is one.

    Raises:
        ConfigError: a schedule that depends on validations, which could not be replayed.
    """

    def __init__(
        self,
        output_dir: str,
        network: torch.nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        average: WeightAverage,
        evaluator: Evaluator,
        metric: MeanDice,
        task: dict[str, Any],
        resume: bool = False,
    ) -> None:
        if isinstance(lr_scheduler, ReduceLROnPlateau):
            raise ConfigError(
                "lr_scheduler: ReduceLROnPlateau follows validations, and a resumed training could not repeat it; use "
                "one that follows epochs (PolynomialLR, CosineAnnealingLR, MultiStepLR, ...)."
            )
        self.output_dir = Path(output_dir)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.average = average
        self.evaluator = evaluator
        self.metric = metric
        self.task = task
        self.resume = resume
        self._reason: str | None = None
        self._parser = running_parser()  # now: MONAI's clients run the trainer outside of the workflow
        self._planned: int | None = None

    @property
    def last(self) -> Path:
        """The file from which a run goes on."""
        return self.output_dir / "last.pt"

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Trainer) -> None:
        self.task = {**self.task, _CASES: sorted(entry["case"] for entry in engine.data_loader.dataset.data)}
        resumed = self.resume and self.last.exists() and engine.state.epoch == 0  # not between two runs of a trainer
        if resumed:
            self._restore(engine)
        self._follow_trainer(engine, resumed)
        if rank() == 0:
            write_json(self.output_dir / "task.json", self.task)
            if isinstance(engine.data_loader.dataset, PreparedCases):  # MONAI's transforms would draw patches instead
                write_training_cases(self.output_dir, engine.data_loader.dataset.structures())
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)  # now, so that it comes after all others

    def _restore(self, engine: Engine) -> None:
        state = self._read()
        for key, value in self.task.items():
            before = state["task"].get(key)
            if before != value:
                plain = f"was trained with {key} {_SHORT.repr(before)}, now it is {value}"
                now = _changes(before, value) if key == _CASES and _is_names(before) else plain
                raise CheckpointError(
                    f"{self.last}: {now}; resume with what it began with, or start a new run in another --output_dir."
                )
        for network, key in ((self.network, "network"), (self.average.network, "average")):
            put_weights(network, state[key], f"{self.last} ({key})", complete=True)
        self._restore_optimizer(state["optimizer"])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self.evaluator.state.epoch = state["validated"]
        _logger.info("resumed from %s after epoch %d", self.last, engine.state.epoch)
        if engine.state.epoch >= (engine.state.max_epochs or 0):
            _logger.info("nothing left to train: max_epochs is %d", engine.state.max_epochs)

    def _read(self) -> dict[str, Any]:
        """Return the content of `last.pt`, of the right types."""
        state = read_checkpoint(self.last)
        missing = [key for key in _TYPES if key not in state]
        if missing:
            raise CheckpointError(f"{self.last}: is no resumable run ({', '.join(missing)} missing).")
        if isinstance(state["best_metric"], torch.Tensor) and state["best_metric"].numel() == 1:
            state["best_metric"] = state["best_metric"].item()  # of another key metric
        wrong = [
            f"{key} is {_SHORT.repr(state[key])}, not {'a number' if kind is not Mapping else 'a dict'}"
            for key, kind in _TYPES.items()
            if not isinstance(state[key], kind) or isinstance(state[key], bool)
        ]
        wrong += [
            f"{key} is {state[key]}" for key in ("epoch", "iteration", "validated") if not wrong and state[key] < 0
        ]
        if wrong:
            raise CheckpointError(f"{self.last}: is no resumable run ({some(wrong)}).")
        return state

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        """Restore the optimizer's moments; its settings are those configured now."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state)
            unfit = [
                name
                for parameter, moments in self.optimizer.state.items()
                for name, value in moments.items()
                if not _fits(value, parameter)
            ]
        except Exception as error:  # of many kinds, as its content can be anything
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(f"{self.last}: its optimizer differs from the configured one ({reason}).") from error
        if unfit:
            raise CheckpointError(
                f"{self.last}: its optimizer differs from the configured one ({unfit[0]} fits no weight)."
            )
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)

    def _follow_trainer(self, engine: Engine, resumed: bool) -> None:
        """Bring the schedule to the trainer's epoch, rebuilt if the trainer's `max_epochs` has changed.

        The learning rate is then that of a training planned for as many epochs from its beginning.
        """
        epochs = engine.state.max_epochs or 0
        changed = False
        if self._parser is not None:
            if self._planned is None:
                self._planned = planned_epochs(self._parser)
            changed = self._planned not in (None, epochs)
            if changed:
                rebuild_schedule(self.lr_scheduler, self.optimizer, self._parser, epochs)
                self._planned = epochs
        if changed or resumed:
            replay_schedule(self.lr_scheduler, min(engine.state.epoch, epochs))

    def _save(self, engine: Engine) -> None:
        weights = self.average.network.state_dict()
        try:
            refuse_broken({**self.network.state_dict(), **{f"average {name}": each for name, each in weights.items()}})
        except ValueError as error:
            kept = "last.pt holds the epoch before. " if engine.state.epoch > 1 else "Nothing is saved yet. "
            go_on = " and go on with --resume true." if engine.state.epoch > 1 else "."
            raise TrainingError(
                f"after epoch {engine.state.epoch} the weights hold {error}. {kept}Lower optimizer#lr{go_on}"
            ) from error
        if rank() > 0:
            return
        if self.evaluator.state.best_metric_epoch == engine.state.epoch:
            on_cpu = {name: value.cpu() for name, value in without(DEPTHS, weights).items()}  # readable everywhere
            _save_whole(self.output_dir / "model.pt", on_cpu)
            newest = self._why_newest()
            write_scores(
                self.output_dir, self.metric.cases, self.metric.class_names, epoch=engine.state.epoch, model=newest
            )
        _save_whole(self.last, self._state(engine))

    def _why_newest(self) -> str | None:
        """Return why `model.pt` is the newest model instead of the best, and log it once; None if it is the best."""
        best = self.evaluator.state.best_metric
        if best != 0 and not math.isnan(best):
            return None
        nothing = self.metric.summary()["mean_dice_present"] is None
        reason = "no held-out case holds a class" if nothing else "mean Dice is 0 so far"
        if self._reason != reason:
            advice = " Hold out other cases with --fold." if nothing else ""
            _logger.warning("%s: model.pt holds the weights of the newest validation.%s", reason, advice)
        self._reason = reason
        return f"weights of the newest validation: {reason}"

    def _state(self, engine: Engine) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best_metric": self.evaluator.state.best_metric,
            "best_metric_epoch": self.evaluator.state.best_metric_epoch,
            "validated": self.evaluator.state.epoch,
            "task": self.task,
        }


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Return, in words, how the cases that are trained on have changed."""
    gone, new = (sorted(set(one) - set(other)) for one, other in ((before, now), (now, before)))
    parts = [f"{what} {some(names)}" for what, names in (("without", gone), ("with", new)) if names]
    return f"the cases to train on have changed, which deals them out to other folds: now {', '.join(parts)}"


def _fits(value: Any, parameter: torch.Tensor) -> bool:
    """Whether something that an optimizer keeps for a parameter can be of it."""
    if not isinstance(value, torch.Tensor):
        return value is None or isinstance(value, (int, float))
    same = value.shape == parameter.shape or value.dim() != parameter.dim()  # those of other dimensions are factors
    return same and value.layout is torch.strided and not value.is_quantized


def _save_whole(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's own writer reports a full disk this way
            raise OutputError(f"{path}: cannot be written ({error}); check the free space.") from error
