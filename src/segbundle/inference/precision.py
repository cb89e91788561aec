"""Which number format the network computes in, on CPU and GPU alike.

MONAI's engines enter `torch.autocast("cuda")` only, so precision lives here, around the network, and works on both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from segbundle.config.choices import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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


def computed_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The number format of convolutions on `device`: bfloat16, float16 or float32.

    Args:
        device: where the network runs.
        precision: `bf16`, `fp16`, `fp32`, or `auto`: bf16 where it pays (`has_fast_bf16`), fp16 on other NVIDIA GPUs,
            else fp32. Where gradients are computed `auto` is never fp16, in which small gradients vanish.

    Raises:
        ValueError: an unknown precision.
    """
    if precision != "auto":
        if precision not in _DTYPES:
            raise ValueError(f"precision is {precision!r}, and must be 'auto', 'bf16', 'fp16' or 'fp32'.")
        return _DTYPES[precision]
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" and not torch.is_grad_enabled() else torch.float32


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[None]:
    """A context in which convolutions on `device` run in what `computed_dtype` says. Weights and sums stay float32.

    Args:
        device: where the network runs.
        precision: see `computed_dtype`.

    Raises:
        ValueError: an unknown precision.
    """
    dtype = computed_dtype(device, precision)
    if dtype is torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)
