"""Helpers of all readers: a memory check, and short error messages."""

from __future__ import annotations

from pathlib import Path

from segbundle.errors import DataError
from segbundle.hardware.memory_usage import available_memory, available_swap, reusable_memory

_SMALL = 1 << 24
"""Number of bytes below which memory is not checked."""


def check_memory(path: str | Path, needed: float, what: str = "its voxels") -> None:
    """Raise an error if data certainly does not fit into memory.

    Without this check, the kernel would kill a process that exceeds the memory of its container, without a message.
    Less than 16 MiB always passes.

    Args:
        path: path of the scan, for the message.
        needed: minimum number of bytes.
        what: name of the data, for the message (default `its voxels`).

    Raises:
        DataError: `needed` exceeds the free memory, including swap space.

    Example:
        >>> check_memory("ct.nii.gz", 1e6)
    """
    if needed < _SMALL:
        return
    free = available_memory() + available_swap() + reusable_memory()
    if needed > free:
        raise DataError(
            f"{path}: {what} need {needed / 1e9:.3g} GB of memory, but only {free / 1e9:.3g} GB are free. "
            "Use a machine or container with more memory, or crop or downsample the scan."
        )


def last_line(error: BaseException) -> str:
    r"""Return the last line of an error message, usually the cause; the name of the exception if the message is empty.

    Args:
        error: exception.

    Example:
        >>> last_line(ValueError("cannot read:\nbad header")), last_line(MemoryError())
        ('bad header', 'MemoryError')
    """
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
