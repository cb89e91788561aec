"""What became of each scan of a batch: `predictions.json`, and going on after an interruption."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.data.scan_files import files_of
from segbundle.engines.checkpoints import models_of_folds
from segbundle.engines.ranks import rank, wait_for_all, world_size
from segbundle.errors import OutputError
from segbundle.files import remove_partial, write_json
from segbundle.reports import RESULTS

_logger = logging.getLogger(__name__)
_RANKS = "predictions.rank*.json"


class ScanRecords:
    """One record per scan in `<output_dir>/predictions.json`, written anew after every scan and sorted by case.

    Of several processes each has a share of the scans and a file of its own, until `collect` makes one of them; if one
    process is lost, the others' records stay, and `resume` finds them.

    Args:
        output_dir: where `predictions.json` goes.
        resume: keep the records of scans that an earlier run finished with the same settings, so that
            `remaining` leaves those out. Without it, earlier records are replaced.
        settings: everything that decides what a scan's result is: the checkpoint's path, the network, spacing, ...
            Stored with each record as a short hash; paths of files count by their content.

    Attributes:
        nothing_left: whether an earlier run that is resumed has done everything, as `remaining` found.
    """

    def __init__(self, output_dir: str | Path, resume: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(output_dir) / "predictions.json"
        self._own = self.path.with_name(f"predictions.rank{rank()}.json") if world_size() > 1 else self.path
        self.resume = resume
        self.settings = settings or {}
        self._by_case: dict[str, dict[str, Any]] = {}
        self._others: dict[str, dict[str, Any]] = {}  # of scans that an earlier run had to do, and this one has not
        self._inputs: dict[str, str] = {}
        self._everything: set[str] = set()
        self._expected: set[str] = set()
        self._hash: str | None = None
        self._changed = False
        self.nothing_left = False

    @property
    def all(self) -> list[dict[str, Any]]:
        """The records so far, sorted by case."""
        return [self._by_case[case] for case in sorted(self._by_case)]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records of the scans that failed."""
        return [record for record in self.all if record["status"] == "failed"]

    @property
    def missing(self) -> list[str]:
        """Cases that were to be done and have no record, for instance because memory ran out while they were read."""
        return sorted(self._expected - set(self._by_case))

    @property
    def settings_hash(self) -> str:
        """Twelve hexadecimal digits that change with the settings, also with a checkpoint's content."""
        if self._hash is None:
            text = json.dumps(_described(self.settings), sort_keys=True)
            self._hash = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._hash

    def add(self, record: Mapping[str, Any]) -> None:
        """Put down what became of a scan.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self._changed:
            for name in RESULTS:
                self.path.with_name(name).unlink(missing_ok=True)  # what was made of the label maps that were there
            self._changed = True
        case = record["case"]
        known = {"settings": self.settings_hash, "input": self._inputs.get(case)}
        self._by_case[case] = {**record, **known}
        self._write(self._own)

    def _write(self, path: Path) -> None:
        records = self._others | self._by_case
        write_json(path, [records[case] for case in sorted(records)])

    def collect(self) -> None:
        """Wait for the other processes, and put the records of all of them into one file."""
        wait_for_all()
        if world_size() > 1 and rank() == 0:
            for path in self._files_of_ranks():
                self._by_case |= _read(path)
            self._expected = self._everything
            self._write(self.path)
            for path in self._files_of_ranks():
                path.unlink()
        wait_for_all()

    def _files_of_ranks(self) -> list[Path]:
        return sorted(self.path.parent.glob(_RANKS))

    def remaining(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The datalist entries that are still to be done, by this process: all, unless an earlier run is resumed.

        Raises:
            OutputError: a file of the earlier run cannot be read.
        """
        self._everything = {entry["case"] for entry in data}
        self._inputs = {entry["case"]: _fingerprint(entry["image"]) for entry in data}
        left = list(data)
        if self.resume:
            files = [path for path in (self.path, *self._files_of_ranks()) if path.exists()]
            earlier = {case: record for path in files for case, record in _read(path).items()}
            asked = {case: record for case, record in earlier.items() if case in self._everything}
            self._by_case = {case: record for case, record in asked.items() if self._is_done(record)}
            changed = sum(record.get("settings") != self.settings_hash for record in asked.values())
            if changed:
                _logger.warning("%d scans were done with other settings or weights and are done again", changed)
            left = [entry for entry in data if entry["case"] not in self._by_case]
            self.nothing_left = not left
            _logger.info("resuming: %d of %d scans are done", len(data) - len(left), len(data))
            if rank() == 0:
                self._others = {case: record for case, record in earlier.items() if case not in self._everything}
        wait_for_all()  # all have read what is changed now
        if rank() == 0:
            self._begin()
        wait_for_all()
        share = left[rank() :: world_size()]
        self._expected = {entry["case"] for entry in share} | set(self._by_case)
        return share

    def _begin(self) -> None:
        """Leave nothing of an earlier run that could pass for this one's."""
        remove_partial(self.path.parent)
        if self.path.exists() or self._by_case:
            self._write(self.path)
        for path in self._files_of_ranks():
            path.unlink()

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        """Whether a scan was finished with these settings, and its files are those of then and its results there."""
        if record.get("status") != "ok" or record.get("settings") != self.settings_hash:
            return False
        results = [record["prediction"] or "", *([record["probabilities"]] if record.get("probabilities") else [])]
        return record.get("input") == self._inputs[record["case"]] and all(Path(path).is_file() for path in results)


def _fingerprint(image: str | Sequence[str]) -> str:
    """Twelve hexadecimal digits that change with the paths, sizes and dates of a scan's files."""
    digest = hashlib.sha256()
    for given in [image] if isinstance(image, str) else image:
        for file in files_of(Path(given).resolve()):
            known = file.stat() if file.exists() else None
            digest.update(f"{file} {known and known.st_size} {known and known.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {record["case"]: record for record in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{path}: is no list of records ({error}); move it away to start anew.") from error


def _described(value: Any) -> Any:
    """Something JSON can hold that is the same whenever the value means the same."""
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    if isinstance(value, str) and Path(value).is_file():
        return _digest(Path(value))
    if isinstance(value, str) and (models := models_of_folds(Path(value))):
        return [_digest(model) for model in models]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
