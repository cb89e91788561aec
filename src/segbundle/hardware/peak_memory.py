"""Measure the peak memory of this process and of a GPU."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


class PeakMemory:
    """Meter of the peak memory of this process, and of a GPU, since the meter was created.

    On systems other than Linux, the peak of the process is that since its start, because it cannot be reset.

    Args:
        device: device of the network. If this is a GPU, its memory is measured as well.

    Example:
        >>> PeakMemory(torch.device("cpu")).peaks()["peak_memory_mb"] > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM := VmRSS, see proc(5)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peaks(self) -> dict[str, float]:
        """Return the peaks in MB (10^6 bytes).

        Returns:
            dict with `peak_memory_mb`, the resident memory of this process, and, on a GPU, `peak_gpu_memory_mb`.
        """
        peaks = {"peak_memory_mb": round(_resident_peak() / 1e6, 1)}
        if self.device.type == "cuda":
            peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        return peaks


def _resident_peak() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # for macOS; not available on Windows

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
