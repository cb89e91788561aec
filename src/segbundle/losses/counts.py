"""One pass over a batch for everything that a region loss and a cross entropy need.

Region losses look at a volume through three sums per class: how much of it the network and the reference share, how
much the network gives away, how much the reference holds. Here they are taken chunk by chunk, with the softmax, the
cross entropy and their gradients, so that beside the scores and their gradient nothing of the size of classes times
voxels exists: no one-hot copy, no stored probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

_CPU_CHUNK = 2**20
"""Scores handled at a time on a CPU: few enough for its cache, enough to keep several threads busy."""
_GPU_CHUNK = 2**24
"""Scores handled at a time on a GPU: enough to fill it, little beside a network's own memory."""
_NEVER = -1e30
"""The score of a class that has been merged into the background: its probability is exactly 0."""


class SoftCounts(NamedTuple):
    """Sums over the voxels that are not ignored. p is a probability, g the reference, 1 or 0; C classes, B samples."""

    intersection: torch.Tensor
    """(B, C): sum of p g."""
    prediction: torch.Tensor
    """(B, C): sum of p, or of its square."""
    reference: torch.Tensor
    """(B, C): sum of g, or of its square; no gradient."""
    voxels: torch.Tensor
    """(B,): how many voxels; no gradient."""
    cross_entropy: torch.Tensor
    """(B,): sum of - weight log p over the voxels' classes; 0 where none was asked for."""
    cross_entropy_weight: torch.Tensor
    """(B,): what a mean of that sum divides by; no gradient."""


@dataclass(frozen=True)
class CrossEntropy:
    """The cross entropy to take along: class weights (C,) or None for ones, and label smoothing in [0, 1]."""

    weight: torch.Tensor | None = None
    label_smoothing: float = 0.0


def soft_counts(
    input: torch.Tensor,
    target: torch.Tensor,
    *,
    softmax: bool,
    merged: Sequence[Sequence[int]] | None = None,
    ignore_index: int | None = None,
    squared_pred: bool = False,
    soft_label: bool = False,
    cross_entropy: CrossEntropy | None = None,
) -> SoftCounts:
    """Count, in float32 (float64 for float64 input), with gradients to `input`.

    Args:
        input: (B, C, *spatial) floating point: scores before softmax, or probabilities.
        target: (B, 1, *spatial) class indices of any dtype if C > 1, or (B, C, *spatial) one-hot or soft.
        softmax: whether `input` are scores. The cross entropy needs them.
        merged: per sample the classes that its background may hide, those that nobody annotated. Their probability
            is added to the background's, and the sums of their own are 0 (marginal probabilities; Shi et al. 2021,
            Medical Image Analysis 70, 101979).
        ignore_index: voxels with this index are left out. With one-hot targets: voxels of that channel, or, where
            there is no such channel, voxels that are zero in all of them.
        squared_pred: sum p² and g² in `prediction` and `reference`.
        soft_label: with a soft target, the intersection is the sum of min(p, g), so that p = g is a perfect match.
        cross_entropy: take this cross entropy along.
    """
    settings = _Settings(softmax, ignore_index, squared_pred, soft_label, cross_entropy)
    return SoftCounts(*_CountingPass.apply(input, target, merged, settings))


@dataclass(frozen=True)
class _Settings:
    softmax: bool
    ignore_index: int | None
    squared_pred: bool
    soft_label: bool
    cross_entropy: CrossEntropy | None


class _CountingPass(torch.autograd.Function):
    """The pass forward, and the one back that turns six gradients per sample into one per score.

    Both walk through the same chunks; the second computes the probabilities again, which takes less time than
    keeping them, and no memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        target: torch.Tensor,
        merged: Sequence[Sequence[int]] | None,
        settings: _Settings,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(input, target)
        ctx.merged, ctx.settings = merged, settings
        batch_size, num_classes = input.shape[:2]
        dtype = working_dtype(input)
        totals = torch.zeros(batch_size, 3 * num_classes + 3, dtype=_total_dtype(input.device), device=input.device)
        with torch.autocast(input.device.type, enabled=False):
            for sample in range(batch_size):
                for chunk in _chunks(input, target, merged, settings, sample):
                    totals[sample] += torch.cat([part.reshape(-1).to(totals) for part in _count(chunk, settings)])
        totals = totals.to(dtype)
        counts = (*totals[:, : 3 * num_classes].split(num_classes, dim=1), *totals[:, -3:].unbind(dim=1))
        ctx.mark_non_differentiable(counts[2], counts[3], counts[5])
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, target = ctx.saved_tensors
        gradient = torch.empty_like(input.flatten(2))
        with torch.autocast(input.device.type, enabled=False):
            for sample in range(len(input)):
                upstream = _Upstream(grads[0][sample], grads[1][sample], grads[4][sample])
                for chunk in _chunks(input, target, ctx.merged, ctx.settings, sample):
                    gradient[sample, :, chunk.where] = _gradient(chunk, upstream, ctx.settings)
        return gradient.reshape(input.shape), None, None, None


class _Upstream(NamedTuple):
    """Gradients of the loss with respect to one sample's sums: (C,), (C,) and a number."""

    intersection: torch.Tensor
    prediction: torch.Tensor
    cross_entropy: torch.Tensor


@dataclass
class _Chunk:
    """Some voxels of one sample, with merged classes already merged: n voxels, C classes."""

    where: slice
    scores: torch.Tensor  # (C, n) before softmax, or probabilities
    labels: torch.Tensor | None  # (n,) int64, or
    reference: torch.Tensor | None  # (C, n)
    valid: torch.Tensor | None  # (n,) bool, None if all are
    members: torch.Tensor | None  # the background and the classes merged into it
    shares: torch.Tensor | None  # (members, n): how the merged score depends on each of theirs


def _chunks(
    input: torch.Tensor,
    target: torch.Tensor,
    merged: Sequence[Sequence[int]] | None,
    settings: _Settings,
    sample: int,
) -> Iterator[_Chunk]:
    scores, reference = input[sample].flatten(1), target[sample].flatten(1)
    num_classes, num_voxels = scores.shape
    hidden = list(merged[sample]) if merged is not None else []
    members = torch.tensor([0, *hidden], device=input.device) if hidden else None
    size = max(1, (_CPU_CHUNK if input.device.type == "cpu" else _GPU_CHUNK) // num_classes)
    for start in range(0, num_voxels, size):
        where = slice(start, min(start + size, num_voxels))
        values = scores[:, where].to(working_dtype(input))
        labels = dense = shares = None
        if len(reference) == num_classes:
            dense, valid = _dense_reference(reference[:, where].to(values.dtype), settings.ignore_index)
        else:
            labels, valid = _labels(reference[0, where], settings.ignore_index)
        if members is not None:
            values, shares = _merge(values, members, settings.softmax)
            if labels is not None:
                labels = _merge_labels(labels, hidden)
            if dense is not None:
                dense = _merge(dense, members, softmax=False)[0]
        yield _Chunk(where, values, labels, dense, valid, members, shares)


def _labels(labels: torch.Tensor, ignore_index: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Class indices with ignored voxels as background, and which are not ignored."""
    labels = labels.long()  # first: an ignore_index may not fit the labels' own type
    if ignore_index is None:
        return labels, None
    valid = labels != ignore_index
    return torch.where(valid, labels, 0), valid


def _dense_reference(reference: torch.Tensor, ignore_index: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A one-hot or soft reference that is 0 in ignored voxels, and which are not ignored."""
    if ignore_index is None:
        return reference, None
    if len(reference) == 1:
        valid = reference[0] != ignore_index
    elif 0 <= ignore_index < len(reference):
        valid = reference[ignore_index] < 0.5
    else:
        valid = reference.sum(dim=0) > 0
    return torch.where(valid, reference, 0), valid


def _merge(values: torch.Tensor, members: torch.Tensor, softmax: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the sum of the members' probabilities into the background's place; also the sum's derivatives."""
    part = values[members]
    merged = values.clone()
    merged[members[1:]] = _NEVER if softmax else 0.0
    merged[0] = part.logsumexp(dim=0) if softmax else part.sum(dim=0)
    return merged, part.softmax(dim=0) if softmax else torch.ones_like(part)


def _merge_labels(labels: torch.Tensor, hidden: Sequence[int]) -> torch.Tensor:
    for index in hidden:
        labels = torch.where(labels == index, 0, labels)
    return labels


def _count(chunk: _Chunk, settings: _Settings) -> tuple[torch.Tensor, ...]:
    """The chunk's part of each of the sums in `SoftCounts`, in their order."""
    logs = chunk.scores.log_softmax(dim=0) if settings.softmax else None
    probabilities = chunk.scores if logs is None else logs.exp()
    if chunk.valid is not None:
        probabilities = probabilities * chunk.valid
    num_classes, num_voxels = probabilities.shape
    if chunk.labels is not None:
        hit = probabilities.gather(0, chunk.labels[None])[0]
        intersection = _sums_by_label(hit, chunk.labels, num_classes)
        there = torch.ones_like(hit) if chunk.valid is None else chunk.valid.to(hit.dtype)
        reference = _sums_by_label(there, chunk.labels, num_classes)
    else:
        assert chunk.reference is not None
        intersection = _overlap(probabilities, chunk.reference, settings).sum(dim=1)
        reference = (chunk.reference**2 if settings.squared_pred else chunk.reference).sum(dim=1)
    prediction = (probabilities**2 if settings.squared_pred else probabilities).sum(dim=1)
    voxels = probabilities.new_full((), num_voxels) if chunk.valid is None else chunk.valid.sum()
    if settings.cross_entropy is None or logs is None:
        nothing = probabilities.new_zeros(())
        return intersection, prediction, reference, voxels, nothing, nothing
    entropy, weight = _count_cross_entropy(chunk, logs, settings.cross_entropy)
    return intersection, prediction, reference, voxels, entropy, weight


def _overlap(probabilities: torch.Tensor, reference: torch.Tensor, settings: _Settings) -> torch.Tensor:
    if settings.soft_label and not settings.squared_pred:
        return torch.minimum(probabilities, reference)
    return probabilities * reference


def _sums_by_label(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Sum of the values (n,) per label, (num_classes,)."""
    if values.device.type == "cpu":
        return torch.bincount(labels, weights=values.double(), minlength=num_classes)
    # Atomic additions to a few places are slow on a GPU, and differ from run to run.
    classes = torch.arange(num_classes, device=labels.device)[:, None]
    return torch.where(labels == classes, values, 0).sum(dim=1)


def _count_cross_entropy(chunk: _Chunk, logs: torch.Tensor, entropy: CrossEntropy) -> tuple[torch.Tensor, torch.Tensor]:
    if chunk.labels is not None:
        per_voxel, weights = _label_weights(chunk, entropy, logs)
        loss = -(logs.gather(0, chunk.labels[None])[0] * per_voxel).sum()
        spread = _smoothing(chunk, entropy, logs)
        if spread is not None:
            smooth = spread @ logs
            loss = loss - (smooth if chunk.valid is None else smooth * chunk.valid).sum()
        return loss, weights.sum()
    wanted = _wanted(chunk, entropy, logs)
    voxels = logs.new_full((), logs.shape[1]) if chunk.valid is None else chunk.valid.sum()
    return -(wanted * logs).sum(), voxels


def _label_weights(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per voxel: what multiplies - log p of its class, and what the mean divides by (n,)."""
    assert chunk.labels is not None
    ones = torch.ones_like(chunk.labels, dtype=like.dtype)
    weights = ones if entropy.weight is None else entropy.weight.to(like)[chunk.labels]
    if chunk.valid is not None:
        weights = weights * chunk.valid
    return weights * (1 - entropy.label_smoothing), weights


def _smoothing(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> torch.Tensor | None:
    """What label smoothing gives every class in every voxel, (C,); it goes to the classes that are left."""
    if entropy.label_smoothing == 0:
        return None
    share = like.new_ones(len(like)) if entropy.weight is None else entropy.weight.to(like).clone()
    left = len(share)
    if chunk.members is not None:
        share[chunk.members[1:]] = 0
        left -= len(chunk.members) - 1
    return share * (entropy.label_smoothing / left)


def _wanted(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> torch.Tensor:
    """What multiplies - log p in every voxel and class if the reference is dense, (C, n)."""
    assert chunk.reference is not None
    wanted = chunk.reference * (1 - entropy.label_smoothing)
    if entropy.weight is not None:
        wanted = wanted * entropy.weight.to(like)[:, None]
    spread = _smoothing(chunk, entropy, like)
    if spread is not None:
        wanted = wanted + spread[:, None]
    return wanted if chunk.valid is None else wanted * chunk.valid


def _gradient(chunk: _Chunk, upstream: _Upstream, settings: _Settings) -> torch.Tensor:
    """Gradient with respect to the scores or probabilities of a chunk, (C, n)."""
    probabilities = chunk.scores.softmax(dim=0) if settings.softmax else chunk.scores
    step = _label_gradient if chunk.labels is not None else _dense_gradient
    gradient = step(chunk, probabilities, upstream, settings)
    if chunk.valid is not None:
        gradient = gradient * chunk.valid
    if chunk.members is not None and chunk.shares is not None:
        gradient[chunk.members] = gradient[0] * chunk.shares
    return gradient


def _label_gradient(
    chunk: _Chunk, probabilities: torch.Tensor, upstream: _Upstream, settings: _Settings
) -> torch.Tensor:
    """As `_gradient`, for index maps.

    With h the gradient with respect to the probabilities, the one with respect to the scores is p (h - sum of p h)
    for the region's sums, and w (p - g) for the cross entropy. h is the same for all voxels but for the class that
    each belongs to, which is put in afterwards.
    """
    assert chunk.labels is not None
    labels = chunk.labels[None]
    along = upstream.prediction[:, None]
    at_label = upstream.intersection[chunk.labels]
    if not settings.softmax:
        gradient = along * 2 * probabilities if settings.squared_pred else along.expand_as(probabilities).clone()
        return gradient.scatter_add_(0, labels, at_label[None])
    at_label = at_label * probabilities.gather(0, labels)[0]
    if settings.squared_pred:
        along = along * 2 * probabilities
        mean = (along * probabilities).sum(dim=0) + at_label
    else:
        mean = upstream.prediction @ probabilities + at_label
    if settings.cross_entropy is None:
        return ((along - mean) * probabilities).scatter_add_(0, labels, at_label[None])
    weights = _label_weights(chunk, settings.cross_entropy, probabilities)[0] * upstream.cross_entropy
    spread = _smoothing(chunk, settings.cross_entropy, probabilities)
    whole = weights if spread is None else weights + spread.sum() * upstream.cross_entropy
    gradient = torch.sub(along, mean - whole).mul_(probabilities)
    gradient.scatter_add_(0, labels, (at_label - weights)[None])
    return gradient if spread is None else gradient - (spread * upstream.cross_entropy)[:, None]


def _dense_gradient(
    chunk: _Chunk, probabilities: torch.Tensor, upstream: _Upstream, settings: _Settings
) -> torch.Tensor:
    """As `_gradient`, for one-hot and soft references."""
    assert chunk.reference is not None
    overlap = chunk.reference
    if settings.soft_label and not settings.squared_pred:
        below, equal = probabilities < chunk.reference, probabilities == chunk.reference
        overlap = below.to(probabilities.dtype) + 0.5 * equal
    along = upstream.prediction[:, None]
    along = along * 2 * probabilities if settings.squared_pred else along
    along = along + upstream.intersection[:, None] * overlap
    if not settings.softmax:
        return along
    gradient = probabilities * (along - (along * probabilities).sum(dim=0))
    if settings.cross_entropy is not None:
        wanted = _wanted(chunk, settings.cross_entropy, probabilities)
        gradient = gradient + upstream.cross_entropy * (probabilities * wanted.sum(dim=0) - wanted)
    return gradient


def working_dtype(input: torch.Tensor) -> torch.dtype:
    """float32, or float64 for float64 input."""
    return torch.promote_types(input.dtype, torch.float32)


def _total_dtype(device: torch.device) -> torch.dtype:
    """Chunks are summed in double precision where the device has it: millions of voxels add up exactly."""
    return torch.float32 if device.type == "mps" else torch.float64
