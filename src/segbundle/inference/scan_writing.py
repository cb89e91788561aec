"""Write the label maps and records of scans in a background thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from segbundle.datasets.folders import escaped
from segbundle.errors import describe
from segbundle.inference.scan_records import ScanRecords, readable
from segbundle.results.scores import scores_to_json
from segbundle.terminal import duration, is_terminal

_logger = logging.getLogger(__name__)
Saving = Callable[[dict[Any, Any]], Mapping[Any, Any]]
"""Dictionary transform that writes `pred`, and adds the path of the file as `prediction`."""


class ScanWriter:
    """Writer that saves the label map and the record of a scan while the next scan is segmented.

    Only one label map is written at a time, so memory is bounded. The record of a scan is added to `ScanRecords` after
    its files have been written. It contains:

    - `case`, `image`; `status`: `ok` or `failed`; `error`: a message, or null;
    - `prediction`: path of the label map, or null; `probabilities`: path of the probabilities, if they are saved;
    - `seconds`: working time, without waiting; `stages`: the seconds of `load`, `predict`, `restore` and `write`;
    - `window_size`: (X, Y, Z) of the windows in voxels; for `window_size: auto`, it depends on the free memory;
    - `peak_memory_mb`: maximum resident memory of the process during prediction; on a GPU also `peak_gpu_memory_mb`;
    - `scores` of every class, if a metric computes them;
    - `settings`: hash of everything that affects the result; `input`: hash of the paths, sizes and dates of the files
      of the scan and of its reference.

    Args:
        records: records of the run, to which the record of each scan is added.
        saving: transform that writes the label map; None writes no label maps. If it has a method `discard(case)`, this
            is called for failed scans to remove files of earlier runs.
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

    def write(self, item: dict[Any, Any], record: dict[str, Any]) -> None:
        """Start to write the label map and the record of a scan.

        For a failed scan, only the record is written, without a thread.

        Args:
            item: dict with `image`, the label map `pred` and, in an evaluation, `scores`; ignored for a failed scan.
            record: record without the results of writing; needs `case`, `image`, `status` and `stages`.
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
            if "probabilities" in saved:
                record["probabilities"] = saved["probabilities"]
            if "scores" in item:
                record["scores"] = scores_to_json(item["scores"])
        except Exception as problem:
            record = failed_record(record, describe(problem))
        self._add({**record, "stages": {**record["stages"], "write": time.monotonic() - started}})

    def _add(self, record: dict[str, Any]) -> None:
        """Add a record, after the files of a failed scan have been removed."""
        if record["error"] is not None:
            discard = getattr(self.saving, "discard", None)
            if discard is not None:  # a label map of an earlier run would be mistaken for one of this run
                discard(record["case"])
        seconds = sum(record["stages"].values())
        self._log(record, seconds)
        stages = {stage: round(spent, 3) for stage, spent in record["stages"].items()}
        self.records.add({**record, "seconds": round(seconds, 3), "stages": stages})

    def _log(self, record: dict[str, Any], seconds: float) -> None:
        """Log the result of a scan. On a terminal, log failures only, because the progress bar counts the scans."""
        self._finished += 1
        count = "" if is_terminal() else f"[{self._finished}/{self.total}] "
        case = escaped(record["case"])
        with tqdm.external_write_mode():
            if record["error"] is not None:
                _logger.error("%s%s failed: %s", count, case, readable(record["error"]))
            elif count:
                _logger.info("%s%s: done in %s", count, case, duration(seconds))


def failed_record(record: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Return a copy of a record that marks its scan as failed.

    Args:
        record: record of the scan so far.
        error: error message.

    Example:
        >>> failed_record({"case": "a", "status": "ok"}, "a.nii.gz: no such file.")["status"]
        'failed'
    """
    return {**record, "status": "failed", "prediction": None, "error": error}
