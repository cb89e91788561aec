"""Dice and generalized Dice loss with MONAI's arguments and a separate penalty for absent classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from segbundle.losses import target_checks as checks
from segbundle.losses.base import Reduction, RegionLoss, Weights
from segbundle.losses.regions import Absent, Regions, absent_shares, dice_terms, generalized_dice, mean_over_classes

_POWERS = {"square": 2, "simple": 1, "uniform": 0}


class DiceLoss(RegionLoss):
    """Mean Dice loss over present classes, plus a penalty for predicting absent classes.

    The loss of a class in a sample is 1 - (2 I + smooth_nr) / (P + G + smooth_dr). Here, I is the sum of p g over all
    voxels, P the sum of p and G the sum of g, for probabilities p and reference g. (Milletari et al. 2016, "V-Net",
    sum squares in P and G; see `squared_pred`.)

    The loss of a sample is D + (1 - D) A. D is the mean loss over the classes present in the reference. A is the
    fraction of the volume predicted as absent classes: the sum of their P divided by the number of voxels. Without
    `weight`, the loss is in [0, 1]. The loss depends neither on the size of the volume nor on absent classes with zero
    probability.

    Args:
        include_background: whether class 0 is included. Default: True.
        to_onehot_y: whether the target contains class indices. Unlike in MONAI, no one-hot target is allocated.
            Default: False.
        sigmoid, softmax: activation that turns `input` into probabilities; at most one of the two and `other_act`.
            Without an activation, `input` must contain probabilities. Default: False.
        other_act: function that turns `input` into probabilities instead. Default: None.
        squared_pred: whether to sum p² and g² in P and G. Default: False.
        jaccard: whether to use the Jaccard index instead of Dice, with the denominator 2 (P + G - I) + smooth_dr
            (Rahman and Wang 2016, ISVC). Default: False.
        reduction: `mean`: mean over samples. `sum`: sum over samples and present classes. `none`: one value per sample
            and class, (B, C, 1, ...), without the background if the background is excluded. With `absent="volume"`, the
            value of an absent class is its predicted fraction of the volume. The value of an unannotated class is 0.
            Default: `mean`.
        smooth_nr: added to the numerator. Default: 1e-5.
        smooth_dr: added to the denominator. Default: 1e-5.
        batch: whether to treat the batch as one sample; in distributed training, the batches of all ranks together.
            Default: False.
        weight: class weights: one number for all classes, or one per class, without the background if the background is
            excluded. As in MONAI, the loss is not divided by the sum of the weights, so its maximum is the largest
            weight. Default: None (all weights are 1).
        soft_label: whether to use the sum of min(p, g) as I, so that p = g is a perfect match for soft targets (Wang et
            al. 2023, arXiv:2303.16296). No effect with `squared_pred`. Default: False.
        absent: treatment of annotated classes that are absent from the reference. `volume` (default): the penalty A.
            `skip`: no penalty. `smooth`: the same as for present classes, with I = G = 0; as in MONAI, the loss of an
            absent class is then about 1 even for small P.
        ignore_index: class index of the voxels to exclude. In one-hot targets, these are the voxels of that channel or,
            without such a channel, the voxels that are 0 in all channels. Default: None.
        regions: label values of each class in the target, background first, for classes that may overlap, such as
            `[[0], [1, 2], [2]]`. Sigmoid then replaces softmax, and targets are label values as with `to_onehot_y`. The
            background is excluded in samples with unannotated classes. Default: None (the value of a class is its
            index).

    Raises:
        ValueError: arguments contradict each other or are out of range.

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
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            weight, soft_label, absent, ignore_index, regions,
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

    The loss of a sample is D + (1 - D) A, with I, P, G and A as in `DiceLoss`. D is
    1 - (2 sum w I + smooth_nr) / (sum w (P + G) + smooth_dr), where the sums are over the classes present in the
    reference. The class weights are w = 1 / G², scaled so that sum w G = 1 (Sudre et al. 2017, DLMIA). Absent classes
    have no weight w, so an infinite 1 / G² cannot dominate the other classes.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act: see `DiceLoss`, with the same defaults.
        smooth_nr, smooth_dr, batch, soft_label, ignore_index, regions: see `DiceLoss`, with the same defaults.
        w_type: class weights w: `square` (1 / G², default), `simple` (1 / G) or `uniform` (1).
        reduction: `mean` or `sum` over samples, or `none` for one value per sample, (B, 1, 1, ...). Default: `mean`.
        weight: factors by which w is multiplied: one number for all classes, or one per class, without the background
            if the background is excluded. Default: None (all factors are 1).
        absent: see `DiceLoss`. With `smooth`, an absent class has the largest weight among the present classes, as in
            MONAI.

    Raises:
        ValueError: arguments contradict each other or are out of range.

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
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            weight, soft_label, absent, ignore_index, regions,
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
