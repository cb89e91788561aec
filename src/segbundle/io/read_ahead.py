"""Read scans in a background thread before they are needed."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from segbundle.io.nifti import is_nifti
from segbundle.io.scans import Scan, read_scan

T = TypeVar("T")
_Timed = tuple[Scan, float]


class BackgroundReader:
    """Background thread that runs the submitted calls one after another, in order.

    The thread starts with the first call. A program that exits waits only for calls with `must_finish`.

    Args:
        name: name of the thread. Default: `reading`.

    Example:
        >>> BackgroundReader().submit(len, [1, 2]).result()
        2
    """

    def __init__(self, name: str = "reading") -> None:
        self.name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._thread: Thread | None = None
        self._unfinished: list[Future[Any]] = []

    def submit(self, function: Callable[..., T], *args: Any, must_finish: bool = True) -> Future[T]:
        """Queue a function call for the thread, and return immediately.

        Args:
            function: function to call.
            args: positional arguments of the function.
            must_finish: whether the program waits for this call before it exits. Some libraries crash if the program
                exits while they read a file. Default: True.

        Returns:
            future with the result, or with the exception that the function raised
        """
        future: Future[T] = Future()
        if must_finish:
            if not self._unfinished:
                atexit.register(lambda: wait(self._unfinished))
            self._unfinished[:] = [future]
        if self._thread is None or not self._thread.is_alive():
            self._calls = SimpleQueue()
            self._thread = Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        self._calls.put((future, function, args))
        return future

    def _run(self) -> None:
        while True:
            future, function, args = self._calls.get()
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)
            del future, function, args  # or the scan would be in memory until the next call


reader = BackgroundReader()
"""Thread that reads all scans of this process in the background."""
_begun: dict[Path, Future[_Timed]] = {}


def begin_reading(path: str | Path) -> None:
    """Start to read a NIfTI file in the background; `read_begun` returns the scan.

    Call this function early, so that reading overlaps with importing other modules. Missing files, and files that
    nibabel does not read, are ignored: other libraries may crash if the program exits while they read.

    Args:
        path: path of the file.

    Example:
        >>> begin_reading("/nowhere/ct.nii.gz")  # a missing file: nothing happens
    """
    path = Path(path)
    if is_nifti(path) and path.is_file():
        _begun[path] = reader.submit(_timed, path, must_finish=False)


def _timed(path: Path) -> _Timed:
    started = time.monotonic()
    return read_scan(path), time.monotonic() - started


def read_begun(path: str | Path | Sequence[str | Path], allow_uneven: bool = False) -> _Timed:
    """Return the scan that `begin_reading` started to read, or read it now if reading was not started.

    A scan that was read in the background is returned once; a second call reads the file again.

    Args:
        path: see `read_scan`.
        allow_uneven: see `read_scan`. Default: False.

    Returns:
        a pair of the scan (float32) and the time in seconds that the background thread took (0 if the scan was read
        now)

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
    begun = _begun.pop(Path(path), None) if isinstance(path, (str, Path)) else None
    return (read_scan(path, allow_uneven=allow_uneven), 0.0) if begun is None else begun.result()
