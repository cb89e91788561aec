"""Presets: size of the network, and default memory of a training step."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from segbundle.errors import ConfigError, suggestion
from segbundle.hardware.memory_usage import free_memory

_UNITS = {"": 1e9, "gb": 1e9, "g": 1e9, "mb": 1e6, "m": 1e6, "gib": 2.0**30, "mib": 2.0**20}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")
_FREE_FRACTION = 0.7
"""Fraction of the free memory that a plan uses by default; the rest is for cached cases and other processes."""


@dataclass(frozen=True)
class Preset:
    """Size of a network, and the memory that a training step may take by default.

    Attributes:
        first: number of channels of the first level.
        largest: maximum number of channels of a level.
        memory: default memory budget of a training step in bytes; less if the device has little free memory, see
            `memory_budget`.
        residual: whether the blocks are residual. Default: False.

    Example:
        >>> PRESETS["medium"].first, PRESETS["medium"].largest
        (32, 320)
    """

    first: int
    largest: int
    memory: float
    residual: bool = False


PRESETS = {
    "small": Preset(16, 256, 1.5e9),
    "medium": Preset(32, 320, 8e9),
    "large": Preset(32, 512, 24e9),
    "residual": Preset(32, 320, 9e9, residual=True),
    "residual-large": Preset(32, 512, 24e9, residual=True),
}
"""Presets by name. Channels of `medium` and memory of `medium`, `residual` and `residual-large` are those of nnU-Net's
default plan and of its residual encoder presets M and L (Isensee et al., arXiv 2404.09556, 2024)."""


def choose_preset(name: str | None, device: torch.device) -> tuple[str, Preset]:
    """Return the name of a preset and the preset.

    Args:
        name: name of the preset; None for `medium` on a GPU and `small` on a CPU.
        device: device of the training run.

    Raises:
        ConfigError: the preset does not exist.

    Example:
        >>> choose_preset(None, torch.device("cpu"))[0]
        'small'
    """
    name = name or ("small" if device.type == "cpu" else "medium")
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: no such preset{suggestion(name, PRESETS)}")
    return name, PRESETS[name]


def memory_budget(text: str | None, preset: Preset, device: torch.device) -> float:
    """Return the memory that a training step may take, in bytes.

    Args:
        text: memory limit of the user, such as `8GB`; a number without a unit is in GB. None for the memory of the
            preset, but at most 70% of the free memory of the device.
        preset: preset of the network.
        device: device of the training run.

    Raises:
        ConfigError: `text` is not a positive size.

    Example:
        >>> memory_budget("8GB", PRESETS["small"], torch.device("cpu")), memory_budget("500 MB", PRESETS["small"], None)
        (8000000000.0, 500000000.0)
    """
    if text is None:
        return min(preset.memory, _FREE_FRACTION * free_memory(device))
    match = _SIZE.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None or float(match[1]) <= 0:
        raise ConfigError(f"--memory {text!r} is not a memory size. Use a number with a unit, such as 8GB or 500MB.")
    return float(match[1]) * unit
