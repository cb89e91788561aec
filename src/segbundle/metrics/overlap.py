"""Count the voxels of prediction, reference and intersection per class."""

from __future__ import annotations

import torch

_CHUNK = 2**22
"""Voxels per chunk."""


def overlap_counts(
    pred: torch.Tensor, ref: torch.Tensor, num_classes: int, ignore_index: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count the voxels of intersection, prediction and reference for every class.

    Each voxel is read once, in chunks of a few million. The volumes are never converted to one-hot or to a wider dtype
    as a whole.

    Args:
        pred: predicted class indices, any shape, integer dtype, values in [0, num_classes).
        ref: reference class indices, same shape and range.
        num_classes: number of classes, including the background.
        ignore_index: value of unknown voxels in the reference. These voxels are excluded. Default: None.

    Returns:
        three int64 tensors (num_classes,) of voxel counts: intersection, prediction, reference

    Raises:
        ValueError: shapes differ, or a value is outside [0, num_classes).

    Example:
        >>> overlap_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), num_classes=2)
        (tensor([1, 1]), tensor([1, 2]), tensor([2, 1]))
    """
    if pred.shape != ref.shape:
        raise ValueError(f"prediction {tuple(pred.shape)} and reference {tuple(ref.shape)} must have the same shape.")
    confusion = torch.zeros(num_classes**2, dtype=torch.long, device=pred.device)
    for in_ref, in_pred in zip(ref.reshape(-1).split(_CHUNK), pred.reshape(-1).split(_CHUNK), strict=True):
        _check_range("prediction", in_pred, num_classes)
        if ignore_index is not None and bool((in_ref == ignore_index).any()):
            known = in_ref != ignore_index
            in_ref, in_pred = in_ref[known], in_pred[known]
        _check_range("reference", in_ref, num_classes)
        confusion += torch.bincount(in_ref.long() * num_classes + in_pred.long(), minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    return confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)


def _check_range(name: str, values: torch.Tensor, num_classes: int) -> None:
    if values.numel() == 0:
        return
    lowest, highest = int(values.min()), int(values.max())  # as Python integers: 256 may not fit the dtype
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"the {name} contains values from {lowest} to {highest}, but class indices must be in "
            f"[0, {num_classes - 1}]."
        )
