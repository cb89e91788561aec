"""Base class of the Dice losses: count the regions of a batch, and reduce the counts to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812

from segbundle.losses import target_checks as checks
from segbundle.losses.all_reduce import sum_over_ranks
from segbundle.losses.counts import CrossEntropy, SoftCounts, region_cross_entropy, soft_counts, working_dtype
from segbundle.losses.regions import Absent, Regions, add_absent

Weights = Sequence[float] | float | torch.Tensor | None
Reduction = Literal["mean", "sum", "none"]


class RegionLoss(torch.nn.Module, ABC):
    """Base class of the Dice losses, with their arguments, validation, counting and reduction.

    Subclasses implement the loss over classes. All arguments are required; the defaults are those of the subclasses.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act: see `segbundle.losses.DiceLoss`.
        reduction, smooth_nr, smooth_dr, batch, weight: see `segbundle.losses.DiceLoss`.
        soft_label, absent, ignore_index, regions: see `segbundle.losses.DiceLoss`.

    Attributes:
        squared_pred: whether P and G are sums of squares (see `segbundle.losses.DiceLoss`); False unless a subclass
            sets it.

    Raises:
        ValueError: arguments contradict each other or are out of range.

    Example:
        >>> from segbundle.losses import DiceLoss, GeneralizedDiceLoss
        >>> issubclass(DiceLoss, RegionLoss), issubclass(GeneralizedDiceLoss, RegionLoss)
        (True, True)
    """

    squared_pred = False

    def __init__(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[[torch.Tensor], torch.Tensor] | None,
        reduction: Reduction,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
        weight: Weights,
        soft_label: bool,
        absent: Absent,
        ignore_index: int | None,
        regions: Sequence[Sequence[int]] | None,
    ) -> None:
        super().__init__()
        checks.one_activation(sigmoid, softmax, other_act)
        table = checks.region_table(regions, other_act)
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        checks.one_of("absent", absent, get_args(Absent))
        checks.not_negative(smooth_nr=smooth_nr, smooth_dr=smooth_dr)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid or table is not None
        self.softmax = softmax and table is None
        self.other_act = other_act
        self.reduction = reduction
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.soft_label = soft_label
        self.absent = absent
        self.ignore_index = ignore_index
        self.class_weight: torch.Tensor | None
        self.register_buffer("class_weight", checks.weights(weight), persistent=False)
        self.regions: torch.Tensor | None
        self.register_buffer("regions", table, persistent=False)
        self._checks_left = checks.CHECKED_CALLS_ON_GPU

    def forward(self, input: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss of a batch.

        With the option `batch`, sums are added over all ranks, so every rank of distributed training must call the
        loss.

        Args:
            input: (B, C, *spatial), floating point: logits with `softmax`, `sigmoid` or `other_act`, otherwise
                probabilities.
            target: (B, 1, *spatial) class indices with `to_onehot_y`, otherwise (B, C, *spatial), one-hot or soft.
            annotated: (B, C) bool, False for classes that were not annotated in a sample. Default: None (all classes
                are annotated).

        Returns:
            a scalar in float32 (float64 for float64 input); with `reduction="none"`, the tensor that the class
            describes

        Raises:
            ValueError: shapes or the number of weights do not match, a class index is out of range, the background
                is marked as unannotated, or the input contains NaN or Inf. On a GPU, values are checked in the first
                batches only.
        """
        counts, counted = self.count(input, target, annotated)
        value = self.reduce(counts, counted)
        return value.reshape(*value.shape, *[1] * (input.ndim - 2)) if self.reduction == "none" else value

    def count(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        annotated: torch.Tensor | None,
        cross_entropy: CrossEntropy | None = None,
    ) -> tuple[SoftCounts, torch.Tensor]:
        """Compute the per-class sums of a batch, and the mask of the classes to include, for `reduce`.

        Args:
            input: see `forward`.
            target: see `forward`.
            annotated: see `forward`; None if all classes are annotated.
            cross_entropy: settings of a cross entropy to compute in the same pass. Default: None (no cross entropy).

        Returns:
            a pair: the sums, and a bool mask (B, C) of the classes to include, that is, of the annotated classes,
            without the background if the background is excluded

        Raises:
            ValueError: see `forward`.
        """
        num_classes = input.shape[1] if input.ndim > 1 else 0
        index_map = (self.to_onehot_y and num_classes > 1) or self.regions is not None
        checks.shapes(input, target, index_map)
        table = None if self.regions is None else checks.regions_fit(self.regions, num_classes).to(input.device)
        validate = self._validates(input.device)
        if validate and index_map:
            checks.class_indices(target, num_classes if table is None else table.shape[1], self.ignore_index)
        if validate and not index_map:
            checks.one_hot(target, self.ignore_index)
        annotated = checks.annotated(annotated, len(input), num_classes)
        merged = None if annotated is None else [(~row).nonzero()[:, 0].tolist() for row in annotated]
        with_softmax = self.softmax and num_classes > 1
        probabilities = self._activate(input)
        if validate and not (with_softmax or self.sigmoid or self.other_act):
            checks.probabilities(probabilities, sum_to_one=merged is not None)
        counts = soft_counts(
            probabilities,
            target,
            softmax=with_softmax,
            merged=merged if self._exclusive(num_classes) else None,
            ignore_index=self.ignore_index,
            squared_pred=self.squared_pred,
            soft_label=self.soft_label,
            cross_entropy=cross_entropy if with_softmax else None,
            regions=table,
        )
        if cross_entropy is not None and table is not None:
            included = self._annotated(annotated, counts)
            sums = region_cross_entropy(input, target, table, included, self.ignore_index, cross_entropy)
            counts = counts._replace(cross_entropy=sums[0], cross_entropy_weight=sums[1])
        elif cross_entropy is not None and not with_softmax:
            counts = self._add_cross_entropy(counts, input, target, annotated, merged, cross_entropy)
        if validate:
            checks.finite(counts.prediction, counts.cross_entropy)
        return counts, self._counted(annotated, counts)

    def reduce(self, counts: SoftCounts, counted: torch.Tensor) -> torch.Tensor:
        """Compute the loss from the sums and the mask that `count` returns.

        With the option `batch`, sums are added over all ranks, so every rank of distributed training must call this
        method.

        Args:
            counts: sums of a batch of B samples and C classes.
            counted: (B, C) bool, the classes to include.

        Returns:
            a scalar in the dtype of the sums; with `reduction="none"`, the values that the class describes, without
            spatial axes

        Raises:
            ValueError: the number of weights does not match the number of classes.
        """
        sums = self._over_batch(counts, counted) if self.batch else (*counts[:4], counted)
        intersection, prediction, reference, voxels, counted = sums
        exclusive = self._exclusive(counted.shape[1])
        regions = Regions(intersection, prediction, reference, voxels, counted, exclusive)
        weight = self._weights(regions)
        included = regions.counted if self.absent == "smooth" else regions.present
        if self.reduction == "none":
            values = self._unreduced(regions, weight, included)
            return values[0] if self.batch else values
        loss = self._per_region(regions, weight, included)
        return loss.mean() if self.reduction == "mean" else (loss * self._count_terms(included)).sum()

    def _per_region(self, regions: Regions, weight: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
        """Return the loss of every sample, or of the whole batch, (R,)."""
        loss, largest = self._over_classes(regions, weight, included)
        return add_absent(loss, largest, regions, self._absent_weight(weight)) if self.absent == "volume" else loss

    def _absent_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weights (C,) of the penalty for absent classes."""
        return weight

    @abstractmethod
    def _over_classes(
        self, regions: Regions, weight: torch.Tensor, included: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss over the included classes and its upper bound, (R,) each."""

    @abstractmethod
    def _count_terms(self, included: torch.Tensor) -> torch.Tensor:
        """Return the number of terms that `reduction="sum"` adds up, (R,)."""

    @abstractmethod
    def _unreduced(self, regions: Regions, weight: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
        """Return the losses before reduction: (R, C), or (R, 1) for a loss without separate terms per class."""

    def _exclusive(self, num_classes: int) -> bool:
        """Return whether each voxel has exactly one class, so that probabilities can be added up."""
        return num_classes > 1 and not self.sigmoid and self.other_act is None

    def _activate(self, input: torch.Tensor) -> torch.Tensor:
        if self.sigmoid:
            return torch.sigmoid(input.to(working_dtype(input)))
        return input if self.other_act is None else self.other_act(input)

    def trust_data(self) -> None:
        """Stop checking the values of batches on a GPU, where each check waits for the GPU."""
        self._checks_left = 0

    def _validates(self, device: torch.device) -> bool:
        if device.type == "cpu":
            return True
        self._checks_left -= 1
        return self._checks_left >= 0

    def _add_cross_entropy(
        self,
        counts: SoftCounts,
        input: torch.Tensor,
        target: torch.Tensor,
        annotated: torch.Tensor | None,
        merged: Sequence[Sequence[int]] | None,
        cross_entropy: CrossEntropy,
    ) -> SoftCounts:
        """Add a cross entropy that needs a pass over other values: for a single class, or with sigmoid."""
        if input.shape[1] == 1:
            sums = _binary_cross_entropy(input, target, annotated, self.ignore_index, cross_entropy.weight)
            return counts._replace(cross_entropy=sums[0], cross_entropy_weight=sums[1], voxels=sums[1])
        other = soft_counts(
            input, target, softmax=True, merged=merged, ignore_index=self.ignore_index, cross_entropy=cross_entropy
        )
        return counts._replace(cross_entropy=other.cross_entropy, cross_entropy_weight=other.cross_entropy_weight)

    def _counted(self, annotated: torch.Tensor | None, counts: SoftCounts) -> torch.Tensor:
        counted = self._annotated(annotated, counts)
        if not self.include_background and counted.shape[1] > 1:
            counted[:, 0] = False
        return counted

    def _annotated(self, annotated: torch.Tensor | None, counts: SoftCounts) -> torch.Tensor:
        """Return the mask (B, C) of annotated classes, without the background if it may contain other classes."""
        counted = torch.ones_like(counts.prediction, dtype=torch.bool)
        num_classes = counted.shape[1]
        if annotated is not None:
            counted &= annotated.to(counted.device)
            if num_classes > 1 and not self._exclusive(num_classes):  # cannot merge: exclude the background as well
                counted[:, 0] &= annotated.all(dim=1).to(counted.device)
        return counted

    def _over_batch(self, counts: SoftCounts, counted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sum the samples of all ranks into one region; a class is counted if it is counted in any of them."""
        num_classes = counted.shape[1]
        sums = [(part * counted).sum(dim=0) for part in counts[:3]]
        voxels = (counts.voxels * counted.any(dim=1)).sum()[None]
        totals = sum_over_ranks(torch.cat([*sums, voxels, counted.sum(dim=0).to(sums[0])]))
        parts = totals.split([num_classes, num_classes, num_classes, 1, num_classes])
        return *(part[None] for part in parts[:3]), parts[3], parts[4][None] > 0

    def _weights(self, regions: Regions) -> torch.Tensor:
        """Return the class weights (C,); 0 for the background if it is excluded."""
        weight, num_classes = self.class_weight, regions.counted.shape[1]
        if weight is None or num_classes == 1:
            return torch.ones_like(regions.prediction[0])
        weight = weight.to(regions.prediction)
        if weight.ndim == 0:
            return weight.expand(num_classes)
        with_background = num_classes - (0 if self.include_background else 1)
        if len(weight) != with_background:
            excluded = "" if self.include_background else " without the background"
            raise ValueError(
                f"weight has {len(weight)} entries for {with_background} classes{excluded}. Give one entry per class."
            )
        return weight if self.include_background else F.pad(weight, (1, 0))


def _binary_cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    annotated: torch.Tensor | None,
    ignore_index: int | None,
    weight: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross entropy of a single class and the number of its voxels, (B,) each."""
    logits = input.flatten(1).to(working_dtype(input))
    reference = target.flatten(1).to(logits)
    counts = torch.ones_like(reference) if ignore_index is None else (reference != ignore_index).to(reference)
    if annotated is not None:
        counts = counts * annotated.to(counts)
    entropy = F.binary_cross_entropy_with_logits(logits, reference * counts, pos_weight=weight, reduction="none")
    return (entropy * counts).sum(dim=1), counts.sum(dim=1)
