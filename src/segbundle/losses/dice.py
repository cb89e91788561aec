"""Dice and generalized Dice: MONAI's arguments, and what is missing kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from segbundle.losses import target_checks as checks
from segbundle.losses.base import Reduction, RegionLoss, Weights
from segbundle.losses.regions import Absent, Regions, absent_shares, dice_terms, generalized_dice, mean_over_classes

_POWERS = {"square": 2, "simple": 1, "uniform": 0}


class DiceLoss(RegionLoss):
    """Mean Dice loss over the classes that are there, plus what the network gives to those that are not.

    Per sample (or per batch): 1 - (2 I + smooth_nr) / (P + G + smooth_dr) for every class in the reference, with the
    sums I of p g, P of p and G of g over all voxels (Milletari et al. 2016, "V-Net", squares them: `squared_pred`).
    Their mean D becomes D + (1 - D) A, where A is the part of the volume given to absent classes, the sum of P / V over
    them. It is in [0, 1] and does not change with the volume's size, nor with classes that are absent and predicted
    nowhere.

    Args:
        include_background: whether class 0 has a term of its own.
        to_onehot_y: whether the target is an index map. No one-hot copy of it is made.
        sigmoid, softmax, other_act: how `input` becomes probabilities, at most one of them.
        squared_pred: sum squares in P and G.
        jaccard: the Jaccard index instead of Dice.
        reduction: `mean` over samples; `sum` over samples and the classes that are there; `none` for a value per
            sample and class (B, C, 1, ...), C without a background that is left out: an absent class has its part of
            the volume, an unannotated one 0.
        smooth_nr, smooth_dr: added above and below the fraction.
        batch: take the whole batch as one sample, under DistributedDataParallel that of all ranks.
        weight: one factor per class, or for all; without the background's if that is left out. As in MONAI, nothing
            divides by them: the loss is then at most the largest weight.
        soft_label: for targets between 0 and 1: I sums min(p, g), so that p = g is a perfect match.
        absent: how a class that was annotated and is not there counts. `volume`: as above. `skip`: not at all.
            `smooth`: like any other, with I = G = 0, which is about 1 for whatever is predicted; MONAI's way.
        ignore_index: voxels with this index count nowhere. In one-hot targets these are the voxels of that channel, or,
            where there is no such channel, those that are 0 in all channels.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
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
        self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        terms = self._terms(regions)
        return mean_over_classes(terms, weight, taking), mean_over_classes(torch.ones_like(terms), weight, taking)

    def _num_terms(self, taking: torch.Tensor) -> torch.Tensor:
        return taking.sum(dim=1).clamp(min=1)

    def _unreduced(self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor) -> torch.Tensor:
        values = self._terms(regions) * weight * taking
        if self.absent == "volume":
            values = values + absent_shares(regions) * weight
        return values if self.include_background or values.shape[1] == 1 else values[:, 1:]


class GeneralizedDiceLoss(RegionLoss):
    """Generalized Dice over the classes that are there, plus what the network gives to those that are not.

    Per sample (or per batch): D = 1 - (2 sum w I + smooth_nr) / (sum w (P + G) + smooth_dr) over the classes in the
    reference, w = 1 / G² scaled so that sum w G = 1 (Sudre et al. 2017, DLMIA), and D + (1 - D) A as in `DiceLoss`.
    An absent class has no 1 / G² that could drown the others.

    Args:
        w_type: `square`, `simple` or `uniform`: w = 1 / G², 1 / G or 1.
        weight: further factors of w; see `DiceLoss`.
        absent: see `DiceLoss`; with `smooth` an absent class has the largest of the others' weights, as in MONAI.
        reduction: `mean` or `sum` over samples, or `none` for one value each, (B, 1, 1, ...).
        others: as in `DiceLoss`.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
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
        self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        power = _POWERS[self.w_type]
        loss = generalized_dice(regions, weight, power, taking, self.smooth_nr, self.smooth_dr)
        return loss, torch.ones_like(loss)

    def _num_terms(self, taking: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(taking[:, 0])

    def _unreduced(self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor) -> torch.Tensor:
        return self._per_region(regions, weight, taking)[:, None]

    def _absent_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / weight.amax().clamp(min=1e-30)  # factors of w matter only relative to each other
