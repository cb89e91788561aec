"""The question "What is wrong with my (generalized) dice loss implementation": 1 - 2 (n + 1) / (d + 1), summed.

n is a class's sum of w p g, d its sum of w (p + g). The smoothed Dice loss is 1 - (2 n + 1) / (d + 1); with the
parenthesis in the wrong place it is that minus 1 / (d + 1). Summing the classes' losses instead of averaging them
multiplies value and gradient by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from segbundle.losses import DiceLoss, GeneralizedDiceLoss
from segbundle.reproductions.cross_validated_414358 import posted_weights
from segbundle.reproductions.small_training import (
    Discs,
    Loss,
    class_sums,
    colours,
    gradient_size,
    mean_and_range,
    mean_dice,
    predict,
    small_unet,
    train,
)
from segbundle.reproductions.tables import Table

Smoothed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def run(
    numerators: Sequence[float],
    denominators: Sequence[float],
    num_classes: int,
    size: int,
    radius: Sequence[float],
    discs: int,
    channels: int,
    noise: float,
    widths: Sequence[int],
    batch_size: int,
    learning_rates: Sequence[float],
    steps: int,
    num_test: int,
    seeds: Sequence[int],
    structures: Sequence[int],
    background_factor: int,
) -> list[Table]:
    """All tables; the arguments are explained in the YAML."""
    data = Discs(size, (radius[0], radius[1]), discs, colours(num_classes, channels, seed=0), noise)
    start = {name: _at_the_start(loss, data, widths, batch_size) for name, loss in _losses().items()}
    unit = start["right, mean of the classes"][1]
    rows = [
        [
            name,
            f"{start[name][0]:.4f}",
            f"{start[name][1] / unit:.2g}",
            *(
                mean_and_range([_dice(loss, data, widths, batch_size, rate, steps, num_test, s) for s in seeds])
                for rate in learning_rates
            ),
        ]
        for name, loss in _losses().items()
    ]
    title = (
        f"Training on {discs} of {num_classes - 1} classes per picture, {steps} steps of plain SGD: Dice of the "
        f"classes there, mean over {len(seeds)} seeds (range)"
    )
    columns = ["loss", "value at the start", "gradient at the start", *(f"rate {rate:g}" for rate in learning_rates)]
    return [
        _values(numerators, denominators, num_classes),
        _vanishing(structures, background_factor),
        Table(title, columns, rows),
    ]


def wrong(shared: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """1 - 2 (n + 1) / (d + 1)."""
    return 1 - 2 * (shared + 1) / (size + 1)


def right(shared: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """1 - (2 n + 1) / (d + 1)."""
    return 1 - (2 * shared + 1) / (size + 1)


def per_class(formula: Smoothed, weighted: bool = False, total: bool = False) -> Loss:
    """The mean or the total of the formula over classes, with w = 1 or the clipped 1 / volume²."""

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shared, size, volume = class_sums(scores, labels)
        weight = posted_weights(volume) if weighted else torch.ones_like(volume)
        terms = formula(weight * shared, weight * size)
        return terms.sum() if total else terms.mean()

    return loss


def one_ratio(formula: Smoothed) -> Loss:
    """The formula of the sums over the classes that are there, w = 1 / volume²: the generalized Dice loss."""

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shared, size, volume = class_sums(scores, labels)
        weight = posted_weights(volume) * (volume > 0)
        return formula((weight * shared).sum(), (weight * size).sum())

    return loss


def _losses() -> dict[str, Loss]:
    return {
        "wrong, mean of the classes": per_class(wrong),
        "right, mean of the classes": per_class(right),
        "wrong, sum of the classes": per_class(wrong, total=True),
        "right, sum of the classes": per_class(right, total=True),
        "wrong, w = 1 / volume² in each class, mean": per_class(wrong, weighted=True),
        "right, w = 1 / volume² in each class, mean": per_class(right, weighted=True),
        "wrong, generalized, classes there only": one_ratio(wrong),
        "right, generalized, classes there only": one_ratio(right),
        "`DiceLoss`": DiceLoss(softmax=True, to_onehot_y=True, batch=True),
        "`GeneralizedDiceLoss`": GeneralizedDiceLoss(softmax=True, to_onehot_y=True, batch=True),
    }


def _values(numerators: Sequence[float], denominators: Sequence[float], num_classes: int) -> Table:
    rows = []
    for shared, size in zip(torch.tensor(numerators).double(), torch.tensor(denominators).double(), strict=True):
        values = float(wrong(shared, size)), float(right(shared, size))
        dice = "–" if size == 0 else f"{2 * shared / size:g}"
        in_all = [f"{num_classes * value:.4f}" for value in values]
        rows.append([f"{shared:g}", f"{size:g}", dice, *(f"{value:.4f}" for value in values), *in_all])
    columns = [
        "n", "d", "Dice", "1 - 2 (n + 1) / (d + 1)", "1 - (2 n + 1) / (d + 1)",
        f"the first, sum of {num_classes} such classes", "the second, likewise",
    ]  # fmt: skip
    return Table(
        "Values of one class; perfect is n = d / 2, and n = d = 0 for a class that is not there", columns, rows
    )


def _vanishing(structures: Sequence[int], background_factor: int) -> Table:
    """With w = 1 / volume² the sums are small, and the 1 in the denominator takes the gradient away."""
    rows = []
    for structure in structures:
        labels = torch.zeros(1, 1, structure * (1 + background_factor), dtype=torch.long)
        labels[..., :structure] = 1
        scores = torch.zeros(1, 2, labels.numel(), dtype=torch.float64)
        _, size, volume = class_sums(scores, labels)
        unit = gradient_size(GeneralizedDiceLoss(softmax=True, to_onehot_y=True), scores, labels)
        gradients = [gradient_size(one_ratio(formula), scores, labels) / unit for formula in (wrong, right)]
        rows.append([str(structure), f"{(posted_weights(volume) * size).sum():.1e}", *(f"{g:.1e}" for g in gradients)])
    title = (
        f"Generalized Dice of a structure and {background_factor} times as much background, p = 0.5 everywhere: norm "
        "of the gradient as a part of that of `GeneralizedDiceLoss`"
    )
    columns = ["voxels of the structure", "d", "1 - 2 (n + 1) / (d + 1)", "1 - (2 n + 1) / (d + 1)"]
    return Table(title, columns, rows)


def _at_the_start(loss: Loss, data: Discs, widths: Sequence[int], batch_size: int) -> tuple[float, float]:
    """Value, and the norm of the gradient with respect to the scores."""
    pictures, labels = next(data.batches(batch_size, seed=0))
    scores = _network(data, widths, seed=0)(pictures)
    return float(loss(scores, labels).detach()), gradient_size(loss, scores, labels)


def _dice(
    loss: Loss,
    data: Discs,
    widths: Sequence[int],
    batch_size: int,
    learning_rate: float,
    steps: int,
    num_test: int,
    seed: int,
) -> float:
    network = _network(data, widths, seed)
    optimizer = torch.optim.SGD(network.parameters(), learning_rate)
    train(network, data.batches(batch_size, seed), loss, optimizer, steps)
    pictures, labels = data.draw(num_test, torch.Generator().manual_seed(1000 + seed))
    return mean_dice(predict(network, pictures), labels)


def _network(data: Discs, widths: Sequence[int], seed: int) -> torch.nn.Module:
    network: torch.nn.Module = small_unet(data.colours.shape[1], len(data.colours) + 1, widths, seed)
    return network
