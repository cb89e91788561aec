"""Cross Validated 414358: a generalized Dice loss of 21 classes that stays at 1.

The loss is 1 - 2 (sum w n + 1) / (sum w d + 1) over all classes, where n is the sum of p g, d the sum of p + g, and
w = 1 / (sum of g)² (Sudre et al. 2017, DLMIA). The infinite weight of an absent class is clipped to just below 1. The
same code with a smoothing of 1e-17 is in keras-team/keras issue 10890.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

import torch
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDiceLoss

from segbundle.losses import DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss
from segbundle.reproductions.posted_sums import PostedSums
from segbundle.reproductions.small_training import (
    Discs,
    Loss,
    class_sums,
    colors,
    mean_and_range,
    mean_dice,
    predict,
    small_unet,
    train,
)
from segbundle.reproductions.tables import Table


def run(
    weights: Sequence[float],
    numerators: Sequence[float],
    denominators: Sequence[float],
    smooth: float,
    other_smooth: float,
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
    """Return tables of the posted numbers and their losses, of training runs, and of an example on weights.

    Args:
        weights: posted weight of each class.
        numerators: posted sum of p g of each class.
        denominators: posted sum of p + g of each class.
        smooth: posted smoothing, added to the weighted sums in numerator and denominator.
        other_smooth: smoothing of the same code in keras-team/keras issue 10890.
        num_classes: number of classes in the training runs, including background.
        size: side of an image in pixels.
        radius: smallest and largest radius of a disc in pixels.
        discs: number of discs per image, each of a different class.
        channels: number of channels of an image.
        noise: standard deviation of the noise.
        widths: number of channels of each U-Net level.
        batch_size: number of images per step.
        learning_rate: learning rate of Adam.
        steps: number of steps per training run.
        early_step: step after which the loss is reported for the first time.
        num_test: number of test images.
        seeds: seeds, one per training run.
        example_voxels: number of voxels in the example on weights.
        example_structure: number of voxels of the structure in this example.

    Example:
        >>> from segbundle.reproductions import reproduce
        >>> tables = reproduce("cross_validated_414358", {"steps": 2})  # doctest: +SKIP
    """
    posted = PostedSums(weights, numerators, denominators, smooth)
    data = Discs(size, (radius[0], radius[1]), discs, colors(num_classes, channels, seed=0), noise)
    rows = [
        _trained(name, loss, data, widths, batch_size, learning_rate, steps, early_step, num_test, seeds)
        for name, loss in _losses(smooth, other_smooth).items()
    ]
    title = f"Training with {discs} of {num_classes - 1} classes per image, mean of {len(seeds)} seeds (range)"
    columns = [
        "loss", "initial loss", f"after {min(early_step, steps)} steps", f"after {steps} steps",
        "initial gradient", "fraction on absent classes", "Dice of present classes",
        "the same, without background",
    ]  # fmt: skip
    return [
        posted.per_class(),
        posted.losses(),
        posted.batches(),
        posted.losses_if_one_batch(),
        Table(title, columns, rows),
        _why_weights(example_voxels, example_structure),
    ]


def posted_weights(volume: torch.Tensor) -> torch.Tensor:
    """Return the class weights 1 / volume², (C,), clipped to [1e-17, 1 - 1e-7] as in the posted code.

    The infinite weight of an absent class is therefore just below 1.

    Args:
        volume: number of voxels per class, (C,).

    Example:
        >>> posted_weights(torch.tensor([10.0, 0.0])).round(decimals=4).tolist()  # doctest: +ELLIPSIS
        [0.0099..., 1.0]
    """
    return (1 / volume**2).clamp(1e-17, 1 - 1e-7)


def posted_loss(scores: torch.Tensor, labels: torch.Tensor, smooth: float) -> torch.Tensor:
    """Return the posted loss, in which numerator and denominator are summed over classes and voxels before division.

    Args:
        scores: logits (B, C, *spatial).
        labels: class indices (B, 1, *spatial).
        smooth: constant that is added to numerator and denominator.

    Returns:
        a scalar

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1]]])
        >>> float(posted_loss(torch.zeros(1, 2, 4), labels, smooth=0.0)) > 0
        True
    """
    shared, size, volume = class_sums(scores, labels)
    weight = posted_weights(volume)
    return 1 - 2 * ((weight * shared).sum() + smooth) / ((weight * size).sum() + smooth)


def gradient_on_scores(loss: Loss, scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the sum of the absolute gradient with respect to the logits, and its fraction on absent classes.

    Args:
        loss: loss function.
        scores: logits (B, C, *spatial).
        labels: class indices (B, 1, *spatial).

    Example:
        >>> gradient_on_scores(lambda logits, labels: logits.sum(), torch.zeros(1, 2, 4), torch.ones(1, 1, 4).long())
        (8.0, 0.5)
    """
    scores = scores.detach().requires_grad_()
    gradient = torch.autograd.grad(loss(scores, labels), scores)[0]
    per_class = gradient.abs().sum([0, *range(2, gradient.ndim)])
    absent = torch.bincount(labels.flatten(), minlength=len(per_class)) == 0
    return float(per_class.sum()), float(per_class[absent].sum() / per_class.sum())


def _losses(smooth: float, other_smooth: float) -> dict[str, Loss]:
    return {
        "as posted": partial(posted_loss, smooth=smooth),
        f"the same, smoothing {other_smooth:g}": partial(posted_loss, smooth=other_smooth),
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
        channels = data.colors.shape[1]
        network = small_unet(channels, len(data.colors) + 1, widths, seed)
        pictures, labels = next(data.batches(batch_size, seed))
        gradient = gradient_on_scores(loss, network(pictures), labels)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        values = train(network, data.batches(batch_size, seed), loss, optimizer, steps)
        pictures, labels = data.draw(num_test, torch.Generator().manual_seed(1000 + seed))
        guess = predict(network, pictures)
        early = values[min(early_step, steps) - 1]
        dice = mean_dice(guess, labels), mean_dice(guess, labels, with_background=False)
        runs.append((values[0], early, values[-1], *gradient, *dice))
    initial, early_values, final, size, fraction, dice_all, dice_structures = zip(*runs, strict=True)
    return [
        name,
        f"{fmean(initial):.4f}",
        mean_and_range(early_values, 4),
        mean_and_range(final),
        f"{fmean(size):.2g}",
        f"{100 * fmean(fraction):.0f} %",
        mean_and_range(dice_all),
        mean_and_range(dice_structures),
    ]


def _why_weights(voxels: int, structure: int) -> Table:
    """Return the table of losses for errors of the same size; only the unweighted ratio of sums barely changes."""
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
    return Table(title, ["loss", "structure missed entirely", "structure found, as many false positives"], rows)
