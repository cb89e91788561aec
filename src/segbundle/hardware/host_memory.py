"""Measure the memory available to this process, on the machine and in its control groups."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_VERSION_2 = ("memory.max", "memory.current", "memory.stat")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
"""Files with the limit, the usage, and the kinds of usage of a control group."""
_SWAP_LIMIT, _SWAP_USED = "memory.swap.max", "memory.swap.current"
_CACHED = ("inactive_file", "total_inact")
"""Keys of the page cache in `memory.stat`."""


class _AllocatorState(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*"abcdefgh", "fordblks", "keepcost")]  # only `fordblks` is used


def available_memory() -> int:
    """Return the number of bytes that this process can allocate on the machine and within its control groups.

    Example:
        >>> available_memory() > 0
        True
    """
    return int(min(psutil.virtual_memory().available, left_in_groups()))


def available_swap() -> int:
    """Return the number of bytes of swap space that this process can use.

    Example:
        >>> available_swap() >= 0
        True
    """
    allowed = (_swap_left(folder) for folder, names in _groups() if names == _VERSION_2)
    return int(min(psutil.swap_memory().free, *allowed))


def reusable_memory() -> int:
    """Return the number of bytes that the C library has reserved for this process but does not use; 0 if unknown.

    Example:
        >>> reusable_memory() >= 0
        True
    """
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform.startswith("linux") else None
    if mallinfo is None:
        return 0
    mallinfo.restype = _AllocatorState
    return int(mallinfo().fordblks)


def left_in_groups() -> float:
    """Return the number of bytes that the control groups of this process still allow; infinity without a limit.

    This is the minimum over its control groups and all their parents. The page cache does not count as used.

    Example:
        >>> left_in_groups() > 0
        True
    """
    return min((_memory_left(folder, names) for folder, names in _groups()), default=math.inf)


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folders of this process's control groups up to the root (in a container, its root)."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    version_1 = next((path for controllers, path in named.items() if "memory" in controllers.split(",")), "/")
    for root, path, names in (
        (_CGROUP, named.get("", "/"), _VERSION_2),
        (_CGROUP / "memory", version_1, _VERSION_1),
    ):
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth]), names


def _memory_left(folder: Path, names: tuple[str, str, str]) -> float:
    limit, used, kinds = (folder / name for name in names)
    try:
        text = limit.read_text(encoding="utf-8").strip()
        taken = int(used.read_text(encoding="utf-8"))
        lines = kinds.read_text(encoding="utf-8").splitlines()
        cached = [int(line.split()[1]) for line in lines if line.startswith(_CACHED)]
        return math.inf if text == "max" else max(int(text) - taken + max(cached, default=0), 0)
    except (OSError, ValueError, IndexError):
        return math.inf


def _swap_left(folder: Path) -> float:
    try:
        text = (folder / _SWAP_LIMIT).read_text(encoding="utf-8").strip()
        return math.inf if text == "max" else max(int(text) - int((folder / _SWAP_USED).read_text(encoding="utf-8")), 0)
    except (OSError, ValueError):
        return math.inf
