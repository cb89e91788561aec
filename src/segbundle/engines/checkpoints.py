"""Weights in and out: loading that says which layers do not fit, the best model, and a run that can go on."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segbundle.engines.averaging import WeightAverage
from segbundle.engines.caching import PreparedCases
from segbundle.engines.ranks import rank
from segbundle.engines.scoring import MeanDice
from segbundle.errors import CheckpointError, ConfigError, OutputError
from segbundle.files import write_json, written_whole
from segbundle.reports import fold_folders, read_rows, training_cases_of, write_scores, write_training_cases

_logger = logging.getLogger(__name__)
_CASES = "training_cases"
_WRAPPERS = ("model", "network", "state_dict")
"""Under which key other programs (and our own last.pt) keep the weights, where the file is not the weights alone."""
_DEPTHS = frozenset({"deep_supervision_heads", "super_head"})
"""Modules of MONAI's `DynUNet` with deep supervision that only a training uses, and TorchScript cannot do."""


def ensemble_members(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[str]:
    """The checkpoints of an ensemble, for an inferer that loads them in turn; none if there is only one."""
    paths = checkpoint_paths(ckpt_path)
    return [str(path) for path in paths] if len(paths) > 1 else []


def checkpoint_paths(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """The files of a checkpoint, of the members of an ensemble, or of the models of a cross-validation."""
    return [path for one in _given(ckpt_path) for path in models_of_folds(one) or [one]]


def _given(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if ckpt_path is None:
        return []
    return [Path(ckpt_path)] if isinstance(ckpt_path, (str, Path)) else [Path(path) for path in ckpt_path]


def _warn_if_unfinished(ckpt_path: str | Path | Sequence[str | Path] | None) -> None:
    for folder in _given(ckpt_path):
        models = models_of_folds(folder)
        if models and not (folder / "summary.json").exists():
            _logger.warning(
                "%s: the cross-validation has not ended; its %d models so far are used", folder, len(models)
            )


def models_of_folds(folder: Path) -> list[Path]:
    """The models of a cross-validation's folds; none if the folder is something else."""
    return [path for place in fold_folders(folder) if (path := place / "model.pt").exists()]


def load_weights(
    network: torch.nn.Module,
    ckpt_path: str | Path | Sequence[str | Path] | None,
    class_names: Sequence[str] | None = None,
    resume: bool = False,
) -> None:
    """Load a checkpoint into a network; of the members of an ensemble each, to prove that all fit.

    What only a training with deep supervision uses may be missing, in the file or in the network.

    Args:
        network: on any device.
        ckpt_path: a plain state dict (`model.pt`), a dict that holds one under `model`, `network` or `state_dict`,
            or None to keep the network's weights as they are; for an ensemble, a list of plain state dicts, or the
            folder of a cross-validation.
        class_names: the task's classes; compared with those that the checkpoint was trained for, as far as
            `task.json` beside it, or the metadata of the bundle it lies in, tell.
        resume: the training goes on, and nothing may be missing.

    Raises:
        CheckpointError: no such file, unreadable, layers that are missing, unknown or of another shape (the message
            lists them), or trained for other classes.
    """
    paths = checkpoint_paths(ckpt_path)
    _warn_if_unfinished(ckpt_path)
    for path in paths:
        _load(network, path, class_names, plain=len(paths) > 1, resume=resume)


def _load(
    network: torch.nn.Module, ckpt_path: Path, class_names: Sequence[str] | None, plain: bool, resume: bool
) -> None:
    weights = read_checkpoint(ckpt_path)
    trained_for = _class_names_of(ckpt_path)
    if class_names is not None and trained_for is not None and trained_for != list(class_names):
        raise CheckpointError(
            f"{ckpt_path}: was trained for the classes {trained_for}, the task's class_names are {list(class_names)}; "
            "give the task YAML it was trained with (--config), or another ckpt_path."
        )
    for key in _WRAPPERS:
        if isinstance(weights.get(key), Mapping) and not plain:
            weights = dict(weights[key])
            break
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{ckpt_path}: holds no state dict; save network.state_dict(), or a dict with it as 'model'."
        )
    problems = _misfits(network.state_dict(), weights, frozenset() if resume else _DEPTHS)
    if problems:
        raise CheckpointError(
            f"{ckpt_path}: does not fit the network: {'; '.join(problems)}. "
            "Use the network_def and class_names that it was trained with."
        )
    network.load_state_dict(weights, strict=False)
    _logger.info("weights: %s", ckpt_path)


def _class_names_of(ckpt_path: Path) -> list[str] | None:
    """Which classes a checkpoint was trained for, if a file beside it says so."""
    task = read_task(ckpt_path)
    if "class_names" in task:
        return list(task["class_names"])
    metadata = ckpt_path.parent.parent / "configs" / "metadata.json"
    if ckpt_path.parent.name != "models" or not metadata.is_file():
        return None
    channels = json.loads(metadata.read_text(encoding="utf-8"))["network_data_format"]["outputs"]["pred"]["channel_def"]
    return [channels[str(index)] for index in range(len(channels))]


def read_task(ckpt_path: str | Path) -> dict[str, Any]:
    """What a training wrote into `task.json` beside its checkpoints: classes, fold, and the cases it trained on."""
    path = Path(ckpt_path).parent / "task.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def cases_trained_on(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str] | None:
    """Names of the cases that a checkpoint, or a member of an ensemble, was trained on, as files beside it tell.

    None if no file tells for one of them.
    """
    found = [
        {*read_task(path).get(_CASES, ()), *(one.case for one in training_cases_of(path))}
        for path in checkpoint_paths(ckpt_path)
    ]
    return set[str]().union(*found) if found and all(found) else None


def cases_that_chose(ckpt_path: str | Path | Sequence[str | Path] | None) -> set[str]:
    """Names of the cases whose Dice chose the epoch of a checkpoint, or of a member of an ensemble.

    That is, those of the `metrics.csv` that a training keeps beside its best weights; another program's tells nothing.
    """
    found: set[str] = set()
    for path in checkpoint_paths(ckpt_path):
        if read_task(path) and path.with_name("metrics.csv").is_file():
            with suppress(KeyError, ValueError, TypeError):
                found |= {row.case for row in read_rows(path.with_name("metrics.csv"))}
    return found


def warn_about_training_cases(
    data: Sequence[dict[str, Any]], ckpt_path: str | Path | Sequence[str | Path] | None
) -> None:
    """Say so if cases that are to be scored were used to train the checkpoint, or a member of the ensemble."""
    seen = cases_trained_on(ckpt_path) or ()
    known = [entry["case"] for entry in data if entry["case"] in seen]
    if known:
        _logger.warning(
            "%d of these %d cases were, by their names, trained on by %s, and will look better than new ones%s",
            len(known),
            len(data),
            ckpt_path,
            "; --fold scores only the cases that were held out" if len(known) < len(data) else "",
        )


def warn_about_preprocessing(
    ckpt_path: str | Path | Sequence[str | Path] | None, preprocessing: Mapping[str, Any]
) -> None:
    """Say so if scans are to be preprocessed otherwise than in the training of a checkpoint.

    Args:
        ckpt_path: as in `load_weights`; what `task.json` beside it tells is compared.
        preprocessing: config keys, such as `spacing` and `intensity`, and their values.
    """
    for path in checkpoint_paths(ckpt_path):
        task = read_task(path)
        for key, value in preprocessing.items():
            if key in task and task[key] != json.loads(json.dumps(value)):
                _logger.warning(
                    "%s: was trained with %s %s, now it is %s, with which it will hardly work; "
                    "give the task YAML that it was trained with (--config)",
                    path,
                    key,
                    task[key],
                    value,
                )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint file, on the CPU. Only tensors and plain values are unpickled.

    Raises:
        CheckpointError: no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; set ckpt_path to a trained model, for instance OUTPUT_DIR/model.pt."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(
            f"{path}: cannot be read as a PyTorch checkpoint; it is damaged, or holds more than tensors."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a state dict is needed.")
    return dict(content)


def _misfits(expected: Mapping[str, Any], found: Mapping[str, Any], optional: frozenset[str]) -> list[str]:
    shapes = [
        f"{name} is {tuple(found[name].shape)} in the file, {tuple(value.shape)} in the network"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    groups = {
        "layers of another shape": shapes,
        "layers missing in the file": [name for name in _without(optional, expected) if name not in found],
        "layers that the network does not have": [name for name in _without(optional, found) if name not in expected],
    }
    return [f"{what}: {_some(names)}" for what, names in groups.items() if names]


def _without(modules: frozenset[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that are not of modules of these names."""
    return {name: value for name, value in weights.items() if modules.isdisjoint(name.split("."))}


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Checkpoints:
    """Keeps a training: the best weights with their scores, and after every epoch all it needs to go on.

    Writes `model.pt` (state dict), `metrics.csv` and `summary.json` whenever validation reaches a new best mean
    Dice, `last.pt` at the end of every epoch, and at the start `task.json` (classes, fold, training cases) and
    `training_cases.csv` (their structures, which tell what to expect of a prediction). Files are replaced whole.

    Attach it before every other handler: it restores a run first thing, and saves after all the others.

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

    @property
    def last(self) -> Path:
        """The file from which a run goes on."""
        return self.output_dir / "last.pt"

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Trainer) -> None:
        self.task = {**self.task, _CASES: sorted(entry["case"] for entry in engine.data_loader.dataset.data)}
        if self.resume and self.last.exists():
            self._restore(engine)
        if rank() == 0:
            write_json(self.output_dir / "task.json", self.task)
            if isinstance(engine.data_loader.dataset, PreparedCases):  # MONAI's transforms would draw patches instead
                write_training_cases(self.output_dir, engine.data_loader.dataset.structures())
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)  # now, so that it comes after all others

    def _restore(self, engine: Engine) -> None:
        state = read_checkpoint(self.last)
        missing = [key for key in self._state(engine) if key not in state]
        if missing:
            raise CheckpointError(f"{self.last}: is no resumable run ({', '.join(missing)} missing).")
        for key, value in self.task.items():
            before = state["task"].get(key)
            if before != value:
                plain = f"was trained with {key} {before}, now it is {value}"
                now = _changes(before or [], value) if key == _CASES else plain
                raise CheckpointError(
                    f"{self.last}: {now}; resume with what it began with, or start a new run in another --output_dir."
                )
        load_weights(self.network, self.last, resume=True)
        self.average.network.load_state_dict(state["average"])
        self._restore_optimizer(state)
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self.evaluator.state.epoch = state["validated"]
        _logger.info("resumed from %s after epoch %d", self.last, engine.state.epoch)
        if engine.state.epoch >= (engine.state.max_epochs or 0):
            _logger.info("nothing left to train: max_epochs is %d", engine.state.max_epochs)

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        """Restore the optimizer's moments; its settings and the schedule are those configured now.

        The schedule is replayed up to the epoch that was reached: the same settings give the same learning rate to
        the bit, and a longer `max_epochs` its own.
        """
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{self.last}: its optimizer differs from the configured one ({error}).") from error
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(state["epoch"]):
                self.lr_scheduler.step()

    def _save(self, engine: Engine) -> None:
        if rank() > 0:
            return
        if self.evaluator.state.best_metric_epoch == engine.state.epoch:
            weights = _without(_DEPTHS, self.average.network.state_dict())
            on_cpu = {name: value.cpu() for name, value in weights.items()}  # so that it can be read everywhere
            _save_whole(self.output_dir / "model.pt", on_cpu)
            write_scores(self.output_dir, self.metric.cases, self.metric.class_names, epoch=engine.state.epoch)
        _save_whole(self.last, self._state(engine))

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


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    """In words, how the cases that are trained on have changed."""
    gone, new = (sorted(set(one) - set(other)) for one, other in ((before, now), (now, before)))
    parts = [f"{what} {_some(names)}" for what, names in (("without", gone), ("with", new)) if names]
    return f"the cases to train on have changed, which deals them out to other folds: now {', '.join(parts)}"


def _save_whole(path: Path, content: Any) -> None:
    with written_whole(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's own writer reports a full disk this way
            raise OutputError(f"{path}: cannot be written ({error}); check the free space.") from error
