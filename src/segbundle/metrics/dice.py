"""Dice per class, and what a class's absence means for it."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_CHUNK = 2**22  # voxels counted at a time


class Status(str, enum.Enum):
    """How one class of one case can be scored."""

    SCORED = "scored"
    """In the reference and predicted: Dice between 0 and 1."""
    MISSED = "missed"
    """In the reference, not predicted: Dice 0."""
    FALSE_POSITIVE = "false_positive"
    """Predicted, not in the reference: Dice 0."""
    TRUE_ABSENT = "true_absent"
    """In neither: there is nothing to score."""
    UNANNOTATED = "unannotated"
    """Nobody looked for it in the reference: it cannot be scored."""


@dataclass(frozen=True)
class ClassScore:
    """The score of one class in one case; voxel counts are of whole volumes, `dice` is NaN if there is none."""

    status: Status
    dice: float
    voxels_ref: float
    voxels_pred: float


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


def score_case(
    pred: torch.Tensor,
    ref: torch.Tensor,
    num_classes: int,
    annotated: Sequence[bool] | None = None,
    ignore_index: int | None = None,
) -> list[ClassScore]:
    """Status, Dice and voxel counts of every class of one case.

    Dice is 2 |P ∩ R| / (|P| + |R|) (Dice 1945; Sørensen 1948) over the voxels P predicted and R labelled.

    Args:
        pred: predicted class indices, any shape, integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, the background included.
        annotated: one bool per class; False where nobody looked for the class in this case. Default: all True.
        ignore_index: voxels with this value in the reference are unknown: they count nowhere, not in volumes either.

    Returns:
        one `ClassScore` per class, the background first.

    Raises:
        ValueError: shapes differ, values out of range, or `annotated` has another length than `num_classes`.
    """
    annotated = [True] * num_classes if annotated is None else [bool(a) for a in annotated]
    if len(annotated) != num_classes:
        raise ValueError(f"annotated has {len(annotated)} entries for {num_classes} classes.")
    both, in_pred, in_ref = (counts.tolist() for counts in overlap_counts(pred, ref, num_classes, ignore_index))
    return [_class_score(*counts) for counts in zip(both, in_pred, in_ref, annotated, strict=True)]


def _class_score(both: int, in_pred: int, in_ref: int, looked_for: bool) -> ClassScore:
    if not looked_for:
        return ClassScore(Status.UNANNOTATED, math.nan, in_ref, in_pred)
    if in_pred == 0 and in_ref == 0:
        return ClassScore(Status.TRUE_ABSENT, math.nan, 0, 0)
    if in_pred == 0:
        return ClassScore(Status.MISSED, 0.0, in_ref, 0)
    if in_ref == 0:
        return ClassScore(Status.FALSE_POSITIVE, 0.0, 0, in_pred)
    return ClassScore(Status.SCORED, 2 * both / (in_pred + in_ref), in_ref, in_pred)


def per_class_dice(
    pred: torch.Tensor,
    ref: torch.Tensor,
    num_classes: int,
    annotated: Sequence[bool] | None = None,
    ignore_index: int | None = None,
) -> torch.Tensor:
    """Dice of every class of one case.

    Args:
        pred: predicted class indices, any shape, integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, the background included.
        annotated: one bool per class; False where nobody looked for the class. Default: all True.
        ignore_index: voxels with this value in the reference are not counted.

    Returns:
        float64 tensor (num_classes,): NaN where there is nothing to score (in neither, or not annotated), 0 where
        the class is in one of the two only.

    Raises:
        ValueError: as in `score_case`.
    """
    scores = score_case(pred, ref, num_classes, annotated, ignore_index)
    return torch.tensor([score.dice for score in scores], dtype=torch.float64)
