"""Records of the files that segbundle wrote into output folders; other files are never replaced.

Before a file is renamed to its final path, its name, size and date are appended to `.segbundle-files.jsonl` in the
output folder. A file without a matching line is foreign: another program wrote or changed the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.hashing import END, file_ends, shortened
from segbundle.files.recognition import recognized

RECORD = ".segbundle-files.jsonl"
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Links are not followed, and opening a named pipe does not wait."""
_MAX_NAMES = 3
"""Maximum number of file names in an error message."""
_MAX_OUTDATED_LINES = 100
"""Number of outdated lines above which a record is rewritten."""
_REMOVED = (-1, -1, None)
"""Size, date and hash of a removed file; no file matches them."""
_claimed: dict[Path, OutputFolder] = {}
_opened: dict[Path, OutputFolder] = {}


def resolve(folder: str | Path) -> Path:
    """Return the absolute path of a folder with links resolved.

    Args:
        folder: path of a folder that may not exist.

    Raises:
        OutputError: the path is a broken link, a link to itself, or not valid.

    Example:
        >>> resolve("/nowhere/../runs").as_posix()
        '/runs'
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
        raise OutputError(f"{folder}: is a broken link to {resolved}. Create that folder, or choose another folder.")
    return resolved


def claim(folder: str | Path) -> OutputFolder:
    """Claim an output folder for this process, and return it with its record.

    From then on, `atomic_write` records every file that it writes into the folder, and raises an error instead of
    replacing a file that segbundle did not write.

    Args:
        folder: output folder; need not exist yet.

    Raises:
        OutputError: the path is not valid (see `resolve`), or the record of earlier runs cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     claim(folder).is_claimed
        True
    """
    resolved = resolve(folder)
    _claimed[resolved] = OutputFolder(resolved)
    return _claimed[resolved]


def refuse_to_replace(*paths: str | Path) -> None:
    """Raise an error if an output path is a folder or a file that segbundle did not write.

    The folders of the paths are claimed, unless they are within a claimed folder.

    Args:
        paths: paths of files to be written.

    Raises:
        OutputError: a path is a folder or a foreign file (the message names the path), or a folder cannot be claimed
            (see `claim`).

    Example:
        >>> refuse_to_replace("/nowhere/report.html")
    """
    for path in paths:
        if Path(path).is_dir():
            raise OutputError(f"{path}: is a folder, not a file. Choose another path for the output file.")
        (owner_of(path) or claim(Path(path).parent)).refuse_foreign([Path(path).absolute()])


def owner_of(path: str | Path) -> OutputFolder | None:
    """Return the innermost claimed folder that contains a path, or None if no claimed folder contains it.

    Args:
        path: path of a file.

    Raises:
        OutputError: the folder of the file is a broken link, a link to itself, or not valid.

    Example:
        >>> owner_of("/nowhere/else/run.json") is None
        True
    """
    parent = resolve(Path(path).parent)
    return next((_claimed[folder] for folder in (parent, *parent.parents) if folder in _claimed), None)


def open_folder(folder: str | Path) -> OutputFolder:
    """Return an output folder with its record, and cache it for later calls of `folder_of`.

    The record is read again, unless the folder is claimed.

    Args:
        folder: output folder.

    Raises:
        OutputError: the record of earlier runs cannot be read.

    Example:
        >>> folder = open_folder("/nowhere/opened")
        >>> folder_of("/nowhere/opened") is folder
        True
    """
    resolved = resolve(folder)
    if resolved not in _claimed:
        _opened[resolved] = OutputFolder(resolved)
    return folder_of(resolved)


def folder_of(folder: str | Path) -> OutputFolder:
    """Return an output folder with its record. New files are recorded only if the folder is claimed.

    Args:
        folder: output folder.

    Raises:
        OutputError: the record of earlier runs cannot be read.

    Example:
        >>> folder_of("/nowhere").is_claimed
        False
    """
    resolved = resolve(folder)
    return _claimed.get(resolved) or _opened.get(resolved) or OutputFolder(resolved)


class OutputFolder:
    """Output folder with the record of the files that segbundle wrote into it.

    Earlier versions of segbundle kept no record. In folders without a record, files of these versions are recognized by
    their contents.

    Args:
        folder: path of the folder, with links resolved (see `resolve`). The folder may not exist yet.

    Attributes:
        folder: path of the folder.
        record_path: path of the record of written files.
        has_record: whether the record exists.

    Raises:
        OutputError: the record of earlier runs cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     folder = claim(path)
        ...     _ = (folder.folder / "notes.txt").write_text("mine")
        ...     [foreign.name for foreign in folder.foreign(["notes.txt", "run.json"])]
        ['notes.txt']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record_path = folder / RECORD
        self._lock = threading.RLock()
        self._known: dict[str, list[tuple[Any, ...]]] = {}
        self._offset = 0
        self._read()
        self.has_record = self._offset > 0
        self._earlier = [] if self.has_record else [(name, *_stamp(folder / name)) for name in recognized(folder)]
        self._add(self._earlier)

    @property
    def is_claimed(self) -> bool:
        """Whether this process records the files that it writes into the folder."""
        return _claimed.get(self.folder) is self

    def record(self, path: Path, written: Path | None = None, removed: bool = False) -> None:
        """Append a file to the record before it is renamed to its final path.

        Args:
            path: final path.
            written: path of the complete file before it is renamed. None (default) for a folder or a growing file.
            removed: whether a growing file was removed, so that a later file with its name is foreign. Default: False.

        Raises:
            OSError: the record cannot be written.
        """
        stamp = _REMOVED if removed else (None, None, None) if written is None else _stamp(written)
        with self._lock:
            earlier = [] if self.has_record else self._earlier  # files from versions that kept no record
            lines = [*earlier, (self._name(path), *stamp)]
            _append(self.record_path, lines)
            self.has_record = True
            self._add(lines)

    def record_partial(self, process: int) -> None:
        """Record that a process writes partial files, so that they can be removed if the process is killed.

        Args:
            process: ID of the process.

        Raises:
            OSError: the record cannot be written.
        """
        with self._lock:
            if (start := run_files.PARTIAL_START.format(process)) not in self._known:
                self.record(self.folder / start)

    def is_recorded_partial(self, path: Path) -> bool:
        """Return whether a file is a partial file of a recorded process.

        Args:
            path: path of the file.
        """
        found = run_files.partial_of(path.name)
        return found is not None and found in self._known and not path.is_dir() and not path.is_symlink()

    def adopt(self, path: Path) -> None:
        """Treat the current version of a file as written by segbundle, and record it if the folder is claimed.

        Args:
            path: path of the file.

        Raises:
            OSError: the record cannot be written.
        """
        if self.is_claimed:
            self.record(path, path)
        else:
            self._add([(self._name(path), *_stamp(path))])

    def wrote(self, path: Path) -> bool:
        """Return whether segbundle wrote a file or folder that exists, and the file has not changed since.

        Folders and growing files (see `record`) may have changed. The result is False for links.

        Args:
            path: path of the file or folder.
        """
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return False
        with self._lock:
            return self._matches(path, found) or (self._read() and self._matches(path, found))

    def foreign(self, paths: Iterable[str | Path]) -> list[Path]:
        """Return the paths of existing files that segbundle did not write, or that another program changed since.

        Args:
            paths: absolute paths, or paths relative to the folder.
        """
        full = [self.folder / path for path in paths]
        return [path for path in full if os.path.lexists(path) and not self.wrote(path)]

    def refuse_foreign(self, paths: Iterable[str | Path]) -> None:
        """Raise an error if files exist that segbundle did not write, or that another program changed since.

        Args:
            paths: absolute paths, or paths relative to the folder.

        Raises:
            OutputError: such files exist. The message names the first three.
        """
        if foreign := self.foreign(paths):
            verb = "has" if len(foreign) == 1 else "have"
            raise OutputError(
                f"{self.folder}: {_with_verb(foreign, 'was', 'were')} not written by segbundle, or {verb} changed "
                "since, and would be replaced. Choose another --output_dir or --output, or move existing files away."
            )

    def refuse_inputs(self, paths: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
        """Raise an error if an output path is also an input.

        Args:
            paths: output paths, absolute or relative to the folder.
            inputs: paths of inputs.

        Raises:
            OutputError: an output path is an input. The message names the first three such paths.
        """
        read = {os.path.realpath(path) for path in inputs}
        both = [path for path in (self.folder / path for path in paths) if os.path.realpath(path) in read]
        if both:
            raise OutputError(
                f"{self.folder}: {_with_verb(both, 'is an input', 'are inputs')} of this run, and would be replaced. "
                "Choose another --output_dir."
            )

    def refuse_links(self, names: Iterable[str]) -> None:
        """Raise an error if an output subfolder is a link or a file instead of a folder.

        Args:
            names: names of subfolders.

        Raises:
            OutputError: a subfolder is a link or a file. The message names the first three such subfolders.
        """
        wrong = [path for name in names if (path := self.folder / name).is_symlink() or path.is_file()]
        if wrong:
            raise OutputError(
                f"{self.folder}: {_with_verb(wrong, 'is not a folder but a link or a file', 'are links or files')}. "
                "Choose another --output_dir, or move existing files and links away."
            )

    def remove(self, paths: Iterable[str | Path]) -> None:
        """Remove files that segbundle wrote, and keep all other files.

        Args:
            paths: absolute paths, or paths relative to the folder.

        Raises:
            OSError: a file cannot be removed.
        """
        for path in (self.folder / path for path in paths):
            if self.wrote(path):
                path.unlink(missing_ok=True)

    def shorten(self) -> None:
        """Rewrite the record without its outdated lines if most lines are outdated.

        Call this method only while no other process writes to the folder.

        Raises:
            OSError: the record cannot be written.
        """
        with self._lock:
            needed = {
                name: stamps
                for name, stamps in self._known.items()
                if run_files.partial_of(name) or os.path.lexists(self.folder / name)
            }
            if not self.has_record or sum(map(len, self._known.values())) < _MAX_OUTDATED_LINES + 2 * len(needed):
                return
            partial = self.record_path.with_name(f"{RECORD}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            lines = [(name, *self._last_match(name)) for name in needed]
            _append(partial, lines)
            partial.replace(self.record_path)
            self._known, self._offset = {}, 0
            self._read()

    def _last_match(self, name: str) -> tuple[Any, ...]:
        """Return the newest line that matches a file, or else the newest line."""
        stamps = self._known[name]
        if run_files.partial_of(name):
            return stamps[-1]
        now = _stamp(self.folder / name)
        return next((stamp for stamp in reversed(stamps) if stamp[:2] == now[:2]), stamps[-1])

    def _name(self, path: Path) -> str:
        return path.parent.resolve().joinpath(path.name).relative_to(self.folder).as_posix()

    def _matches(self, path: Path, found: os.stat_result) -> bool:
        known = self._known.get(self._name(path), ())
        if known and known[-1][0] is None:  # a growing file or a folder
            return True
        if any((size, date) == (found.st_size, found.st_mtime_ns) for size, date, _ in known):
            return True
        ends = {end for size, _, end in known if size == found.st_size and end is not None}
        return bool(ends) and _stamp(path)[2] in ends  # a copy has the same content but a different date

    def _add(self, lines: Iterable[Sequence[Any]]) -> None:
        for name, *stamp in lines:
            self._known.setdefault(name, []).append(tuple(stamp))

    def _read(self) -> bool:
        """Read new lines of the record, written by this or other processes; return whether new lines were found."""
        try:
            with os.fdopen(os.open(self.record_path, os.O_RDONLY | _FLAGS), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OutputError(
                        f"{self.record_path}: is not a file. Move it away, or choose another --output_dir."
                    )
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutputError(
                f"{self.record_path}: cannot be read ({error.strerror}). Move it away, or choose another --output_dir."
            ) from error
        content = content[: content.rfind(b"\n") + 1]  # the last line may be incomplete
        lines = [entry for line in content.splitlines() if (entry := _parsed(line)) is not None]
        if content and not lines and not self._offset:
            raise OutputError(
                f"{self.record_path}: is not a record of written files. Move it away, or choose another --output_dir."
            )
        self._offset += len(content)
        self._add(lines)
        return bool(lines)


def _stamp(path: Path) -> tuple[int | None, int | None, str | None]:
    """Return size, date and hash of a file; for a folder, all are None.

    The hash is that of the ends of the file. It is None if they neither are the whole file nor contain its checksum.
    """
    if path.is_dir():
        return None, None, None
    found = os.lstat(path)
    identified = found.st_size <= 2 * END or path.name.lower().endswith((".gz", ".pt"))
    ends = shortened(hashlib.sha256(file_ends(path))) if identified else None
    return found.st_size, found.st_mtime_ns, ends


def _append(path: Path, lines: Sequence[Sequence[Any]]) -> None:
    """Append lines to a record in one call, so that the lines of several processes do not mix."""
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o666), "r+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an incomplete line of a killed run
                content = b"\n" + content
        file.write(content)
        os.fsync(file.fileno())


def _parsed(line: bytes) -> list[Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], str) else None


def _with_verb(paths: Sequence[Path], singular: str, plural: str) -> str:
    """Return names and a verb, such as `a.csv, b.csv, c.csv and 2 more are`."""
    names = ", ".join(path.name for path in paths[:_MAX_NAMES])
    more = f" and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else ""
    return f"{names}{more} {singular if len(paths) == 1 else plural}"
