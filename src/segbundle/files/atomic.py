"""Atomic output of text, tables and JSON, and folder locks. A killed run never leaves an incomplete file."""

from __future__ import annotations

import atexit
import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of, owner_of, resolve

_LOCK = ".lock"
_locks: list[Any] = []
"""Locks that are released when the process ends."""
_TEXT_COLUMNS = ("case", "class")
"""Columns of tables that contain text, even if a cell looks like a number."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Start of cells that spreadsheet programs would evaluate, after any apostrophes that prevent it."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the `with` block ends without an error.

    The temporary path is in the same folder. If an error occurs, the temporary file is removed. In a claimed output
    folder (see `segbundle.files.claim`), the file is recorded, and files that segbundle did not write are not replaced.
    Links are replaced, not followed.

    Args:
        path: output path; missing folders are created.

    Raises:
        OutputError: the folder or the file cannot be written, or segbundle did not write the existing file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "scores.txt"
        ...     with atomic_write(path) as partial:
        ...         _ = partial.write_text("0.9")
        ...     path.read_text()
        '0.9'
    """
    path = Path(path)
    partial, owner = run_files.partial(path, os.getpid()), owner_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if owner is not None:
            owner.refuse_foreign([path.absolute()])
            owner.record_partial(os.getpid())
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # without it, a power failure may leave the new name without the new content
        if owner is not None:
            owner.refuse_foreign([path.absolute()])
            owner.record(path, partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the folder and the free space.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def make_folder(folder: str | Path) -> None:
    """Create a folder. When the process ends, the folder is removed if it contains nothing but a lock.

    Args:
        folder: path of the folder. An existing folder is neither changed nor removed.

    Raises:
        OSError: the folder cannot be created.
        OutputError: the path is a broken link, a link to itself, or not valid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_folder(f"{folder}/runs/first")
        ...     Path(folder, "runs", "first").is_dir()
        True
    """
    folder = resolve(folder)
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(_remove_if_empty, folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder that is empty except for a lock."""
    with suppress(OSError):
        if all(path.name == _LOCK for path in folder.iterdir()):
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()


def lock_folder(folder: str | Path) -> None:
    """Lock a folder until this process ends. On file systems without locks, nothing happens.

    Args:
        folder: existing folder.

    Raises:
        OutputError: another running process has locked the folder, or the lock file `.lock` in the folder is not an
            empty file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock_folder(folder)
        ...     [path.name for path in Path(folder).iterdir()]
        ['.lock']
    """
    from filelock import FileLock, Timeout

    path = resolve(folder) / _LOCK
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size)):
        raise OutputError(f"{path}: is not an empty lock file. Move it away, or choose another --output_dir.")
    lock = FileLock(path, timeout=0, is_singleton=True)
    with suppress(OSError, NotImplementedError):  # some network file systems do not support locks
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"{folder}: another run is writing to it. Wait until it has ended, or choose another --output_dir."
            ) from error
    if not _locks:
        atexit.register(_release_locks)
    _locks.append(lock)


def _release_locks() -> None:
    """Release all locks before Python shuts down, because filelock warns about open locks."""
    while _locks:
        _locks.pop().release()


def remove_partial(folder: str | Path) -> None:
    """Remove the partial files that killed runs left in a folder.

    Only partial files of processes in the record of the folder are removed. Call this function only while no other run
    writes to the folder.

    Args:
        folder: output folder.

    Raises:
        OutputError: the record of the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     remove_partial(folder)
    """
    owner = owner_of(Path(folder) / run_files.RUN_FILE) or folder_of(folder)
    for path in Path(folder).glob(".partial-*"):
        if owner.is_recorded_partial(path):
            with suppress(OSError):
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically. Characters that UTF-8 cannot encode, as in some file names, are escaped.

    Args:
        path: output path.
        text: content.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/notes.txt", "done")
        ...     Path(folder, "notes.txt").read_text()
        'done'
    """
    with atomic_write(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    r"""Write a CSV table atomically (comma, UTF-8, RFC 4180).

    If the table contains non-ASCII letters, the file begins with a byte order mark, which Excel needs and pandas
    accepts. A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return is prefixed with an apostrophe,
    because spreadsheet programs would evaluate such a cell even in quotes. `read_csv` removes the apostrophe. Numbers
    are not prefixed, except in the columns `case` and `class`.

    Args:
        path: output path.
        columns: names of the columns.
        rows: cells of each row, as text.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(f"{folder}/metrics.csv", ["case", "dice"], [["a", "0.9"]])
        ...     Path(folder, "metrics.csv").read_text()
        'case,dice\na,0.9\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [columns, *([_escape_cell(*cell) for cell in zip(columns, row, strict=True)] for row in rows)]
    )
    content = text.getvalue()
    write_text(path, content if content.isascii() else f"\ufeff{content}")


def read_csv(path: str | Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Return the rows of a table written by `write_csv`, as dicts by column name.

    Args:
        path: path of the table.
        columns: names of required columns.

    Raises:
        OutputError: the file is missing or cannot be read, or columns or cells are missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(f"{folder}/metrics.csv", ["case", "dice"], [["a", "0.9"]])
        ...     read_csv(f"{folder}/metrics.csv", ["dice"])
        [{'case': 'a', 'dice': '0.9'}]
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [column for column in columns if column not in header]:
                raise OutputError(f"{path}: has no column {missing[0]!r}. Repeat the run that wrote it.")
            rows = []
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise OutputError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, but the header has {len(header)}. "
                        "Correct the line."
                    )
                rows.append({name: _unescape_cell(cell) for name, cell in zip(header, row, strict=True)})
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{path}: cannot be read as a table ({error}). Repeat the run that wrote it.") from error


def _escape_cell(column: str, cell: str) -> str:
    is_number = column not in _TEXT_COLUMNS and _NUMBER.fullmatch(cell)
    return f"'{cell}" if _FORMULA.match(cell) and not is_number else cell


def _unescape_cell(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_json(path: str | Path, content: Any) -> None:
    """Write indented UTF-8 JSON atomically.

    Args:
        path: output path.
        content: JSON values.

    Raises:
        OutputError: the file cannot be written.
        ValueError: `content` contains NaN or infinity, which JSON does not support.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(f"{folder}/summary.json", {"dice": 0.9})
        ...     json.loads(Path(folder, "summary.json").read_text())
        {'dice': 0.9}
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
