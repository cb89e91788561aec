"""Writing files so that a killed run leaves no half of one."""

from __future__ import annotations

import atexit
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError

_PARTIAL = ".partial-"
_LOCK = ".lock"
_locks: list[Any] = []
"""Held until the process ends."""


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it takes `path`'s place when the block ends well.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a machine that stops may have the new name and not the new content
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
    folder = Path(folder).resolve()
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

    lock = FileLock(Path(folder).resolve() / _LOCK, timeout=0, is_singleton=True)
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
    """Remove what killed runs have left half written in a folder; no other run may be writing to it."""
    for path in Path(folder).glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            path.unlink()


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for people and programs, whole or not at all: comma, UTF-8, RFC 4180.

    With a byte order mark where there are other letters than ASCII's: Excel takes them for something else without it,
    and pandas reads either.

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    content = text.getvalue()
    with written_whole(path) as partial:
        partial.write_text(content, encoding="utf-8" if content.isascii() else "utf-8-sig", newline="")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON for people and programs: indented, UTF-8, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        ValueError: `content` holds NaN or infinity, which JSON does not have.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with written_whole(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
