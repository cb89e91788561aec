"""Scores of a volume slab by slab: overlapping windows are summed in a buffer that moves along one axis."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from segbundle.hardware.device_memory import has_room
from segbundle.inference.windows import Place, WindowPlan

Slab = tuple[int, torch.Tensor]
_MANY_CLASSES = 8
"""From so many on, adding windows is faster where a voxel's classes lie side by side, if they do in the windows."""
_CERTAIN = 20.0
"""Score of the background where no window was computed: a probability of 1 - 2e-9 after softmax."""


class NonFiniteLogitsError(ValueError):
    """A network returned logits that are NaN or infinite."""


def check_finite(logits: torch.Tensor) -> None:
    """Refuse logits of which any is NaN or infinite.

    Raises:
        NonFiniteLogitsError: the message says how many.
    """
    if math.isfinite(float(logits.sum())):  # which one NaN or infinity spoils, and is quicker than a look at each
        return
    bad = logits.numel() - int(logits.isfinite().sum())
    if bad:
        raise NonFiniteLogitsError(f"{bad:,} of {logits.numel():,} logits are NaN or infinite")


class ScoreSlabs:
    """Class scores of one volume that are computed while they are read, slab by slab along one axis.

    Iterate once. Each item is `(start, scores)`: float32 scores (num_classes, X, Y, Z) whose size along `axis` is that
    of the slab, which begins at index `start`. A slab begins with the last slice of the one before, so that there is no
    gap to interpolate over. Its memory is used again for the next: take what you need before you go on.

    Attributes:
        shape: (X, Y, Z) of the volume.
        axis: the axis along which the slabs follow each other.
        roi: (X, Y, Z) of the windows that the scores come from; None if that is not known.
        seconds: how long computing has taken so far, without what was done between the slabs.
    """

    def __init__(
        self, shape: Sequence[int], axis: int, slabs: Iterator[Slab], roi: Sequence[int] | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.axis = axis
        self.roi = roi
        self.seconds = 0.0
        self._slabs = slabs

    def __iter__(self) -> Iterator[Slab]:
        return self

    def __next__(self) -> Slab:
        started = time.monotonic()
        try:
            return next(self._slabs)
        finally:
            self.seconds += time.monotonic() - started

    def whole(self, device: torch.device | str | None = None) -> torch.Tensor:
        """All slabs put together: scores (num_classes, X, Y, Z)."""
        scores: torch.Tensor | None = None
        for start, slab in self:
            if scores is None:
                scores = torch.empty((len(slab), *self.shape), dtype=slab.dtype, device=device or slab.device)
            scores.narrow(1 + self.axis, start, slab.shape[1 + self.axis]).copy_(slab)
        assert scores is not None  # a volume has a voxel, and so a window
        return scores


class SlabBuffer:
    """Weighted sums of window scores, over as many slices as the windows of one group span.

    Inside, the axis along which slabs follow each other comes first. The buffer holds classes x slices x
    cross-section, whatever the volume's extent along that axis.

    Args:
        plan: where the windows lie.
        weights: of a window's voxels, (X, Y, Z), on the device where windows are computed.
        thickness: the largest number of slices that the windows of one group span.
        device: where the sums are kept; None for where the windows are computed if they fit there, else the CPU. On
            the CPU, windows from a GPU are added while the next ones are computed.
    """

    def __init__(self, plan: WindowPlan, weights: torch.Tensor, thickness: int, device: torch.device | None) -> None:
        self.plan = plan
        self._device = device
        self._order = (plan.axis, *(axis for axis in range(3) if axis != plan.axis))
        self._roi = [plan.roi[axis] for axis in self._order]
        self._weights = weights.permute(self._order).contiguous()
        self._thickness = thickness + 1  # one more slice for the last one of the slab before
        self._sums: torch.Tensor | None = None
        self._counts = torch.zeros(0)
        self._begin = 0  # slice of the padded volume at which the buffer begins
        self._copied: tuple[torch.Tensor, Any, list[Place]] | None = None

    def move_to(self, first: int) -> None:
        """Make room for windows from slice `first` on; earlier ones are forgotten, but for the last."""
        begin = max(first - 1, 0)
        if self._sums is not None:
            _shift(self._sums, 1, begin - self._begin)
            _shift(self._counts, 0, begin - self._begin)
        self._begin = begin

    @property
    def empty(self) -> bool:
        """Whether no window was added yet."""
        return self._sums is None

    def add(self, scores: torch.Tensor, places: Sequence[Place]) -> None:
        """Add the scores (B, num_classes, X, Y, Z) of windows at these places."""
        if self._sums is None:
            self._allocate(scores)
        assert self._sums is not None
        if scores.device == self._sums.device:
            self._accumulate(scores, places)
            return
        host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=scores.is_cuda)
        host.copy_(scores, non_blocking=True)
        copied = torch.cuda.Event() if scores.is_cuda else None
        if copied is not None:
            copied.record(torch.cuda.current_stream(scores.device))
        self._finish_copying()
        self._copied = (host, copied, list(places))

    def _allocate(self, scores: torch.Tensor) -> None:
        size = (self._thickness, *(self.plan.padded[axis] for axis in self._order[1:]))
        num_bytes = 4 * scores.shape[1] * math.prod(size)
        device = self._device or (scores.device if has_room(num_bytes, scores.device) else torch.device("cpu"))
        self._counts, self._weights = torch.zeros(size, device=device), self._weights.to(device)
        if scores.stride(1) == 1 and scores.shape[1] >= _MANY_CLASSES:  # as the network's output lies in memory
            self._sums = torch.zeros((*size, scores.shape[1]), device=device).permute(3, 0, 1, 2)
        else:
            self._sums = torch.zeros((scores.shape[1], *size), device=device)

    def leave(self, device: torch.device) -> bool:
        """Move the sums from a device that has no room left to the CPU; False if they are not there."""
        if self._sums is None or self._sums.device != device or device.type == "cpu":
            return False
        self._sums, self._counts, self._weights = self._sums.cpu(), self._counts.cpu(), self._weights.cpu()
        return True

    def clear(self) -> None:
        """Forget the scores that were added."""
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

    def _accumulate(self, scores: torch.Tensor, places: Sequence[Place]) -> None:
        assert self._sums is not None
        scores = scores.to(self._sums.device).float().permute(0, 1, *(2 + axis for axis in self._order))
        for window, place in zip(scores, places, strict=True):
            along, *across = (place[axis] for axis in self._order)
            starts = (along - self._begin, *across)
            at = [slice(start, start + size) for start, size in zip(starts, self._roi, strict=True)]
            in_every_class = (slice(None), *at)
            self._sums[in_every_class].addcmul_(window, self._weights)
            self._counts[tuple(at)].add_(self._weights)

    def finished(self, stop: int) -> Slab | None:
        """The slices before `stop`, which no further window will change, cut to the volume; None if none is left.

        Raises:
            NonFiniteLogitsError: the logits of any window over these slices were NaN or infinite.
        """
        self._finish_copying()
        assert self._sums is not None
        (before, _), *across = [self.plan.padding[axis] for axis in self._order]
        size, *sizes = [self.plan.shape[axis] for axis in self._order]
        count = stop - self._begin
        _normalise(self._sums[:, :count], self._counts[:count])
        check_finite(self._sums[:, :count])
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


def _normalise(sums: torch.Tensor, counts: torch.Tensor) -> None:
    """Divide sums by counts in place, set the counts to 1, and call background what no window covered."""
    untouched = counts == 0
    if bool(untouched.any()):
        counts[untouched] = 1
        sums[0].masked_fill_(untouched, _CERTAIN)
    sums.div_(counts)
    counts.fill_(1)


def _shift(buffer: torch.Tensor, dim: int, by: int) -> None:
    """Move a buffer's content towards its beginning along a dimension, slice by slice, with zeros behind it."""
    size = buffer.shape[dim]
    kept = max(size - by, 0)
    for index in range(kept):
        buffer.select(dim, index).copy_(buffer.select(dim, index + by))
    buffer.narrow(dim, kept, size - kept).zero_()
