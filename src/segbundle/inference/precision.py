"""Select the precision in which a network runs on a CPU or GPU.

MONAI's engines support `torch.autocast` on CUDA devices only. The context of this module supports CPUs as well.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from segbundle.config.choices import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32: on CPUs with AMX, and on NVIDIA GPUs since Ampere.

    AVX-512 BF16 alone is not enough. It does not speed up training, and oneDNN's gradients of 3D convolutions are wrong
    for volumes that are two voxels deep (torch 2.13).

    Args:
        device: device of the network.

    Example:
        >>> has_fast_bf16(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return False


def computed_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Return the dtype of convolutions on a device: bfloat16, float16 or float32.

    Args:
        device: device of the network.
        precision: `bf16`, `fp16`, `fp32` or `auto`. `auto` is bf16 where it is faster (`has_fast_bf16`), fp16 on other
            NVIDIA GPUs, otherwise fp32. With gradients enabled, `auto` is never fp16, because small gradients would
            underflow.

    Raises:
        ValueError: if the precision is unknown.

    Example:
        >>> computed_dtype(torch.device("cpu"), "bf16")
        torch.bfloat16
    """
    if precision != "auto":
        if precision not in _DTYPES:
            raise ValueError(f"precision is {precision!r}, but must be 'auto', 'bf16', 'fp16' or 'fp32'.")
        return _DTYPES[precision]
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" and not torch.is_grad_enabled() else torch.float32


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[None]:
    """Return a context manager in which convolutions run in `computed_dtype`. Weights and sums stay in float32.

    Args:
        device: device of the network.
        precision: see `computed_dtype`. Default: `auto`.

    Raises:
        ValueError: if the precision is unknown.

    Example:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     torch.nn.Conv3d(1, 1, 1)(torch.zeros(1, 1, 2, 2, 2)).dtype
        torch.bfloat16
    """
    dtype = computed_dtype(device, precision)
    if dtype is torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)
