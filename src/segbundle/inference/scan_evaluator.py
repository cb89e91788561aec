"""Scans through the network one by one, while the next is read and the last is written; one that fails is recorded."""

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
    """A MONAI dataset whose items that cannot be loaded come as `{"case", "image", "error"}` instead of raising.

    Args:
        data: datalist entries with `case` and `image`; one with `error` is not read, and fails with that text.
        transform: loads and preprocesses an entry.
        records: leaves out what an earlier run has done, if that is resumed; None for every entry.
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
        """Begin to load the first scan in the background."""
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
    """Begin to load the first scan while the workflow is still being set up."""
    dataset.read_ahead()


class ScanEvaluator(SegmentationEvaluator):
    """An evaluator for scans that matter one by one: an error ends the scan it happens in, not the run.

    A finished label map is written in the background while the next scan is computed, after metrics have scored it; one
    at a time, so that memory stays bounded. A scan's record (see `ScanRecords`) appears when its file is there:

    - `case`, `image`, and `status`: `ok` or `failed`;
    - `prediction`, the file written, or null; `probabilities`, if they were asked for; `error`, null or a message;
    - `seconds` of work on it, without waiting; `stages`: how many of them `load`, `predict`, `restore` and `write`
      took;
    - `window_size`, voxels of the windows, which `auto` chooses by the free memory;
    - `peak_memory_mb`, the largest resident memory of the process while the scan was computed, and on a GPU
      `peak_gpu_memory_mb`;
    - `scores` of every class, if a metric computes them;
    - `settings`, a hash of what decides the result; `input`, one of the paths, sizes and dates of the scan's files, and
      of what it is scored against.

    Args:
        records: where records go.
        saving: a transform of dicts that writes `pred` and adds the file's path as `prediction`; None writes nothing.
            If it has a method `discard(case)`, that removes what it wrote for a case before.
        others: as in `SegmentationEvaluator`.
    """

    def __init__(self, records: ScanRecords, saving: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records
        self.saving = saving
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._computed: tuple[dict[str, Any], dict[str, float], dict[str, float]] | None = None
        self._written: Future[None] | None = None
        self._finished = 0
        self.add_event_handler(Events.ITERATION_COMPLETED, self._save)  # after metrics, which were attached before
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._wait())  # before scores are reported
        self.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._finish)

    def run(self, global_epoch: int = 1) -> None:
        """Predict every scan that is left; none may be, and yet the other processes' scores are waited for."""
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
            engine.state.batch, engine.state.output = [], []  # nothing for metrics to see
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
        """Start to write the label map of the scan that was computed, if it did not fail."""
        state: Any = engine.state
        computed, self._computed = self._computed, None
        if computed is not None:
            self._written = self._writer.submit(self._write, {**state.batch[0], **state.output[0]}, *computed)

    def _write(
        self, item: dict[Any, Any], record: dict[str, Any], stages: dict[str, float], peaks: dict[str, float]
    ) -> None:
        """Write a scan's label map, then its record."""
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
            if discard is not None:  # what an earlier run wrote would pass for this one's
                discard(record["case"])
        self._tell(record, sum(stages.values()))
        times = {stage: round(seconds, 3) for stage, seconds in stages.items()}
        self.records.add({**record, "seconds": round(sum(stages.values()), 3), "stages": times, **peaks})

    def _tell(self, record: dict[str, Any], seconds: float) -> None:
        """Log what became of a scan: on a terminal, where a bar counts them, only if it failed."""
        self._finished += 1
        place = "" if is_terminal() else f"[{self._finished}/{len(self.data_loader)}] "
        case = escaped(record["case"])
        with tqdm.external_write_mode():
            if record["error"] is not None:
                _logger.error("%s%s failed: %s", place, case, readable(record["error"]))
            elif place:
                _logger.info("%s%s: done in %s", place, case, duration(seconds))

    def _wait(self) -> None:
        """Until the last label map is written; raises if its record could not be."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _finish(self, engine: Engine, error: BaseException | None = None) -> None:
        try:
            self._wait()
        finally:
            self._writer.shutdown()
            with nullcontext() if error is None else suppress(OutputError):  # the first error is the one to report
                self.records.close()
        if error is not None:
            raise error


def _failed(record: dict[str, Any], error: str) -> dict[str, Any]:
    return {**record, "status": "failed", "prediction": None, "error": error}


def report_failures(records: ScanRecords) -> None:
    """Report how a workflow over scans ended, as its last step; of several processes, the first.

    Raises:
        ScansFailedError: at least one scan failed; the others' results are on disk.
        OutputError: a file of the run could not be written.
    """
    records.collect()
    if rank() > 0:
        return
    failed, total = records.failures, len(records.all)
    seconds = time.monotonic() - records.begun
    _logger.info(
        "%d of %d scans done, %d failed, in %s; label maps: %s",
        total - len(failed), len(records.missing) + total, len(failed), duration(seconds), records.path.parent,
    )  # fmt: skip
    unwritten = records.unwritten.message
    if records.missing:
        raise ScansFailedError(
            f"{len(records.missing)} scans were not reached ({', '.join(records.missing[:5])}), perhaps because memory "
            f"ran out while they were read; go on with --resume. {unwritten}".rstrip()
        )
    if failed:
        cases = ", ".join(record["case"] for record in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise ScansFailedError(
            f"{len(failed)} of {total} scans failed ({cases}); see {records.path}. {unwritten}".rstrip()
        )
    records.unwritten.raise_error()
