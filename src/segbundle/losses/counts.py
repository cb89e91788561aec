"""Compute all sums that a region loss and cross entropy need in one pass over a batch.

A region loss needs three sums per class: the intersection, the prediction and the reference. These sums are computed
chunk by chunk, together with softmax, cross entropy and their gradients. Apart from the logits and their gradient, no
tensor of the size classes x voxels is allocated: neither a one-hot target nor probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch.autograd.function import once_differentiable

_CPU_CHUNK = 2**20
"""Values per chunk on a CPU: small enough for its cache, large enough to keep several threads busy."""
_GPU_CHUNK = 2**24
"""Values per chunk on a GPU: large enough to keep it busy, small compared with the memory of a network."""
_MIN_LOGIT = -1e30
"""Logit of a class that was merged into the background: its probability is exactly 0."""


class SoftCounts(NamedTuple):
    """Per-class sums over the voxels that are not ignored, for B samples and C classes.

    p is the predicted probability of a class at a voxel, and g its reference value: 0 or 1, or in between for soft
    targets.

    Example:
        >>> counts = soft_counts(torch.tensor([[[0.75, 0.5], [0.25, 0.5]]]), torch.tensor([[[0, 1]]]), softmax=False)
        >>> counts.intersection.tolist(), counts.prediction.tolist(), counts.reference.tolist()
        ([[0.75, 0.5]], [[1.25, 0.75]], [[1.0, 1.0]])
    """

    intersection: torch.Tensor
    """(B, C): sum of p g; of min(p, g) with `soft_label`."""
    prediction: torch.Tensor
    """(B, C): sum of p; of p² with `squared_pred`."""
    reference: torch.Tensor
    """(B, C): sum of g; of g² with `squared_pred`. No gradient."""
    voxels: torch.Tensor
    """(B,): number of voxels. No gradient."""
    cross_entropy: torch.Tensor
    """(B,): sum over voxels of -weight x log p for the voxel's class; 0 if not requested."""
    cross_entropy_weight: torch.Tensor
    """(B,): denominator of the mean cross entropy; 0 if not requested. No gradient."""


@dataclass(frozen=True)
class CrossEntropy:
    """Settings of the cross entropy that `soft_counts` computes.

    Attributes:
        weight: class weights (C,). Default: None (equal weights).
        label_smoothing: label smoothing (Szegedy et al. 2016, CVPR), in [0, 1]. Default: 0.0.

    Example:
        >>> logits, target = torch.zeros(1, 2, 4), torch.zeros(1, 1, 4)
        >>> counts = soft_counts(logits, target, softmax=True, cross_entropy=CrossEntropy())
        >>> round((counts.cross_entropy / counts.cross_entropy_weight).item(), 4)  # log 2
        0.6931
    """

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
    regions: torch.Tensor | None = None,
) -> SoftCounts:
    """Compute the per-class sums of a batch, differentiable with respect to `input`.

    Args:
        input: (B, C, *spatial), floating point: logits with `softmax`, otherwise probabilities.
        target: (B, 1, *spatial) class indices of any dtype if C > 1, or (B, C, *spatial) one-hot or soft.
        softmax: whether `input` contains logits, which cross entropy requires.
        merged: indices of the unannotated classes of each sample, whose voxels are labeled as background. Their
            probability is added to that of the background, and their own sums are 0 (marginal probabilities; Shi et al.
            2021, Medical Image Analysis 70, 101979). Default: None (no unannotated classes).
        ignore_index: class index of the voxels to exclude. In one-hot targets, these are the voxels of that channel or,
            without such a channel, the voxels that are 0 in all channels. Default: None.
        squared_pred: sum p² and g² in `prediction` and `reference`. Default: False.
        soft_label: for a soft target, compute the intersection as the sum of min(p, g), so that p = g is a perfect
            match (Wang et al. 2023, arXiv:2303.16296). No effect with `squared_pred`. Default: False.
        cross_entropy: settings of the cross entropy; ignored without `softmax`. Default: None (no cross entropy).
        regions: (C, V) bool, True where a class contains one of the V label values of a target (B, 1, *spatial), so
            that classes may overlap; excludes `softmax`. Default: None (the value of a class is its index).

    Returns:
        sums in float32 (float64 for float64 input)

    Example:
        >>> input = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
        >>> soft_counts(input, torch.tensor([[[0, 255]]]), softmax=False, ignore_index=255).voxels
        tensor([1.])
    """
    settings = _Settings(softmax, ignore_index, squared_pred, soft_label, cross_entropy, regions)
    return SoftCounts(*_CountingPass.apply(input, target, merged, settings))


@dataclass(frozen=True)
class _Settings:
    softmax: bool
    ignore_index: int | None
    squared_pred: bool
    soft_label: bool
    cross_entropy: CrossEntropy | None
    regions: torch.Tensor | None = None


class _CountingPass(torch.autograd.Function):
    """Forward pass, and a backward pass that maps the gradients of the sums to the gradient of the input.

    Both iterate over the same chunks. The backward pass recomputes the probabilities, as this is faster than storing
    them and needs no memory.
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
    """Gradients of the loss with respect to the sums of one sample: (C,), (C,) and a scalar."""

    intersection: torch.Tensor
    prediction: torch.Tensor
    cross_entropy: torch.Tensor


@dataclass
class _Chunk:
    """Chunk of n voxels of one sample, with unannotated classes already merged into the background."""

    where: slice
    inputs: torch.Tensor  # (C, n), logits or probabilities
    labels: torch.Tensor | None  # (n,) int64, for class indices
    reference: torch.Tensor | None  # (C, n), for one-hot and soft targets
    valid: torch.Tensor | None  # (n,) bool, False for ignored voxels; None if all are valid
    members: torch.Tensor | None  # the background and the classes merged into it
    shares: torch.Tensor | None  # (members, n): derivative of the merged value for each member


def _chunks(
    input: torch.Tensor,
    target: torch.Tensor,
    merged: Sequence[Sequence[int]] | None,
    settings: _Settings,
    sample: int,
) -> Iterator[_Chunk]:
    flat_input, reference = input[sample].flatten(1), target[sample].flatten(1)
    num_classes, num_voxels = flat_input.shape
    absorbed = list(merged[sample]) if merged is not None else []
    members = torch.tensor([0, *absorbed], device=input.device) if absorbed else None
    size = max(1, (_CPU_CHUNK if input.device.type == "cpu" else _GPU_CHUNK) // num_classes)
    for start in range(0, num_voxels, size):
        where = slice(start, min(start + size, num_voxels))
        values = flat_input[:, where].to(working_dtype(input))
        labels = dense = shares = None
        if settings.regions is not None:
            dense, valid = _region_reference(reference[0, where], settings.regions, settings.ignore_index)
            dense = dense.to(values.dtype)
        elif len(reference) == num_classes:
            dense, valid = _dense_reference(reference[:, where].to(values.dtype), settings.ignore_index)
        else:
            labels, valid = _labels(reference[0, where], settings.ignore_index)
        if members is not None:
            values, shares = _merge(values, members, settings.softmax)
            if labels is not None:
                labels = _merge_labels(labels, absorbed)
            if dense is not None:
                dense = _merge(dense, members, softmax=False)[0]
        yield _Chunk(where, values, labels, dense, valid, members, shares)


def _labels(labels: torch.Tensor, ignore_index: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return class indices with ignored voxels set to background, and the mask of valid voxels."""
    labels = labels.long()  # before the comparison: ignore_index may not fit the dtype of the labels
    if ignore_index is None:
        return labels, None
    valid = labels != ignore_index
    return torch.where(valid, labels, 0), valid


def _region_reference(
    labels: torch.Tensor, regions: torch.Tensor, ignore_index: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the classes of each voxel, (C, n) bool without ignored voxels, and the mask of valid voxels."""
    labels, valid = _labels(labels, ignore_index)
    inside = regions[:, labels]
    return inside if valid is None else inside & valid, valid


def _dense_reference(reference: torch.Tensor, ignore_index: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the reference (one-hot or soft) with ignored voxels set to 0, and the mask of valid voxels."""
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
    """Replace the background by the sum of the members' probabilities; return the derivatives of the sum as well."""
    part = values[members]
    merged = values.clone()
    merged[members[1:]] = _MIN_LOGIT if softmax else 0.0
    merged[0] = part.logsumexp(dim=0) if softmax else part.sum(dim=0)
    return merged, part.softmax(dim=0) if softmax else torch.ones_like(part)


def _merge_labels(labels: torch.Tensor, absorbed: Sequence[int]) -> torch.Tensor:
    for index in absorbed:
        labels = torch.where(labels == index, 0, labels)
    return labels


def _count(chunk: _Chunk, settings: _Settings) -> tuple[torch.Tensor, ...]:
    """Return the contribution of a chunk to each sum in `SoftCounts`, in the same order."""
    logs = chunk.inputs.log_softmax(dim=0) if settings.softmax else None
    probabilities = chunk.inputs if logs is None else logs.exp()
    if chunk.valid is not None:
        probabilities = probabilities * chunk.valid
    num_classes, num_voxels = probabilities.shape
    if chunk.labels is not None:
        at_label = probabilities.gather(0, chunk.labels[None])[0]
        intersection = _sums_by_label(at_label, chunk.labels, num_classes)
        counted = torch.ones_like(at_label) if chunk.valid is None else chunk.valid.to(at_label.dtype)
        reference = _sums_by_label(counted, chunk.labels, num_classes)
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
    """Return the sum of the values (n,) per label, (num_classes,)."""
    if values.device.type == "cpu":
        return torch.bincount(labels, weights=values.double(), minlength=num_classes)
    # Atomic additions to few addresses are slow on a GPU and not deterministic.
    classes = torch.arange(num_classes, device=labels.device)[:, None]
    return torch.where(labels == classes, values, 0).sum(dim=1)


def _count_cross_entropy(chunk: _Chunk, logs: torch.Tensor, entropy: CrossEntropy) -> tuple[torch.Tensor, torch.Tensor]:
    if chunk.labels is not None:
        per_voxel, weights = _label_weights(chunk, entropy, logs)
        loss = -(logs.gather(0, chunk.labels[None])[0] * per_voxel).sum()
        smoothing = _smoothing(chunk, entropy, logs)
        if smoothing is not None:
            smooth = smoothing @ logs
            loss = loss - (smooth if chunk.valid is None else smooth * chunk.valid).sum()
        return loss, weights.sum()
    target_weights = _target_weights(chunk, entropy, logs)
    voxels = logs.new_full((), logs.shape[1]) if chunk.valid is None else chunk.valid.sum()
    return -(target_weights * logs).sum(), voxels


def _label_weights(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight of -log p and the weight in the denominator of the mean for every voxel, (n,) each."""
    assert chunk.labels is not None
    ones = torch.ones_like(chunk.labels, dtype=like.dtype)
    weights = ones if entropy.weight is None else entropy.weight.to(like)[chunk.labels]
    if chunk.valid is not None:
        weights = weights * chunk.valid
    return weights * (1 - entropy.label_smoothing), weights


def _smoothing(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> torch.Tensor | None:
    """Return the weight that label smoothing gives to every class, (C,); merged classes have 0."""
    if entropy.label_smoothing == 0:
        return None
    share = like.new_ones(len(like)) if entropy.weight is None else entropy.weight.to(like).clone()
    left = len(share)
    if chunk.members is not None:
        share[chunk.members[1:]] = 0
        left -= len(chunk.members) - 1
    return share * (entropy.label_smoothing / left)


def _target_weights(chunk: _Chunk, entropy: CrossEntropy, like: torch.Tensor) -> torch.Tensor:
    """Return the weight of -log p for every class and voxel if the reference is one-hot or soft, (C, n)."""
    assert chunk.reference is not None
    target_weights = chunk.reference * (1 - entropy.label_smoothing)
    if entropy.weight is not None:
        target_weights = target_weights * entropy.weight.to(like)[:, None]
    smoothing = _smoothing(chunk, entropy, like)
    if smoothing is not None:
        target_weights = target_weights + smoothing[:, None]
    return target_weights if chunk.valid is None else target_weights * chunk.valid


def region_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    regions: torch.Tensor,
    included: torch.Tensor,
    ignore_index: int | None,
    entropy: CrossEntropy,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the binary cross entropy of classes that may overlap: its weighted mean over classes, summed over voxels.

    Args:
        logits: (B, C, *spatial), floating point, before sigmoid.
        target: (B, 1, *spatial) label values.
        regions: (C, V) bool, see `soft_counts`.
        included: (B, C) bool, the classes over which to average in each sample.
        ignore_index: label value of the voxels to exclude, or None.
        entropy: class weights and label smoothing. Smoothing moves the targets 0 and 1 toward 0.5.

    Returns:
        the sum over voxels and the number of voxels of each sample, (B,) each, in float32 (float64 for float64 input)

    Example:
        >>> regions = torch.tensor([[True, False], [False, True]])
        >>> logits, target, included = torch.zeros(1, 2, 4), torch.zeros(1, 1, 4), torch.ones(1, 2, dtype=torch.bool)
        >>> entropy, voxels = region_cross_entropy(logits, target, regions, included, None, CrossEntropy())
        >>> round((entropy / voxels).item(), 4)  # log 2
        0.6931
    """
    values = logits.flatten(2).to(working_dtype(logits))
    labels, valid = _labels(target.flatten(1), ignore_index)
    reference = regions[:, labels].transpose(0, 1).to(values.dtype)
    smoothed = reference * (1 - entropy.label_smoothing) + 0.5 * entropy.label_smoothing
    per_class = F.binary_cross_entropy_with_logits(values, smoothed, reduction="none")
    share = included.to(values) if entropy.weight is None else included * entropy.weight.to(values)
    total = share.sum(dim=1, keepdim=True)
    per_voxel = torch.einsum("bcn,bc->bn", per_class, share / torch.where(total > 0, total, 1.0))
    counted = torch.ones_like(per_voxel) if valid is None else valid.to(per_voxel)
    return (per_voxel * counted).sum(dim=1), counted.sum(dim=1)


def _gradient(chunk: _Chunk, upstream: _Upstream, settings: _Settings) -> torch.Tensor:
    """Return the gradient with respect to the logits or probabilities of a chunk, (C, n)."""
    probabilities = chunk.inputs.softmax(dim=0) if settings.softmax else chunk.inputs
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
    """Return the gradient for class indices; see `_gradient`.

    Let h be the gradient with respect to the probabilities. The gradient with respect to the logits is p (h - sum of p
    h) for the region sums, and w (p - g) for cross entropy. h is the same for all voxels except at the voxel's own
    class, where it is added afterwards.
    """
    assert chunk.labels is not None
    labels = chunk.labels[None]
    per_class = upstream.prediction[:, None]
    at_class = upstream.intersection[chunk.labels]
    if not settings.softmax:
        gradient = (
            per_class * 2 * probabilities if settings.squared_pred else per_class.expand_as(probabilities).clone()
        )
        return gradient.scatter_add_(0, labels, at_class[None])
    at_class = at_class * probabilities.gather(0, labels)[0]
    if settings.squared_pred:
        per_class = per_class * 2 * probabilities
        mean = (per_class * probabilities).sum(dim=0) + at_class
    else:
        mean = upstream.prediction @ probabilities + at_class
    if settings.cross_entropy is None:
        return ((per_class - mean) * probabilities).scatter_add_(0, labels, at_class[None])
    weights = _label_weights(chunk, settings.cross_entropy, probabilities)[0] * upstream.cross_entropy
    smoothing = _smoothing(chunk, settings.cross_entropy, probabilities)
    whole = weights if smoothing is None else weights + smoothing.sum() * upstream.cross_entropy
    gradient = torch.sub(per_class, mean - whole).mul_(probabilities)
    gradient.scatter_add_(0, labels, (at_class - weights)[None])
    return gradient if smoothing is None else gradient - (smoothing * upstream.cross_entropy)[:, None]


def _dense_gradient(
    chunk: _Chunk, probabilities: torch.Tensor, upstream: _Upstream, settings: _Settings
) -> torch.Tensor:
    """Return the gradient for one-hot and soft references; see `_gradient`."""
    assert chunk.reference is not None
    overlap = chunk.reference
    if settings.soft_label and not settings.squared_pred:
        below, equal = probabilities < chunk.reference, probabilities == chunk.reference
        overlap = below.to(probabilities.dtype) + 0.5 * equal
    per_class = upstream.prediction[:, None]
    per_class = per_class * 2 * probabilities if settings.squared_pred else per_class
    per_class = per_class + upstream.intersection[:, None] * overlap
    if not settings.softmax:
        return per_class
    gradient = probabilities * (per_class - (per_class * probabilities).sum(dim=0))
    if settings.cross_entropy is not None:
        target_weights = _target_weights(chunk, settings.cross_entropy, probabilities)
        gradient = gradient + upstream.cross_entropy * (probabilities * target_weights.sum(dim=0) - target_weights)
    return gradient


def working_dtype(input: torch.Tensor) -> torch.dtype:
    """Return the dtype of sums: float32, or float64 for float64 input.

    Args:
        input: floating-point tensor.

    Example:
        >>> working_dtype(torch.zeros(1, dtype=torch.bfloat16))
        torch.float32
    """
    return torch.promote_types(input.dtype, torch.float32)


def _total_dtype(device: torch.device) -> torch.dtype:
    """Return float64 where the device supports it, so that sums over millions of voxels are exact."""
    return torch.float32 if device.type == "mps" else torch.float64
