"""What became of each scan of a batch: `predictions.json`, and going on after an interruption."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.distributed import rank, wait_for_all, world_size
from segbundle.files import run_files
from segbundle.files.atomic import remove_partial, write_json
from segbundle.files.hashing import new_digest, shortened
from segbundle.files.output_folders import folder_of, look_at
from segbundle.files.unwritten import UnwrittenFiles
from segbundle.inference.settings import WEIGHTS, configured, hash_settings
from segbundle.io.scan_files import files_of
from segbundle.results.journal import Journal, journals, key_of, record_files, records_of
from segbundle.results.scores import CaseScores, scores_from_json

_logger = logging.getLogger(__name__)
_Key = tuple[str, str]


class ScanRecords:
    """One record per scan in `<output_dir>/predictions.json`, sorted by case.

    While scans are computed, records are appended to `predictions.jsonl`. `predictions.json` is written at the end, and
    when the number of records has doubled. Of several processes each has a share of the scans and a journal of its own,
    until `collect` makes one file of them; if one process is lost, the others' records stay, and `resume` finds them.

    Args:
        output_dir: where `predictions.json` goes.
        resume: keep the records of scans that an earlier run finished with the same settings, so that
            `remaining` leaves those out. Without it, earlier records are replaced.
        settings: everything that decides what a scan's result is: the checkpoint's path, the network, spacing, ...
            Stored with each record as a short hash, in which `weights` count by the contents of the files.
        save_probabilities: whether scans get a file of class probabilities, too.
        scored_classes: the classes of an evaluation, for which a finished scan has scores; empty for predictions.

    Attributes:
        earlier_scores: scores of the scans that `remaining` left out.
        begun: time when the run began, of a clock in seconds.
        nothing_left: whether an earlier run that is resumed has done everything, as `remaining` found.
        unwritten: files of the run that could not be written.
    """

    def __init__(
        self,
        output_dir: str | Path,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        save_probabilities: bool = False,
        scored_classes: Sequence[str] = (),
    ) -> None:
        self.path = Path(output_dir) / run_files.PREDICTIONS
        self.resume = resume
        self.settings = settings or {}
        self._configured = configured(self.settings, "records#settings")
        self._hash: str | None = None
        self.begun = time.monotonic()
        self.nothing_left = False
        self.earlier_scores: list[CaseScores] = []
        self.unwritten = UnwrittenFiles()
        own = f"predictions.rank{rank()}.jsonl" if world_size() > 1 else "predictions.jsonl"
        self._journal = Journal(self.path.with_name(own))
        self._save_probabilities = save_probabilities
        self._scored_classes = scored_classes
        self._records: dict[_Key, dict[str, Any]] = {}
        self._others: dict[_Key, dict[str, Any]] = {}  # of scans that an earlier run had to do, and this one has not
        self._inputs: dict[_Key, str] = {}
        self._everything: set[_Key] = set()
        self._expected: set[_Key] = set()
        self._changed = False
        self._next_write = 1

    @property
    def all(self) -> list[dict[str, Any]]:
        """The records so far, sorted by case."""
        return [self._records[key] for key in sorted(self._records)]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records of the scans that failed."""
        return [record for record in self.all if record["status"] == "failed"]

    @property
    def missing(self) -> list[str]:
        """Cases that were to be done and have no record, for instance because memory ran out while they were read."""
        return sorted(case for case, _ in self._expected - set(self._records))

    @property
    def settings_hash(self) -> str:
        """Twelve hexadecimal digits that change with the settings, also with a checkpoint's content."""
        if self._hash is None:
            self._hash = hash_settings(self._configured, self.settings.get(WEIGHTS))
        return self._hash

    def add(self, record: Mapping[str, Any]) -> None:
        """Put down what became of a scan.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self._changed:
            folder_of(self.path.parent).remove(run_files.RESULTS)  # made of the label maps that were there
            self._changed = True
        told = {key: readable(one) if isinstance(one, str) else one for key, one in record.items()}
        key = key_of(told)
        self._records[key] = {**told, "settings": self.settings_hash, "input": self._inputs.get(key)}
        self._journal.append(self._records[key])
        if world_size() == 1 and len(self._records) >= self._next_write:
            self._write()
            self._next_write = 2 * len(self._records)

    def close(self) -> None:
        """Put the records of this process into `predictions.json`, if it is alone and has added some.

        Raises:
            OutputError: the file cannot be written.
        """
        self._journal.close()
        if world_size() == 1 and self._changed:
            self._write()
            self._remove_journals()

    def collect(self) -> None:
        """Wait for the other processes, and put the records of all of them into one file."""
        self.close()
        wait_for_all()
        if world_size() > 1 and rank() == 0:
            for path in journals(self.path.parent):
                self._records |= {key_of(record): record for record in records_of(path)}
            self._expected = self._everything
            self._write()
            self._remove_journals()
        wait_for_all()

    def remaining(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The datalist entries that are still to be done, by this process: all, unless an earlier run is resumed.

        Raises:
            OutputError: a file of the earlier run cannot be read; or one that this run would write is an input of it,
                or not segbundle's.
        """
        keys = [_key(entry) for entry in data]
        self._everything = set(keys)
        self._inputs = {key: _fingerprint(entry) for key, entry in zip(keys, data, strict=True)}
        if self.resume:
            self._read_earlier()
        left = [entry for key, entry in zip(keys, data, strict=True) if key not in self._records]
        self._refuse_to_replace(left)
        if self.resume:
            self.nothing_left = not left
            _logger.info("resuming: %d of %d scans are done", len(data) - len(left), len(data))
        wait_for_all()  # all have read what is changed now
        if rank() == 0:
            self._begin()
        wait_for_all()
        share = left[rank() :: world_size()]
        self._expected = {_key(entry) for entry in share} | set(self._records)
        return share

    def _read_earlier(self) -> None:
        cases = {case for case, _ in self._everything}
        earlier = {key_of(one): one for path in record_files(self.path.parent) for one in records_of(path)}
        asked = [record for record in earlier.values() if record["case"] in cases]
        self._records = {key_of(record): record for record in asked if self._is_done(record)}
        self.earlier_scores = [
            scores_from_json(record["case"], record["scores"])
            for record in self._records.values()
            if record.get("scores") is not None
        ]
        same = [record for record in asked if record.get("settings") == self.settings_hash]
        if other := len(asked) - len(same):
            _logger.warning("%d scans were done with other settings or weights and are done again", other)
        changed = sum(record["status"] == "ok" and not self._has_same_input(record) for record in same)
        if changed:
            _logger.warning("%d scans, or their references, have changed and are done again", changed)
        if rank() == 0:
            others = {key: record for key, record in earlier.items() if record["case"] not in cases}
            if self._scored_classes:  # the report of an evaluation lists every failure in its folder
                others = {key: record for key, record in others.items() if record["status"] == "ok"}
            self._others = others

    def _refuse_to_replace(self, left: Sequence[dict[str, Any]]) -> None:
        """Refuse to begin if a file that this run will write holds something of others, or an input."""
        folder, readable = look_at(self.path.parent), [entry for entry in left if "error" not in entry]
        others = list[Path]()
        for path in record_files(folder.folder):
            if not folder.wrote(path):
                foreign = folder.has_record and not run_files.RANK.fullmatch(path.name)
                if foreign or path.is_symlink() or (path.suffix == ".jsonl" and not records_of(path)):
                    others.append(path)
                    continue
                records_of(path)
                folder.adopt(path)
        written = [run_files.label_map("", entry["case"]) for entry in readable]
        if self._save_probabilities:
            written += [run_files.probabilities("", entry["case"]) for entry in readable]
        if left or self._scored_classes:  # an evaluation writes its scores also if no case is left
            written += [Path(name) for name in (run_files.PREDICTIONS, run_files.TRAINING_CASES, *run_files.RESULTS)]
        if folder.is_claimed:
            folder.refuse_foreign(dict.fromkeys([*others, *(folder.folder / path for path in written)]))
        inputs = (path for entry in readable for key in ("image", "label") for path in _paths(entry.get(key, [])))
        folder.refuse_inputs(written, inputs)

    def _begin(self) -> None:
        """Leave nothing of an earlier run that could pass for this one's."""
        remove_partial(self.path.parent)
        if self.path.exists() or self._records:
            self._write()
        self._remove_journals()

    def _write(self) -> None:
        records = self._others | self._records
        write_json(self.path, [records[key] for key in sorted(records)])

    def _remove_journals(self) -> None:
        folder = folder_of(self.path.parent)
        for path in record_files(self.path.parent):
            if path.name != self.path.name:
                path.unlink()
                if folder.is_claimed:
                    folder.record_removal(path)

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        """Return whether a scan was finished with these settings, its files are unchanged and its results are there."""
        if record["status"] != "ok" or record.get("settings") != self.settings_hash:
            return False
        scores = (record.get("scores") or {"classes": []})["classes"]
        if not self._has_same_input(record) or len(scores) != len(self._scored_classes):
            return False
        results = [record.get("prediction") or "", *filter(None, [record.get("probabilities")])]
        return all(Path(one).is_file() for one in results)

    def _has_same_input(self, record: Mapping[str, Any]) -> bool:
        return record.get("input") == self._inputs.get(key_of(record))


def source_of(image: str | Sequence[str]) -> str:
    """Return the path of a scan in its record; of several channels that of the first."""
    return readable(os.path.realpath(_paths(image)[0]))


def _key(entry: Mapping[str, Any]) -> _Key:
    return readable(str(entry["case"])), source_of(entry["image"])


def _paths(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else [str(one) for one in given]


def readable(text: str) -> str:
    r"""Return a name with bytes that are not UTF-8 as in `\udcff`, so that it can be written into files.

    Example:
        >>> print(readable(b"a\xff.nii".decode("utf-8", "surrogateescape")))
        a\udcff.nii
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _fingerprint(entry: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that change with the files of a scan and with its reference, if it has one.

    Of files, paths, sizes and dates count; of the reference also which classes are annotated, and the ignore label.
    """
    digest = new_digest()
    for key in ("annotated", "ignore_label"):
        if key in entry:
            digest.update(f"{key} {entry[key]}\n".encode())
    for given in [*_paths(entry["image"]), *_paths(entry.get("label", []))]:
        try:
            files = files_of(os.path.realpath(given))
            known = [file.stat() if file.exists() else None for file in files]
        except (OSError, ValueError) as error:  # reading the scan will tell
            files, known = [Path(f"{given} {error}")], [None]
        for file, found in zip(files, known, strict=True):
            digest.update(os.fsencode(f"{file} {found and found.st_size} {found and found.st_mtime_ns}\n"))
    return shortened(digest)
