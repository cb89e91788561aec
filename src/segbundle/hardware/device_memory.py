"""Measure the free memory of the device that a network runs on."""

from __future__ import annotations

import torch

from segbundle.hardware.host_memory import available_memory

USABLE_FRACTION = 0.5
"""Fraction of the free memory that windows may use; the rest is for the scan, the sums and other processes."""


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that can be allocated on a device.

    On a CPU, this is limited by the control groups of the process. On a GPU, PyTorch's unused cached memory counts as
    free.

    Args:
        device: CPU or CUDA device.

    Example:
        >>> free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()


def has_room(num_bytes: float, device: torch.device) -> bool:
    """Return whether an allocation takes at most half of the free memory of a device.

    Args:
        num_bytes: size of the allocation in bytes.
        device: CPU or CUDA device.

    Example:
        >>> has_room(1, torch.device("cpu"))
        True
    """
    return num_bytes <= USABLE_FRACTION * free_memory(device)
