"""Evaluator that segments one scan at a time, slab by slab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents, engine_apply_transform
from monai.utils import CommonKeys

from segbundle.errors import PredictionError, find_cause
from segbundle.inference.scoring import is_better
from segbundle.inference.slabs import NonFiniteLogitsError, ScoreSlabs, check_finite

_ADVICE = (
    "Look at the scan's intensities (segbundle check), check that the weights belong to this task, and if precision is "
    "not fp32, try --precision fp32."
)


class SegmentationEvaluator(SupervisedEvaluator):
    """Supervised evaluator for batches of one scan, whose logits are computed and postprocessed slab by slab.

    With `segbundle.inference.SlidingWindowInferer`, postprocessing receives `pred` as `ScoreSlabs`. The network
    computes each slab when postprocessing requests it, so the logits of the whole volume are never in memory. MONAI's
    events `FORWARD_COMPLETED` and `MODEL_COMPLETED` are fired after postprocessing. From then on,
    `state.predict_seconds` is the computing time of the network in seconds, and `state.window_size` is the size (X, Y,
    Z) of the windows.

    With any other inferer, postprocessing receives `pred` as a tensor, `state.predict_seconds` is 0, and
    `state.window_size` is None.

    Args:
        postprocessing: transform of a dict with `image` and `pred`. Default: None (`pred` is not changed).
        kwargs: arguments of `monai.engines.SupervisedEvaluator`, except `decollate`. Batches must contain one scan. The
            default of `metric_cmp_fn` is `segbundle.inference.scoring.is_better`.

    Raises:
        PredictionError: the network returns logits that are NaN or infinite (raised in `run`).

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

    def __init__(self, postprocessing: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"metric_cmp_fn": is_better, **kwargs}, decollate=False)
        self.postprocessing = postprocessing

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        (scan,) = decollate_batch(batchdata)
        try:
            with engine.mode(engine.network):
                logits = self._logits(engine, scan[CommonKeys.IMAGE])
                output = {key: scan[key] for key in (CommonKeys.IMAGE, CommonKeys.LABEL) if key in scan}
                output[CommonKeys.PRED] = logits
                item = scan
                if self.postprocessing is not None:  # the network runs while this iterates over the slabs
                    item, output = engine_apply_transform(scan, output, self.postprocessing)
                engine.state.batch, engine.state.output = [item], [output]
                engine.state.predict_seconds = getattr(logits, "seconds", 0.0)
                engine.state.window_size = getattr(logits, "roi", None)
                engine.fire_event(IterationEvents.FORWARD_COMPLETED)
                engine.fire_event(IterationEvents.MODEL_COMPLETED)
        except Exception as error:
            problem = find_cause(error, NonFiniteLogitsError)
            if problem is None:
                raise
            raise PredictionError(f"{scan['case']}: {problem}. {_ADVICE}") from error
        return engine.state.output

    def _logits(self, engine: SupervisedEvaluator, image: torch.Tensor) -> torch.Tensor | ScoreSlabs:
        """Return the logits of an image (C, X, Y, Z): slabs that are computed on demand, or a tensor."""
        if hasattr(engine.inferer, "slabs"):  # the inferer moves data to the GPU if it fits
            return engine.inferer.slabs(image[None], engine.network)
        with torch.autocast("cuda", enabled=engine.amp):
            logits = engine.inferer(image[None].to(engine.state.device), engine.network)[0]
        if isinstance(logits, torch.Tensor):
            check_finite(logits)
        return logits
