"""The training step: MONAI's, with what the loss needs to know about a batch beside its labels."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils import CommonKeys

from segbundle.acceleration.cuda_graphs import StepGraphs, capture_step
from segbundle.classes import IGNORE_INDEX
from segbundle.distributed import world_size
from segbundle.errors import ConfigError, SegbundleError, TrainingError, first_cause, one_line
from segbundle.losses.deep_supervision import loss_over_depths
from segbundle.losses.target_checks import CHECKED_CALLS_ON_GPU
from segbundle.sampling.loader import PatchLoader
from segbundle.training.weight_average import WeightAverage

_BROADCAST = "Using a target size"
"""PyTorch's warning about a loss that broadcasts the labels to the shape of the scores."""
_REMEDIES = {
    "network": "Check network_def, patch_size and batch_size.",
    "loss": "Check `loss`, or use one of segbundle.losses: segbundle.losses.DiceCELoss.",
    "gradient of the loss": "Check `loss` and `network_def`.",
    "optimizer": "Check `optimizer`, or use one that needs no closure and takes dense gradients: torch.optim.AdamW.",
}
"""Stages of a step, by what fails in them."""


class SegmentationTrainer(SupervisedTrainer):
    """MONAI's trainer, which also tells the loss what was annotated and how far the training is.

    Batches may hold `annotated`, bool (B, num_classes), False where nobody looked for a class in a case, and unknown
    voxels in `label` (value `IGNORE_INDEX`). Losses with an attribute `progress` get it before every step: 0 at the
    start of the training, 1 at its end. Of a network with deep supervision the scores of every depth are scored
    (`loss_over_depths`).

    On a GPU, network and loss become graphs (`acceleration/cuda_graphs.py`) at the first epoch after ten steps
    here, in which losses look at the data, if batches come from a `PatchLoader`, no other process trains along, and
    neither `amp`, `compile` nor `accumulation_steps` is asked for. `state.output` then holds scores that the next step
    overwrites. Gradients are set to None between steps, as PyTorch does by default and MONAI does not.

    Args:
        loss_function: ours, or any loss of PyTorch or MONAI as long as everything was annotated.
        max_gradient_norm: gradients are scaled down if the norm of all together is larger; None for never. What it was
            before is `state.gradient_norm`.
        average: follows the weights.
        others: as in `monai.engines.SupervisedTrainer`.

    Raises:
        ConfigError: in training, a batch with unannotated classes or unknown voxels and a loss that cannot leave
            them out.
        TrainingError: network, loss or optimizer fail; the message names them, the batch's cases and the first cause.
    """

    def __init__(
        self,
        loss_function: Any,
        max_gradient_norm: float | None = None,
        average: WeightAverage | None = None,
        **kwargs: Any,
    ) -> None:
        self._usual_inferer: Any = kwargs.pop("inferer", None) or SimpleInferer()
        kwargs.setdefault("optim_set_to_none", True)
        super().__init__(loss_function=self._batch_loss, inferer=self._predict, **kwargs)
        self._graphs: StepGraphs | None = None
        self._steps, self._tried, self._stage = 0, False, "network"
        self.add_event_handler(Events.EPOCH_STARTED, self._capture)
        self.max_gradient_norm = math.inf if max_gradient_norm is None else max_gradient_norm
        self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip_gradient)
        if average is not None:
            average.attach(self)
        self.plain_loss = loss_function
        self._knows_annotated = (
            "annotated" in inspect.signature(getattr(loss_function, "forward", loss_function)).parameters
        )

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> Any:
        if hasattr(self.plain_loss, "progress"):
            steps = engine.state.max_epochs * engine.state.epoch_length
            self.plain_loss.progress = (engine.state.iteration - 1) / steps
        self._refuse_what_is_missing(batchdata)
        self._steps += 1
        self._stage = "network"
        try:
            return super()._iteration(engine, batchdata)
        except SegbundleError:
            raise
        except Exception as error:
            raise TrainingError(self._in_words(error, batchdata)) from error

    def _in_words(self, error: Exception, batch: Mapping[str, Any]) -> str:
        """Return which stage of a step failed, for which cases, why, and what to do."""
        makers = {"network": self.network, "optimizer": self.optimizer}
        maker = makers.get(self._stage, self.plain_loss)
        where = f"{self._stage} {type(maker).__name__}, cases {', '.join(batch.get('case', ()))}"
        cause = one_line(first_cause(error))
        if isinstance(error, ValueError) and type(maker).__module__.startswith("segbundle."):
            return f"{where}: {cause}"
        return f"{where}: {cause.rstrip('.')}. {_REMEDIES[self._stage]}"

    def _capture(self) -> None:
        """Capture the step as CUDA graphs after the losses have checked data; drop the graphs if weights have moved."""
        if self._graphs is not None and not self._graphs.fits(self.network):
            self._graphs = None
        if self._tried or self._steps < CHECKED_CALLS_ON_GPU or not self._can_be_captured():
            return
        self._tried = True
        batch = self.data_loader.batch(self.state.epoch, 0)
        self._graphs = capture_step(self.network.train(), self._usual_inferer, self.plain_loss, batch)

    def _can_be_captured(self) -> bool:
        loader = self.data_loader
        plain = not self.amp and not self.compile and self.accumulation_steps == 1 and world_size() == 1
        if not plain or not isinstance(loader, PatchLoader) or loader.device.type != "cuda":
            return False
        return self.state.epoch_length == len(loader)  # then the loader's thread is idle between epochs

    def _predict(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        logits = None if self._graphs is None else self._graphs.logits(inputs)
        return self._usual_inferer(inputs, network, *args, **kwargs) if logits is None else logits

    def _batch_loss(self, pred: torch.Tensor | list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        """Return the loss of the batch that is being trained on."""
        self._stage = "loss"
        batch: Any = self.state.batch
        more = {"annotated": batch["annotated"]} if self._knows_annotated and "annotated" in batch else {}
        if self._graphs is not None and all(bool(annotated.all()) for annotated in more.values()):
            value = self._graphs.loss(pred, label)
            if value is not None:
                return value
        with _refused_broadcast() if self._steps == 1 else nullcontext():
            value = loss_over_depths(self.plain_loss, pred, label, **more)
        self._stage = "gradient of the loss"
        return value

    def _clip_gradient(self) -> None:
        if self._graphs is not None:
            self._graphs.copy_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)
        self.state.gradient_norm = norm
        self._stage = "optimizer"

    def _refuse_what_is_missing(self, batchdata: dict[str, Any]) -> None:
        annotated, loss = batchdata.get("annotated"), type(self.plain_loss).__name__
        if not self._knows_annotated and annotated is not None and not bool(annotated.all()):
            case = batchdata["case"][int((~annotated).any(dim=1).nonzero()[0])]
            raise ConfigError(
                f"case {case}: not every class was annotated, and loss {loss} would learn those as background; "
                "use one of segbundle.losses, for instance loss#_target_: segbundle.losses.DiceCELoss."
            )
        if getattr(self.plain_loss, "ignore_index", None) == IGNORE_INDEX:
            return
        unknown = torch.as_tensor(batchdata[CommonKeys.LABEL] == IGNORE_INDEX).flatten(1).any(dim=1)
        if bool(unknown.any()):
            case = batchdata["case"][int(unknown.nonzero()[0])]
            fix = (
                f"set loss#ignore_index: {IGNORE_INDEX}, the number that such voxels have in every dataset once loaded."
                if self._knows_annotated
                else "use one of segbundle.losses, for instance loss#_target_: segbundle.losses.DiceCELoss."
            )
            raise ConfigError(f"case {case}: holds voxels of unknown class (ignore), which loss {loss} counts; {fix}")


@contextmanager
def _refused_broadcast() -> Iterator[None]:
    """Raise PyTorch's warning that a loss broadcasts; filters of warnings cost time, so only the first step has it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_BROADCAST)
        yield
