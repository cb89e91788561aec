"""Dice and generalized Dice loss with MONAI's arguments and separate handling of missing classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from segbundle.losses import target_checks as checks
from segbundle.losses.base import Reduction, RegionLoss, Weights
from segbundle.losses.regions import Absent, Regions, absent_shares, dice_terms, generalized_dice, mean_over_classes

_POWERS = {"square": 2, "simple": 1, "uniform": 0}


class DiceLoss(RegionLoss):
    """Mean Dice loss over present classes, plus a penalty for predicting absent classes.

    The loss of a class in a sample (or in a batch) is 1 - (2 I + smooth_nr) / (P + G + smooth_dr). Here I is the sum of
    p g over all voxels, P the sum of p and G the sum of g, for probabilities p and reference g. (Milletari et al. 2016,
    "V-Net", use squares: `squared_pred`.) The mean D over present classes becomes D + (1 - D) A, where A is the
    fraction of the volume predicted as absent classes, the sum of their P / V. The result is in [0, 1]. It depends
    neither on the size of the volume nor on absent classes with zero probability.

    Args:
        include_background: whether class 0 has a term.
        to_onehot_y: whether the target contains class indices. It is not expanded to one-hot in memory.
        sigmoid, softmax, other_act: activation that turns `input` into probabilities; at most one of them.
        squared_pred: sum squares in P and G.
        jaccard: compute the Jaccard index instead of Dice.
        reduction: `mean` averages over samples. `sum` sums over samples and present classes. `none` returns one value
            per sample and class, (B, C, 1, ...), without the background if it is excluded; an absent class has its
            fraction of the volume, an unannotated class 0.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator.
        batch: treat the batch as one sample; under DistributedDataParallel the batches of all ranks.
        weight: a factor for all classes, or a sequence with one factor per class, without the background if it is
            excluded. As in MONAI, the loss is not divided by the weights, so its maximum is the largest weight.
        soft_label: for targets between 0 and 1: I sums min(p, g), so that p = g is a perfect match.
        absent: treatment of annotated classes that are absent. `volume`: as above. `skip`: ignore them. `smooth`: like
            any other class, with I = G = 0. The loss is then about 1 for any prediction, as in MONAI.
        ignore_index: voxels with this index are excluded. In one-hot targets these are the voxels of that channel or,
            if there is no such channel, the voxels that are 0 in all channels.

    Raises:
        ValueError: if arguments contradict each other or are out of range.

    Example:
        >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]], [[-20.0, -20.0]]]])  # (1, 3, 1, 2)
        >>> target = torch.tensor([[[[0, 1]]]])  # class 2 is absent
        >>> loss = DiceLoss(softmax=True, to_onehot_y=True)
        >>> round(loss(logits, target).item(), 4)
        0.0
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[torch.Tensor], torch.Tensor] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Weights = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
        absent: Absent = "volume",
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            weight, soft_label, absent, ignore_index,
        )  # fmt: skip
        self.jaccard = jaccard
        self.squared_pred = squared_pred

    def _terms(self, regions: Regions) -> torch.Tensor:
        return dice_terms(regions, self.smooth_nr, self.smooth_dr, self.jaccard)

    def _over_classes(
        self, regions: Regions, weight: torch.Tensor, included: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        terms = self._terms(regions)
        return mean_over_classes(terms, weight, included), mean_over_classes(torch.ones_like(terms), weight, included)

    def _count_terms(self, included: torch.Tensor) -> torch.Tensor:
        return included.sum(dim=1).clamp(min=1)

    def _unreduced(self, regions: Regions, weight: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
        values = self._terms(regions) * weight * included
        if self.absent == "volume":
            values = values + absent_shares(regions) * weight
        return values if self.include_background or values.shape[1] == 1 else values[:, 1:]


class GeneralizedDiceLoss(RegionLoss):
    """Generalized Dice loss over present classes, plus a penalty for predicting absent classes.

    The loss of a sample (or of a batch) is D = 1 - (2 sum w I + smooth_nr) / (sum w (P + G) + smooth_dr) over the
    classes in the reference. The class weights are w = 1 / G², scaled so that sum w G = 1 (Sudre et al. 2017, DLMIA).
    The result is D + (1 - D) A as in `DiceLoss`. Absent classes have no 1 / G² that could dominate the others.

    Args:
        w_type: `square`, `simple` or `uniform`: w = 1 / G², 1 / G or 1.
        weight: additional factors of w; see `DiceLoss`.
        absent: see `DiceLoss`. With `smooth`, an absent class has the largest weight among the present classes, as in
            MONAI.
        reduction: `mean` or `sum` over samples, or `none` for one value per sample, (B, 1, 1, ...).
        others: as in `DiceLoss`.

    Raises:
        ValueError: if arguments contradict each other or are out of range.

    Example:
        >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]], [[-20.0, -20.0]]]])  # (1, 3, 1, 2)
        >>> target = torch.tensor([[[[0, 1]]]])  # class 2 is absent
        >>> loss = GeneralizedDiceLoss(softmax=True, to_onehot_y=True)
        >>> round(loss(logits, target).item(), 4)
        0.0
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[torch.Tensor], torch.Tensor] | None = None,
        w_type: Literal["square", "simple", "uniform"] = "square",
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        weight: Weights = None,
        ignore_index: int | None = None,
        absent: Absent = "volume",
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            weight, soft_label, absent, ignore_index,
        )  # fmt: skip
        self.w_type = checks.one_of("w_type", w_type, tuple(_POWERS))

    def _over_classes(
        self, regions: Regions, weight: torch.Tensor, included: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        power = _POWERS[self.w_type]
        loss = generalized_dice(regions, weight, power, included, self.smooth_nr, self.smooth_dr)
        return loss, torch.ones_like(loss)

    def _count_terms(self, included: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(included[:, 0])

    def _unreduced(self, regions: Regions, weight: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
        return self._per_region(regions, weight, included)[:, None]

    def _absent_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / weight.amax().clamp(min=1e-30)  # only the ratios of the factors matter
