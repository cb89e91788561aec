"""Compute the logits of a volume slab by slab, in a buffer that sums overlapping windows and moves along one axis."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from segbundle.hardware.memory_usage import has_room
from segbundle.inference.windows import Place, WindowPlan

Slab = tuple[int, torch.Tensor]
_MANY_CLASSES = 8
"""Number of classes from which channels-last sums are faster, if the windows are channels-last."""
_BACKGROUND_LOGIT = 20.0
"""Logit of the background where no window was computed, and negative of those of all other classes."""


class NonFiniteLogitsError(ValueError):
    """Error for logits that are NaN or infinite, for instance because weights have diverged.

    Example:
        >>> issubclass(NonFiniteLogitsError, ValueError)
        True
    """


def check_finite(logits: torch.Tensor) -> None:
    """Raise an error if any of the logits is NaN or infinite.

    Args:
        logits: any shape.

    Raises:
        NonFiniteLogitsError: some logits are NaN or infinite. The message gives their number.

    Example:
        >>> check_finite(torch.zeros(2, 3))
        >>> check_finite(torch.tensor([1.0, float("nan")]))
        Traceback (most recent call last):
        ...
        segbundle.inference.slabs.NonFiniteLogitsError: 1 of 2 logits are NaN or infinite
    """
    if math.isfinite(float(logits.sum())):  # NaN or infinity changes the sum; checking all values is slower
        return
    bad = logits.numel() - int(logits.isfinite().sum())
    if bad:
        raise NonFiniteLogitsError(f"{bad:,} of {logits.numel():,} logits are NaN or infinite")


class ScoreSlabs(Iterator[Slab]):
    """Iterator over the logits of a volume, computed on demand in slabs along one axis.

    Items are `(start, logits)`: float32 logits (num_classes, X, Y, Z) of the slab that begins at index `start` along
    `axis`. Each slab begins with the last slice of the previous slab, so that interpolation between slabs has no gaps.
    The next slab reuses the memory, so copy values that are needed later. The slabs can be iterated over only once.

    Args:
        shape: (X, Y, Z) of the volume.
        axis: axis along which the slabs are ordered.
        slabs: iterator over the items `(start, logits)`.
        roi: (X, Y, Z) of the windows; None (default) if unknown.

    Attributes:
        shape: (X, Y, Z) of the volume.
        axis: axis along which the slabs are ordered.
        roi: (X, Y, Z) of the windows; None if unknown.
        seconds: computing time of the slabs so far, in seconds.

    Example:
        >>> slabs = [(0, torch.zeros(3, 2, 5, 5)), (1, torch.ones(3, 3, 5, 5))]
        >>> ScoreSlabs((4, 5, 5), axis=0, slabs=iter(slabs)).whole().shape
        torch.Size([3, 4, 5, 5])
    """

    def __init__(
        self, shape: Sequence[int], axis: int, slabs: Iterator[Slab], roi: Sequence[int] | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.axis = axis
        self.roi = roi
        self.seconds = 0.0
        self._slabs = slabs

    def __next__(self) -> Slab:
        started = time.monotonic()
        try:
            return next(self._slabs)
        finally:
            self.seconds += time.monotonic() - started

    def whole(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the logits of the whole volume, float32 (num_classes, X, Y, Z), and exhaust the iterator.

        Args:
            device: device of the result. Default: device of the slabs.

        Raises:
            NonFiniteLogitsError: logits are NaN or infinite.
        """
        logits: torch.Tensor | None = None
        for start, slab in self:
            if logits is None:
                logits = torch.empty((len(slab), *self.shape), dtype=slab.dtype, device=device or slab.device)
            logits.narrow(1 + self.axis, start, slab.shape[1 + self.axis]).copy_(slab)
        assert logits is not None  # a volume has at least one voxel, and therefore one window
        return logits


class SlabBuffer:
    """Buffer that sums the weighted logits of overlapping windows, for a range of slices of a volume.

    The range is as thick as the windows of a group (see `WindowPlan.groups`), and moves along the axis of the plan. The
    size of the buffer, classes x slices x cross-section, does not depend on the number of slices of the volume.

    Args:
        plan: positions of the windows.
        weights: weight of each voxel of a window, (X, Y, Z), on the device of the network.
        thickness: maximum number of slices that the windows of a group span.
        device: device of the sums. None selects the device of the network if the sums fit there, otherwise the CPU. On
            the CPU, windows from a GPU are added while the next windows are computed.

    Example:
        >>> from segbundle.inference.windows import plan_windows
        >>> plan = plan_windows((4, 4, 4), (4, 4, 4), (0.0, 0.0, 0.0))
        >>> buffer = SlabBuffer(plan, torch.ones(4, 4, 4), thickness=4, device=None)
        >>> buffer.add(torch.ones(1, 2, 4, 4, 4), [(0, 0, 0)])
        >>> start, slab = buffer.finished(stop=4)
        >>> start, slab.shape
        (0, torch.Size([2, 4, 4, 4]))
    """

    def __init__(self, plan: WindowPlan, weights: torch.Tensor, thickness: int, device: torch.device | None) -> None:
        self.plan = plan
        self._device = device
        self._order = (plan.axis, *(axis for axis in range(3) if axis != plan.axis))
        self._roi = [plan.roi[axis] for axis in self._order]
        self._weights = weights.permute(self._order).contiguous()
        self._thickness = thickness + 1  # one more slice, for the last slice of the previous slab
        self._sums: torch.Tensor | None = None
        self._counts = torch.zeros(0)
        self._begin = 0  # first slice of the buffer in the padded volume
        self._copied: tuple[torch.Tensor, Any, list[Place]] | None = None

    def move_to(self, first: int) -> None:
        """Move the buffer to the windows that start at slice `first`, and keep the slice before it for the next slab.

        Args:
            first: index of the slice in the padded volume; not less than in earlier calls.
        """
        begin = max(first - 1, 0)
        if self._sums is not None:
            _shift(self._sums, 1, begin - self._begin)
            _shift(self._counts, 0, begin - self._begin)
        self._begin = begin

    @property
    def empty(self) -> bool:
        """True if no window has been added yet."""
        return self._sums is None

    def add(self, logits: torch.Tensor, places: Sequence[Place]) -> None:
        """Add the weighted logits of windows to the sums.

        Args:
            logits: (B, num_classes, X, Y, Z), float32, float16 or bfloat16.
            places: positions of the B windows in the padded volume.
        """
        if self._sums is None:
            self._allocate(logits)
        assert self._sums is not None
        if logits.device == self._sums.device:
            self._accumulate(logits, places)
            return
        host = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=logits.is_cuda)
        host.copy_(logits, non_blocking=True)
        copied = torch.cuda.Event() if logits.is_cuda else None
        if copied is not None:
            copied.record(torch.cuda.current_stream(logits.device))
        self._finish_copying()
        self._copied = (host, copied, list(places))

    def _allocate(self, logits: torch.Tensor) -> None:
        size = (self._thickness, *(self.plan.padded[axis] for axis in self._order[1:]))
        num_bytes = 4 * logits.shape[1] * math.prod(size)
        device = self._device or (logits.device if has_room(num_bytes, logits.device) else torch.device("cpu"))
        self._counts, self._weights = torch.zeros(size, device=device), self._weights.to(device)
        if logits.stride(1) == 1 and logits.shape[1] >= _MANY_CLASSES:  # same memory layout as the network's output
            self._sums = torch.zeros((*size, logits.shape[1]), device=device).permute(3, 0, 1, 2)
        else:
            self._sums = torch.zeros((logits.shape[1], *size), device=device)

    def move_to_cpu(self, device: torch.device) -> bool:
        """Move the sums from a device to the CPU, to free the memory of the device.

        Args:
            device: device whose memory is exhausted.

        Returns:
            True if the sums were moved; False if the sums are not on `device`, or `device` is the CPU
        """
        if self._sums is None or self._sums.device != device or device.type == "cpu":
            return False
        self._sums, self._counts, self._weights = self._sums.cpu(), self._counts.cpu(), self._weights.cpu()
        return True

    def clear(self) -> None:
        """Reset all sums to zero."""
        self._finish_copying()
        assert self._sums is not None
        self._sums.zero_()
        self._counts.zero_()

    def _finish_copying(self) -> None:
        if self._copied is not None:
            (host, copied, places), self._copied = self._copied, None
            if copied is not None:
                copied.synchronize()
            self._accumulate(host, places)

    def _accumulate(self, logits: torch.Tensor, places: Sequence[Place]) -> None:
        assert self._sums is not None
        logits = logits.to(self._sums.device).float().permute(0, 1, *(2 + axis for axis in self._order))
        for window, place in zip(logits, places, strict=True):
            along, *across = (place[axis] for axis in self._order)
            starts = (along - self._begin, *across)
            at = [slice(start, start + size) for start, size in zip(starts, self._roi, strict=True)]
            in_every_class = (slice(None), *at)
            self._sums[in_every_class].addcmul_(window, self._weights)
            self._counts[tuple(at)].add_(self._weights)

    def finished(self, stop: int) -> Slab | None:
        """Return the logits of the slices before `stop`, to which no more windows are added.

        Sums are divided by the sums of the weights. Voxels that no window covers become background.

        Args:
            stop: index of the first unfinished slice in the padded volume.

        Returns:
            index of the first slice in the volume, and float32 logits (num_classes, X, Y, Z) without padding, which
            share their memory with the buffer; or None if all slices before `stop` are padding

        Raises:
            NonFiniteLogitsError: logits of a window in these slices are NaN or infinite.
        """
        self._finish_copying()
        assert self._sums is not None
        (before, _), *across = [self.plan.padding[axis] for axis in self._order]
        size, *sizes = [self.plan.shape[axis] for axis in self._order]
        count = stop - self._begin
        sums, counts = self._sums[:, :count], self._counts[:count]
        untouched = counts == 0
        if bool(untouched.any()):
            counts[untouched] = 1
            sums[0].masked_fill_(untouched, _BACKGROUND_LOGIT)
            sums[1:].masked_fill_(untouched, -_BACKGROUND_LOGIT)
        sums.div_(counts)
        counts.fill_(1)
        check_finite(sums)
        first, last = max(self._begin, before), min(stop, before + size)
        if first >= last:
            return None
        slab = self._sums[:, first - self._begin : last - self._begin]
        for dim, ((pad, _), extent) in enumerate(zip(across, sizes, strict=True), start=2):
            slab = slab.narrow(dim, pad, extent)
        back = [0, 0, 0]
        for position, axis in enumerate(self._order):
            back[axis] = 1 + position
        return first - before, slab.permute(0, *back)


def _shift(buffer: torch.Tensor, dim: int, by: int) -> None:
    """Move the content of a buffer towards its beginning along a dimension, and fill the end with zeros."""
    size = buffer.shape[dim]
    kept = max(size - by, 0)
    for index in range(kept):
        buffer.select(dim, index).copy_(buffer.select(dim, index + by))
    buffer.narrow(dim, kept, size - kept).zero_()
