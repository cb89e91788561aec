"""Voxels that prediction and reference hold per class, alone and together."""

from __future__ import annotations

import torch

_CHUNK = 2**22  # voxels counted at a time


def overlap_counts(
    pred: torch.Tensor, ref: torch.Tensor, num_classes: int, ignore_index: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Voxels per class that both, the prediction, and the reference hold.

    One pass over the volume whatever the number of classes, a few million voxels at a time: no copy of the volume is
    made, neither one-hot nor in a wider type.

    Args:
        pred: predicted class indices, any shape, integer dtype, values in [0, num_classes).
        ref: reference class indices, same shape and range.
        num_classes: number of classes, the background included.
        ignore_index: voxels with this value in the reference are not counted, whatever was predicted there.

    Returns:
        three int64 tensors (num_classes,): intersection, prediction, reference.

    Raises:
        ValueError: the shapes differ, or a value is outside [0, num_classes).
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
    lowest, highest = int(values.min()), int(values.max())  # as numbers: 256 does not fit the values' own type
    if lowest < 0 or highest >= num_classes:
        raise ValueError(f"the {name} holds values from {lowest} to {highest}, outside [0, {num_classes - 1}].")
