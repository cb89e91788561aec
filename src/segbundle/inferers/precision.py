"""Which number format the network computes in, on CPU and GPU alike.

MONAI's engines enter `torch.autocast("cuda")` only, so precision lives here, around the network, and works on both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 pays on a device: on CPUs with AMX, and NVIDIA GPUs from Ampere on.

    AVX-512 BF16 alone is not enough: training is no faster with it than in float32, and oneDNN's gradients of 3D
    convolutions are wrong where a volume is two voxels deep (torch 2.13).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[None]:
    """A context in which convolutions on `device` run in bfloat16, if `precision` and the hardware say so.

    Args:
        device: where the network runs.
        precision: `bf16`, `fp32`, or `auto` for bf16 where it pays (`has_fast_bf16`). Weights and sums stay float32.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision is {precision!r}, and must be 'auto', 'bf16' or 'fp32'.")
    enabled = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
