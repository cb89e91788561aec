"""Writing files so that a killed run leaves no half of one."""

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
"""Held until the process ends."""
_TEXT_COLUMNS = ("case", "class")
"""Columns of tables whose cells are text, even if they look like numbers."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Beginnings of cells that spreadsheet programs compute, with the apostrophes that keep them from it."""


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it takes `path`'s place when the block ends well.

    In a claimed output folder (`files/output_folders.py`) the file is recorded, and files of others are not replaced.
    Links are replaced, not followed.

    Raises:
        OutputError: the folder or the file cannot be written, or the file is not segbundle's.
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
            os.fsync(file.fileno())  # or a machine that stops may have the new name and not the new content
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
    """Make a folder; if this process has then written nothing into it, it is gone when it ends.

    Raises:
        OSError: it cannot be made.
    """
    folder = resolve(folder)
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(_remove_if_empty, folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing but a lock."""
    with suppress(OSError):
        if all(path.name == _LOCK for path in folder.iterdir()):
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()


def keep_others_out(folder: str | Path) -> None:
    """Let no other process call this for the same folder until this one has ended.

    Raises:
        OutputError: another process has done so and is still running.
    """
    from filelock import FileLock, Timeout

    place = resolve(folder) / _LOCK
    if place.is_symlink() or (place.exists() and (not place.is_file() or place.stat().st_size)):
        raise OutputError(f"{place}: is not an empty file, as runs lock. Move it away, or choose another --output_dir.")
    lock = FileLock(place, timeout=0, is_singleton=True)
    with suppress(OSError, NotImplementedError):  # some network file systems know no locks
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"{folder}: another run is writing to it; wait until it has ended, or choose another --output_dir."
            ) from error
    if not _locks:
        atexit.register(_let_others_in)
    _locks.append(lock)


def _let_others_in() -> None:
    """Give the locks back while Python is still whole: filelock complains if they are left to its end."""
    while _locks:
        _locks.pop().release()


def remove_partial(folder: str | Path) -> None:
    """Remove what killed runs have left half written in a folder, by its record; no other run may be writing to it.

    Raises:
        OutputError: see `segbundle.files.folder_of`.
    """
    known = owner_of(Path(folder) / run_files.RUN_FILE) or folder_of(folder)
    for path in Path(folder).glob(".partial-*"):
        if known.left_partial(path):
            with suppress(OSError):
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 whole or not at all; bytes of file names that are not UTF-8 are escaped.

    Raises:
        OutputError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table for people and programs, whole or not at all: comma, UTF-8, RFC 4180.

    A byte order mark is written where there are other letters than ASCII's: Excel needs it, and pandas reads either.
    A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an apostrophe before it: spreadsheet
    programs would compute it, quoted or not. `read_csv` removes the apostrophe. Numbers stay numbers, except in the
    columns `case` and `class`.

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *([_inert(*cell) for cell in zip(columns, row, strict=True)] for row in rows)])
    content = text.getvalue()
    write_text(path, content if content.isascii() else f"\ufeff{content}")


def read_csv(path: str | Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Return the rows of a table that `write_csv` wrote, by the names of its columns.

    Args:
        path: the file.
        columns: names of the columns that the table must have.

    Raises:
        OutputError: the file is missing, cannot be read, lacks columns, or has rows of another length.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [column for column in columns if column not in header]:
                raise OutputError(f"{path}: has no column {missing[0]!r}. Write it again by the run that made it.")
            rows = []
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise OutputError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header {len(header)}. Correct it."
                    )
                rows.append({name: _as_written(cell) for name, cell in zip(header, row, strict=True)})
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{path}: cannot be read as a table ({error}). Write it again.") from error


def _inert(column: str, cell: str) -> str:
    is_number = column not in _TEXT_COLUMNS and _NUMBER.fullmatch(cell)
    return f"'{cell}" if _FORMULA.match(cell) and not is_number else cell


def _as_written(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON for people and programs: indented, UTF-8, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        ValueError: `content` holds NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
