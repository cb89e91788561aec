"""How much memory there is, how much a network needs, and the windows and batches that follow from it."""

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
from segbundle.hardware import device_memory
from segbundle.hardware.device_memory import USABLE_FRACTION
from segbundle.inference.precision import autocast, computed_dtype
from segbundle.inference.windows import check_overlap, interval, slab_axis

_ENOUGH = 2**30
"""Bytes of windows beyond which a CPU is not faster with larger batches, but its memory is full sooner."""
_LARGEST_BATCH = {"cpu": 4, "cuda": 16}


class _PeakMeter(TorchFunctionMode):
    """Sums up the storages of the tensors that PyTorch's functions return, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._count(result.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
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
    """The memory that a network's windows take.

    Attributes:
        bytes_per_voxel: that the network holds at once per voxel of a window while it computes one in float32, scores
            included.
        num_classes: channels of the scores.
    """

    bytes_per_voxel: float
    num_classes: int


def measured_needs(network: Callable[..., torch.Tensor], channels: int, patch_size: Sequence[int]) -> Needs:
    """What a network needs, found by passing a small empty window through it.

    What convolutions need besides is not seen, so twice as much is assumed.
    """
    parameter = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    device = None if parameter is None else parameter.device
    try:
        return _measured(network, channels, small_window(patch_size), device)
    except (RuntimeError, ValueError):  # it takes patches of one size only, as networks with position embeddings do
        return _measured(network, channels, patch_size, device)


def _measured(
    network: Callable[..., torch.Tensor], channels: int, size: Sequence[int], device: torch.device | None
) -> Needs:
    window = torch.zeros(1, channels, *size, device=device)
    with torch.no_grad(), _PeakMeter() as meter:
        scores = network(window)
    peak = max(meter.peak, window.nbytes)  # nothing is seen of what TorchScript computes
    return Needs(2 * peak / math.prod(size), scores.shape[1] if isinstance(scores, torch.Tensor) else 1)


def training_bytes(network: torch.nn.Module, channels: int, patch_size: Sequence[int], precision: Precision) -> float:
    """About how many bytes a training step takes for each patch (C, *patch_size).

    Found by passing small patches through and adding up what is kept for the gradients. On CPUs the gradients
    themselves, and what oneDNN needs besides, were measured to take as much again in bfloat16, and half in float32.
    """
    network = copy.deepcopy(network)  # passing patches changes the statistics of batch norms, and what a network keeps
    device = next(network.parameters()).device
    besides = 1.0 if device.type != "cpu" else 1.6 if computed_dtype(device, precision) is torch.float32 else 2.2
    size = small_window(patch_size)
    one, two = (_kept_for_gradients(network, (count, channels, *size), precision) for count in (1, 2))
    return besides * (two - one) * math.prod(patch_size) / math.prod(size)  # without what does not grow with the batch


def _kept_for_gradients(network: torch.nn.Module, shape: Sequence[int], precision: Precision) -> int:
    """Bytes that are kept when so many patches pass through a network and a softmax."""
    device = next(network.parameters()).device
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    window = torch.zeros(tuple(shape), device=device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with autocast(device, precision):
            scores = network(window)
        depths = [scores] if isinstance(scores, torch.Tensor) else scores
        scores = [each.float().log_softmax(dim=1) for each in depths if isinstance(each, torch.Tensor)]
    return sum(kept.values())


def choose_batch(needs: Needs, roi: Sequence[int], device: torch.device) -> int:
    """Windows at a time: as many as the free memory allows and the device gains from."""
    window = needs.bytes_per_voxel * math.prod(roi)
    budget = USABLE_FRACTION * device_memory.free_memory(device)
    if device.type == "cpu":
        budget = min(budget, _ENOUGH)
    return int(min(max(budget // window, 1), _LARGEST_BATCH.get(device.type, 1)))


def limit_batch(batch: int, needs: Needs, roi: Sequence[int]) -> int:
    """Return `batch`, or as many windows as fit into the free memory of the CPU."""
    most = USABLE_FRACTION * device_memory.free_memory(torch.device("cpu")) // (needs.bytes_per_voxel * math.prod(roi))
    return int(min(batch, max(most, 1)))


def choose_windows(
    shape: Sequence[int],
    patch_size: Sequence[int],
    overlap: Sequence[float],
    needs: Needs,
    device: torch.device,
) -> tuple[list[int], list[float]]:
    """The windows that cover a volume with the fewest voxels computed, and their overlap.

    Candidates have the size of a patch or more, in steps that keep every side divisible by what a patch's is (the
    largest power of two up to 32), and overlap by as many voxels as patches would.

    Args:
        shape: (X, Y, Z) of the volume.
        patch_size: (X, Y, Z) of the patches that the network was trained with.
        overlap: of patches, as fractions.
        needs: what the network needs.
        device: where windows are computed, and their sums held.

    Returns:
        the window's size (X, Y, Z) and its overlap along each axis, as fractions.

    Raises:
        ValueError: an overlap outside [0, 1).
    """
    check_overlap(overlap)
    most = USABLE_FRACTION * device_memory.free_memory(device)
    best, best_cost = list(patch_size), math.inf
    margins = [size - interval(size, fraction) for size, fraction in zip(patch_size, overlap, strict=True)]
    for roi in itertools.product(*map(_sizes, shape, patch_size, margins)):
        cost = math.prod(roi)
        needed = needs.bytes_per_voxel * cost + _slab_bytes(shape, roi, needs.num_classes)
        if needed > most and list(roi) != list(patch_size):
            continue
        for size, window, margin in zip(shape, roi, margins, strict=True):
            cost *= max(math.ceil((size - margin) / (window - margin)), 1)
        if cost < best_cost:
            best, best_cost = list(roi), cost
    return best, [_as_fraction(margin, window) for margin, window in zip(margins, best, strict=True)]


def _as_fraction(margin: int, window: int) -> float:
    """An overlap that `interval` makes so many voxels of again, although it cuts fractions off."""
    exact = margin / window
    return exact if interval(window, exact) == window - margin else (margin - 0.5) / window


def _slab_bytes(shape: Sequence[int], roi: Sequence[int], num_classes: int) -> int:
    """What the sums of the scores take (`segbundle.inference.slabs`) for such a volume and such windows."""
    sizes = [max(size, window) for size, window in zip(shape, roi, strict=True)]
    axis = slab_axis(shape, roi)
    return 4 * num_classes * math.prod(sizes) // sizes[axis] * min(roi[axis] + 1, sizes[axis])


def _sizes(size: int, patch: int, margin: int) -> list[int]:
    """Sides of windows to choose from: for every number of windows along an axis the smallest that are enough."""
    step, sizes = divisor(patch), {patch}
    for count in range(1, math.ceil(max(size - margin, 1) / (patch - margin)) + 1):
        missing = max(math.ceil((size - margin) / count) + margin - patch, 0)
        sizes.add(patch + math.ceil(missing / step) * step)
    return sorted(sizes)
