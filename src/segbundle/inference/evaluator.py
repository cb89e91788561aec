"""One scan at a time through the network, its scores handed on slab by slab."""

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
    """MONAI's evaluator for batches of one scan, in which the scores of all classes never exist as a whole.

    If the inferer can (`segbundle.inference.SlidingWindowInferer`), `pred` is a `ScoreSlabs` until postprocessing reads
    it, and the network runs while it does; `state.predict_seconds` tells for how long, and `state.window_size` in which
    windows. Any other inferer of MONAI works as ever.

    Args:
        as in `monai.engines.SupervisedEvaluator`; batches must hold one scan, and `metric_cmp_fn` is by default
            `segbundle.inference.scoring.is_better`.

    Raises:
        PredictionError: on running, the network returned logits that are NaN or infinite for a scan.
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
        """Let the network and the postprocessing run, and return the logits."""
        with engine.mode(engine.network):
            if hasattr(engine.inferer, "slabs"):  # which moves to the GPU what has room there
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
