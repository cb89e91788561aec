"""Evaluator that predicts one scan at a time, slab by slab."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from segbundle.errors import PredictionError, find_cause
from segbundle.inference.scoring import is_better
from segbundle.inference.slabs import NonFiniteLogitsError, check_finite

_ADVICE = (
    "Look at the scan's intensities (segbundle check), check that the weights belong to this task, and if precision is "
    "not fp32, try --precision fp32."
)


class SegmentationEvaluator(SupervisedEvaluator):
    """Supervised evaluator for batches of one scan that never stores the logits of all classes for the whole volume.

    With `segbundle.inference.SlidingWindowInferer`, `pred` is a `ScoreSlabs`: the network runs while postprocessing
    iterates over the slabs. Afterwards, `state.predict_seconds` is the computing time of the network, and
    `state.window_size` is the (X, Y, Z) size of its windows. With other inferers of MONAI, `pred` is a tensor,
    `state.predict_seconds` is 0, and `state.window_size` is None.

    Args:
        others: as in `monai.engines.SupervisedEvaluator`. Batches must contain one scan. The default of
            `metric_cmp_fn` is `segbundle.inference.scoring.is_better`.

    Raises:
        PredictionError: in `run`, if the network returns logits that are NaN or infinite.

    Example:
        >>> from monai.data import DataLoader
        >>> scan = {"case": "a", "image": torch.ones(1, 4, 4, 4)}
        >>> evaluator = SegmentationEvaluator(
        ...     device=torch.device("cpu"), val_data_loader=DataLoader([scan]), network=torch.nn.Conv3d(1, 3, 1)
        ... )
        >>> evaluator.run()
        >>> evaluator.state.output[0]["pred"].shape
        torch.Size([3, 4, 4, 4])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"metric_cmp_fn": is_better, **kwargs}, decollate=False)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        (item,) = decollate_batch(batchdata)
        image = item[CommonKeys.IMAGE]
        label = item.get(CommonKeys.LABEL)
        engine.state.batch = [item]
        try:
            pred = self._predict(engine, image, label)
        except Exception as error:
            problem = find_cause(error, NonFiniteLogitsError)
            if problem is None:
                raise
            raise PredictionError(f"{item['case']}: {problem}. {_ADVICE}") from error
        engine.state.predict_seconds = getattr(pred, "seconds", 0.0)
        engine.state.window_size = getattr(pred, "roi", None)
        return engine.state.output

    def _predict(self, engine: SupervisedEvaluator, image: torch.Tensor, label: torch.Tensor | None) -> Any:
        """Run the network and the postprocessing, and return the logits as the inferer returned them."""
        with engine.mode(engine.network):
            if hasattr(engine.inferer, "slabs"):  # the inferer moves data to the GPU if it fits
                pred = engine.inferer.slabs(image[None], engine.network)
            else:
                with torch.autocast("cuda", enabled=engine.amp):
                    pred = engine.inferer(image[None].to(engine.state.device), engine.network)[0]
                if isinstance(pred, torch.Tensor):
                    check_finite(pred)
            output = {CommonKeys.IMAGE: image, CommonKeys.PRED: pred}
            engine.state.output = [output if label is None else {**output, CommonKeys.LABEL: label}]
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return pred
