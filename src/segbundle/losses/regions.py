"""From soft counts to the value of a region loss, and what a class adds that is not there. Small tensors only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Absent = Literal["volume", "skip", "smooth"]
"""How a class counts that was looked for and is not there; see `absent_term` and docs/losses.md."""


@dataclass(frozen=True)
class Regions:
    """The sums of one or more regions that a loss compares: samples, or the whole batch as one.

    Attributes:
        intersection, prediction, reference: (R, C), see `segbundle.losses.counts.SoftCounts`.
        voxels: (R,), the volume that the absent classes' predictions are measured against.
        counted: (R, C) bool; False for classes that nobody annotated, and for a background that is left out.
        exclusive: whether a voxel belongs to one class only, so that the probabilities sum to at most 1.
    """

    intersection: torch.Tensor
    prediction: torch.Tensor
    reference: torch.Tensor
    voxels: torch.Tensor
    counted: torch.Tensor
    exclusive: bool = True

    @property
    def present(self) -> torch.Tensor:
        """(R, C) bool: in the reference."""
        return self.counted & (self.reference > 0)

    @property
    def absent(self) -> torch.Tensor:
        """(R, C) bool: looked for, and not in the reference."""
        return self.counted & (self.reference <= 0)


def dice_terms(regions: Regions, smooth_nr: float, smooth_dr: float, jaccard: bool = False) -> torch.Tensor:
    """1 - (2 I + smooth_nr) / (P + G + smooth_dr), (R, C), or with 2 (P + G - I) below for the Jaccard index.

    I, P and G are intersection, prediction and reference (Milletari et al. 2016, "V-Net"; the sums are not squared
    unless they were counted so). 0 where a class has neither.
    """
    size = regions.prediction + regions.reference
    below = 2 * (size - regions.intersection) if jaccard else size
    return 1 - _divide(2 * regions.intersection + smooth_nr, below + smooth_dr, otherwise=1.0)


def mean_over_classes(terms: torch.Tensor, weight: torch.Tensor, taking: torch.Tensor) -> torch.Tensor:
    """Mean of weight x term over the classes that are taken, (R,); 0 where there are none."""
    return _divide((terms * weight * taking).sum(dim=1), taking.sum(dim=1).to(terms), otherwise=0.0)


def generalized_dice(
    regions: Regions, weight: torch.Tensor, power: int, taking: torch.Tensor, smooth_nr: float, smooth_dr: float
) -> torch.Tensor:
    """1 - (2 sum w I + smooth_nr) / (sum w (P + G) + smooth_dr), (R,), with w = weight / G^power (Sudre et al. 2017).

    The weights are scaled so that sum w G = 1, which changes nothing but the smoothing: it does not grow or shrink
    with the volume. A class that is taken although it is absent gets the largest of the others' weights.
    """
    scale = torch.where(regions.present, regions.reference, 1.0) ** -power
    largest = torch.where(regions.present, scale, 0).amax(dim=1, keepdim=True)
    scale = torch.where(regions.present, scale, largest) * weight * taking
    scale = _divide(scale, (scale * regions.reference).sum(dim=1, keepdim=True), otherwise=0.0)
    both = (scale * regions.intersection).sum(dim=1)
    size = (scale * (regions.prediction + regions.reference)).sum(dim=1)
    return 1 - _divide(2 * both + smooth_nr, size + smooth_dr, otherwise=1.0)


def absent_shares(regions: Regions) -> torch.Tensor:
    """The part of the volume that the network gives to each class that is not there, P / V, (R, C), 0 for others."""
    return _divide(regions.prediction, regions.voxels[:, None], otherwise=0.0) * regions.absent


def absent_term(regions: Regions, weight: torch.Tensor) -> torch.Tensor:
    """The part of the volume that the network gives to classes that are not there, (R,), in [0, 1] for weights of 1.

    The sum of weight x P / V over them. Where classes may overlap (sigmoid), the part that at least one of them takes
    if they were independent: 1 - product of (1 - weight x P / V), scaled to the largest weight.
    """
    shares = absent_shares(regions)
    if regions.exclusive:
        rounding = shares.detach().sum(dim=1).clamp(min=1)  # probabilities given in bfloat16 may sum to more than 1
        return (shares * weight).sum(dim=1) / rounding
    largest = (weight * regions.absent).amax(dim=1, keepdim=True)
    return largest[:, 0] * (1 - (1 - shares * _divide(weight, largest, otherwise=0.0)).prod(dim=1))


def add_absent(loss: torch.Tensor, largest: torch.Tensor, regions: Regions, weight: torch.Tensor) -> torch.Tensor:
    """loss + (1 - loss / largest) x `absent_term`, (R,): two independent ways to fail, which never exceed `largest`.

    Args:
        loss: over the classes that are there, in [0, largest].
        largest: 1, or the mean of the class weights; raised to the largest weight of an absent class.
        regions, weight: see `absent_term`.
    """
    largest = torch.maximum(largest, (weight * regions.absent).amax(dim=1))
    return loss + (1 - _divide(loss, largest, otherwise=0.0)) * absent_term(regions, weight)


def _divide(above: torch.Tensor, below: torch.Tensor, otherwise: float) -> torch.Tensor:
    """A quotient that is `otherwise`, without a gradient, where its denominator is 0."""
    defined = below > 0
    return torch.where(defined, above / torch.where(defined, below, 1.0), otherwise)
