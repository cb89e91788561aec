"""The question "What is wrong with my (generalized) dice loss implementation": 1 - 2 (n + 1) / (d + 1), summed.

For each class, n is the sum of w p g, and d the sum of w (p + g). The smoothed Dice loss is 1 - (2 n + 1) / (d + 1).
The misplaced parenthesis subtracts 1 / (d + 1). Summing over the classes instead of averaging multiplies loss and
gradient by the number of classes.
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
    colors,
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
    """Return tables of the values of both formulas, of vanishing gradients, and of training runs.

    Args:
        numerators: n in each row of the table of values.
        denominators: d in each row of the table of values.
        num_classes: number of classes, including background.
        size: side of an image in pixels.
        radius: smallest and largest radius of a disc in pixels.
        discs: number of discs per image, each of a different class.
        channels: number of channels of an image.
        noise: standard deviation of the noise.
        widths: number of channels of each U-Net level.
        batch_size: number of images per step.
        learning_rates: learning rates of plain SGD.
        steps: number of steps per training run.
        num_test: number of test images.
        seeds: seeds; there is one training run per loss, learning rate and seed.
        structures: sizes of the structure in voxels, in the table of gradients.
        background_factor: ratio of background to structure in the table of gradients.

    Example:
        >>> from segbundle.reproductions import reproduce
        >>> tables = reproduce("wrong_generalized_dice", {"steps": 2})  # doctest: +SKIP
    """
    data = Discs(size, (radius[0], radius[1]), discs, colors(num_classes, channels, seed=0), noise)
    initial = {name: _initial_values(loss, data, widths, batch_size) for name, loss in _losses().items()}
    unit = initial["right, mean of the classes"][1]
    rows = [
        [
            name,
            f"{initial[name][0]:.4f}",
            f"{initial[name][1] / unit:.2g}",
            *(
                mean_and_range([_dice(loss, data, widths, batch_size, rate, steps, num_test, s) for s in seeds])
                for rate in learning_rates
            ),
        ]
        for name, loss in _losses().items()
    ]
    title = (
        f"Training with {discs} of {num_classes - 1} classes per image, {steps} steps of plain SGD: Dice of present "
        f"classes, mean of {len(seeds)} seeds (range)"
    )
    columns = ["loss", "initial loss", "initial gradient", *(f"rate {rate:g}" for rate in learning_rates)]
    return [
        _values(numerators, denominators, num_classes),
        _vanishing(structures, background_factor),
        Table(title, columns, rows),
    ]


def wrong(shared: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return the value of the posted formula, 1 - 2 (n + 1) / (d + 1).

    Args:
        shared: n, the sum of w p g, any shape.
        size: d, the sum of w (p + g), same shape.

    Example:
        >>> float(wrong(torch.tensor(0.0), torch.tensor(0.0)))
        -1.0
    """
    return 1 - 2 * (shared + 1) / (size + 1)


def right(shared: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return the value of the correct formula, 1 - (2 n + 1) / (d + 1).

    Args:
        shared: n, the sum of w p g, any shape.
        size: d, the sum of w (p + g), same shape.

    Example:
        >>> float(right(torch.tensor(0.0), torch.tensor(0.0)))
        0.0
    """
    return 1 - (2 * shared + 1) / (size + 1)


def per_class(formula: Smoothed, weighted: bool = False, total: bool = False) -> Loss:
    """Return a loss that applies a formula to each class, and averages or sums over the classes.

    Args:
        formula: function of n and d, (C,) each, such as `right`.
        weighted: whether w is the clipped 1 / volume² (see `posted_weights`) instead of 1 (default False).
        total: whether to sum over the classes instead of averaging (default False).

    Example:
        >>> loss = per_class(right)
        >>> float(loss(torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]]), torch.tensor([[[0, 1]]]))) < 1e-4
        True
    """

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shared, size, volume = class_sums(scores, labels)
        weight = posted_weights(volume) if weighted else torch.ones_like(volume)
        terms = formula(weight * shared, weight * size)
        return terms.sum() if total else terms.mean()

    return loss


def one_ratio(formula: Smoothed) -> Loss:
    """Return a loss that applies a formula to the sums over all present classes, with w = 1 / volume².

    Args:
        formula: function of the scalars n and d, such as `right`.

    Example:
        >>> loss = one_ratio(right)
        >>> float(loss(torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]]), torch.tensor([[[0, 1]]]))) < 1e-4
        True
    """

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
        "wrong, generalized, present classes only": one_ratio(wrong),
        "right, generalized, present classes only": one_ratio(right),
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
        f"the first, sum of {num_classes} such classes", f"the second, sum of {num_classes} such classes",
    ]  # fmt: skip
    return Table(
        "Values for one class; perfect predictions have n = d / 2, or n = d = 0 if the class is absent", columns, rows
    )


def _vanishing(structures: Sequence[int], background_factor: int) -> Table:
    """Return the table of gradients for w = 1 / volume². They vanish because of the 1 in the denominator."""
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
        "of the gradient as a fraction of that of `GeneralizedDiceLoss`"
    )
    columns = ["voxels of the structure", "d", "1 - 2 (n + 1) / (d + 1)", "1 - (2 n + 1) / (d + 1)"]
    return Table(title, columns, rows)


def _initial_values(loss: Loss, data: Discs, widths: Sequence[int], batch_size: int) -> tuple[float, float]:
    """Return loss and gradient norm of an untrained network."""
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
    network: torch.nn.Module = small_unet(data.colors.shape[1], len(data.colors) + 1, widths, seed)
    return network
