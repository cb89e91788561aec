"""Supervised trainer with annotation masks, deep supervision, gradient clipping and CUDA graphs."""

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
from segbundle.distributed import is_lost_connection, world_size
from segbundle.errors import ConfigError, SegbundleError, TrainingError, first_cause, one_line
from segbundle.losses.deep_supervision import loss_over_depths
from segbundle.losses.target_checks import CHECKED_CALLS_ON_GPU
from segbundle.sampling.loader import PatchLoader
from segbundle.training.weight_average import WeightAverage

_BROADCAST = "Using a target size"
"""Start of PyTorch's warning about a loss that broadcasts the labels to the shape of the logits."""
_REMEDIES = {
    "network": "Check network_def, patch_size and batch_size.",
    "loss": "Check `loss`, or use a loss of segbundle.losses, for instance segbundle.losses.DiceCELoss.",
    "gradient of the loss": "Check `loss` and `network_def`.",
    "optimizer": "Check `optimizer`. It must support dense gradients and need no closure, like torch.optim.AdamW.",
}
"""What to do if a stage of a step fails."""


class SegmentationTrainer(SupervisedTrainer):
    """Supervised trainer that passes annotation masks and training progress to the loss.

    A batch may have `annotated`, bool (B, num_classes), which is False for classes that were not annotated in a case.
    The `label` of a batch may have voxels of unknown class (value `IGNORE_INDEX`). Before every step, the attribute
    `progress` of the loss, if it exists, is set to the fraction of all training steps that are completed, in [0, 1).
    For a network with deep supervision, the loss is computed at every resolution (`loss_over_depths`).

    On a GPU, the forward and backward passes of network and loss are captured as CUDA graphs
    (`acceleration/cuda_graphs.py`) at the start of the first epoch after ten steps. This requires a `PatchLoader`, a
    single rank, and no `amp`, `compile` or `accumulation_steps`. The next step then overwrites the logits in
    `state.output`. Between steps, gradients are set to None, as by default in PyTorch, but not in MONAI.

    Args:
        loss_function: loss of `segbundle.losses`; if all cases are fully annotated, also any loss of PyTorch or MONAI.
        max_gradient_norm: maximum of the total norm of the gradient, to which larger gradients are clipped; None
            disables clipping (default). The norm before clipping is in `state.gradient_norm`.
        average: moving average of the weights, updated after every step. Default: none.
        kwargs: other arguments of `monai.engines.SupervisedTrainer`.

    Raises:
        ConfigError: a batch has unannotated classes or unknown voxels that the loss cannot ignore (raised during
            training).
        TrainingError: the network, the loss or the optimizer fails (raised during training). The message names the
            component that failed, the cases of the batch and the original error.

    Example:
        >>> network = torch.nn.Conv3d(1, 2, 1)
        >>> image, label = torch.rand(1, 1, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4)
        >>> trainer = SegmentationTrainer(
        ...     loss_function=torch.nn.BCEWithLogitsLoss(), device=torch.device("cpu"), max_epochs=1, network=network,
        ...     optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        ...     train_data_loader=[{"image": image, "label": label, "case": ["a"]}], decollate=False,
        ... )
        >>> trainer.run()
        >>> trainer.state.output["pred"].shape
        torch.Size([1, 2, 4, 4, 4])
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
        self._supports_annotated = (
            "annotated" in inspect.signature(getattr(loss_function, "forward", loss_function)).parameters
        )

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> Any:
        if hasattr(self.plain_loss, "progress"):
            steps = engine.state.max_epochs * engine.state.epoch_length
            self.plain_loss.progress = (engine.state.iteration - 1) / steps
        self._check_annotations(batchdata)
        self._steps += 1
        self._stage = "network"
        try:
            return super()._iteration(engine, batchdata)
        except SegbundleError:
            raise
        except Exception as error:
            raise TrainingError(self._error_message(error, batchdata)) from error

    def _error_message(self, error: Exception, batch: Mapping[str, Any]) -> str:
        """Return a message with the failed stage, the cases of the batch, the cause, and what to do."""
        if is_lost_connection(error):
            return "the connection to another process was lost, because this process has ended. See its messages."
        components = {"network": self.network, "optimizer": self.optimizer}
        component = components.get(self._stage, self.plain_loss)
        cases = f", cases {', '.join(batch['case'])}" if "case" in batch else ""
        where = f"{self._stage} {type(component).__name__}{cases}"
        cause = one_line(first_cause(error))
        if isinstance(error, ValueError) and type(component).__module__.startswith("segbundle."):
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
        """Return the loss of the current batch."""
        self._stage = "loss"
        batch: Any = self.state.batch
        masks = {"annotated": batch["annotated"]} if self._supports_annotated and "annotated" in batch else {}
        if self._graphs is not None and all(bool(annotated.all()) for annotated in masks.values()):
            value = self._graphs.loss(pred, label)
            if value is not None:
                return value
        with _no_broadcasting() if self._steps == 1 else nullcontext():
            value = loss_over_depths(self.plain_loss, pred, label, **masks)
        self._stage = "gradient of the loss"
        return value

    def _clip_gradient(self) -> None:
        if self._graphs is not None:
            self._graphs.copy_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)
        self.state.gradient_norm = norm
        self._stage = "optimizer"

    def _check_annotations(self, batchdata: dict[str, Any]) -> None:
        """Raise an error if the loss would train unannotated classes or unknown voxels as background."""
        annotated, loss = batchdata.get("annotated"), type(self.plain_loss).__name__
        if not self._supports_annotated and annotated is not None and not bool(annotated.all()):
            case = batchdata["case"][int((~annotated).any(dim=1).nonzero()[0])]
            raise ConfigError(
                f"case {case}: not every class was annotated, but loss {loss} treats such classes as background. "
                "Use a loss of segbundle.losses, for instance loss#_target_: segbundle.losses.DiceCELoss."
            )
        if getattr(self.plain_loss, "ignore_index", None) == IGNORE_INDEX:
            return
        unknown = torch.as_tensor(batchdata[CommonKeys.LABEL] == IGNORE_INDEX).flatten(1).any(dim=1)
        if bool(unknown.any()):
            case = batchdata["case"][int(unknown.nonzero()[0])]
            fix = (
                f"Set loss#ignore_index: {IGNORE_INDEX}, the value of such voxels after loading."
                if self._supports_annotated
                else "Use a loss of segbundle.losses, for instance loss#_target_: segbundle.losses.DiceCELoss."
            )
            raise ConfigError(
                f"case {case}: has voxels of unknown class (ignore), but loss {loss} does not exclude them. {fix}"
            )


@contextmanager
def _no_broadcasting() -> Iterator[None]:
    """Turn PyTorch's warning about broadcasting into an error. Used in the first step only, as filters take time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_BROADCAST)
        yield
