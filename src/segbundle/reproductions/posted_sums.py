"""The weights and sums that Cross Validated 414358 posted for 21 classes, and the losses that follow from them.

w, n and d of a class are its weight, its sum of p g and its sum of p + g (p the softmax's probability, g the one-hot
reference). The posted code (also in keras-team/keras issue 10890) adds up w n and w d over all classes and divides
then: 1 - 2 (sum w n + 1) / (sum w d + 1), with w = 1 / (sum of g)² and 1 instead of infinity for an absent class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from segbundle.losses.regions import Regions, add_absent, dice_terms, generalized_dice, mean_over_classes
from segbundle.reproductions.tables import Table

_SMOOTH = 1e-5
Bounds = tuple[torch.Tensor, torch.Tensor]


class PostedSums:
    """Losses of sums that were posted per class, with the weights posted beside them or with any that fit the sums.

    All probabilities of a voxel sum to 1, as do its references: the d of a batch sum to two times its voxels. A softmax
    is nowhere 0, so n = 0 means that the class has no voxel in the batch of the sums. As n <= volume <= d, a weight
    1 / volume² of that batch lies between 1 / d² and 1 / n², and is at most 1.
    """

    def __init__(
        self, weights: Sequence[float], numerators: Sequence[float], denominators: Sequence[float], smooth: float
    ):
        self.weight, self.shared, self.size = (
            torch.tensor(values, dtype=torch.float64) for values in (weights, numerators, denominators)
        )
        self.smooth = smooth
        self.volume = self.weight**-0.5
        self.absent = self.shared == 0
        self.voxels = self.size.sum() / 2
        self.bounds = self.size**-2.0, torch.where(self.absent, 1.0, self.shared.clamp(min=1)) ** -2.0

    def loss(self, weight: torch.Tensor, smooth: float | None = None) -> float:
        """Return the posted formula's value for these weights."""
        smooth = self.smooth if smooth is None else smooth
        return float(1 - 2 * ((weight * self.shared).sum() + smooth) / ((weight * self.size).sum() + smooth))

    def mean_of_posted_quotients(self, weight: torch.Tensor) -> float:
        """Return the mean over classes of 1 - 2 (w n + 1) / (w d + 1), the formula with its division before the sum."""
        return float((1 - 2 * (weight * self.shared + self.smooth) / (weight * self.size + self.smooth)).mean())

    def loss_if_one_batch(self, weight: torch.Tensor) -> float:
        """Return the posted formula's value with weights within `bounds`, and 1 for the classes without a voxel."""
        return self.loss(torch.where(self.absent, 1.0, weight))

    def generalized(self, weight: torch.Tensor) -> float:
        """Return the value of this package's `GeneralizedDiceLoss` for the same sums and weights within `bounds`."""
        regions = self._regions(weight**-0.5)
        ones = torch.ones_like(self.size)
        loss = generalized_dice(regions, ones, 2, regions.present, _SMOOTH, _SMOOTH)
        return float(add_absent(loss, torch.ones_like(loss), regions, ones))

    def mean_of_classes(self, with_absent_term: bool) -> float:
        """Return the value of this package's `DiceLoss` for the same sums. It needs no volumes."""
        regions, ones = self._regions(self.shared), torch.ones_like(self.size)
        loss = mean_over_classes(dice_terms(regions, _SMOOTH, _SMOOTH), ones, regions.present)
        if with_absent_term:
            loss = add_absent(loss, torch.ones_like(loss), regions, ones)
        return float(loss)

    def smallest(self, loss: Callable[[torch.Tensor], float], bounds: Bounds) -> float:
        """Return the smallest value of a loss for any weights within bounds.

        A quotient of sums is smallest at a corner, where the classes with the best n / d have their largest weight and
        the others their smallest.
        """
        return min(self._corners(loss, bounds, best_first=True))

    def largest(self, loss: Callable[[torch.Tensor], float], bounds: Bounds) -> float:
        """Return the largest value of a loss for any weights within bounds."""
        return max(self._corners(loss, bounds, best_first=False))

    def contradiction(self, index: int) -> str:
        """Return why a class's weight and sums cannot be of one batch, or a dash.

        A weight of 1 is that of an absent class or of a single voxel, any other that of a class of 1 / √w voxels.
        """
        shared, size, volume = float(self.shared[index]), float(self.size[index]), float(self.volume[index])
        if shared == 0:
            if volume > size:
                return f"{volume:.0f} voxels, but n = 0 and d < {volume:.0f}"
            return "–" if volume == 1 else f"{volume:.0f} voxels, but n = 0"
        if volume == 1:
            return "absent or 1 voxel, but n > 1" if shared > 1 else "n > 0: fits 1 voxel, not an absent class"
        if shared > volume * (1 + 1e-5):  # weights are posted with six digits
            return f"{volume:.0f} voxels, but n > {volume:.0f}"
        return f"{volume:.0f} voxels, but d < {volume:.0f}" if size < volume * (1 - 1e-5) else "–"

    def per_class(self) -> Table:
        """Return the table of what each class adds to the two sums of the posted formula."""
        above, below = self.weight * self.shared, self.weight * self.size
        rows = [
            [
                str(index),
                f"{self.weight[index]:g}",
                f"{self.shared[index]:g}",
                f"{self.size[index]:.8g}",
                f"{above[index]:.3g}",
                f"{100 * above[index] / above.sum():.3f} %",
                f"{below[index]:.3g}" if below[index] < 1000 else f"{below[index]:.0f}",
                f"{100 * below[index] / below.sum():.3f} %",
                self.contradiction(index),
            ]
            for index in range(len(self.size))
        ]
        columns = [
            "class", "w (posted)", "n (posted)", "d (posted)", "w n", "fraction of sum w n", "w d",
            "fraction of sum w d", "why w and n, d are not of one batch",
        ]  # fmt: skip
        return Table("The posted numbers, class by class: w weight, n sum of p g, d sum of p + g", columns, rows)

    def losses(self) -> Table:
        """Return the table of the posted formula's values, and of how much the classes with a weight of 1 matter."""
        ones = torch.ones_like(self.weight)
        of_one = self.weight == 1
        s = f"{self.smooth:g}"
        chosen = {
            f"as posted: 1 - 2 (sum w n + {s}) / (sum w d + {s})": (self.weight, self.smooth),
            "the same without smoothing": (self.weight, 0.0),
            f"the same, only the {int(of_one.sum())} classes with a weight of 1": (self.weight * of_one, self.smooth),
            "the same, only the other classes": (self.weight * ~of_one, self.smooth),
            "the same, all weights 1": (ones, self.smooth),
        }
        rows = [
            [
                name,
                f"{(weight * self.shared).sum():.3f}",
                f"{(weight * self.size).sum():.3f}",
                f"{self.loss(weight, smooth):.6f}",
            ]
            for name, (weight, smooth) in chosen.items()
        ]
        rows += [
            [f"not as posted: mean of 1 - 2 ({name}n + {s}) / ({name}d + {s}) over the classes", "–", "–",
             f"{self.mean_of_posted_quotients(weight):.6f}"]
            for name, weight in (("", ones), ("w ", self.weight))
        ]  # fmt: skip
        return Table("Losses of the posted numbers", ["loss", "sum w n", "sum w d", "value"], rows)

    def losses_if_one_batch(self) -> Table:
        """Return the table of losses of the sums alone, for every weight that their own batch could have had."""
        absent = float(self.size[self.absent].sum())
        rows = [
            ["as posted", *self._range(self.loss_if_one_batch)],
            ["mean Dice loss of the classes there", *[f"{self.mean_of_classes(False):.6f}"] * 2],
            ["`DiceLoss`", *[f"{self.mean_of_classes(True):.6f}"] * 2],
            ["`GeneralizedDiceLoss`", *self._range(self.generalized)],
        ]
        title = (
            f"The posted sums alone: {int(self.absent.sum())} classes with n = 0 have {absent:.0f} of "
            f"V = {float(self.voxels):.0f} voxels' probability; the weights are any that n <= volume <= d allows"
        )
        return Table(title, ["loss", "smallest value", "largest value"], rows)

    def batches(self) -> Table:
        """Return the table that compares the batch of the weights with the batch of the sums."""
        there = self.weight < 1
        rows = [
            ["voxels", f"{self.volume[there].sum():.0f} (sum of 1 / √w)", f"{self.voxels:.0f} (sum of d / 2)"],
            ["absent classes", _indices(~there) + " (w = 1)", _indices(self.absent) + " (n = 0)"],
        ]
        return Table("Two batches", ["", "by the posted weights", "by the posted sums"], rows)

    def _range(self, loss: Callable[[torch.Tensor], float]) -> list[str]:
        return [f"{self.smallest(loss, self.bounds):.6f}", f"{self.largest(loss, self.bounds):.6f}"]

    def _corners(self, loss: Callable[[torch.Tensor], float], bounds: Bounds, best_first: bool) -> list[float]:
        order = (self.shared / self.size).argsort(descending=best_first).argsort()
        return [loss(torch.where(order < count, bounds[1], bounds[0])) for count in range(len(order) + 1)]

    def _regions(self, volume: torch.Tensor) -> Regions:
        reference = torch.where(self.absent, 0.0, volume)
        prediction = self.size - reference
        counted = torch.ones_like(self.absent)
        return Regions(self.shared[None], prediction[None], reference[None], self.voxels[None], counted[None])


def _indices(taken: torch.Tensor) -> str:
    return ", ".join(str(index) for index in taken.nonzero()[:, 0].tolist())
