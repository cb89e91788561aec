"""Evaluator that segments many scans, records the result of each, and continues after a failed scan."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext, suppress
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from segbundle.errors import OutputError, describe
from segbundle.hardware.peak_memory import PeakMemory
from segbundle.inference.evaluator import SegmentationEvaluator
from segbundle.inference.scan_records import ScanRecords
from segbundle.inference.scan_writing import Saving, ScanWriter, failed_record

_logger = logging.getLogger(__name__)


class ScanEvaluator(SegmentationEvaluator):
    """Evaluator that segments many scans, records the result of each, and continues after a failed scan.

    Each scan passes through five stages:

    1. read: a background thread reads the file (`ScanLoader`, which loads one scan ahead),
    2. preprocess: the same thread resamples the scan to the network's grid,
    3. windows: the network computes logits slab by slab (`SlidingWindowInferer`),
    4. restore: each slab is converted to labels on the scan's grid as soon as it is complete (`postprocessing`),
    5. write: a second thread writes the label map and the record of the scan (`ScanWriter`).

    Metrics score the label map between stages 4 and 5.

    Args:
        records: records of the run, to which the record of each scan is added.
        saving: transform that writes a label map; see `ScanWriter`. Default: None (no label maps are written).
        kwargs: arguments of `SegmentationEvaluator`.

    Example:
        >>> import tempfile, torch
        >>> from segbundle.inference.scan_loading import ScanDataset, ScanLoader
        >>> data = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = ScanRecords(folder)
        ...     ScanEvaluator(
        ...         records, device=torch.device("cpu"), val_data_loader=ScanLoader(data), network=torch.nn.Identity()
        ...     ).run()
        >>> [(record["case"], record["status"]) for record in records.all]
        [('a', 'failed')]
    """

    def __init__(self, records: ScanRecords, saving: Saving | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records
        self.writer = ScanWriter(records, saving, len(self.data_loader))
        self._record: dict[str, Any] = {}
        self.add_event_handler(Events.ITERATION_COMPLETED, self._write)  # runs after the metrics, attached earlier
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.writer.wait())  # before scores are reported
        self.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._finish)

    def run(self, global_epoch: int = 1) -> None:
        """Segment all scans.

        A rank without scans only fires the final events, so that all ranks can gather their scores.

        Args:
            global_epoch: epoch of the trainer; see MONAI's `Evaluator.run`. Default: 1.
        """
        if len(self.data_loader):
            super().run(global_epoch)
            return
        self.fire_event(Events.EPOCH_COMPLETED)
        self.fire_event(Events.COMPLETED)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        record = {"case": batchdata["case"][0], "image": batchdata["source"][0], "status": "ok"}
        stages = {"load": float(batchdata["loading_seconds"][0])}
        started, memory = time.monotonic(), PeakMemory(engine.state.device)
        error = batchdata["error"][0] if "error" in batchdata else None
        if error is None:
            try:
                super()._iteration(engine, batchdata)
            except Exception as problem:
                error = describe(problem)
                _logger.debug("%s", record["case"], exc_info=True)
        seconds = time.monotonic() - started
        if error is None:
            stages |= {"predict": engine.state.predict_seconds, "restore": seconds - engine.state.predict_seconds}
            record["window_size"] = engine.state.window_size
        else:
            engine.state.batch, engine.state.output = [], []  # metrics skip a failed scan
            stages["predict"] = seconds
            record = failed_record(record, error)
        self._record = {**record, "stages": stages, **memory.peaks()}
        self.writer.wait()
        return engine.state.output

    def _write(self, engine: Engine) -> None:
        state: Any = engine.state
        self.writer.write({**state.batch[0], **state.output[0]} if state.output else {}, self._record)

    def _finish(self, engine: Engine, error: BaseException | None = None) -> None:
        try:
            self.writer.close()
        finally:
            with nullcontext() if error is None else suppress(OutputError):  # report only the first error
                self.records.close()
        if error is not None:
            raise error
