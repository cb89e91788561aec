"""Measure the memory footprint of networks, and choose window and batch sizes that fit into memory."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from segbundle.acceleration.trial_window import divisor, small_window
from segbundle.config.choices import Precision
from segbundle.hardware import memory_usage
from segbundle.hardware.memory_usage import USABLE_FRACTION
from segbundle.inference.backends import autocast, computed_dtype
from segbundle.inference.windows import check_overlap, interval, slab_axis

_MAX_CPU_BYTES = 2**30
"""Memory of windows, in bytes, above which larger batches do not speed up a CPU."""
_LARGEST_BATCH = {"cpu": 4, "cuda": 16}


class _PeakMeter(TorchFunctionMode):
    """Context that tracks the total size of live tensors that PyTorch functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._record(result.untyped_storage())
        return result

    def _record(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes


@dataclass(frozen=True)
class Needs:
    """Memory footprint of a network, per voxel of a window.

    Attributes:
        bytes_per_voxel: estimated peak memory of a forward pass in float32, in bytes per voxel of a window, including
            the window and the logits.
        num_classes: number of channels of the logits; 1 if the network returns several tensors.

    Example:
        >>> Needs(bytes_per_voxel=400.0, num_classes=3).num_classes
        3
    """

    bytes_per_voxel: float
    num_classes: int


def measured_needs(network: Callable[..., torch.Tensor], channels: int, patch_size: Sequence[int]) -> Needs:
    """Measure the memory footprint of a network in a forward pass on a small window of zeros.

    The measured memory is doubled, because the workspaces of convolutions cannot be measured.

    Args:
        network: network to measure.
        channels: number of input channels.
        patch_size: (X, Y, Z) of training patches. A window of this size is used if the network rejects a smaller
            window.

    Returns:
        estimated bytes per voxel of a window in float32, and the number of classes

    Raises:
        RuntimeError, ValueError: the network rejects the smaller window and a window of `patch_size`.

    Example:
        >>> measured_needs(torch.nn.Conv3d(1, 2, 3, padding=1), channels=1, patch_size=(32, 32, 32)).num_classes
        2
    """
    parameter = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    device = None if parameter is None else parameter.device
    try:
        return _measure(network, channels, small_window(patch_size), device)
    except (RuntimeError, ValueError):  # networks with position embeddings accept a single size only
        return _measure(network, channels, patch_size, device)


def _measure(
    network: Callable[..., torch.Tensor], channels: int, size: Sequence[int], device: torch.device | None
) -> Needs:
    window = torch.zeros(1, channels, *size, device=device)
    with torch.no_grad(), _PeakMeter() as meter:
        logits = network(window)
    peak = max(meter.peak, window.nbytes)  # tensors inside TorchScript are not tracked
    return Needs(2 * peak / math.prod(size), logits.shape[1] if isinstance(logits, torch.Tensor) else 1)


def training_bytes(network: torch.nn.Module, channels: int, patch_size: Sequence[int], precision: Precision) -> float:
    """Estimate the memory of a training step, in bytes per patch.

    The tensors that are saved for the backward pass are measured for small patches and scaled to `patch_size`. On CPUs,
    gradients and oneDNN workspaces add about 120% in bfloat16 and 60% in float32 (measured).

    Args:
        network: network to measure, with at least one parameter; not modified.
        channels: number of input channels.
        patch_size: (X, Y, Z) in voxels.
        precision: see `segbundle.inference.autocast`.

    Example:
        >>> training_bytes(torch.nn.Conv3d(1, 2, 3, padding=1), 1, (32, 32, 32), "fp32") > 0
        True
    """
    network = copy.deepcopy(network)  # a forward pass changes batch norm statistics and cached tensors
    device = next(network.parameters()).device
    overhead = 1.0 if device.type != "cpu" else 1.6 if computed_dtype(device, precision) is torch.float32 else 2.2
    size = small_window(patch_size)
    one, two = (_saved_bytes(network, (count, channels, *size), precision) for count in (1, 2))
    return overhead * (two - one) * math.prod(patch_size) / math.prod(size)  # growth per patch


def _saved_bytes(network: torch.nn.Module, shape: Sequence[int], precision: Precision) -> int:
    """Return the bytes saved for the backward pass of a network and a softmax, for a batch of the given shape."""
    device = next(network.parameters()).device
    saved: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    window = torch.zeros(tuple(shape), device=device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        with autocast(device, precision):
            logits = network(window)
        depths = [logits] if isinstance(logits, torch.Tensor) else logits
        logits = [each.float().log_softmax(dim=1) for each in depths if isinstance(each, torch.Tensor)]
    return sum(saved.values())


def choose_batch(needs: Needs, roi: Sequence[int], device: torch.device, requested: int | None = None) -> int:
    """Return the number of windows per batch that fits into half of the free memory, at least 1.

    Without `requested`, batches on CPUs need at most 1 GiB, because larger batches are not faster.

    Args:
        needs: memory footprint of the network.
        roi: (X, Y, Z) of a window.
        device: device of the network.
        requested: maximum number of windows. Default: None (4 on CPUs, 16 on CUDA devices, 1 on other devices).

    Example:
        >>> choose_batch(Needs(bytes_per_voxel=100.0, num_classes=2), (8, 8, 8), torch.device("cpu"))
        4
    """
    window = needs.bytes_per_voxel * math.prod(roi)
    budget = USABLE_FRACTION * memory_usage.free_memory(device)
    if requested is None:
        requested = _LARGEST_BATCH.get(device.type, 1)
        if device.type == "cpu":
            budget = min(budget, _MAX_CPU_BYTES)
    return int(min(max(budget // window, 1), requested))


def choose_windows(
    shape: Sequence[int],
    patch_size: Sequence[int],
    overlap: Sequence[float],
    needs: Needs,
    device: torch.device,
) -> tuple[list[int], list[float]]:
    """Return the window size and overlap that cover a volume with the fewest computed voxels.

    Candidates are windows of the size of a patch, and larger windows that fit into half of the free memory. Each side
    is divisible by the same power of two (up to 32) as the side of the patch. Windows overlap by as many voxels as
    patches would.

    Args:
        shape: (X, Y, Z) of the volume.
        patch_size: (X, Y, Z) of the training patches.
        overlap: overlap of patches along each axis, as a fraction.
        needs: memory footprint of the network.
        device: device of the network and of the summed logits.

    Returns:
        window size [X, Y, Z] in voxels, and overlap along each axis as a fraction

    Raises:
        ValueError: an overlap is outside [0, 1).

    Example:
        >>> needs = Needs(bytes_per_voxel=100.0, num_classes=2)
        >>> choose_windows((16, 16, 16), (8, 8, 8), (0.5, 0.5, 0.5), needs, torch.device("cpu"))
        ([16, 16, 16], [0.25, 0.25, 0.25])
    """
    check_overlap(overlap)
    limit = USABLE_FRACTION * memory_usage.free_memory(device)
    best, best_cost = list(patch_size), math.inf
    margins = [size - interval(size, fraction) for size, fraction in zip(patch_size, overlap, strict=True)]
    for roi in itertools.product(*map(_window_sizes, shape, patch_size, margins)):
        cost = math.prod(roi)
        needed = needs.bytes_per_voxel * cost + _slab_bytes(shape, roi, needs.num_classes)
        if needed > limit and list(roi) != list(patch_size):
            continue
        for size, window, margin in zip(shape, roi, margins, strict=True):
            cost *= max(math.ceil((size - margin) / (window - margin)), 1)
        if cost < best_cost:
            best, best_cost = list(roi), cost
    return best, [_as_fraction(margin, window) for margin, window in zip(margins, best, strict=True)]


def _as_fraction(margin: int, window: int) -> float:
    """Return an overlap that `interval` converts back to `margin` voxels, despite truncation."""
    exact = margin / window
    return exact if interval(window, exact) == window - margin else (margin - 0.5) / window


def _slab_bytes(shape: Sequence[int], roi: Sequence[int], num_classes: int) -> int:
    """Return the memory of the summed logits (`segbundle.inference.slabs`)."""
    sizes = [max(size, window) for size, window in zip(shape, roi, strict=True)]
    axis = slab_axis(shape, roi)
    return 4 * num_classes * math.prod(sizes) // sizes[axis] * min(roi[axis] + 1, sizes[axis])


def _window_sizes(size: int, patch: int, margin: int) -> list[int]:
    """Return candidate sides of windows: the smallest side for every number of windows along an axis."""
    step, sizes = divisor(patch), {patch}
    for count in range(1, math.ceil(max(size - margin, 1) / (patch - margin)) + 1):
        missing = max(math.ceil((size - margin) / count) + margin - patch, 0)
        sizes.add(patch + math.ceil(missing / step) * step)
    return sorted(sizes)
