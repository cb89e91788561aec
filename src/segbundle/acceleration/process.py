"""What a process does before it computes on a CPU: how it keeps memory, and that it computes the same every time."""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MKL_FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp"),
    *("log", "log10", "log2", "sin", "sqrt", "tan", "tanh", "trunc"),
)
"""Those that PyTorch (2.13) leaves to MKL's vector library: aten/src/ATen/cpu/vml.h."""


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors on the CPU free, for the next ones, instead of returning it.

    By default glibc asks the system anew for every tensor above 32 MB, and the system then clears every page on first
    use: more than a third of the time that windows of 96³ voxels and 14 classes take. What was once taken is given back
    when the program ends. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def settle_vector_math() -> None:
    """Call every function of MKL's vector library once, with one number, so that it is as exact at its next call.

    The library decides at a function's first call how it is computed. If several threads make that call together, one
    of them may compute its part less exactly, that once (https://github.com/pytorch/pytorch/issues/188792): one in
    twelve trainings began with another loss.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in _MKL_FUNCTIONS:
            getattr(torch, name)(number)
