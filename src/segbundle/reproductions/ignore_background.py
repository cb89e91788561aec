"""Four classes, mostly background: the effect of excluding background from the loss and from the metric.

The question: https://discuss.pytorch.org/t/segmentation-loss-and-metrics-help-ignore-background/177519
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

import torch
import torch.nn.functional as F  # noqa: N812

from segbundle.losses import DiceCELoss, DiceLoss, LinearRamp
from segbundle.reproductions.small_training import Discs, Loss, mean_dice, predict, small_unet, sure_scores, train
from segbundle.reproductions.tables import Table


def run(
    voxels: Sequence[int],
    sure: float,
    class_weights: Sequence[float],
    alpha: float,
    size: int,
    radius: Sequence[float],
    colours: Sequence[float],
    noise: float,
    widths: Sequence[int],
    learning_rate: float,
    batch_size: int,
    steps: int,
    early: float,
    test_pictures: int,
    test_seed: int,
    seeds: Sequence[int],
) -> list[Table]:
    """Return tables of the metrics and losses of four predictions that can be checked by hand, and of training runs.

    Args:
        voxels: number of voxels of each class in the scan of the first two tables, background first.
        sure: probability that a prediction gives to its predicted class; the other classes share the rest evenly.
        class_weights: weights of the cross entropy, as posted.
        alpha: final factor of the Dice loss; the factor grows from 0.
        size: side of an image in pixels.
        radius: smallest and largest radius of a disc in pixels.
        colours: intensity of each foreground class.
        noise: standard deviation of the noise.
        widths: number of channels of each U-Net level.
        learning_rate: learning rate of Adam.
        batch_size: number of images per step.
        steps: number of steps per training run.
        early: fraction of the steps after which the predicted foreground is measured for the first time.
        test_pictures: number of test images.
        test_seed: seed of the test images.
        seeds: seeds, one per training run.

    Example:
        >>> from segbundle.reproductions import reproduce
        >>> tables = reproduce("ignore_background", {"steps": 2})  # doctest: +SKIP
    """
    weight = torch.tensor(class_weights, dtype=torch.float32)
    pictures = Discs(size, (radius[0], radius[1]), len(colours), torch.tensor(colours)[:, None], noise)
    test = pictures.draw(test_pictures, torch.Generator().manual_seed(test_seed))

    def trained(make: Callable[[], Loss], seed: int) -> tuple[float, list[float]]:
        """Return the foreground ratio early in the training run, and all metrics at its end."""
        loss, network = make(), small_unet(1, len(weight), widths, seed)
        ratios = []

        def after_step(step: int) -> None:
            _set_progress(loss, step / steps)
            if step == max(1, round(early * steps)):
                ratios.append(figures(predict(network, test[0]), test[1])[-1])

        _set_progress(loss, 0.0)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        train(network, pictures.batches(batch_size, seed), loss, optimizer, steps, after_step)
        return ratios[0], figures(predict(network, test[0]), test[1])

    rows = []
    for name, make in {**losses(weight), **blend(weight, alpha)}.items():
        results = [trained(make, seed) for seed in seeds]
        dice = [end[3] for _, end in results]
        means = [f"{mean(values):.3f}" for values in zip(*(end for _, end in results), strict=True)]
        means[3] += f" ({min(dice):.3f} to {max(dice):.3f})"
        rows.append([name, *means, f"{mean(ratio for ratio, _ in results):.2f}"])
    columns = ["loss", *METRICS, f"foreground ratio after {early:.0%} of the steps"]
    title = f"After {steps} steps, mean of {len(seeds)} runs (range), {test_pictures} test images."
    return [*by_hand(voxels, sure, weight), Table(title, columns, rows)]


METRICS = (
    "voxel accuracy",
    "Dice, background",
    "Dice, mean with background",
    "Dice, mean without background",
    "Dice, background voxels ignored",
    "foreground ratio",
)


def figures(predicted: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return the metrics that `METRICS` names, in the same order.

    "Background voxels ignored" excludes voxels with background in the reference, as `ignore_index=0` does. The
    foreground ratio is predicted foreground / reference foreground.

    Args:
        predicted: predicted class indices (B, 1, *spatial).
        labels: reference class indices (B, 1, *spatial).

    Example:
        >>> labels = torch.tensor([[[0, 0, 1, 2]]])
        >>> figures(labels, labels)
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    ignoring = torch.where(labels == 0, 0, predicted)
    return [
        float((predicted == labels).float().mean()),
        mean_dice((predicted == 0).long(), (labels == 0).long(), with_background=False),
        mean_dice(predicted, labels),
        mean_dice(predicted, labels, with_background=False),
        mean_dice(ignoring, labels, with_background=False),
        float((predicted > 0).sum()) / float((labels > 0).sum()),
    ]


def losses(weight: torch.Tensor) -> dict[str, Callable[[], Loss]]:
    """Return functions that create the losses to compare, by name: those of the question, its answer and segbundle.

    Args:
        weight: class weights of the cross entropy, (C,).

    Example:
        >>> loss = losses(torch.ones(2))["cross entropy"]()
        >>> round(float(loss(torch.zeros(1, 2, 4), torch.zeros(1, 1, 4).long())), 4)
        0.6931
    """

    def cross_entropy(weight: torch.Tensor | None = None, ignore_index: int = -100) -> Loss:
        return lambda scores, labels: F.cross_entropy(scores, labels[:, 0], weight, ignore_index=ignore_index)

    def dice(include_background: bool) -> Loss:
        return DiceLoss(include_background, to_onehot_y=True, softmax=True)

    return {
        "cross entropy": cross_entropy,
        "weighted cross entropy": lambda: cross_entropy(weight),
        "cross entropy, background voxels ignored": lambda: cross_entropy(ignore_index=0),
        "Dice with background": lambda: dice(True),
        "Dice without background": lambda: dice(False),
        "Dice without background + cross entropy (ours)": lambda: DiceCELoss(False, to_onehot_y=True, softmax=True),
    }


def blend(weight: torch.Tensor, alpha: float) -> dict[str, Callable[[], Loss]]:
    """Return a dict with one entry: the name and the factory of the loss "weighted cross entropy + factor x Dice".

    The factor grows linearly from 0 to `alpha` during training. The class weights are divided by their mean over the
    foreground classes. This scaling does not change the cross entropy, which is a weighted mean, and keeps the weighted
    Dice loss within [0, 1].

    Args:
        weight: class weights, (C,), background first.
        alpha: factor of the Dice loss at the end of training.

    Example:
        >>> list(blend(torch.tensor([1.0, 2.0]), alpha=1.0))
        ['weighted cross entropy + Dice x 0 to 1 (ours)']
    """
    scaled = weight / weight[1:].mean()

    def make() -> Loss:
        return DiceCELoss(
            False, to_onehot_y=True, softmax=True, weight=scaled, lambda_dice=LinearRamp(0.0, alpha, until=1.0)
        )

    return {f"weighted cross entropy + Dice x 0 to {alpha:g} (ours)": make}


def by_hand(voxels: Sequence[int], sure: float, weight: torch.Tensor) -> list[Table]:
    """Compute metrics and losses of four simple predictions of a one-dimensional scan.

    The predictions are the reference itself, all background, structures that are twice as large, and no background.

    Args:
        voxels: number of voxels of each class in the scan, background first.
        sure: probability that every prediction gives to its predicted class.
        weight: class weights of the cross entropy, (num_classes,).

    Returns:
        two tables: metrics, with a row per prediction and a column per metric; and losses, with a row per loss and a
        column per prediction

    Example:
        >>> by_hand([90, 10], 0.97, torch.ones(2))[0].rows[1][:2]
        ['all background', '0.900']
    """
    labels = torch.arange(len(voxels)).repeat_interleave(torch.tensor(voxels))[None, None]
    predictions = _predictions(labels, voxels)
    metrics = [
        [name, *(f"{value:.3f}" for value in figures(predicted, labels))] for name, predicted in predictions.items()
    ]
    values = []
    for name, make in losses(weight).items():
        scores = [sure_scores(predicted, len(voxels), sure) for predicted in predictions.values()]
        values.append([name, *(f"{float(make()(score, labels)):.3f}" for score in scores)])
    return [
        Table(f"Metrics of a scan with {list(voxels)} voxels per class.", ["prediction", *METRICS], metrics),
        Table(f"Losses of the same scan; predicted class with p = {sure:g}.", ["loss", *predictions], values),
    ]


def _predictions(labels: torch.Tensor, voxels: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return predictions by name. The background voxels come first, and false positives replace them."""
    doubled, start = labels.clone(), 0
    for index, count in enumerate(voxels[1:], start=1):
        doubled[..., start : start + count] = index
        start += count
    return {
        "right": labels,
        "all background": torch.zeros_like(labels),
        "structures twice as large": doubled,
        "no background": torch.where(labels == 0, len(voxels) - 1, labels),
    }


def _set_progress(loss: Loss, progress: float) -> None:
    if isinstance(loss, DiceCELoss):
        loss.progress = progress
