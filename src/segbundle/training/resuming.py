"""Checkpoints of a training run: the best model with its scores, and the state for resuming."""

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

from segbundle.checkpoints.weights import (
    DEPTHS,
    check_finite,
    first_names,
    load_state_dict,
    read_checkpoint,
    without_modules,
)
from segbundle.config.current_workflow import running_parser
from segbundle.distributed import all_gather, rank
from segbundle.errors import CheckpointError, ConfigError, OutputError, TrainingError
from segbundle.files.atomic import atomic_write, write_json
from segbundle.inference.scoring import MeanDice
from segbundle.results.structures import write_training_cases
from segbundle.results.summary import write_scores
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
"""Keys of `last.pt` and the types of their values."""
_OTHER_OPTIMIZER = "Use the `optimizer` of the first run, or start a new run in another --output_dir."
"""What to do if the optimizer has changed."""
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxstring = 60
_SHORT.maxlevel = 3


class Checkpoints:
    """Handler that saves the best model with its scores, and the state of training after every epoch.

    The handler writes these files atomically:

    - `model.pt` (state dict), `metrics.csv` and `summary.json` whenever the validation reaches a new best mean Dice.
      While scores are not meaningful (see `segbundle.inference.scoring.is_better`), these files are written after every
      validation.
    - `last.pt`, the state for resuming, after every epoch.
    - `task.json` (classes, fold, training cases) and `training_cases.csv` (measurements of the structures in the
      training cases, for the plausibility checks of predictions) at the start.

    Attach this handler before all other handlers, so that the state is restored before the other handlers start. Files
    are saved after the other handlers have finished. The learning rate schedule is adapted if `max_epochs` of the
    trainer changes, as in every round of MONAI's federated clients. With several ranks, every rank needs the handler,
    but only rank 0 writes files.

    Args:
        output_dir: output folder of the run.
        network: trained network.
        optimizer: optimizer of the network.
        lr_scheduler: learning rate schedule that is stepped once per epoch.
        average: moving average of the weights, which is validated and saved as the model.
        evaluator: validation engine with `metric` as its key metric.
        metric: metric with the scores of the last validation.
        task: settings that must not change when a run is resumed, such as classes and fold, by key. The names of the
            training cases are added to these settings when training starts.
        resume: whether to continue from `last.pt`, if it exists (default False).

    Raises:
        ConfigError: the schedule depends on validations, so the schedule cannot be replayed when a run is resumed.
        CheckpointError: `last.pt` is damaged or belongs to another task, network or optimizer (raised at the start of a
            resumed run).
        TrainingError: weights are NaN or infinite (raised after an epoch).
        OutputError: a file cannot be written.

    Example:
        >>> from monai.data import DataLoader, Dataset
        >>> network = torch.nn.Conv3d(1, 2, 1)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40)
        >>> evaluator = Evaluator("cpu", DataLoader(Dataset([])))
        >>> checkpoints = Checkpoints(
        ...     "runs/training", network, optimizer, schedule, WeightAverage(network), evaluator,
        ...     MeanDice(["background", "liver"]), task={"class_names": ["background", "liver"]},
        ... )
        >>> checkpoints.last
        PosixPath('runs/training/last.pt')
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
                "lr_scheduler: ReduceLROnPlateau depends on validations, so a resumed run cannot replay it. "
                "Use a schedule that depends on epochs only (PolynomialLR, CosineAnnealingLR, MultiStepLR, ...)."
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
        self._logged_reason: str | None = None
        self._parser = running_parser()  # now, because MONAI's clients run the trainer outside of the workflow
        self._planned: int | None = None

    @property
    def last(self) -> Path:
        """Path of `last.pt`, the state for resuming."""
        return self.output_dir / "last.pt"

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the trainer. Call this method before all other handlers are attached.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Trainer) -> None:
        self.task = {**self.task, _CASES: sorted(entry["case"] for entry in engine.data_loader.dataset.data)}
        resumed = self.resume and self.last.exists() and engine.state.epoch == 0  # not between two runs of a trainer
        planned = self._restore(engine) if resumed else []
        self._follow_trainer(engine, resumed)
        if resumed and engine.state.epoch < (engine.state.max_epochs or 0):
            self._report_changed_rates(engine, planned)
        if rank() == 0:
            write_json(self.output_dir / "task.json", self.task)
            if isinstance(engine.data_loader.dataset, PreparedCases):  # other datasets return patches
                write_training_cases(self.output_dir, engine.data_loader.dataset.structures())
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)  # now, so that it runs last

    def _restore(self, engine: Engine) -> list[Any]:
        """Restore the state in `last.pt`, and return the learning rates of the next epoch in the earlier run."""
        state = self._read()
        if len(epochs := set(all_gather([state["epoch"]]))) > 1:
            raise CheckpointError(
                f"{self.last}: processes read different versions, after the epochs {sorted(epochs)}, because the file "
                "system of a node is not up to date. Start the run again with --resume true."
            )
        for key, value in self.task.items():
            before = state["task"].get(key)
            if before != value:
                change = f"was trained with {key} {_SHORT.repr(before)}, but {key} is now {value}"
                if key == _CASES and _is_name_list(before):
                    change = _describe_changes(before, value)
                raise CheckpointError(
                    f"{self.last}: {change}. Undo the change, or start a new run in another --output_dir."
                )
        for network, key in ((self.network, "network"), (self.average.network, "average")):
            load_state_dict(network, state[key], f"{self.last} ({key})", complete=True)
        self._restore_optimizer(state["optimizer"])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self.evaluator.state.epoch = state["validated"]
        _logger.info("resumed from %s after epoch %d", self.last, engine.state.epoch)
        if engine.state.epoch >= (engine.state.max_epochs or 0):
            _logger.info(
                "training is already complete: max_epochs is %d. To train longer, set a larger --max_epochs.",
                engine.state.max_epochs,
            )
        return [group.get("lr") for group in state["optimizer"]["param_groups"]]

    def _report_changed_rates(self, engine: Engine, planned: list[Any]) -> None:
        """Log if the learning rates are not those that the earlier run would have continued with."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if rates != planned:
            _logger.info(
                "the learning rate of epoch %d is %.3g; the run would have continued with %.3g. The earlier epochs had "
                "other learning rates than in a run with the present settings, so the result differs from it.",
                engine.state.epoch + 1,
                rates[0],
                planned[0],
            )

    def _read(self) -> dict[str, Any]:
        """Return the validated content of `last.pt`."""
        state = read_checkpoint(self.last)
        missing = [key for key in _TYPES if key not in state]
        if missing:
            raise CheckpointError(
                f"{self.last}: cannot be resumed ({', '.join(missing)} missing). Start a new run in another "
                "--output_dir."
            )
        if isinstance(state["best_metric"], torch.Tensor) and state["best_metric"].numel() == 1:
            state["best_metric"] = state["best_metric"].item()  # from another key metric
        wrong = [
            f"{key} is {_SHORT.repr(state[key])}, not {'a number' if kind is not Mapping else 'a dict'}"
            for key, kind in _TYPES.items()
            if not isinstance(state[key], kind) or isinstance(state[key], bool)
        ]
        wrong += [
            f"{key} is {state[key]}" for key in ("epoch", "iteration", "validated") if not wrong and state[key] < 0
        ]
        if wrong:
            raise CheckpointError(
                f"{self.last}: cannot be resumed ({first_names(wrong)}). Start a new run in another --output_dir."
            )
        return state

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        """Restore the state of the optimizer, but not its settings: these come from the configuration."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state)
            unfit = [
                name
                for parameter, values in self.optimizer.state.items()
                for name, value in values.items()
                if not _fits(value, parameter)
            ]
        except Exception as error:  # of many types, because the content of the file may be anything
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(
                f"{self.last}: its optimizer differs from the configured one ({reason}). {_OTHER_OPTIMIZER}"
            ) from error
        if unfit:
            raise CheckpointError(
                f"{self.last}: its optimizer differs from the configured one ({unfit[0]} does not fit the weights). "
                f"{_OTHER_OPTIMIZER}"
            )
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)

    def _follow_trainer(self, engine: Engine, resumed: bool) -> None:
        """Set the schedule to the trainer's epoch, and rebuild it if the trainer's `max_epochs` has changed.

        The learning rate is then the same as in a run that was started with this `max_epochs`.
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
            check_finite({**self.network.state_dict(), **{f"average {name}": each for name, each in weights.items()}})
        except ValueError as error:
            saved = "last.pt contains the previous epoch." if engine.state.epoch > 1 else "Nothing is saved yet."
            resume = " and continue with --resume true" if engine.state.epoch > 1 else ""
            raise TrainingError(
                f"after epoch {engine.state.epoch}, the weights contain {error}. {saved} Lower optimizer#lr{resume}."
            ) from error
        if rank() > 0:
            return
        if self.evaluator.state.best_metric_epoch == engine.state.epoch:
            on_cpu = {name: value.cpu() for name, value in without_modules(weights, DEPTHS).items()}
            _save_atomically(self.output_dir / "model.pt", on_cpu)
            reason = self._why_newest()
            write_scores(
                self.output_dir, self.metric.cases, self.metric.class_names, epoch=engine.state.epoch, model=reason
            )
        _save_atomically(self.last, self._state(engine))

    def _why_newest(self) -> str | None:
        """Return and log why `model.pt` has the newest instead of the best weights; None if it has the best."""
        best = self.evaluator.state.best_metric
        if best != 0 and not math.isnan(best):
            return None
        nothing = self.metric.summary()["mean_dice_present"] is None
        reason = "no held-out case contains any foreground class" if nothing else "mean Dice is 0 so far"
        if self._logged_reason != reason:
            advice = " Hold out other cases with --fold." if nothing else ""
            _logger.warning("%s, so model.pt contains the weights of the newest validation.%s", reason, advice)
        self._logged_reason = reason
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


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _describe_changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Return a message with the changes of the training cases."""
    removed, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    parts = [f"{word} {first_names(names)}" for word, names in (("without", removed), ("with", added)) if names]
    return f"the training cases have changed, so the folds differ: now {', '.join(parts)}"


def _fits(value: Any, parameter: torch.Tensor) -> bool:
    """Return whether a value in the state of an optimizer can belong to a parameter."""
    if not isinstance(value, torch.Tensor):
        return value is None or isinstance(value, (int, float))
    same = value.shape == parameter.shape or value.dim() != parameter.dim()  # factored states have other dimensions
    return same and value.layout is torch.strided and not value.is_quantized


def _save_atomically(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # raised by torch if the disk is full
            raise OutputError(f"{path}: cannot be written ({error}); check the free space.") from error
