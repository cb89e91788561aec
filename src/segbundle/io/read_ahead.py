"""Background reading of scans, while a program is still importing other modules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from segbundle.io.scan_files import is_nifti
from segbundle.io.scans import Scan, read_scan

_Timed = tuple[Scan, float]
_pending: dict[Path, Future[_Timed]] = {}


def begin_reading(path: str | Path) -> None:
    """Start to read a NIfTI file in a background thread.

    Other files are ignored, because their libraries may crash if the program ends while they read.

    Args:
        path: path of the file.

    Example:
        >>> begin_reading("/nowhere/ct.nii.gz")
    """
    path = Path(path)
    if not is_nifti(path) or not path.is_file():
        return
    scan: Future[_Timed] = Future()
    _pending[path] = scan
    Thread(target=_read, args=(path, scan), name="reading early", daemon=True).start()


def _read(path: Path, scan: Future[_Timed]) -> None:
    started = time.monotonic()
    try:
        scan.set_result((read_scan(path), time.monotonic() - started))
    except Exception as error:
        scan.set_exception(error)


def read_begun(path: str | Path | Sequence[str | Path]) -> _Timed:
    """Return a scan: the result of `begin_reading` on the first call, else a scan read now.

    Args:
        path: see `read_scan`.

    Returns:
        scan (float32), and the seconds that the background thread took to read it; 0 if it was read now.

    Raises:
        DataError: see `read_scan`.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     begin_reading(path)
        ...     scan, seconds = read_begun(path)
        >>> scan.array.shape
        (1, 4, 3, 2)
    """
    begun = _pending.pop(Path(path), None) if isinstance(path, (str, Path)) else None
    return (read_scan(path), 0.0) if begun is None else begun.result()
