"""The scores of a case per class, and what a class's absence means for them."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from segbundle.metrics.components import count_components
from segbundle.metrics.overlap import overlap_counts
from segbundle.metrics.surfaces import surface_scores


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
    """The score of one class in one case.

    Attributes:
        status: whether and how it can be scored.
        dice: NaN if there is nothing to score.
        voxels_ref, voxels_pred: of whole volumes.
        hd95_mm, nsd: see `segbundle.metrics.surfaces.SurfaceScore`; NaN too if surfaces were not looked at.
        components_ref, components_pred: connected parts; None if nobody looked for the class, or counted them.
    """

    status: Status
    dice: float
    voxels_ref: float
    voxels_pred: float
    hd95_mm: float = math.nan
    nsd: float = math.nan
    components_ref: int | None = None
    components_pred: int | None = None


def score_case(
    pred: torch.Tensor,
    ref: torch.Tensor,
    num_classes: int,
    annotated: Sequence[bool] | None = None,
    ignore_index: int | None = None,
    spacing: Sequence[float] | None = None,
    nsd_tolerance_mm: float | Sequence[float] = 1.0,
) -> list[ClassScore]:
    """Status, Dice and voxel counts of every class of one case, and with a spacing its surfaces and components.

    Dice is 2 |P ∩ R| / (|P| + |R|) (Dice 1945; Sørensen 1948) over the voxels P predicted and R labelled.

    Args:
        pred: predicted class indices, any shape (with a spacing: X, Y, Z), integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, the background included.
        annotated: one bool per class; False where nobody looked for the class in this case. Default: all True.
        ignore_index: voxels with this value in the reference are unknown: they count nowhere, not in volumes either.
        spacing: distance of neighbouring voxels in mm along each axis; None for Dice and voxel counts alone.
        nsd_tolerance_mm: within which surfaces count as equal; one per class if it is a sequence.

    Returns:
        one `ClassScore` per class, the background first, whose surfaces and components are not looked at.

    Raises:
        ValueError: shapes differ, values out of range, or `annotated` has another length than `num_classes`.
    """
    annotated = [True] * num_classes if annotated is None else [bool(a) for a in annotated]
    if len(annotated) != num_classes:
        raise ValueError(f"annotated has {len(annotated)} entries for {num_classes} classes.")
    both, in_pred, in_ref = (counts.tolist() for counts in overlap_counts(pred, ref, num_classes, ignore_index))
    scores = [_class_score(*counts) for counts in zip(both, in_pred, in_ref, annotated, strict=True)]
    if spacing is None:
        return scores
    surfaces = surface_scores(pred, ref, num_classes, spacing, nsd_tolerance_mm, annotated, ignore_index)
    known = pred if ignore_index is None else pred.masked_fill(ref == ignore_index, 0)
    components = zip(count_components(ref, num_classes), count_components(known, num_classes), strict=True)
    return [
        replace(
            score,
            hd95_mm=surface.hd95_mm,
            nsd=surface.nsd,
            components_ref=parts_ref if score.status is not Status.UNANNOTATED else None,
            components_pred=parts_pred,
        )
        for score, surface, (parts_ref, parts_pred) in zip(scores, surfaces, components, strict=True)
    ]


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
