"""Segment many scans: one thread loads the next scan, one runs the network, and one writes the previous label map.

The result of each scan is recorded. The run continues after a failed scan.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import monai.data
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

from segbundle.errors import OutputError, describe
from segbundle.hardware.memory_usage import PeakMemory
from segbundle.inference.evaluator import SegmentationEvaluator
from segbundle.inference.scan_records import ScanRecords, source_of
from segbundle.io.read_ahead import reader
from segbundle.results.scores import scores_to_json
from segbundle.terminal import duration, escaped, is_terminal, readable

_logger = logging.getLogger(__name__)
_RESAMPLED = ("smallest_gap_mm", "largest_gap_mm", "spacing_mm")
"""Values in the record of an unevenly spaced DICOM series, in the order of `LoadScand`."""
Saving = Callable[[dict[Any, Any]], Mapping[Any, Any]]
"""Dictionary transform that writes `pred`, and adds the path of the file as `prediction`."""


class ScanDataset(monai.data.Dataset):
    """MONAI dataset of scans. For a scan that cannot be loaded, the dataset returns an item with an error message.

    A scan that cannot be loaded has the items `case` and `error`. Every item also has `source`, the path of the scan,
    and `loading_seconds`.

    Args:
        data: datalist entries with `case` and `image`. An entry with `error` is not read and fails with that message.
        transform: transform that loads and preprocesses an entry. Default: None (entries are returned unchanged).

    Example:
        >>> item = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])[0]
        >>> item["case"], item["error"]
        ('a', 'a.nii.gz: no such file.')
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[..., Any] | None = None) -> None:
        super().__init__(data, transform)

    def _transform(self, index: int) -> Any:
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


class ScanLoader(monai.data.DataLoader):
    """Data loader of one scan per batch that loads the next scan in a background thread.

    Args:
        dataset: dataset of scans.
        kwargs: arguments of `monai.data.DataLoader`. The defaults of `batch_size` and `num_workers` are 1 and 0.

    Example:
        >>> entry = {"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}
        >>> [batch["case"] for batch in ScanLoader(ScanDataset([entry, entry]))]
        [['a'], ['a']]
    """

    def __init__(self, dataset: ScanDataset, **kwargs: Any) -> None:
        super().__init__(dataset, **{"batch_size": 1, "num_workers": 0, **kwargs})
        self._begun: tuple[Iterator[Any], Future[Any]] | None = None

    def begin(self) -> None:
        """Start to load the first scan in the background, before the loader is iterated over."""
        batches = super().__iter__()
        self._begun = batches, reader.submit(next, batches, None)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches in order. The next batch is loaded while the caller uses the current batch."""
        if self._begun is None:
            self.begin()
        assert self._begun is not None
        (batches, following), self._begun = self._begun, None
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch
            del batch  # a scan less in memory while the next is awaited


def start_reading(dataloader: ScanLoader, records: ScanRecords) -> None:
    """Keep only this rank's unfinished scans in a dataset, and start to load the first of them in the background.

    Workflows call this function early, so that the scan is loaded while the network is prepared.

    Args:
        dataloader: loader of the scans.
        records: records of the run, which determine the scans that remain (see `ScanRecords.remaining`).

    Raises:
        OutputError: see `ScanRecords.remaining`.

    Example:
        >>> import tempfile
        >>> data = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])
        >>> loader = ScanLoader(data)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     start_reading(loader, ScanRecords(folder))
        >>> next(iter(loader))["case"]
        ['a']
    """
    dataset: Any = dataloader.dataset
    dataset.data = records.remaining(dataset.data)
    dataloader.begin()


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
            if "resampled_slices" in batchdata:
                values = (round(float(value), 4) for value in batchdata["resampled_slices"])
                record["resampled_slices"] = dict(zip(_RESAMPLED, values, strict=True))
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


class ScanWriter:
    """Writer that saves the label map and the record of a scan while the next scan is segmented.

    Only one label map is written at a time, so memory is bounded. The record of a scan is added to `ScanRecords` after
    its files have been written. The record contains:

    - `case`, `image`; `status`: `ok` or `failed`; `error`: a message, or null;
    - `prediction`: path of the label map, or null; `outputs`: path by output format; `probabilities`: path of the
      probabilities, if they are saved; `failed_formats`: error message of each output format that could not be written;
    - `seconds`: working time, without waiting; `stages`: the seconds of `load`, `predict`, `restore` and `write`;
    - `window_size`: (X, Y, Z) of the windows in voxels; with `window_size: auto`, the size depends on the free memory;
    - `resampled_slices`, for an unevenly spaced DICOM series: smallest and largest distance of its slices, and the new
      spacing (`smallest_gap_mm`, `largest_gap_mm`, `spacing_mm`);
    - `peak_memory_mb`: maximum resident memory of the process during prediction; on a GPU also `peak_gpu_memory_mb`;
    - `scores` of every class, if a metric computes them;
    - `settings`: hash of everything that affects the result; `input`: hash of the paths, sizes and dates of the files
      of the scan and of its reference.

    Args:
        records: records of the run, to which the record of each scan is added.
        saving: transform that writes the label map; None writes no label maps. A method `discard(case)` of the
            transform, if it exists, is called for failed scans to remove files of earlier runs.
        total: number of scans, for messages.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = ScanRecords(folder)
        ...     writer = ScanWriter(records, None, total=1)
        ...     writer.write({}, {"case": "a", "image": "a.nii.gz", "status": "ok", "stages": {"load": 0.25}})
        ...     writer.close()
        >>> [(record["case"], record["status"]) for record in records.all]
        [('a', 'ok')]
    """

    def __init__(self, records: ScanRecords, saving: Saving | None, total: int) -> None:
        self.records = records
        self.saving = saving
        self.total = total
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._written: Future[None] | None = None
        self._finished = 0
        self._on_terminal = is_terminal()

    def write(self, item: dict[Any, Any], record: dict[str, Any]) -> None:
        """Start to write the label map and the record of a scan, after the previous scan has been written.

        For a failed scan, files of earlier runs are removed and only the record is written, before the method returns.

        Args:
            item: dict with `image`, the label map `pred` and, in an evaluation, `scores`; ignored for a failed scan.
            record: record without the results of writing; needs `case`, `image`, `status`, `stages` and, for a failed
                scan, `error`.

        Raises:
            OutputError: the record of the previous scan, or of this failed scan, cannot be written.
        """
        self.wait()
        if record["status"] == "ok":
            self._written = self._thread.submit(self._write, item, record)
        else:
            self._add(record)

    def wait(self) -> None:
        """Wait until the previous scan is written, and raise the error if its record could not be written."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Wait until all scans are written, and stop the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, item: dict[Any, Any], record: dict[str, Any]) -> None:
        started = time.monotonic()
        try:
            saved = item if self.saving is None else self.saving(item)
            record = {**record, "prediction": saved.get("prediction"), "error": None}
            record |= {key: saved[key] for key in ("outputs", "failed_formats", "probabilities") if key in saved}
            if "scores" in item:
                record["scores"] = scores_to_json(item["scores"])
        except Exception as problem:
            record = failed_record(record, describe(problem))
        self._add({**record, "stages": {**record["stages"], "write": time.monotonic() - started}})

    def _add(self, record: dict[str, Any]) -> None:
        """Add a record, after the files of a failed scan have been removed, and log the result.

        On a terminal, only failures are logged, because the progress bar counts the scans.
        """
        if record["error"] is not None:
            discard = getattr(self.saving, "discard", None)
            if discard is not None:  # a label map of an earlier run would be mistaken for one of this run
                discard(record["case"])
        seconds = sum(record["stages"].values())
        self._finished += 1
        count = "" if self._on_terminal else f"[{self._finished}/{self.total}] "
        case = escaped(record["case"])
        with tqdm.external_write_mode():
            if record["error"] is not None:
                _logger.error("%s%s failed: %s", count, case, readable(record["error"]))
            elif failed := record.get("failed_formats"):
                for name, reason in failed.items():
                    _logger.error("%s%s: %s was not written: %s", count, case, name, readable(reason))
            elif count:
                _logger.info("%s%s: done in %s", count, case, duration(seconds))
        stages = {stage: round(spent, 3) for stage, spent in record["stages"].items()}
        self.records.add({**record, "seconds": round(seconds, 3), "stages": stages})


def failed_record(record: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Return a copy of a record that marks its scan as failed: with `error`, and without a `prediction`.

    Args:
        record: record of the scan so far.
        error: error message.

    Example:
        >>> failed_record({"case": "a", "status": "ok"}, "a.nii.gz: no such file.")["status"]
        'failed'
    """
    return {**record, "status": "failed", "prediction": None, "error": error}
