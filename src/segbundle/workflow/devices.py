"""Choice of a device, and placement of networks on a device."""

from __future__ import annotations

import os

import torch

from segbundle.acceleration.layers import with_channels_last_norms
from segbundle.errors import ConfigError


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU if there is no CUDA device.

    Example:
        >>> pick_device().type in ("cpu", "cuda")
        True
    """
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def pick_num_workers(device: torch.device | str) -> int:
    """Return the number of processes that prepare batches: up to four for a GPU, none for a CPU.

    Args:
        device: device of the network, or its name.

    Raises:
        ConfigError: the device does not exist (see `checked_device`).

    Example:
        >>> pick_num_workers("cpu")
        0
    """
    return min(4, os.cpu_count() or 1) if checked_device(device).type == "cuda" else 0


def checked_device(device: torch.device | str) -> torch.device:
    """Return a `torch.device` after checking that it can be used.

    Args:
        device: device or its name, such as `cuda:0`.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.

    Example:
        >>> checked_device("cpu")
        device(type='cpu')
    """
    try:
        checked = torch.device(device)
        torch.empty(1, device=checked).item()  # fails on devices without memory, such as `meta`
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        present = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {str(device)!r} cannot be used here; choose from {', '.join(present)}.") from error
    return checked


def place_network(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """Move a network to a device and to the channels-last memory layout, and return it.

    3D convolutions are fastest in this layout. On a CPU, instance norms are replaced by norms that support this layout.

    Args:
        network: network on any device.
        device: device or its name.

    Raises:
        ConfigError: the device does not exist, or `network` is not a `torch.nn.Module`.

    Example:
        >>> network = place_network(torch.nn.Conv3d(2, 2, 3), "cpu")
        >>> network.weight.is_contiguous(memory_format=torch.channels_last_3d)
        True
    """
    device = checked_device(device)
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"network_def creates a {type(network).__name__}; a torch.nn.Module is needed.")
    if device.type == "cpu":
        network = with_channels_last_norms(network)
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
