"""Cross Validated 414358: a generalized Dice loss of 21 classes that stays at 1.

The loss is 1 - 2 sum w n / sum w d over all classes, n the sum of p g, d the sum of p + g, w = 1 / (sum of g)² (Sudre
et al. 2017, DLMIA). Where a class is not in the batch, the infinite w was clipped to just below 1; the same code is in
keras-team/keras issue 10890.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDiceLoss

from segbundle.losses import DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss
from segbundle.losses.regions import (
    Regions,
    add_absent,
    dice_terms,
    generalized_dice,
    mean_over_classes,
)
from segbundle.reproductions.tables import Table
from segbundle.reproductions.training import (
    Discs,
    Loss,
    class_sums,
    colours,
    mean_and_range,
    mean_dice,
    predict,
    small_unet,
    train,
)

_SMOOTH = 1e-5


def run(
    numerators: Sequence[float],
    denominators: Sequence[float],
    smallest_weight: float,
    largest_weight: float,
    num_classes: int,
    size: int,
    radius: Sequence[float],
    discs: int,
    channels: int,
    noise: float,
    widths: Sequence[int],
    batch_size: int,
    learning_rate: float,
    steps: int,
    early_step: int,
    num_test: int,
    seeds: Sequence[int],
    example_voxels: int,
    example_structure: int,
) -> list[Table]:
    """All tables; the arguments are explained in the YAML."""
    posted = Posted(numerators, denominators, smallest_weight, largest_weight)
    data = Discs(size, (radius[0], radius[1]), discs, colours(num_classes, channels, seed=0), noise)
    rows = [
        _trained(name, loss, data, widths, batch_size, learning_rate, steps, early_step, num_test, seeds)
        for name, loss in _losses().items()
    ]
    title = f"Training on {discs} of {num_classes - 1} classes per picture, mean over {len(seeds)} seeds (range)"
    columns = [
        "loss", "at the start", f"after {min(early_step, steps)} steps", f"after {steps} steps",
        "gradient at the start", "its part on absent classes", "Dice of the classes there",
        "the same without background",
    ]  # fmt: skip
    return [
        posted.per_class(),
        posted.losses(),
        Table(title, columns, rows),
        _why_weights(example_voxels, example_structure),
    ]


class Posted:
    """What was posted, and what follows from it.

    A softmax is nowhere 0, so a numerator of 0 means that the class has no voxel: its weight is 1. The others' weights
    are known up to their range. As n <= volume <= d, a weight 1 / volume² also lies between 1 / d² and 1 / n². All
    probabilities of a voxel sum to 1, as do its references: the denominators sum to two times the number of voxels.
    """

    def __init__(self, numerators: Sequence[float], denominators: Sequence[float], smallest: float, largest: float):
        self.shared = torch.tensor(numerators, dtype=torch.float64)
        self.size = torch.tensor(denominators, dtype=torch.float64)
        self.absent = self.shared == 0
        self.voxels = self.size.sum() / 2
        self.posted_range = torch.full_like(self.size, smallest), torch.full_like(self.size, largest)
        self.range = self.size**-2.0, torch.where(self.absent, 1.0, self.shared) ** -2.0
        self.range = self.range[0].clamp(min=smallest), self.range[1].clamp(max=largest)

    def loss(self, weight: torch.Tensor) -> float:
        """The loss as posted, with 1 for absent classes and these weights for the others."""
        weight = torch.where(self.absent, 1.0, weight)
        return float(1 - 2 * (weight * self.shared).sum() / (weight * self.size).sum())

    def drowned(self, weight: torch.Tensor) -> tuple[float, float]:
        """Sum of w d over the classes that are there, and the absent classes' part of the whole denominator."""
        there = float((weight * self.size)[~self.absent].sum())
        absent = float(self.size[self.absent].sum())
        return there, absent / (absent + there)

    def generalized(self, weight: torch.Tensor) -> float:
        """`GeneralizedDiceLoss` of this package on the same sums, for weights within `range`."""
        regions = self._regions(weight**-0.5)
        ones = torch.ones_like(self.size)
        loss = generalized_dice(regions, ones, 2, regions.present, _SMOOTH, _SMOOTH)
        return float(add_absent(loss, torch.ones_like(loss), regions, ones))

    def mean_of_classes(self, with_absent_term: bool) -> float:
        """`DiceLoss` of this package on the same sums: it needs no volumes."""
        regions, ones = self._regions(self.shared), torch.ones_like(self.size)
        loss = mean_over_classes(dice_terms(regions, _SMOOTH, _SMOOTH), ones, regions.present)
        if with_absent_term:
            loss = add_absent(loss, torch.ones_like(loss), regions, ones)
        return float(loss)

    def smallest(self, loss: Callable[[torch.Tensor], float], bounds: tuple[torch.Tensor, torch.Tensor]) -> float:
        """The smallest value for any weights within bounds: a quotient of sums is smallest at a corner, where the
        classes with the best n / d have their largest weight and the rest their smallest."""
        return min(self._corners(loss, bounds, best_first=True))

    def largest(self, loss: Callable[[torch.Tensor], float], bounds: tuple[torch.Tensor, torch.Tensor]) -> float:
        """The largest value for any weights within bounds."""
        return max(self._corners(loss, bounds, best_first=False))

    def per_class(self) -> Table:
        """What each class adds."""
        largest = torch.where(self.absent, 1.0, self.range[1])
        share = largest * self.size / (largest * self.size).sum()
        rows = [
            [
                str(index),
                f"{self.shared[index]:g}",
                f"{self.size[index]:g}",
                f"{2 * self.shared[index] / self.size[index]:.2g}",
                "1" if self.absent[index] else f"{self.range[0][index]:.1e} – {self.range[1][index]:.1e}",
                f"{100 * share[index]:.2g} %",
            ]
            for index in range(len(self.size))
        ]
        columns = [
            "class", "sum of p g (posted)", "sum of p + g (posted)", "Dice (derived)", "weight (derived)",
            "part of the denominator, largest weights (derived)",
        ]  # fmt: skip
        return Table("The posted sums", columns, rows)

    def losses(self) -> Table:
        """The losses of the posted sums."""
        uniform = torch.ones_like(self.size)
        ours = [self.smallest(self.generalized, self.range), self.largest(self.generalized, self.range)]
        absent = float(self.size[self.absent].sum())
        rows = [
            self._row("as posted, the others' weights all at the smallest", *[self.posted_range[0]] * 2),
            self._row("as posted, the others' weights all at the largest", *[self.posted_range[1]] * 2),
            self._row("as posted, any weights in the posted range", *self.posted_range),
            self._row("as posted, and n <= volume <= d", *self.range),
            self._row("all weights 1", uniform, uniform),
            ["mean Dice loss of the classes there", f"{self.mean_of_classes(False):.4f}", "–", "0 %"],
            ["`DiceLoss`", f"{self.mean_of_classes(True):.4f}", "–", f"{100 * absent / float(self.voxels):.1f} % of V"],
            [
                "`GeneralizedDiceLoss`, n <= volume <= d", f"{ours[0]:.4f} – {ours[1]:.4f}", "–",
                f"{100 * absent / float(self.voxels):.1f} % of V",
            ],
        ]  # fmt: skip
        title = (
            f"Losses of the posted sums: {int(self.absent.sum())} classes without a voxel hold {absent:.0f} of "
            f"V = {float(self.voxels):.0f} voxels' probability"
        )
        columns = ["loss", "value", "sum of w d, classes there", "absent classes' part"]
        return Table(title, columns, rows)

    def _row(self, name: str, lowest: torch.Tensor, highest: torch.Tensor) -> list[str]:
        values = [self.smallest(self.loss, (lowest, highest)), self.largest(self.loss, (lowest, highest))]
        ends = [self.drowned(lowest), self.drowned(highest)]
        return [
            name,
            _from_to([f"{value:.6f}" for value in values]),
            _from_to([f"{there:.2g}" for there, _ in ends]),
            _from_to([f"{100 * part:.3f} %" for _, part in reversed(ends)]),
        ]

    def _corners(
        self, loss: Callable[[torch.Tensor], float], bounds: tuple[torch.Tensor, torch.Tensor], best_first: bool
    ) -> list[float]:
        order = (self.shared / self.size).argsort(descending=best_first).argsort()
        return [loss(torch.where(order < count, bounds[1], bounds[0])) for count in range(len(order) + 1)]

    def _regions(self, volume: torch.Tensor) -> Regions:
        reference = torch.where(self.absent, 0.0, volume)
        prediction = self.size - reference
        counted = torch.ones_like(self.absent)
        return Regions(self.shared[None], prediction[None], reference[None], self.voxels[None], counted[None])


def posted_weights(volume: torch.Tensor) -> torch.Tensor:
    """1 / volume², clipped as in the posted code: just below 1 for a class without voxels."""
    return (1 / volume**2).clamp(1e-17, 1 - 1e-7)


def posted_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The posted loss, with its smoothing."""
    shared, size, volume = class_sums(scores, labels)
    weight = posted_weights(volume)
    return 1 - 2 * ((weight * shared).sum() + 1e-17) / ((weight * size).sum() + 1e-17)


def gradient_on_scores(loss: Loss, scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Sum of the absolute gradient with respect to the scores, and the absent classes' part of it."""
    scores = scores.detach().requires_grad_()
    gradient = torch.autograd.grad(loss(scores, labels), scores)[0]
    per_class = gradient.abs().sum([0, *range(2, gradient.ndim)])
    absent = torch.bincount(labels.flatten(), minlength=len(per_class)) == 0
    return float(per_class.sum()), float(per_class[absent].sum() / per_class.sum())


def _losses() -> dict[str, Loss]:
    return {
        "as posted": posted_loss,
        "MONAI's GeneralizedDiceLoss": MonaiGeneralizedDiceLoss(softmax=True, to_onehot_y=True, batch=True),
        "`GeneralizedDiceLoss`": GeneralizedDiceLoss(softmax=True, to_onehot_y=True, batch=True),
        "`GeneralizedDiceCELoss`": GeneralizedDiceCELoss(softmax=True, to_onehot_y=True, batch=True),
    }


def _trained(
    name: str,
    loss: Loss,
    data: Discs,
    widths: Sequence[int],
    batch_size: int,
    learning_rate: float,
    steps: int,
    early_step: int,
    num_test: int,
    seeds: Sequence[int],
) -> list[str]:
    runs = []
    for seed in seeds:
        channels = data.colours.shape[1]
        network = small_unet(channels, len(data.colours) + 1, widths, seed)
        pictures, labels = next(data.batches(batch_size, seed))
        gradient = gradient_on_scores(loss, network(pictures), labels)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        values = train(network, data.batches(batch_size, seed), loss, optimizer, steps)
        pictures, labels = data.draw(num_test, torch.Generator().manual_seed(1000 + seed))
        guess = predict(network, pictures)
        early = values[min(early_step, steps) - 1]
        dice = mean_dice(guess, labels), mean_dice(guess, labels, with_background=False)
        runs.append((values[0], early, values[-1], *gradient, *dice))
    start, early_values, end, size, part, dice_all, dice_structures = zip(*runs, strict=True)
    return [
        name,
        f"{fmean(start):.4f}",
        mean_and_range(early_values, 4),
        mean_and_range(end),
        f"{fmean(size):.2g}",
        f"{100 * fmean(part):.0f} %",
        mean_and_range(dice_all),
        mean_and_range(dice_structures),
    ]


def _why_weights(voxels: int, structure: int) -> Table:
    """What losses say to errors of the same number of voxels: only the ratio of sums without weights hardly cares."""
    labels = torch.zeros(1, 1, voxels)
    labels[..., :structure] = 1
    right = torch.cat([1 - labels, labels], dim=1)
    missed = torch.cat([torch.ones_like(labels), torch.zeros_like(labels)], dim=1)
    doubled = right.clone()
    doubled[0, :, structure : 2 * structure] = torch.tensor([[0.0], [1.0]])
    losses: dict[str, Loss] = {
        "generalized Dice, all weights 1": GeneralizedDiceLoss(to_onehot_y=True, w_type="uniform"),
        "generalized Dice, w = 1 / volume": GeneralizedDiceLoss(to_onehot_y=True, w_type="simple"),
        "generalized Dice, w = 1 / volume²": GeneralizedDiceLoss(to_onehot_y=True),
        "mean Dice over classes": DiceLoss(to_onehot_y=True),
        "mean IoU over classes": DiceLoss(to_onehot_y=True, jaccard=True),
    }
    rows = [
        [name, *(f"{float(loss(guess, labels)):.4f}" for guess in (missed, doubled))] for name, loss in losses.items()
    ]
    title = f"Why weights: two classes, {voxels} voxels, a structure of {structure}"
    return Table(title, ["loss", "structure missed entirely", "structure found, as many voxels too much"], rows)


def _from_to(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} – {ends[1]}"
