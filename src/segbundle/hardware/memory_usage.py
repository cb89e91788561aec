"""Measure the free memory of the machine, of the control groups of this process and of devices, and the peak memory.

PyTorch is imported only by the functions that need it, because the first scan is read before this import.
"""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from segbundle.errors import DataError

if TYPE_CHECKING:
    import torch

USABLE_FRACTION = 0.5
"""Fraction of the free memory that windows may use; the rest is for the scan, the sums and other processes."""
_SMALL = 1 << 24
"""Number of bytes below which memory is not checked."""
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


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that can be allocated on a device.

    On a GPU, PyTorch's unused cached memory counts as free. For all other devices, the result is that of
    `available_memory`.

    Args:
        device: any device of PyTorch.

    Example:
        >>> import torch
        >>> free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()


def has_room(num_bytes: float, device: torch.device) -> bool:
    """Return whether an allocation takes at most half of the free memory of a device.

    Args:
        num_bytes: size of the allocation in bytes.
        device: any device of PyTorch.

    Example:
        >>> import torch
        >>> has_room(1, torch.device("cpu"))
        True
    """
    return num_bytes <= USABLE_FRACTION * free_memory(device)


def available_memory() -> int:
    """Return the number of bytes that this process can allocate on the machine and within its control groups.

    This is the minimum over the machine, the groups and all their parents. The page cache does not count as used.

    Example:
        >>> available_memory() > 0
        True
    """
    allowed = (_memory_left(folder, names) for folder, names in _groups())
    return int(min(psutil.virtual_memory().available, *allowed))


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


class PeakMemory:
    """Meter of the peak memory of this process, and of a GPU, since the meter was created.

    On systems other than Linux, the peak of the process cannot be reset, so the peak since the start of the process is
    returned.

    Args:
        device: device of the network. The memory of a GPU is measured as well.

    Example:
        >>> import torch
        >>> PeakMemory(torch.device("cpu")).peaks()["peak_memory_mb"] > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM := VmRSS, see proc(5)
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def peaks(self) -> dict[str, float]:
        """Return the peak memory in MB (10^6 bytes), rounded to one decimal.

        Returns:
            dict with `peak_memory_mb` (resident memory of this process) and, on a GPU, `peak_gpu_memory_mb`
        """
        status = ""
        with suppress(OSError):
            status = Path("/proc/self/status").read_text(encoding="ascii")
        if found := re.search(r"VmHWM:\s*(\d+)", status):
            resident = int(found[1]) * 1024
        else:
            import resource  # for macOS; not available on Windows

            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            resident = used if sys.platform == "darwin" else used * 1024
        peaks = {"peak_memory_mb": round(resident / 1e6, 1)}
        if self.device.type == "cuda":
            import torch

            peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        return peaks
