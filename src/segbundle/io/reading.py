"""What reading has in common in all formats: whether a scan fits into memory, and what an error says."""

from __future__ import annotations

from pathlib import Path

from segbundle.errors import DataError
from segbundle.hardware.host_memory import available_memory, available_swap, reusable_memory

_SMALL = 1 << 24
"""Bytes that are not worth asking for."""


def check_memory(path: str | Path, needed: float, what: str = "its voxels") -> None:
    """Refuse what would certainly not fit: beyond its control group's limit, the kernel kills a process unasked.

    Args:
        path: the scan, for the message.
        needed: bytes that will be taken at the least.
        what: for the message, what takes them.

    Raises:
        DataError: `needed` is more than there is, swap space included.
    """
    if needed < _SMALL:
        return
    free = available_memory() + available_swap() + reusable_memory()
    if needed > free:
        raise DataError(
            f"{path}: {what} need {needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free. Use a machine or "
            "container with more memory, or crop or downsample the scan."
        )


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, which names the cause, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
