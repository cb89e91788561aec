"""Compute region losses and the penalty for absent classes from the sums of `soft_counts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Absent = Literal["volume", "skip", "smooth"]
"""Treatment of annotated classes that are absent from the reference; see `DiceLoss` and docs/losses.md."""


@dataclass(frozen=True)
class Regions:
    """Per-class sums of R regions: one region per sample, or a single region for the whole batch.

    Attributes:
        intersection, prediction, reference: (R, C), see `segbundle.losses.counts.SoftCounts`.
        voxels: (R,), number of voxels that are not ignored.
        counted: (R, C) bool; False for unannotated classes, and for the background if the background is excluded.
        exclusive: whether each voxel has exactly one class, so that probabilities sum to at most 1. Default: True.

    Example:
        >>> row = torch.tensor([[4.0, 0.0]])
        >>> regions = Regions(row, row, row, torch.tensor([4.0]), torch.tensor([[True, True]]))
        >>> regions.present.tolist(), regions.absent.tolist()
        ([[True, False]], [[False, True]])
    """

    intersection: torch.Tensor
    prediction: torch.Tensor
    reference: torch.Tensor
    voxels: torch.Tensor
    counted: torch.Tensor
    exclusive: bool = True

    @property
    def present(self) -> torch.Tensor:
        """(R, C) bool: counted classes that occur in the reference."""
        return self.counted & (self.reference > 0)

    @property
    def absent(self) -> torch.Tensor:
        """(R, C) bool: counted classes that do not occur in the reference."""
        return self.counted & (self.reference <= 0)


def dice_terms(regions: Regions, smooth_nr: float, smooth_dr: float, jaccard: bool = False) -> torch.Tensor:
    """Compute 1 - (2 I + smooth_nr) / (P + G + smooth_dr) for every class.

    I, P and G are intersection, prediction and reference (Milletari et al. 2016, "V-Net"). P and G are sums of squares
    if they were counted with `squared_pred`.

    Args:
        regions: sums of R regions and C classes.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator.
        jaccard: whether to use the denominator 2 (P + G - I) + smooth_dr of the Jaccard index (Rahman and Wang 2016,
            ISVC). Default: False.

    Returns:
        losses (R, C); 0 where the denominator is 0

    Example:
        >>> sums = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([[2.0]])
        >>> dice_terms(Regions(*sums, torch.tensor([4.0]), torch.tensor([[True]])), 0.0, 0.0)
        tensor([[0.5000]])
    """
    size = regions.prediction + regions.reference
    denominator = 2 * (size - regions.intersection) if jaccard else size
    return 1 - _divide(2 * regions.intersection + smooth_nr, denominator + smooth_dr, otherwise=1.0)


def mean_over_classes(terms: torch.Tensor, weight: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
    """Compute the mean of weight x term over the included classes of each region.

    Args:
        terms: losses of R regions and C classes, (R, C).
        weight: class weights (C,).
        included: (R, C) bool, classes to include.

    Returns:
        means (R,); 0 for regions without included classes

    Example:
        >>> mean_over_classes(torch.tensor([[0.2, 0.4]]), torch.ones(2), torch.tensor([[False, True]]))
        tensor([0.4000])
    """
    return _divide((terms * weight * included).sum(dim=1), included.sum(dim=1).to(terms), otherwise=0.0)


def generalized_dice(
    regions: Regions, weight: torch.Tensor, power: int, included: torch.Tensor, smooth_nr: float, smooth_dr: float
) -> torch.Tensor:
    """Compute 1 - (2 sum w I + smooth_nr) / (sum w (P + G) + smooth_dr) with w = weight / G^power (Sudre et al. 2017).

    The class weights are scaled so that sum w G = 1. As a result, the effect of smoothing does not depend on the size
    of the volume. An absent class that is included has the largest weight among the present classes.

    Args:
        regions: sums of R regions and C classes.
        weight: (C,), additional factors of w.
        power: exponent of G: 2, 1 or 0.
        included: (R, C) bool, classes to include.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator.

    Returns:
        loss of each region, (R,)

    Example:
        >>> row, included = torch.tensor([[2.0, 6.0]]), torch.tensor([[True, True]])
        >>> regions = Regions(row / 2, row, row, torch.tensor([8.0]), included)
        >>> generalized_dice(regions, torch.ones(2), 2, included, 0.0, 0.0)
        tensor([0.5000])
    """
    scale = torch.where(regions.present, regions.reference, 1.0) ** -power
    largest = torch.where(regions.present, scale, 0).amax(dim=1, keepdim=True)
    scale = torch.where(regions.present, scale, largest) * weight * included
    scale = _divide(scale, (scale * regions.reference).sum(dim=1, keepdim=True), otherwise=0.0)
    both = (scale * regions.intersection).sum(dim=1)
    size = (scale * (regions.prediction + regions.reference)).sum(dim=1)
    return 1 - _divide(2 * both + smooth_nr, size + smooth_dr, otherwise=1.0)


def absent_shares(regions: Regions) -> torch.Tensor:
    """Compute the fraction of the volume predicted as each absent class: P / V, where V is the number of voxels.

    Args:
        regions: sums of R regions and C classes.

    Returns:
        fractions (R, C); 0 for classes that are not absent

    Example:
        >>> prediction, reference = torch.tensor([[6.0, 2.0]]), torch.tensor([[8.0, 0.0]])
        >>> absent_shares(Regions(prediction, prediction, reference, torch.tensor([8.0]), torch.tensor([[True, True]])))
        tensor([[0.0000, 0.2500]])
    """
    return _divide(regions.prediction, regions.voxels[:, None], otherwise=0.0) * regions.absent


def absent_term(regions: Regions, weight: torch.Tensor) -> torch.Tensor:
    """Compute the weighted fraction of the volume predicted as absent classes: the sum of weight x P / V.

    If classes may overlap (sigmoid), their predictions are treated as independent. The result is then the fraction
    predicted as at least one absent class, 1 - product of (1 - weight x P / V), scaled to the largest weight.

    Args:
        regions: sums of R regions and C classes.
        weight: class weights (C,).

    Returns:
        fractions (R,), in [0, 1] for weights of 1

    Example:
        >>> prediction, reference = torch.tensor([[6.0, 2.0]]), torch.tensor([[8.0, 0.0]])
        >>> regions = Regions(prediction, prediction, reference, torch.tensor([8.0]), torch.tensor([[True, True]]))
        >>> absent_term(regions, torch.ones(2))
        tensor([0.2500])
    """
    shares = absent_shares(regions)
    if regions.exclusive:
        rounding = shares.detach().sum(dim=1).clamp(min=1)  # probabilities given in bfloat16 may sum to more than 1
        return (shares * weight).sum(dim=1) / rounding
    largest = (weight * regions.absent).amax(dim=1, keepdim=True)
    return largest[:, 0] * (1 - (1 - shares * _divide(weight, largest, otherwise=0.0)).prod(dim=1))


def add_absent(loss: torch.Tensor, largest: torch.Tensor, regions: Regions, weight: torch.Tensor) -> torch.Tensor:
    """Add the penalty for absent classes: loss + (1 - loss / largest) x `absent_term`.

    The two errors are combined like probabilities of independent events, so that the sum never exceeds `largest`.

    Args:
        loss: (R,), loss over the present classes, in [0, largest].
        largest: (R,), upper bound of `loss`: 1, or the mean of the class weights. If an absent class has a larger
            weight, that weight is used instead.
        regions: sums of R regions and C classes.
        weight: class weights (C,), used for the absent classes.

    Returns:
        loss of each region with the penalty, (R,)

    Example:
        >>> prediction, reference = torch.tensor([[6.0, 2.0]]), torch.tensor([[8.0, 0.0]])
        >>> regions = Regions(prediction, prediction, reference, torch.tensor([8.0]), torch.tensor([[True, True]]))
        >>> add_absent(torch.tensor([0.5]), torch.tensor([1.0]), regions, torch.ones(2))
        tensor([0.6250])
    """
    largest = torch.maximum(largest, (weight * regions.absent).amax(dim=1))
    return loss + (1 - _divide(loss, largest, otherwise=0.0)) * absent_term(regions, weight)


def _divide(numerator: torch.Tensor, denominator: torch.Tensor, otherwise: float) -> torch.Tensor:
    """Divide, with the value `otherwise` and no gradient where the denominator is 0."""
    defined = denominator > 0
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), otherwise)
