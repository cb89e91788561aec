"""Evaluator for batches of scans: reads, predicts and writes in parallel, and records failures instead of stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import monai.data
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

from segbundle.datasets.folders import escaped
from segbundle.distributed import rank
from segbundle.errors import OutputError, ScansFailedError, describe
from segbundle.hardware.peak_memory import PeakMemory
from segbundle.inference.evaluator import SegmentationEvaluator
from segbundle.inference.scan_records import ScanRecords, readable, source_of
from segbundle.results.scores import scores_to_json
from segbundle.terminal import duration, is_terminal

_logger = logging.getLogger(__name__)


class ScanDataset(monai.data.Dataset):
    """MONAI dataset of scans that returns an item with the key `error` for a scan that cannot be loaded.

    Every item also has `source` (the path of the scan) and `loading_seconds`.

    Args:
        data: datalist entries with `case` and `image`. An entry with `error` is not read and fails with that message.
        transform: loads and preprocesses an entry; None returns entries unchanged.
        records: if given, scans that a resumed run has finished are left out (see `ScanRecords.remaining`).

    Example:
        >>> item = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])[0]
        >>> item["case"], item["error"]
        ('a', 'a.nii.gz: no such file.')
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any] | None = None,
        records: ScanRecords | None = None,
    ) -> None:
        super().__init__(data if records is None else records.remaining(data), transform)
        self._first: Future[Any] | None = None

    def read_ahead(self) -> None:
        """Start to load the first scan in a background thread."""
        if len(self.data):
            reader = ThreadPoolExecutor(1, thread_name_prefix="reading")
            self._first = reader.submit(self._load, 0)
            reader.shutdown(wait=False)

    def _transform(self, index: int) -> Any:
        if index == 0 and self._first is not None:
            first, self._first = self._first, None
            return first.result()
        return self._load(index)

    def _load(self, index: int) -> Any:
        started = time.monotonic()
        entry = self.data[index]
        try:
            item = dict(entry) if "error" in entry else super()._transform(index)
        except Exception as error:
            item = {"error": describe(error)}
        if "error" in item:
            item = {"case": entry["case"], "error": item["error"]}
        seconds = time.monotonic() - started + item.pop("early_seconds", 0.0)
        return {**item, "source": source_of(entry["image"]), "loading_seconds": seconds}


def read_ahead(dataset: ScanDataset) -> None:
    """Start to load the first scan of a dataset in a background thread, while the workflow is still being set up.

    Args:
        dataset: dataset whose first item is prefetched.

    Example:
        >>> dataset = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])
        >>> read_ahead(dataset)
        >>> dataset[0]["case"]
        'a'
    """
    dataset.read_ahead()


class ScanEvaluator(SegmentationEvaluator):
    """Evaluator for a batch of scans that records a failed scan and continues with the next.

    A background thread writes the label map of a scan, after metrics have scored it, while the next scan is predicted.
    Only one label map is written at a time, so memory is bounded. The record of a scan (see `ScanRecords`) is added
    when its files have been written. It contains:

    - `case`, `image`; `status`: `ok` or `failed`; `error`: a message, or null;
    - `prediction`: path of the label map, or null; `probabilities`: path of the probabilities, if they are saved;
    - `seconds`: working time, without waiting; `stages`: the seconds of `load`, `predict`, `restore` and `write`;
    - `window_size`: size of the windows in voxels, which depends on the free memory if it is `auto`;
    - `peak_memory_mb`: maximum resident memory of the process during prediction; on a GPU also `peak_gpu_memory_mb`;
    - `scores` of every class, if a metric computes them;
    - `settings`: hash of everything that affects the result; `input`: hash of the paths, sizes and dates of the files
      of the scan and of its reference.

    Args:
        records: records to add to.
        saving: dictionary transform that writes `pred` and adds the path of the file as `prediction`; None writes
            nothing. If it has a method `discard(case)`, this is called for failed cases to remove files of earlier
            runs.
        others: as in `SegmentationEvaluator`.

    Example:
        >>> import tempfile, torch
        >>> from monai.data import DataLoader
        >>> data = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = ScanRecords(folder)
        ...     ScanEvaluator(
        ...         records, device=torch.device("cpu"), val_data_loader=DataLoader(data), network=torch.nn.Identity()
        ...     ).run()
        >>> [(record["case"], record["status"]) for record in records.all]
        [('a', 'failed')]
    """

    def __init__(self, records: ScanRecords, saving: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records
        self.saving = saving
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._computed: tuple[dict[str, Any], dict[str, float], dict[str, float]] | None = None
        self._written: Future[None] | None = None
        self._finished = 0
        self.add_event_handler(Events.ITERATION_COMPLETED, self._save)  # runs after the metrics, attached earlier
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._wait())  # before scores are reported
        self.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._finish)

    def run(self, global_epoch: int = 1) -> None:
        """Predict all remaining scans.

        Without remaining scans, only the final events are fired, so that the ranks still gather their scores.
        """
        if len(self.data_loader):
            super().run(global_epoch)
            return
        self.fire_event(Events.EPOCH_COMPLETED)
        self.fire_event(Events.COMPLETED)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        loading = float(batchdata["loading_seconds"][0])
        record = {"case": batchdata["case"][0], "image": batchdata["source"][0], "status": "ok"}
        started, memory = time.monotonic(), PeakMemory(engine.state.device)
        error = batchdata["error"][0] if "error" in batchdata else None
        if error is None:
            try:
                super()._iteration(engine, batchdata)
            except Exception as problem:
                error = describe(problem)
                _logger.debug("%s", record["case"], exc_info=True)
        spent = time.monotonic() - started
        if error is not None:
            engine.state.batch, engine.state.output = [], []  # metrics skip a failed scan
            stages = {"load": loading, "predict": spent}
            self._wait()
            self._record(_failed(record, error), stages, memory.peaks())
        else:
            predicting = engine.state.predict_seconds
            stages = {"load": loading, "predict": predicting, "restore": spent - predicting}
            record["window_size"] = engine.state.window_size
            self._computed = record, stages, memory.peaks()
            self._wait()
        return engine.state.output

    def _save(self, engine: Engine) -> None:
        """Start to write the label map of the predicted scan, unless the scan failed."""
        state: Any = engine.state
        computed, self._computed = self._computed, None
        if computed is not None:
            self._written = self._writer.submit(self._write, {**state.batch[0], **state.output[0]}, *computed)

    def _write(
        self, item: dict[Any, Any], record: dict[str, Any], stages: dict[str, float], peaks: dict[str, float]
    ) -> None:
        """Write the label map of a scan, then add its record."""
        started = time.monotonic()
        try:
            saved = item if self.saving is None else self.saving(item)
            record = {**record, "prediction": saved.get("prediction"), "error": None}
            if "probabilities" in saved:
                record["probabilities"] = saved["probabilities"]
            if "scores" in item:
                record["scores"] = scores_to_json(item["scores"])
        except Exception as problem:
            record = _failed(record, describe(problem))
        self._record(record, {**stages, "write": time.monotonic() - started}, peaks)

    def _record(self, record: dict[str, Any], stages: dict[str, float], peaks: dict[str, float]) -> None:
        if record["error"] is not None:
            discard = getattr(self.saving, "discard", None)
            if discard is not None:  # a label map of an earlier run would be mistaken for one of this run
                discard(record["case"])
        self._log(record, sum(stages.values()))
        times = {stage: round(seconds, 3) for stage, seconds in stages.items()}
        self.records.add({**record, "seconds": round(sum(stages.values()), 3), "stages": times, **peaks})

    def _log(self, record: dict[str, Any], seconds: float) -> None:
        """Log the result of a scan. On a terminal, log failures only, because the progress bar counts the scans."""
        self._finished += 1
        count = "" if is_terminal() else f"[{self._finished}/{len(self.data_loader)}] "
        case = escaped(record["case"])
        with tqdm.external_write_mode():
            if record["error"] is not None:
                _logger.error("%s%s failed: %s", count, case, readable(record["error"]))
            elif count:
                _logger.info("%s%s: done in %s", count, case, duration(seconds))

    def _wait(self) -> None:
        """Wait until the previous label map is written, and raise the error if its record could not be written."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _finish(self, engine: Engine, error: BaseException | None = None) -> None:
        try:
            self._wait()
        finally:
            self._writer.shutdown()
            with nullcontext() if error is None else suppress(OutputError):  # report only the first error
                self.records.close()
        if error is not None:
            raise error


def _failed(record: dict[str, Any], error: str) -> dict[str, Any]:
    return {**record, "status": "failed", "prediction": None, "error": error}


def report_failures(records: ScanRecords) -> None:
    """Log the number of finished and failed scans, and raise an error if any scan failed.

    This is the last step of a workflow. All ranks must call it; only rank 0 reports.

    Args:
        records: records of the run.

    Raises:
        ScansFailedError: at least one scan failed or was not processed. The results of the other scans are on disk.
        OutputError: a file of the run could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = ScanRecords(folder)
        ...     records.add({"case": "a", "image": "a.nii.gz", "status": "ok", "prediction": f"{folder}/a_seg.nii.gz"})
        ...     report_failures(records)
    """
    records.collect()
    if rank() > 0:
        return
    failed, total = records.failures, len(records.all)
    seconds = time.monotonic() - records.start_time
    _logger.info(
        "%d of %d scans done, %d failed, in %s; label maps: %s",
        total - len(failed), len(records.missing) + total, len(failed), duration(seconds), records.path.parent,
    )  # fmt: skip
    unwritten = records.unwritten.message
    if records.missing:
        raise ScansFailedError(
            f"{len(records.missing)} scans were not processed ({', '.join(records.missing[:5])}), perhaps because "
            f"reading them ran out of memory. Continue with --resume. {unwritten}".rstrip()
        )
    if failed:
        cases = ", ".join(record["case"] for record in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise ScansFailedError(
            f"{len(failed)} of {total} scans failed ({cases}); see {records.path}. {unwritten}".rstrip()
        )
    records.unwritten.raise_error()
