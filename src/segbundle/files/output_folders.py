"""The record of the files that segbundle wrote into an output folder, and refusing to replace any other file.

Before a file is renamed to its final path, its name, size and date are appended to `.segbundle-files.jsonl` in the
output folder. A file that no line describes was written or changed by someone else.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.hashing import add_ends, ends_tell_all, new_digest, shortened
from segbundle.files.recognition import recognized

RECORD = ".segbundle-files.jsonl"
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Links are not followed, and opening a named pipe does not wait."""
_NAMED = 3
_MOST_LINES = 100
"""Outdated lines of a record before it is rewritten."""
_GONE = (-1, -1, None)
"""Size, date and hash that describe no file."""
_claimed: dict[Path, OutputFolder] = {}
_seen: dict[Path, OutputFolder] = {}


def resolve(folder: str | Path) -> Path:
    """Return the absolute path of a folder, without links.

    Raises:
        OutputError: it is a broken link, a link to itself, or not a valid path.
    """
    try:
        resolved = Path(folder).resolve()
        dangling = Path(folder).is_symlink() and not resolved.exists()
    except RuntimeError as error:
        raise OutputError(f"{folder}: is a link that leads back to itself. Choose another folder.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be created ({reason}). Choose another folder.") from error
    if dangling:
        raise OutputError(
            f"{folder}: is a link to {resolved}, which does not exist. Create it, or choose another folder."
        )
    return resolved


def claim(folder: str | Path) -> OutputFolder:
    """Record what this process writes into a folder from now on, and refuse to replace other files there.

    Raises:
        OutputError: the record of earlier runs cannot be read.
    """
    resolved = resolve(folder)
    _claimed[resolved] = OutputFolder(resolved)
    return _claimed[resolved]


def refuse_to_replace(*paths: str | Path) -> None:
    """Refuse to write to paths that contain anything that segbundle did not write; record what is written.

    Raises:
        OutputError: names the folder in the place of a file, or the first files that something else wrote.
    """
    for path in paths:
        if Path(path).is_dir():
            raise OutputError(f"{path}: is a folder, and a file would be written there. Choose another path.")
        (owner_of(path) or claim(Path(path).parent)).refuse_foreign([Path(path).absolute()])


def owner_of(path: str | Path) -> OutputFolder | None:
    """Return the innermost claimed folder that contains a path, or None."""
    parent = resolve(Path(path).parent)
    return next((_claimed[folder] for folder in (parent, *parent.parents) if folder in _claimed), None)


def look_at(folder: str | Path) -> OutputFolder:
    """Return what is known about a folder's files, and make `folder_of` return it unless the folder is claimed.

    Raises:
        OutputError: the record of earlier runs cannot be read.
    """
    resolved = resolve(folder)
    if resolved not in _claimed:
        _seen[resolved] = OutputFolder(resolved)
    return folder_of(resolved)


def folder_of(folder: str | Path) -> OutputFolder:
    """Return a claimed folder, or what is known about an unclaimed folder, whose new files are not recorded.

    Raises:
        OutputError: the record of earlier runs cannot be read.
    """
    resolved = resolve(folder)
    return _claimed.get(resolved) or _seen.get(resolved) or OutputFolder(resolved)


class OutputFolder:
    """The files that segbundle wrote into a folder.

    In a folder without a record, files from versions that kept no record are recognized by their contents.

    Args:
        folder: resolved path.

    Raises:
        OutputError: the record of earlier runs cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._known: dict[str, list[tuple[Any, ...]]] = {}
        self._offset = 0
        self._read()
        self._has_record = self._offset > 0
        self._earlier = [] if self._has_record else [(name, *_stamp(folder / name)) for name in recognized(folder)]
        self._add(self._earlier)

    @property
    def has_record(self) -> bool:
        """Whether what was written into the folder is on record."""
        return self._has_record

    @property
    def is_claimed(self) -> bool:
        """Whether this process records what it writes into the folder."""
        return _claimed.get(self.folder) is self

    @property
    def record_path(self) -> Path:
        """Path of the record of written files."""
        return self.folder / RECORD

    def record(self, path: Path, written: Path | None = None) -> None:
        """Append a file to the record before it is renamed to its final path.

        Args:
            path: its final path.
            written: the complete file, which will be renamed; None for a file that grows, or a folder.

        Raises:
            OSError: the record cannot be written.
        """
        self._append_entry((self._name(path), *((None, None, None) if written is None else _stamp(written))))

    def record_removal(self, path: Path) -> None:
        """Record that a file that grew is gone, so that a later file of its name counts as foreign.

        Raises:
            OSError: the record cannot be written.
        """
        self._append_entry((self._name(path), *_GONE))

    def _append_entry(self, entry: tuple[Any, ...]) -> None:
        """Append an entry, after those of files from versions that kept no record."""
        with self._lock:
            lines = [entry] if self._has_record else [*self._earlier, entry]
            _append(self.record_path, lines)
            self._has_record = True
            self._add(lines)

    def record_partial(self, process: int) -> None:
        """Record, once, that a process writes files that stay partial if it is killed.

        Raises:
            OSError: the record cannot be written.
        """
        with self._lock:
            if (start := run_files.partial_start(process)) not in self._known:
                self.record(self.folder / start)

    def left_partial(self, path: Path) -> bool:
        """Return whether a file is a partial file of a killed run."""
        found = run_files.partial_of(path.name)
        return found is not None and found in self._known and not path.is_dir() and not path.is_symlink()

    def adopt(self, path: Path) -> None:
        """Treat the current version of a file as written by segbundle; record it if the folder is claimed.

        Raises:
            OSError: the record cannot be written.
        """
        if self.is_claimed:
            self.record(path, path)
        else:
            self._add([(self._name(path), *_stamp(path))])

    def wrote(self, path: Path) -> bool:
        """Return whether a file or a folder exists as segbundle wrote it."""
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return False
        with self._lock:
            return self._describes(path, found) or (self._read() and self._describes(path, found))

    def foreign(self, paths: Iterable[str | Path]) -> list[Path]:
        """Return the paths that contain something that segbundle did not write, or that was changed since."""
        full = [self.folder / path for path in paths]
        return [path for path in full if os.path.lexists(path) and not self.wrote(path)]

    def refuse_foreign(self, paths: Iterable[str | Path]) -> None:
        """Refuse to write to paths that contain something that segbundle did not write, or that was changed since.

        Raises:
            OutputError: names the first ones.
        """
        if foreign := self.foreign(paths):
            raise OutputError(
                f"{self.folder}: {_named(foreign)} not written by segbundle, or changed since, and would be replaced. "
                "Choose another --output_dir or --output, or move the existing files."
            )

    def refuse_inputs(self, paths: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
        """Refuse to write to paths that are read as inputs.

        Raises:
            OutputError: names the first ones.
        """
        read = {os.path.realpath(path) for path in inputs}
        both = [path for path in (self.folder / path for path in paths) if os.path.realpath(path) in read]
        if both:
            raise OutputError(
                f"{self.folder}: {_named(both)} an input of this run, and would be replaced. Choose another "
                "--output_dir."
            )

    def refuse_links(self, names: Iterable[str]) -> None:
        """Refuse subfolders that are links or files.

        Raises:
            OutputError: names the first ones.
        """
        wrong = [path for name in names if (path := self.folder / name).is_symlink() or path.is_file()]
        if wrong:
            raise OutputError(
                f"{self.folder}: {_named(wrong)} not a folder but a link or a file. Choose another "
                "--output_dir, or move it away."
            )

    def remove(self, paths: Iterable[str | Path]) -> None:
        """Remove files that segbundle wrote, and keep all others.

        Raises:
            OSError: one cannot be removed.
        """
        for path in (self.folder / path for path in paths):
            if self.wrote(path):
                path.unlink(missing_ok=True)

    def shorten(self) -> None:
        """Rewrite the record if most of it is outdated; no other process may write to the folder.

        Raises:
            OSError: the record cannot be written.
        """
        with self._lock:
            needed = {
                name: stamps
                for name, stamps in self._known.items()
                if run_files.partial_of(name) or os.path.lexists(self.folder / name)
            }
            if not self._has_record or sum(map(len, self._known.values())) < _MOST_LINES + 2 * len(needed):
                return
            partial = self.record_path.with_name(f"{RECORD}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            lines = [(name, *self._last_true(name)) for name in needed]
            _append(partial, lines)
            partial.replace(self.record_path)
            self._known, self._offset = {}, 0
            self._read()

    def _last_true(self, name: str) -> tuple[Any, ...]:
        """Return the newest description that matches a file, or else the newest one."""
        stamps = self._known[name]
        if run_files.partial_of(name):
            return stamps[-1]
        now = _stamp(self.folder / name)
        return next((one for one in reversed(stamps) if one[:2] == now[:2]), stamps[-1])

    def _name(self, path: Path) -> str:
        return path.parent.resolve().joinpath(path.name).relative_to(self.folder).as_posix()

    def _describes(self, path: Path, found: os.stat_result) -> bool:
        known = self._known.get(self._name(path), ())
        if known and known[-1][0] is None:  # still growing, or a folder
            return True
        if any((size, date) == (found.st_size, found.st_mtime_ns) for size, date, _ in known):
            return True
        ends = {end for size, _, end in known if size == found.st_size and end is not None}
        return bool(ends) and _stamp(path)[2] in ends  # a copy, which has another date

    def _add(self, lines: Iterable[Sequence[Any]]) -> None:
        for name, *stamp in lines:
            self._known.setdefault(name, []).append(tuple(stamp))

    def _read(self) -> bool:
        """Read what this and other processes have recorded since the last call; return whether there was anything."""
        try:
            with os.fdopen(os.open(self.record_path, os.O_RDONLY | _FLAGS), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OutputError(f"{self.record_path}: is not a file. Move it away.")
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutputError(f"{self.record_path}: cannot be read ({error.strerror}). Move it away.") from error
        content = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        lines = [entry for line in content.splitlines() if (entry := _parsed(line)) is not None]
        if content and not lines and not self._offset:
            raise OutputError(f"{self.record_path}: is not a record of written files. Move it away.")
        self._offset += len(content)
        self._add(lines)
        return bool(lines)


def _stamp(path: Path) -> tuple[int | None, int | None, str | None]:
    """Return size and date of a file, and a hash if its ends cover all of its contents; only None for a folder."""
    if path.is_dir():
        return None, None, None
    found = os.lstat(path)
    if not ends_tell_all(path, found.st_size):
        return found.st_size, found.st_mtime_ns, None
    digest = new_digest()
    add_ends(digest, path)
    return found.st_size, found.st_mtime_ns, shortened(digest)


def _append(path: Path, lines: Sequence[Sequence[Any]]) -> None:
    """Append lines to a record in one call, so that the lines of several processes do not mix."""
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o666), "r+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the rest of a killed run's line
                content = b"\n" + content
        file.write(content)
        os.fsync(file.fileno())


def _parsed(line: bytes) -> list[Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], str) else None


def _named(paths: Sequence[Path]) -> str:
    """Return names and a verb, as in `a.csv and 2 more are`."""
    names = ", ".join(path.name for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{names}{more} {'is' if len(paths) == 1 else 'are'}"
