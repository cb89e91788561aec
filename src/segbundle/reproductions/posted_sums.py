"""Weights and sums per class from Cross Validated 414358, and the losses computed from them.

For each class, w is the weight, n the sum of p g and d the sum of p + g, where p is the softmax probability and g the
one-hot reference. The posted code (see also keras-team/keras issue 10890) sums w n and w d over all classes before it
divides: 1 - 2 (sum w n + 1) / (sum w d + 1). The weight is w = 1 / (sum of g)², and 1 instead of infinity for an absent
class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from segbundle.losses.regions import Regions, add_absent, dice_terms, generalized_dice, mean_over_classes
from segbundle.reproductions.tables import Table

_SMOOTH = 1e-5
Bounds = tuple[torch.Tensor, torch.Tensor]


class PostedSums:
    """Losses computed from posted sums per class, with the posted weights or with all weights that fit the sums.

    The probabilities of a voxel sum to 1, and so do its references. The sum of d over the classes is therefore twice
    the number of voxels. A softmax is never 0, so n = 0 means that the class is absent from the batch of the sums.
    Because n <= volume <= d, a weight 1 / volume² of that batch is between 1 / d² and 1 / n², and at most 1.

    Args:
        weights: weight w of each class.
        numerators: sum n of each class.
        denominators: sum d of each class.
        smooth: constant that is added to numerator and denominator.

    Attributes:
        weight, shared, size: posted w, n and d, each float64 (C,).
        volume: voxels per class by the posted weights, 1 / √w, (C,).
        absent: whether a class is absent by the posted sums (n = 0), bool (C,).
        voxels: number of voxels by the posted sums, half the sum of d.
        bounds: smallest and largest weight of each class that the posted sums allow, (C,) each.

    Example:
        >>> sums = PostedSums([1.0, 0.25], [0.0, 2.0], [1.0, 4.0], smooth=1.0)
        >>> sums.loss(sums.weight)
        0.0
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
        """Return the value of the posted formula.

        Args:
            weight: weight of each class, (C,).
            smooth: smoothing constant. Default: None (the posted value).
        """
        smooth = self.smooth if smooth is None else smooth
        return float(1 - 2 * ((weight * self.shared).sum() + smooth) / ((weight * self.size).sum() + smooth))

    def mean_of_posted_quotients(self, weight: torch.Tensor) -> float:
        """Return the mean over classes of 1 - 2 (w n + s) / (w d + s), with the division before the sum.

        The constant s is the posted smoothing.

        Args:
            weight: weight of each class, (C,).
        """
        return float((1 - 2 * (weight * self.shared + self.smooth) / (weight * self.size + self.smooth)).mean())

    def loss_if_one_batch(self, weight: torch.Tensor) -> float:
        """Return the value of the posted formula for weights within `bounds`; absent classes have a weight of 1.

        Args:
            weight: weight of each class, (C,); ignored for absent classes.
        """
        return self.loss(torch.where(self.absent, 1.0, weight))

    def generalized(self, weight: torch.Tensor) -> float:
        """Return the value of segbundle's `GeneralizedDiceLoss` for the posted sums.

        Args:
            weight: weight of each class within `bounds`, (C,); determines the volume, 1 / √w.
        """
        regions = self._regions(weight**-0.5)
        ones = torch.ones_like(self.size)
        loss = generalized_dice(regions, ones, 2, regions.present, _SMOOTH, _SMOOTH)
        return float(add_absent(loss, torch.ones_like(loss), regions, ones))

    def mean_of_classes(self, with_absent_term: bool) -> float:
        """Return the value of segbundle's `DiceLoss` for the posted sums.

        Args:
            with_absent_term: whether to add the penalty for absent classes.
        """
        regions, ones = self._regions(self.shared), torch.ones_like(self.size)
        loss = mean_over_classes(dice_terms(regions, _SMOOTH, _SMOOTH), ones, regions.present)
        if with_absent_term:
            loss = add_absent(loss, torch.ones_like(loss), regions, ones)
        return float(loss)

    def smallest(self, loss: Callable[[torch.Tensor], float], bounds: Bounds) -> float:
        """Return the smallest value of a loss over all weights within bounds.

        Only corners of the bounds are tried: the classes with the largest n / d have their largest weight, the other
        classes their smallest weight. One of these corners is the minimum, because the loss decreases with sum(w n) /
        sum(w d).

        Args:
            loss: function of the weights (C,) that decreases as sum(w n) / sum(w d) increases.
            bounds: smallest and largest weights, (C,) each.
        """
        return min(self._corners(loss, bounds, best_first=True))

    def largest(self, loss: Callable[[torch.Tensor], float], bounds: Bounds) -> float:
        """Return the largest value of a loss over all weights within bounds.

        Args:
            loss: see `smallest`.
            bounds: smallest and largest weights, (C,) each.
        """
        return max(self._corners(loss, bounds, best_first=False))

    def contradiction(self, index: int) -> str:
        """Return why the weight and the sums of a class cannot come from the same batch, or a dash if they can.

        A weight of 1 means an absent class or a single voxel; any other weight means 1 / √w voxels.

        Args:
            index: index of the class.
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
        """Return the table of the contribution of each class to the two sums of the posted formula."""
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
            "fraction of sum w d", "contradiction between w and n, d",
        ]  # fmt: skip
        return Table("The posted numbers, class by class: w weight, n sum of p g, d sum of p + g", columns, rows)

    def losses(self) -> Table:
        """Return the table of values of the posted formula and its variants, for instance without smoothing."""
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
        """Return the table of the smallest and largest loss that the posted sums allow.

        The posted weights are ignored: weights range over `bounds`, and absent classes have a weight of 1 in the posted
        formula.
        """
        absent = float(self.size[self.absent].sum())
        rows = [
            ["as posted", *self._range(self.loss_if_one_batch)],
            ["mean Dice loss of present classes", *[f"{self.mean_of_classes(False):.6f}"] * 2],
            ["`DiceLoss`", *[f"{self.mean_of_classes(True):.6f}"] * 2],
            ["`GeneralizedDiceLoss`", *self._range(self.generalized)],
        ]
        title = (
            f"The posted sums alone: {int(self.absent.sum())} classes with n = 0 have a total probability of "
            f"{absent:.0f} in V = {float(self.voxels):.0f} voxels; all weights with n <= volume <= d"
        )
        return Table(title, ["loss", "smallest value", "largest value"], rows)

    def batches(self) -> Table:
        """Return the table that compares the batch of the weights with the batch of the sums."""
        present = self.weight < 1
        rows = [
            ["voxels", f"{self.volume[present].sum():.0f} (sum of 1 / √w)", f"{self.voxels:.0f} (sum of d / 2)"],
            ["absent classes", _indices(~present) + " (w = 1)", _indices(self.absent) + " (n = 0)"],
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
