"""Scans through the network one by one; one that fails is recorded and the rest go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monai.data
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

from segbundle.errors import ScansFailedError, describe
from segbundle.files import write_json

_logger = logging.getLogger(__name__)


class ScanDataset(monai.data.Dataset):
    """A MONAI dataset whose items that cannot be loaded come as `{"case", "image", "error"}` instead of raising.

    Args:
        data: datalist entries with `case` and `image`.
        transform: loads and preprocesses an entry.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[..., Any] | None = None) -> None:
        super().__init__(data, transform)

    def _transform(self, index: int) -> Any:
        started = time.monotonic()
        entry = self.data[index]
        try:
            item = super()._transform(index)
        except Exception as error:
            item = {"case": entry["case"], "error": describe(error)}
        return {**item, "source": _source(entry["image"]), "loading_seconds": time.monotonic() - started}


def _source(image: str | list[str]) -> str:
    return image if isinstance(image, str) else image[0]


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for scans that matter one by one: an error ends the scan it happens in, not the run.

    After every scan `<output_dir>/predictions.json` holds one record per scan so far: `case`, `image`, `status`
    (`ok` or `failed`), `prediction` (the file written, or null), `error` (null or a message), `seconds`.

    Args:
        output_dir: where `predictions.json` goes.
        others: as in `monai.engines.SupervisedEvaluator`; batches must hold one scan.
    """

    def __init__(self, output_dir: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_dir = Path(output_dir)
        self.records: list[dict[str, Any]] = []

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records of the scans that failed."""
        return [record for record in self.records if record["status"] == "failed"]

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        started = time.monotonic()
        case, source = batchdata["case"][0], batchdata["source"][0]
        error = batchdata["error"][0] if "error" in batchdata else None
        if error is None:
            try:
                super()._iteration(engine, batchdata)
            except Exception as problem:
                error = describe(problem)
                _logger.debug("%s", case, exc_info=True)
        prediction = None
        if error is not None:
            engine.state.batch, engine.state.output = [], []  # nothing for metrics to see
            with tqdm.external_write_mode():
                _logger.error("%s failed: %s", case, error)
        else:
            prediction = {**engine.state.batch[0], **engine.state.output[0]}.get("prediction")
        seconds = float(batchdata["loading_seconds"][0]) + time.monotonic() - started
        self._record(case, source, prediction, error, seconds)
        return engine.state.output

    def _record(self, case: str, source: str, prediction: str | None, error: str | None, seconds: float) -> None:
        self.records.append(
            {
                "case": case,
                "image": source,
                "status": "ok" if error is None else "failed",
                "prediction": prediction,
                "error": error,
                "seconds": round(seconds, 3),
            }
        )
        write_json(self.output_dir / "predictions.json", self.records)


def report_failures(evaluator: ScanEvaluator) -> None:
    """Last step of a workflow over scans: say how it went, and fail if a scan failed.

    Raises:
        ScansFailedError: at least one scan failed; the others' results are on disk.
    """
    failed, total = evaluator.failures, len(evaluator.records)
    where = evaluator.output_dir / "predictions.json"
    if failed:
        names = ", ".join(record["case"] for record in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise ScansFailedError(f"{len(failed)} of {total} scans failed ({names}); see {where}.")
    _logger.info("%d scans done: %s", total, evaluator.output_dir)
