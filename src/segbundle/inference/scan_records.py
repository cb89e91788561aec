"""Record the result of each scan in `predictions.json`, and resume interrupted runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from segbundle.distributed import barrier, rank, world_size
from segbundle.errors import ScansFailedError
from segbundle.files import run_files
from segbundle.files.atomic import remove_partial, write_json
from segbundle.files.output_folders import folder_of, open_folder
from segbundle.files.unwritten import UnwrittenFiles
from segbundle.inference.scan_sources import ScanSources, paths_of
from segbundle.inference.settings_hash import checkpoints_in, configured, hash_settings
from segbundle.masking import masked
from segbundle.results.journal import Journal, journals, key_of, record_files, records_of
from segbundle.results.scores import CaseScores, scores_from_json
from segbundle.results.source_series import identifiers_of, series_fields, without_identifiers
from segbundle.segmentations.formats import output_formats
from segbundle.terminal import duration, readable

_logger = logging.getLogger(__name__)
_Key = tuple[str, str]
_MAX_LINES = 20
"""Maximum number of lines about formats that could not be written."""


class ScanRecords:
    """Records of scans in `<output_dir>/predictions.json`, one per scan, sorted by case.

    During a run, records are appended to the journal `predictions.jsonl`. `predictions.json` is written at the end, and
    each time the number of records has doubled. With several processes, each rank has a shard of the scans and its own
    journal, and `collect` merges the journals. If a process is killed, the journals remain, and the next run with
    `resume` reads them.

    Args:
        output_dir: output folder.
        resume: whether to keep the records of scans that an earlier run finished with the same settings, so that
            `remaining` leaves these scans out. If False (default), earlier records are replaced.
        settings: everything that affects the result of a scan, such as checkpoints, network and spacing. A hash of the
            settings is stored in each record; `ckpt_path` is hashed by the contents of its files. Default: empty.
        save_probabilities: whether class probabilities are saved as well. Default: False.
        scored_classes: class names of an evaluation; a finished scan must have a score for each class. Empty (default)
            for predictions.
        keep_identifiers: whether to record UID, date and description of DICOM series. Default: False (only the modality
            and a pseudonym are recorded; see `series_fields`).
        case_names: `pseudonym` if cases are named by pseudonyms (see `named_by_pseudonym`). Paths of scans are then
            recorded only with `keep_identifiers`, also in `case_names.csv`. Default: `path`.

    Attributes:
        earlier_scores: scores of the scans that an earlier run finished; set by `remaining`.
        start_time: start of the run in seconds, on the clock of `time.monotonic`.
        nothing_left: True if an earlier run finished all scans; set by `remaining` when resuming.
        unwritten: files of the run that could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = ScanRecords(folder)
        ...     records.add({"case": "a", "image": "a.nii.gz", "status": "failed", "prediction": None})
        ...     records.close()
        ...     records.path.name, [record["case"] for record in records.failures]
        ('predictions.json', ['a'])
    """

    def __init__(
        self,
        output_dir: str | Path,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        save_probabilities: bool = False,
        scored_classes: Sequence[str] = (),
        keep_identifiers: bool = False,
        case_names: str = "path",
    ) -> None:
        self.path = Path(output_dir) / run_files.PREDICTIONS
        self.resume = resume
        self.settings = settings or {}
        self._configured = {**configured(self.settings), "save_probabilities": save_probabilities}
        self.start_time = time.monotonic()
        self.nothing_left = False
        self.earlier_scores: list[CaseScores] = []
        self.unwritten = UnwrittenFiles()
        self._single = world_size() == 1
        own = "predictions.jsonl" if self._single else f"predictions.rank{rank()}.jsonl"
        self._journal = Journal(self.path.with_name(own))
        self._save_probabilities = save_probabilities
        self._output_formats = output_formats(self.settings.get("output_format", "nifti"))
        self._scored_classes = scored_classes
        self._keep_identifiers = keep_identifiers
        self._sources = ScanSources(self.path.parent, case_names == "pseudonym", keep_identifiers)
        self._records: dict[_Key, dict[str, Any]] = {}
        self._others: dict[_Key, dict[str, Any]] = {}  # records of an earlier run for scans that this run was not given
        self._inputs: dict[_Key, str] = {}
        self._series: dict[_Key, dict[str, Any]] = {}  # key `series` of the record of each scan from DICOM
        self._everything: set[_Key] = set()
        self._expected: set[_Key] = set()
        self._outdated: tuple[str, ...] = ()  # reports of an earlier run with identifiers that are no longer kept
        self._changed = False
        self._written = True  # whether `predictions.json` has all records
        self._next_write = 1

    @property
    def all(self) -> list[dict[str, Any]]:
        """Records so far, sorted by case."""
        return [self._records[key] for key in sorted(self._records)]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records of the scans that failed."""
        return [record for record in self.all if record["status"] == "failed"]

    @property
    def incomplete(self) -> list[dict[str, Any]]:
        """Records of the scans with a label map, but not in all output formats."""
        return [record for record in self.all if record.get("failed_formats")]

    @property
    def missing(self) -> list[str]:
        """Sorted names of cases that have no record, for instance because reading them ran out of memory."""
        return sorted(case for case, _ in self._expected - set(self._records))

    @cached_property
    def settings_hash(self) -> str:
        """Hash of the settings and of the contents of checkpoints, 12 hexadecimal digits."""
        return hash_settings(self._configured, checkpoints_in(self.settings))

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of a scan, and append it to the journal.

        The first call of a run removes the results of an earlier run, such as scores and reports, because their label
        maps are replaced.

        Args:
            record: JSON values with at least `case`, `image` and `status`; see `ScanWriter` for the other keys.

        Raises:
            OutputError: the journal cannot be written.
        """
        if not self._changed:
            folder_of(self.path.parent).remove(run_files.RESULTS)  # computed from label maps that are being replaced
            self._changed = True
        escaped = {name: _readable_value(value) for name, value in record.items()}
        if escaped.get("error"):
            escaped["error"] = masked(escaped["error"])
        if escaped.get("failed_formats"):
            escaped["failed_formats"] = {name: masked(text) for name, text in escaped["failed_formats"].items()}
        key = key_of(escaped)
        origin = {"settings": self.settings_hash, "input": self._inputs.get(key)}
        self._records[key] = {**escaped, **self._series.get(key, {}), **origin}
        self._journal.append(self._sources.as_written(self._records[key]))
        self._written = False
        if self._single and len(self._records) >= self._next_write:
            self._write()
            self._next_write = 2 * len(self._records)

    def close(self) -> None:
        """Close the journal. A single process that has added records also writes `predictions.json`.

        Raises:
            OutputError: `predictions.json` cannot be written.
        """
        self._journal.close()
        if self._single and self._changed and not self._written:
            self._write()
            self._remove_journals()
            self._written = True

    def collect(self) -> None:
        """Wait for all ranks, and merge their records into `predictions.json`.

        Raises:
            OutputError: `predictions.json` cannot be written, or a journal cannot be read.
        """
        self.close()
        barrier()
        if world_size() > 1 and rank() == 0:
            for path in journals(self.path.parent):
                found = map(self._sources.restored, records_of(path))
                self._records |= {key_of(record): self._with_series(record) for record in found}
            self._expected = self._everything
            self._write()
            self._remove_journals()
        barrier()

    def remaining(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return this rank's shard of the scans to process.

        With `resume`, scans with a valid record of an earlier run are left out. Rank 0 removes partial files and
        journals of earlier runs. All ranks must call this method.

        Args:
            data: datalist entries of all scans, with `case`, `image` and, for an evaluation, `label`.

        Returns:
            entries of `data` that this rank has to process, in the same order

        Raises:
            OutputError: a record of the earlier run cannot be read, or the run would replace an input or a file that
                segbundle did not write.
        """
        keys = [_key(entry) for entry in data]
        self._everything = set(keys)
        self._inputs = {key: self._sources.hash_of(entry) for key, entry in zip(keys, data, strict=True)}
        self._sources.paths = dict(keys)
        earlier = self._read_earlier() if self.resume else {}
        images = {key: paths_of(entry["image"])[0] for key, entry in zip(keys, data, strict=True)}
        self._series = series_fields(images, self._keep_identifiers, earlier)
        if self.resume:
            self._keep_finished(earlier)
        left = [entry for key, entry in zip(keys, data, strict=True) if key not in self._records]
        self._refuse_to_replace(left)
        if self.resume:
            self.nothing_left = not left
            _logger.info("resuming: %d of %d scans are done", len(data) - len(left), len(data))
        barrier()  # all ranks must have read the records before rank 0 changes them
        if rank() == 0:
            self._clean_up()
        barrier()
        share = left[rank() :: world_size()]
        self._expected = {_key(entry) for entry in share} | set(self._records)
        return share

    def _read_earlier(self) -> dict[_Key, dict[str, Any]]:
        found = [record for path in record_files(self.path.parent) for record in records_of(path)]
        return {key_of(record): record for record in map(self._sources.restored, found)}

    def _keep_finished(self, earlier: Mapping[_Key, dict[str, Any]]) -> None:
        """Keep the records of an earlier run that are still valid, and those of scans that this run was not given."""
        cases = {case for case, _ in self._everything}
        requested = [record for record in earlier.values() if record["case"] in cases]
        self._records = {key_of(record): self._with_series(record) for record in requested if self._is_done(record)}
        removed = [identifiers_of(earlier[key]) - identifiers_of(record) for key, record in self._records.items()]
        if any(removed) or self._sources.were_recorded:
            self._outdated = (run_files.REPORT, run_files.MEASUREMENTS)
        self.earlier_scores = [
            scores_from_json(record["case"], record["scores"])
            for record in self._records.values()
            if record.get("scores") is not None
        ]
        same = [record for record in requested if record.get("settings") == self.settings_hash]
        if different := len(requested) - len(same):
            _logger.warning("%d scan(s) had other settings or weights; these scans are processed again", different)
        changed = sum(record["status"] == "ok" and not self._has_same_input(record) for record in same)
        if changed:
            _logger.warning("the scan or reference of %d case(s) has changed; these cases are processed again", changed)
        if rank() == 0:
            others = {key: record for key, record in earlier.items() if record["case"] not in cases}
            if self._scored_classes:  # the report of an evaluation lists every failure in its folder
                others = {key: record for key, record in others.items() if record["status"] == "ok"}
            self._others = {
                key: record if self._keep_identifiers else without_identifiers(self._sources.as_written(record))
                for key, record in others.items()
            }

    def _with_series(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of an earlier run, or of another rank, with the fields of the series of this run."""
        own = {name: value for name, value in record.items() if name != "series"}
        return {**own, **self._series.get(key_of(record), {})}

    def _refuse_to_replace(self, left: Sequence[dict[str, Any]]) -> None:
        """Raise an error if this run would replace an input or a file that segbundle did not write."""
        folder, readable = open_folder(self.path.parent), [entry for entry in left if "error" not in entry]
        others = list[Path]()
        for path in record_files(folder.folder):
            if not folder.wrote(path):
                foreign = folder.has_record and not run_files.RANK.fullmatch(path.name)
                if foreign or path.is_symlink() or (path.suffix == ".jsonl" and not records_of(path)):
                    others.append(path)
                    continue
                records_of(path)
                folder.adopt(path)
            self._sources.refuse_names(path)
        cases = [entry["case"] for entry in readable]
        written = [path for case in cases for path in run_files.label_map_files("", case, self._output_formats)]
        if self._save_probabilities:
            written += [run_files.probabilities("", entry["case"]) for entry in readable]
        if left or self._scored_classes:  # an evaluation always writes its scores, even without remaining cases
            written += [Path(name) for name in (run_files.PREDICTIONS, run_files.TRAINING_CASES, *run_files.RESULTS)]
        if folder.is_claimed:
            folder.refuse_foreign(dict.fromkeys([*others, *(folder.folder / path for path in written)]))
        inputs = (path for entry in readable for key in ("image", "label") for path in paths_of(entry.get(key, [])))
        folder.refuse_inputs(written, inputs)

    def _clean_up(self) -> None:
        """Remove partial files and journals of earlier runs, and keep only valid records."""
        remove_partial(self.path.parent)
        folder_of(self.path.parent).remove(self._outdated)
        if self.path.exists() or self._records:
            self._write()
        self._remove_journals()
        self._sources.write_table()

    def _write(self) -> None:
        records = self._others | self._records
        write_json(self.path, [self._sources.as_written(records[key]) for key in sorted(records)])

    def _remove_journals(self) -> None:
        folder = folder_of(self.path.parent)
        for path in record_files(self.path.parent):
            if path.name != self.path.name:
                path.unlink()
                if folder.is_claimed:
                    folder.record(path, removed=True)

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        """Return whether a scan was finished with the same settings and inputs, and its results still exist."""
        if record["status"] != "ok" or record.get("settings") != self.settings_hash or record.get("failed_formats"):
            return False
        scores = (record.get("scores") or {"classes": []})["classes"]
        if not self._has_same_input(record) or len(scores) != len(self._scored_classes):
            return False
        results = [record.get("prediction") or "", *filter(None, [record.get("probabilities")])]
        results += (record.get("outputs") or {}).values()
        return all(Path(result).is_file() for result in results)

    def _has_same_input(self, record: Mapping[str, Any]) -> bool:
        return record.get("input") == self._inputs.get(key_of(record))


def source_of(image: str | Sequence[str]) -> str:
    """Return the path that identifies a scan in its record: the real path of its file, or of its first channel.

    Args:
        image: path of the scan, or one path per channel.

    Example:
        >>> source_of(["/nowhere/ct_0000.nii.gz", "/nowhere/ct_0001.nii.gz"])
        '/nowhere/ct_0000.nii.gz'
    """
    return readable(os.path.realpath(image if isinstance(image, str) else image[0]))


def _key(entry: Mapping[str, Any]) -> _Key:
    return readable(str(entry["case"])), source_of(entry["image"])


def _readable_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _readable_value(item) for key, item in value.items()}
    return readable(value) if isinstance(value, str) else value


def report_failures(records: ScanRecords) -> None:
    """Log the number of finished and failed scans, and raise an error if any scan failed.

    Workflows call this function last. All ranks must call this function; only rank 0 reports.

    Args:
        records: records of the run.

    Raises:
        ScansFailedError: at least one scan failed, was not processed, or lacks an output format. All other results are
            on disk.
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
    lacking = f", {len(records.incomplete)} without an output format" if records.incomplete else ""
    _logger.info(
        "%d of %d scans done, %d failed%s, in %s; label maps: %s",
        total - len(failed), len(records.missing) + total, len(failed), lacking, duration(seconds), records.path.parent,
    )  # fmt: skip
    unwritten, formats = records.unwritten.message, _failed_formats(records)
    if records.missing:
        raise ScansFailedError(
            f"{len(records.missing)} scans were not processed ({', '.join(records.missing[:5])}), perhaps because "
            f"reading them ran out of memory. Continue with --resume. {unwritten}".rstrip()
            + formats
        )
    if failed:
        cases = ", ".join(record["case"] for record in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise ScansFailedError(
            f"{len(failed)} of {total} scans failed ({cases}); see {records.path}. {unwritten}".rstrip() + formats
        )
    if formats:
        raise ScansFailedError(f"{unwritten}{formats}".strip())
    records.unwritten.raise_error()


def _failed_formats(records: ScanRecords) -> str:
    """Return a line for each file that is missing because its format could not be written."""
    found = records.incomplete
    lines = [
        f"{record['case']}: {name} was not written: {reason}"
        for record in found
        for name, reason in record["failed_formats"].items()
    ]
    more = [f"... and {len(lines) - _MAX_LINES} more; see {records.path}."] if len(lines) > _MAX_LINES else []
    start = f"{len(found)} of {len(records.all)} scans lack an output format; the other formats are complete:"
    return "\n".join(["", start, *lines[:_MAX_LINES], *more]) if found else ""
