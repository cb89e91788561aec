"""Compute the scores of every class in a case, with explicit handling of absent and unannotated classes."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from segbundle.metrics.components import count_components
from segbundle.metrics.overlap import overlap_counts
from segbundle.metrics.surfaces import surface_scores

_UNKNOWN = 255
"""Value of unknown voxels in label maps of a single class."""


class Status(str, enum.Enum):
    """Status of a class in a case: whether the class is present in reference and prediction, and annotated.

    Example:
        >>> Status("missed") is Status.MISSED
        True
    """

    SCORED = "scored"
    """In the reference and in the prediction: Dice is between 0 and 1."""
    MISSED = "missed"
    """In the reference only: Dice is 0."""
    FALSE_POSITIVE = "false_positive"
    """In the prediction only: Dice is 0."""
    TRUE_ABSENT = "true_absent"
    """In neither reference nor prediction: not scored."""
    UNANNOTATED = "unannotated"
    """Not annotated in the reference: not scored."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in one case.

    Attributes:
        status: whether the class is present in reference and prediction, and annotated.
        dice: Dice score in [0, 1]; NaN if the class is not scored.
        voxels_ref: number of voxels in the reference, without unknown voxels.
        voxels_pred: number of voxels in the prediction, without voxels that are unknown in the reference.
        hd95_mm: 95th percentile Hausdorff distance in mm; NaN (default) if not computed, or if a surface is missing.
        nsd: normalized surface Dice in [0, 1]; NaN (default) if not computed, or if both surfaces are missing (see
            `segbundle.metrics.surfaces.surface_scores`).
        components_ref: number of connected components in the reference; None (default) if not annotated or not
            computed.
        components_pred: number of connected components in the prediction; None (default) if not computed.

    Example:
        >>> ClassScore(Status.MISSED, dice=0.0, voxels_ref=10, voxels_pred=0).status.value
        'missed'
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
    regions: Sequence[Sequence[int]] | None = None,
) -> list[ClassScore]:
    """Compute status, Dice and voxel counts of every class in a case, and optionally surface scores and components.

    Dice is 2 |P ∩ R| / (|P| + |R|) (Dice 1945; Sørensen 1948) for predicted voxels P and reference voxels R.

    Args:
        pred: predicted class indices (with `regions`, label values), integer dtype; any shape, or (X, Y, Z) with
            `spacing`.
        ref: reference class indices (with `regions`, label values), same shape.
        num_classes: number of classes, including the background.
        annotated: one bool per class, False if the class was not annotated in this case. Default: all True.
        ignore_index: value of unknown voxels in the reference. These voxels are excluded. Default: None.
        spacing: voxel size in mm along each axis, needed for surface scores and connected components. Default: None
            (surface scores and components are not computed).
        nsd_tolerance_mm: tolerance of the normalized surface Dice in mm; a number, or one per class. Default: 1.0.
        regions: label values of each class, if classes overlap. Default: None (the value of a class is its index).

    Returns:
        one `ClassScore` per class, background first. For the background, surface scores are NaN, and components are not
        counted (0, or None with `regions`).

    Raises:
        ValueError: shapes differ, or are not three-dimensional although `spacing` is given; values are out of range; or
            `annotated` or `nsd_tolerance_mm` does not have `num_classes` entries.

    Example:
        >>> pred, ref = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 2])
        >>> [(score.status.value, round(score.dice, 2)) for score in score_case(pred, ref, num_classes=3)]
        [('scored', 0.5), ('scored', 0.67), ('missed', 0.0)]
    """
    annotated = [True] * num_classes if annotated is None else [bool(a) for a in annotated]
    if len(annotated) != num_classes:
        raise ValueError(f"annotated has {len(annotated)} entries for {num_classes} classes. Give one entry per class.")
    if regions is not None:
        tolerances = (
            [nsd_tolerance_mm] * num_classes if isinstance(nsd_tolerance_mm, (int, float)) else nsd_tolerance_mm
        )
        return [
            _score_region(pred, ref, members, index, annotated[index], ignore_index, spacing, tolerances[index])
            for index, members in enumerate(regions)
        ]
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
            components_ref=num_ref if score.status is not Status.UNANNOTATED else None,
            components_pred=num_pred,
        )
        for score, surface, (num_ref, num_pred) in zip(scores, surfaces, components, strict=True)
    ]


def _score_region(
    pred: torch.Tensor,
    ref: torch.Tensor,
    members: Sequence[int],
    index: int,
    is_annotated: bool,
    ignore_index: int | None,
    spacing: Sequence[float] | None,
    tolerance: float,
) -> ClassScore:
    """Return the score of the class with several label values, as a label map of one class; see `score_case`."""
    values = torch.tensor(members, device=pred.device)
    in_pred, in_ref = (torch.isin(volume, values).to(torch.uint8) for volume in (pred, ref))
    if ignore_index is not None:
        in_ref = in_ref.masked_fill(ref == ignore_index, _UNKNOWN)
    annotated, surfaces = [True, is_annotated], spacing if index else None
    return score_case(in_pred, in_ref, 2, annotated, _UNKNOWN, surfaces, [0.0, tolerance])[1]


def _class_score(both: int, in_pred: int, in_ref: int, is_annotated: bool) -> ClassScore:
    if not is_annotated:
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
    """Compute the Dice score of every class in a case, 2 |P ∩ R| / (|P| + |R|) (see `score_case`).

    Args:
        pred: predicted class indices, any shape, integer dtype.
        ref: reference class indices, same shape.
        num_classes: number of classes, including the background.
        annotated: one bool per class, False if the class was not annotated. Default: all True.
        ignore_index: value of unknown voxels in the reference. These voxels are excluded. Default: None.

    Returns:
        a float64 tensor (num_classes,), background first. The score is 0 for a class in only one of the two label maps,
        and NaN for a class that is in neither label map or not annotated.

    Raises:
        ValueError: shapes differ, values are out of range, or `annotated` does not have `num_classes` entries.

    Example:
        >>> per_class_dice(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 1, 2]), num_classes=4)
        tensor([0.6667, 1.0000, 0.0000,    nan], dtype=torch.float64)
    """
    scores = score_case(pred, ref, num_classes, annotated, ignore_index)
    return torch.tensor([score.dice for score in scores], dtype=torch.float64)
