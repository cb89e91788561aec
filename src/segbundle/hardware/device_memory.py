"""Free memory of the device that a network runs on."""

from __future__ import annotations

import torch

from segbundle.hardware.host_memory import available_memory

USABLE_FRACTION = 0.5
"""Fraction of the free memory that windows may take; the rest is for the scan, the sums, and other processes."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device; on a CPU, within the limits of its control groups."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()


def has_room(num_bytes: float, device: torch.device) -> bool:
    """Return whether an allocation leaves half of a device's free memory to others.

    Example:
        >>> has_room(1, torch.device("cpu"))
        True
    """
    return num_bytes <= USABLE_FRACTION * free_memory(device)
