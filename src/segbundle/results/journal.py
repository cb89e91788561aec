"""The records of a batch: `predictions.json`, and the journals in which runs append them one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.documents import read_json, validate
from segbundle.files.output_folders import owner_of

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Journal:
    """A file that gets a line of JSON for every record: one of a killed run is complete but for its last line.

    Args:
        path: ending in `.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record.

        Raises:
            OutputError: the file cannot be written, or is not segbundle's.
        """
        line = f"{json.dumps(record, ensure_ascii=False, allow_nan=False)}\n".encode()
        try:
            if self._file is None:
                self._file = self._opened()
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); check the folder and the free space."
            ) from error

    def close(self) -> None:
        """Close the file, if a record was appended."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if (owner := owner_of(self.path)) is not None:
            owner.refuse_foreign([self.path.absolute()])
            owner.record(self.path)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _FLAGS, 0o666)


def record_files(folder: Path) -> list[Path]:
    """Return the files with a folder's records, the newest last: of a killed run, `predictions.json` and journals."""
    found = sorted(folder.glob("predictions.*"))
    whole = [path for path in found if path.name == run_files.PREDICTIONS or run_files.RANK.fullmatch(path.name)]
    return [path for path in whole if path.is_file()] + journals(folder)


def journals(folder: Path) -> list[Path]:
    """Return the journals of a killed run, or of one that is under way."""
    found = sorted(folder.glob("predictions.*"))
    return [path for path in found if run_files.JOURNAL.fullmatch(path.name) and path.is_file()]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return a folder's records, the newest of each scan, sorted by case; none where there are no files.

    Raises:
        OutputError: a file of records is damaged.
    """
    found = {key_of(record): record for path in record_files(folder) for record in records_of(path)}
    return [found[key] for key in sorted(found)]


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells records apart: the case, and the scan where several have one name."""
    return record["case"], record.get("image") or ""


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the records in one file.

    Raises:
        OutputError: it is damaged.
    """
    from segbundle.results.schemas import Record

    with damage_named(path):
        content = list(_lines(path)) if path.suffix == ".jsonl" else read_json(path, error=OutputError)
        validate(content, list[Record], str(path), OutputError)
    return content


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise an error about a file of a run with what to do about it.

    Raises:
        OutputError: the block raised one.
    """
    try:
        yield
    except OutputError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise OutputError(f"{path}: cannot be read ({reason}); predict or evaluate again, or move it away.") from error


def _lines(path: Path) -> Iterator[Any]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}).") from error
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # half written when the run was killed
                return
            raise OutputError(f"{path}: line {number} is not valid JSON.") from error
