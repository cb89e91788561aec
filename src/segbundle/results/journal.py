"""Records of the scans of a batch: `predictions.json`, and the journals to which runs append records."""

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
    """Append-only JSON Lines file of records. After a killed run, at most the last line is incomplete.

    Args:
        path: file whose name ends in `.jsonl`. The file and its folder are created with the first record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(Path(folder) / "predictions.jsonl")
        ...     journal.append({"case": "case_1", "status": "ok"})
        ...     journal.close()
        ...     [record["case"] for record in read_records(Path(folder))]
        ['case_1']
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record and flush it to disk.

        Args:
            record: values that JSON can represent.

        Raises:
            OutputError: the file cannot be written, or was not written by segbundle.
        """
        line = f"{json.dumps(record, ensure_ascii=False, allow_nan=False)}\n".encode()
        try:
            if self._file is None:
                self._file = self._open()
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); check the folder and the free space."
            ) from error

    def close(self) -> None:
        """Close the file if it is open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if (owner := owner_of(self.path)) is not None:
            owner.refuse_foreign([self.path.absolute()])
            owner.record(self.path)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _FLAGS, 0o666)


def record_files(folder: Path) -> list[Path]:
    """Return the files with records in a folder, in the order in which they were written.

    Args:
        folder: output folder of predict or evaluate.

    Returns:
        paths of `predictions.json` and, after a killed run, of its journals; empty if there are no such files. Files
        that earlier versions wrote for each rank are included.

    Example:
        >>> record_files(Path("missing"))
        []
    """
    found = sorted(folder.glob("predictions.*"))
    whole = [path for path in found if path.name == run_files.PREDICTIONS or run_files.RANK.fullmatch(path.name)]
    return [path for path in whole if path.is_file()] + journals(folder)


def journals(folder: Path) -> list[Path]:
    """Return the journals of a run that was killed or is still running, one per rank.

    Args:
        folder: output folder of predict or evaluate.

    Returns:
        paths sorted by name; empty if the run has finished, or the folder does not exist

    Example:
        >>> journals(Path("missing"))
        []
    """
    found = sorted(folder.glob("predictions.*"))
    return [path for path in found if run_files.JOURNAL.fullmatch(path.name) and path.is_file()]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the newest record of each scan in a folder, sorted by case.

    Args:
        folder: output folder of predict or evaluate.

    Returns:
        records as dicts; empty if the folder has no files with records

    Raises:
        OutputError: a file cannot be read, or has invalid records.

    Example:
        >>> read_records(Path("missing"))
        []
    """
    found = {key_of(record): record for path in record_files(folder) for record in records_of(path)}
    return [found[key] for key in sorted(found)]


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the case name and the scan path of a record.

    The pair identifies the record; the name does not, because several scans may have the same name.

    Args:
        record: record of a scan. If the record has no path, the returned path is empty.

    Example:
        >>> key_of({"case": "case_1", "image": "a/case_1.nii.gz"})
        ('case_1', 'a/case_1.nii.gz')
    """
    return record["case"], record.get("image") or ""


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the records in one file as dicts, in the order of the file.

    Args:
        path: JSON file, or journal whose name ends in `.jsonl`. An incomplete last line of a journal is ignored.

    Raises:
        OutputError: the file cannot be read, or has invalid records.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "predictions.json"
        ...     _ = path.write_text('[{"case": "case_1", "status": "ok"}]')
        ...     records_of(path)
        [{'case': 'case_1', 'status': 'ok'}]
    """
    from segbundle.results.schemas import Record

    with damage_named(path):
        content = list(_lines(path)) if path.suffix == ".jsonl" else read_json(path, error=OutputError)
        validate(content, list[Record], str(path), OutputError)
    return content


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Add advice about a damaged file to an `OutputError` that is raised in the `with` block.

    Args:
        path: file of a run that is read in the block.

    Raises:
        OutputError: the block raised an `OutputError`. The message names the file, the reason, and what to do.

    Example:
        >>> with damage_named(Path("run.json")):  # doctest: +ELLIPSIS
        ...     raise OutputError("run.json: not valid JSON")
        Traceback (most recent call last):
        segbundle.errors.OutputError: run.json: cannot be read (not valid JSON). Predict or evaluate again, ...
    """
    try:
        yield
    except OutputError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        advice = "Predict or evaluate again, or move the file away."
        raise OutputError(f"{path}: cannot be read ({reason}). {advice}") from error


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
            if number == len(lines):  # incomplete because the run was killed
                return
            raise OutputError(f"{path}: line {number} is not valid JSON.") from error
