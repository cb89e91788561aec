"""Reading a scan before it is asked for: while a program is still importing what will use it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from segbundle.io.scan_files import is_nifti
from segbundle.io.scans import Scan, read_scan

_Timed = tuple[Scan, float]
_begun: dict[Path, Future[_Timed]] = {}


def begin_reading(path: str | Path) -> None:
    """Begin to read a NIfTI file in the background; what is no such file is left for later.

    The other formats are read by a library that would not survive the program's end in the middle of its work.
    """
    path = Path(path)
    if not is_nifti(path) or not path.is_file():
        return
    scan: Future[_Timed] = Future()
    _begun[path] = scan
    Thread(target=_read, args=(path, scan), name="reading early", daemon=True).start()


def _read(path: Path, scan: Future[_Timed]) -> None:
    started = time.monotonic()
    try:
        scan.set_result((read_scan(path), time.monotonic() - started))
    except Exception as error:
        scan.set_exception(error)


def read_begun(path: str | Path | Sequence[str | Path]) -> _Timed:
    """As `read_scan` with its defaults, or what comes of reading that was begun, the first time it is asked for.

    Returns:
        the scan, and the seconds that reading it took in the background.

    Raises:
        DataError: as `read_scan`.
    """
    begun = _begun.pop(Path(path), None) if isinstance(path, (str, Path)) else None
    return (read_scan(path), 0.0) if begun is None else begun.result()
