"""Configure the process for computing on CPUs: reuse freed memory, and make results of MKL reproducible."""

from __future__ import annotations

import ctypes
import sys

import torch

from segbundle.acceleration.gate import is_accelerated

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MKL_FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp"),
    *("log", "log10", "log2", "sin", "sqrt", "tan", "tanh", "trunc"),
)
"""Functions that PyTorch (2.13) computes with MKL's vector library: aten/src/ATen/cpu/vml.h."""


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed CPU tensors instead of returning it to the system.

    By default, glibc requests the memory of every tensor above 32 MB from the system, which clears each page on first
    use. For windows of 96³ voxels with 14 classes, this takes more than a third of the computing time. With this
    setting, the process keeps its memory until it exits. The function does nothing with other C libraries, or if the
    acceleration is off (see `is_accelerated`).

    Example:
        >>> keep_freed_memory()
    """
    if not (sys.platform.startswith("linux") and is_accelerated()):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def warm_up_mkl() -> None:
    """Call the functions of MKL's vector library that PyTorch uses, so that later results are reproducible.

    The library selects the implementation of a function at its first call. If several threads make this call at the
    same time, one thread may compute less exactly (https://github.com/pytorch/pytorch/issues/188792). Without this
    warm-up, one in twelve training runs started with a different loss. Each function is called for one number in
    float32 and one in float64.

    Example:
        >>> warm_up_mkl()
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in _MKL_FUNCTIONS:
            getattr(torch, name)(number)
