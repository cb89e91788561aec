"""What Dice and generalized Dice share: from a batch to the sums of its regions, and from those to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812

from segbundle.losses import target_checks as checks
from segbundle.losses.all_reduce import sum_over_ranks
from segbundle.losses.counts import CrossEntropy, SoftCounts, soft_counts, working_dtype
from segbundle.losses.regions import Absent, Regions, add_absent

Weights = Sequence[float] | float | torch.Tensor | None
Reduction = Literal["mean", "sum", "none"]


class RegionLoss(torch.nn.Module, ABC):
    """What the region losses share: arguments, checks, counting, and the reduction to one number."""

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
    ) -> None:
        super().__init__()
        checks.one_activation(sigmoid, softmax, other_act)
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        checks.one_of("absent", absent, get_args(Absent))
        checks.not_negative(smooth_nr=smooth_nr, smooth_dr=smooth_dr)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
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
        self._checks_left = checks.CHECKED_CALLS_ON_GPU

    def forward(self, input: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of a batch.

        Args:
            input: (B, C, *spatial) floating point: scores with `softmax` or `sigmoid`, otherwise probabilities.
            target: (B, 1, *spatial) class indices with `to_onehot_y`, or (B, C, *spatial) one-hot.
            annotated: (B, C) bool, False where nobody looked for the class in that sample; None for everywhere.

        Returns:
            a number in float32 (float64 for float64 input); with `reduction="none"` see the class.

        Raises:
            ValueError: shapes that do not fit, a class index out of range, a background marked unannotated, NaN in
                the input. Those that have to look at the data do so, on a GPU, in the first batches only.
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
        """The sums that the loss is made of, with a cross entropy if asked for, and which classes count, (B, C)."""
        num_classes = input.shape[1] if input.ndim > 1 else 0
        index_map = self.to_onehot_y and num_classes > 1
        checks.shapes(input, target, index_map)
        looking = self._looks_at_data(input.device)
        if looking and index_map:
            checks.class_indices(target, num_classes, self.ignore_index)
        if looking and not index_map:
            checks.one_hot(target, self.ignore_index)
        annotated = checks.annotated(annotated, len(input), num_classes)
        merged = None if annotated is None else [(~row).nonzero()[:, 0].tolist() for row in annotated]
        with_softmax = self.softmax and num_classes > 1
        probabilities = self._activate(input)
        if looking and not (with_softmax or self.sigmoid or self.other_act):
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
        )
        if cross_entropy is not None and not with_softmax:
            counts = self._add_cross_entropy(counts, input, target, annotated, merged, cross_entropy)
        if looking:
            checks.finite(counts.prediction, counts.cross_entropy)
        return counts, self._counted(annotated, counts)

    def reduce(self, counts: SoftCounts, counted: torch.Tensor) -> torch.Tensor:
        """The loss from its sums, as `count` returns them."""
        sums = self._over_batch(counts, counted) if self.batch else (*counts[:4], counted)
        intersection, prediction, reference, voxels, taken_in = sums
        exclusive = self._exclusive(counted.shape[1])
        regions = Regions(intersection, prediction, reference, voxels, taken_in, exclusive)
        weight = self._weights(regions)
        taking = regions.counted if self.absent == "smooth" else regions.present
        if self.reduction == "none":
            values = self._unreduced(regions, weight, taking)
            return values[0] if self.batch else values
        loss = self._per_region(regions, weight, taking)
        return loss.mean() if self.reduction == "mean" else (loss * self._num_terms(taking)).sum()

    def _per_region(self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor) -> torch.Tensor:
        """Loss of every sample, or of the batch as one, (R,)."""
        loss, largest = self._over_classes(regions, weight, taking)
        return add_absent(loss, largest, regions, self._absent_weight(weight)) if self.absent == "volume" else loss

    def _absent_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """Factors (C,) of what is given to absent classes."""
        return weight

    @abstractmethod
    def _over_classes(
        self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss over the classes taken, and the largest that it can be, (R,) each."""

    @abstractmethod
    def _num_terms(self, taking: torch.Tensor) -> torch.Tensor:
        """How many terms `reduction="sum"` adds up, (R,)."""

    @abstractmethod
    def _unreduced(self, regions: Regions, weight: torch.Tensor, taking: torch.Tensor) -> torch.Tensor:
        """Losses before any reduction: (R, C), or (R, 1) for a loss of all classes at once."""

    def _exclusive(self, num_classes: int) -> bool:
        """Whether a voxel has one class only, so that probabilities can be added up: not with independent channels."""
        return num_classes > 1 and not self.sigmoid and self.other_act is None

    def _activate(self, input: torch.Tensor) -> torch.Tensor:
        if self.sigmoid:
            return torch.sigmoid(input.to(working_dtype(input)))
        return input if self.other_act is None else self.other_act(input)

    def trust_data(self) -> None:
        """From now on look at no more batches on a GPU, which would have to wait."""
        self._checks_left = 0

    def _looks_at_data(self, device: torch.device) -> bool:
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
        """A cross entropy of other scores than those that the region loss looks at: of one class, or with sigmoid."""
        if input.shape[1] == 1:
            sums = _binary_cross_entropy(input, target, annotated, self.ignore_index, cross_entropy.weight)
            return counts._replace(cross_entropy=sums[0], cross_entropy_weight=sums[1], voxels=sums[1])
        other = soft_counts(
            input, target, softmax=True, merged=merged, ignore_index=self.ignore_index, cross_entropy=cross_entropy
        )
        return counts._replace(cross_entropy=other.cross_entropy, cross_entropy_weight=other.cross_entropy_weight)

    def _counted(self, annotated: torch.Tensor | None, counts: SoftCounts) -> torch.Tensor:
        counted = torch.ones_like(counts.prediction, dtype=torch.bool)
        num_classes = counted.shape[1]
        if annotated is not None:
            counted &= annotated.to(counted.device)
            if num_classes > 1 and not self._exclusive(num_classes):  # nothing to merge: leave the background out too
                counted[:, 0] &= annotated.all(dim=1).to(counted.device)
        if not self.include_background and num_classes > 1:
            counted[:, 0] = False
        return counted

    def _over_batch(self, counts: SoftCounts, counted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The sums of the samples of all ranks as one region; a class is counted if it is in any of them."""
        num_classes = counted.shape[1]
        sums = [(part * counted).sum(dim=0) for part in counts[:3]]
        voxels = (counts.voxels * counted.any(dim=1)).sum()[None]
        totals = sum_over_ranks(torch.cat([*sums, voxels, counted.sum(dim=0).to(sums[0])]))
        parts = totals.split([num_classes, num_classes, num_classes, 1, num_classes])
        return *(part[None] for part in parts[:3]), parts[3], parts[4][None] > 0

    def _weights(self, regions: Regions) -> torch.Tensor:
        """Class weights (C,) for the counted sums; the background's is 0 where it is left out."""
        weight, num_classes = self.class_weight, regions.counted.shape[1]
        if weight is None or num_classes == 1:
            return torch.ones_like(regions.prediction[0])
        weight = weight.to(regions.prediction)
        if weight.ndim == 0:
            return weight.expand(num_classes)
        with_background = num_classes - (0 if self.include_background else 1)
        if len(weight) != with_background:
            left_out = "" if self.include_background else ", the background left out,"
            raise ValueError(f"weight has {len(weight)} entries; {with_background} classes{left_out} need one each.")
        return weight if self.include_background else F.pad(weight, (1, 0))


def _binary_cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    annotated: torch.Tensor | None,
    ignore_index: int | None,
    weight: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums per sample of the cross entropy of a single class, and of the voxels in it, (B,) each."""
    scores = input.flatten(1).to(working_dtype(input))
    wanted = target.flatten(1).to(scores)
    counts = torch.ones_like(wanted) if ignore_index is None else (wanted != ignore_index).to(wanted)
    if annotated is not None:
        counts = counts * annotated.to(counts)
    entropy = F.binary_cross_entropy_with_logits(scores, wanted * counts, pos_weight=weight, reduction="none")
    return (entropy * counts).sum(dim=1), counts.sum(dim=1)
