"""Inspection of zip files by their table of contents, before any entry is extracted."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath, PureWindowsPath

from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of

_MAX_ENTRIES = 5_000
_MAX_BYTES = 8_000_000_000
_MAX_RATIO = 200
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError, MemoryError),
)
"""Exceptions raised for damaged, encrypted or unsupported zip files."""
_SMALL = 100_000_000
"""Extracted size in bytes up to which any compression ratio is accepted."""


def read_archive(
    name: str, key: str, read: Callable[[], Iterable[Finding]], problem: str = "cannot be read as a zip file"
) -> list[Finding]:
    """Return the findings of a zip file or of one of its entries, with an additional finding if reading fails.

    Args:
        name: name of the zip file in findings.
        key: name of the entry, or `WHOLE_FILE`.
        read: function that opens the file or the entry and yields findings. Findings before an error are kept.
        problem: description of the additional finding. Default: "cannot be read as a zip file".

    Example:
        >>> def read():
        ...     raise zipfile.BadZipFile("File is not a zip file")
        >>> print(*read_archive("bundle.zip", WHOLE_FILE, read))
        bundle.zip: (file): cannot be read as a zip file: File is not a zip file
    """
    found: list[Finding] = []
    try:
        found.extend(read())
    except _DAMAGED as error:
        found.append(Finding(name, key, problem, excerpt_of(str(error) or type(error).__name__)))
    return found


def archive_findings(archive: zipfile.ZipFile, name: str) -> Iterator[Finding]:
    """Yield a finding for each entry that is not safe to extract, and for an archive that would fill the disk.

    An entry is not safe if its path is absolute, contains a backslash or leaves the target folder; if it is a link or a
    device; if it is encrypted; or if it occurs twice (names are compared without case). An archive is a finding if it
    has more than 5,000 entries, more than 8 GB of extracted data, or more than 100 MB of extracted data at a
    compression ratio above 200.

    Args:
        archive: opened zip file.
        name: name of the zip file in findings.

    Example:
        >>> import io
        >>> archive = zipfile.ZipFile(io.BytesIO(), "w")
        >>> archive.writestr("../evil.py", "")
        >>> [finding.problem for finding in archive_findings(archive, "bundle.zip")]
        ['entry that leaves the folder']
    """
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if len(entries) > _MAX_ENTRIES:
        yield Finding(name, WHOLE_FILE, f"has more than {_MAX_ENTRIES:,} entries", f"{len(entries):,}")
    if size > _MAX_BYTES or (size > _SMALL and size > _MAX_RATIO * packed):
        yield Finding(name, WHOLE_FILE, "would fill the disk when unpacked", f"{packed:,} bytes become {size:,}")
    seen: set[str] = set()
    for entry in entries:
        problem = _entry_problem(entry)
        folded = entry.filename.casefold()
        if problem is None and folded in seen:
            problem = "entry that occurs twice"
        seen.add(folded)
        if problem is not None:
            yield Finding(name, entry.filename, problem, excerpt_of(entry.orig_filename))


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    path, windows = PurePosixPath(entry.filename), PureWindowsPath(entry.filename)
    if path.is_absolute() or windows.drive or windows.root or "\\" in entry.filename:
        return "entry with an absolute path or a backslash"
    if ".." in path.parts or "\0" in entry.orig_filename:
        return "entry that leaves the folder"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "entry that is a link or a device"
    if entry.flag_bits & 0x1:
        return "entry that is encrypted"
    return None
