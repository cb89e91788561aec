"""Weighted sums of a Dice loss and cross entropy, computed in a single pass over the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from segbundle.losses import target_checks as checks
from segbundle.losses.all_reduce import sum_over_ranks
from segbundle.losses.base import Weights
from segbundle.losses.counts import CrossEntropy, SoftCounts
from segbundle.losses.dice import DiceLoss, GeneralizedDiceLoss
from segbundle.losses.ramp import LinearRamp
from segbundle.losses.regions import Absent


class _RegionCELoss(torch.nn.Module):
    """Weighted sum of a region loss and cross entropy: lambda_region x region loss + lambda_ce x cross entropy."""

    def __init__(
        self,
        region: DiceLoss | GeneralizedDiceLoss,
        reduction: Literal["mean", "sum"],
        weight: Weights,
        lambda_region: float | LinearRamp,
        lambda_ce: float | LinearRamp,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        checks.one_of("reduction", reduction, ("mean", "sum"))
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}, but must be in [0, 1].")
        self.region = region
        self.reduction = reduction
        self.lambda_region = lambda_region
        self.lambda_ce = lambda_ce
        self.label_smoothing = float(label_smoothing)
        self.progress: float | None = None
        self.class_weight: torch.Tensor | None
        self.register_buffer("class_weight", checks.weights(weight), persistent=False)

    def forward(self, input: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss of a batch.

        With the option `batch` or with class weights, sums are added over all ranks, so every rank of distributed
        training must call the loss.

        Args:
            input: logits (B, C, *spatial), floating point.
            target: (B, 1, *spatial) class indices with `to_onehot_y`, otherwise (B, C, *spatial), one-hot or soft.
            annotated: (B, C) bool, False for classes that were not annotated in a sample. Default: None (all classes
                are annotated).

        Returns:
            a scalar in float32 (float64 for float64 input)

        Raises:
            ValueError: see `RegionLoss.forward`; or `weight` does not have one entry per class, or a factor is a ramp
                and `progress` is None.
        """
        lambda_region, lambda_ce = self._current_value(self.lambda_region), self._current_value(self.lambda_ce)
        entropy = CrossEntropy(self._weights(input), self.label_smoothing) if lambda_ce > 0 else None
        counts, counted = self.region.count(input, target, annotated, entropy)
        loss = lambda_region * self.region.reduce(counts, counted)
        if entropy is None:
            return loss
        return loss + lambda_ce * self._cross_entropy(counts, input[0, 0].numel())

    @property
    def ignore_index(self) -> int | None:
        """Class index of the voxels that are excluded from the loss; None if all voxels are included."""
        return self.region.ignore_index

    @property
    def follows_progress(self) -> bool:
        """True if the loss depends on `progress`, because a factor is a ramp."""
        return isinstance(self.lambda_region, LinearRamp) or isinstance(self.lambda_ce, LinearRamp)

    def _cross_entropy(self, counts: SoftCounts, num_voxels: int) -> torch.Tensor:
        """Return the mean over all voxels, over all ranks if their denominators may differ.

        All samples have the same weight, even if many of their voxels are ignored. A sample without known voxels counts
        as 0. With `batch`, all voxels have the same weight instead.
        """
        entropy, weight = counts.cross_entropy, counts.cross_entropy_weight
        if self.reduction == "mean" and not self.region.batch:
            known = counts.voxels
            scale = torch.where(known > 0, num_voxels / known.clamp(min=1), 0.0)
            entropy, weight = entropy * scale, torch.where(known > 0, weight * scale, float(num_voxels))
        sums = torch.stack([entropy.sum(), weight.sum()])
        if self.region.batch or (self.reduction == "mean" and self.class_weight is not None):
            sums = sum_over_ranks(sums)
        return sums[0] if self.reduction == "sum" else sums[0] / torch.where(sums[1] > 0, sums[1], 1.0)

    def _current_value(self, value: float | LinearRamp) -> float:
        if not isinstance(value, LinearRamp):
            return value
        if self.progress is None:
            raise ValueError(
                f"{value} needs the loss's `progress`. Set it to the completed fraction of training, from 0 to 1, or "
                "use the bundle's trainer."
            )
        return value(self.progress)

    def _weights(self, input: torch.Tensor) -> torch.Tensor | None:
        """Return the class weights (C,) for cross entropy."""
        weight, num_classes = self.class_weight, input.shape[1] if input.ndim > 1 else 0
        if weight is None or weight.ndim == 0:
            return None if weight is None else weight.expand(num_classes)
        if len(weight) != num_classes:
            raise ValueError(
                f"weight has {len(weight)} entries for {num_classes} classes. Cross entropy needs one for every class, "
                "including the background, even if include_background is false."
            )
        return weight


def _region_weights(weight: Weights, include_background: bool) -> torch.Tensor | None:
    checked = checks.weights(weight)
    return checked[1:] if checked is not None and checked.ndim == 1 and not include_background else checked


class DiceCELoss(_RegionCELoss):
    """Weighted sum of Dice loss and cross entropy: lambda_dice x `DiceLoss` + lambda_ce x cross entropy.

    The cross entropy of a voxel is -log p, where p is the probability of the voxel's class. In a sample with
    unannotated classes, p of a background voxel is the summed probability of the background and of those classes
    (marginal loss; Shi et al. 2021, Medical Image Analysis 70, 101979). Ignored voxels are excluded. With `regions`,
    the cross entropy of a voxel is the mean of the binary cross entropies of its annotated classes.

    Cross entropy is averaged over the voxels of each sample, and then over samples. The result therefore differs from
    PyTorch if samples have different numbers of ignored voxels. A sample whose voxels are all ignored counts as 0. With
    `batch`, cross entropy is averaged over all voxels of the batch, as in PyTorch.

    Args:
        include_background: whether the Dice term includes class 0. Cross entropy always includes class 0. Default:
            True.
        to_onehot_y, squared_pred, jaccard, smooth_nr, smooth_dr, batch, ignore_index, absent, regions: see
            `DiceLoss`, with the same defaults.
        sigmoid, softmax, other_act: activation for the Dice term; see `DiceLoss`. Cross entropy uses the logits.
            Default: no activation.
        reduction: `mean` or `sum`. The Dice loss is reduced as in `DiceLoss`, cross entropy over voxels. Default:
            `mean`.
        weight: class weights of both terms: one per class, including the background, or a number for all classes.
            Default: None (equal weights). Cross entropy over class indices becomes a weighted mean, as in PyTorch. The
            Dice loss is not divided by the sum of the weights, as in MONAI: weights around 40 make this loss 40 times
            as large. Scale the weights to a mean of 1.
        lambda_dice, lambda_ce: factors of the two terms; each is a number, or a `LinearRamp` over the course of
            training. Default: 1.0.
        label_smoothing: label smoothing of the cross entropy (Szegedy et al. 2016, CVPR), in [0, 1]. Default: 0.0.

    Attributes:
        progress: completed fraction of training, from 0 to 1; None before the trainer sets it. Required only for ramps.

    Raises:
        ValueError: arguments contradict each other or are out of range.

    Example:
        >>> loss = DiceCELoss(softmax=True, to_onehot_y=True, ignore_index=255)
        >>> logits = torch.tensor([[[[20.0, -20.0, 0.0]], [[-20.0, 20.0, 0.0]]]])  # (1, 2, 1, 3)
        >>> target = torch.tensor([[[[0, 1, 255]]]])  # the last voxel is unknown
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
        reduction: Literal["mean", "sum"] = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Weights = None,
        lambda_dice: float | LinearRamp = 1.0,
        lambda_ce: float | LinearRamp = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        absent: Absent = "volume",
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        checks.factors(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=_region_weights(weight, include_background),
            ignore_index=ignore_index,
            absent=absent,
            regions=regions,
        )
        super().__init__(dice, reduction, weight, lambda_dice, lambda_ce, label_smoothing)


class GeneralizedDiceCELoss(_RegionCELoss):
    """Generalized Dice loss plus cross entropy: lambda_gdl x `GeneralizedDiceLoss` + lambda_ce x cross entropy.

    Cross entropy is computed as in `DiceCELoss`. All defaults are those of the class that is referred to.

    Args:
        include_background, sigmoid, softmax, other_act, lambda_ce, label_smoothing: see `DiceCELoss`.
        to_onehot_y, smooth_nr, smooth_dr, batch, ignore_index, regions: see `DiceLoss`.
        w_type, absent: see `GeneralizedDiceLoss`.
        reduction: `mean` or `sum`. Generalized Dice is reduced over samples, cross entropy over voxels. Default:
            `mean`.
        weight: class weights of both terms: one per class, including the background, or a number for all classes.
            Default: None (equal weights). The generalized Dice loss multiplies w by these weights.
        lambda_gdl: factor of the generalized Dice loss; a number or a `LinearRamp`. Default: 1.0.

    Attributes:
        progress: completed fraction of training, from 0 to 1; None before the trainer sets it. Required only for ramps.

    Raises:
        ValueError: arguments contradict each other or are out of range.

    Example:
        >>> loss = GeneralizedDiceCELoss(softmax=True, to_onehot_y=True, ignore_index=255)
        >>> logits = torch.tensor([[[[20.0, -20.0, 0.0]], [[-20.0, 20.0, 0.0]]]])  # (1, 2, 1, 3)
        >>> target = torch.tensor([[[[0, 1, 255]]]])  # the last voxel is unknown
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
        reduction: Literal["mean", "sum"] = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Weights = None,
        lambda_gdl: float | LinearRamp = 1.0,
        lambda_ce: float | LinearRamp = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        absent: Absent = "volume",
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        checks.factors(lambda_gdl=lambda_gdl, lambda_ce=lambda_ce)
        generalized = GeneralizedDiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            w_type=w_type,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=_region_weights(weight, include_background),
            ignore_index=ignore_index,
            absent=absent,
            regions=regions,
        )
        super().__init__(generalized, reduction, weight, lambda_gdl, lambda_ce, label_smoothing)
