"""Four classes, mostly background: what leaving the background out of the loss and of the metric does.

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
    """Metrics and losses of four predictions that can be checked by hand, then trainings.

    Args:
        voxels: of each class in the scan of the first two tables, the background's first.
        sure: the probability that a prediction gives to the class it chooses, the rest shared evenly.
        class_weights: of the cross entropy, as posted.
        alpha: what the factor of the Dice loss grows to, from 0.
        size, radius, colours, noise: of the pictures, see `Discs`; one colour per structure.
        widths, learning_rate, batch_size, steps: of the network and its training.
        early: the part of a training after which the predicted foreground is measured a first time.
        test_pictures, test_seed: the pictures, seen in no training, that the figures are measured on.
        seeds: a training each.
    """
    weight = torch.tensor(class_weights, dtype=torch.float32)
    pictures = Discs(size, (radius[0], radius[1]), len(colours), torch.tensor(colours)[:, None], noise)
    test = pictures.draw(test_pictures, torch.Generator().manual_seed(test_seed))

    def trained(make: Callable[[], Loss], seed: int) -> tuple[float, list[float]]:
        """The predicted foreground early in the training, and all figures at its end."""
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
    title = f"After {steps} steps, mean over {len(seeds)} trainings (lowest to highest), {test_pictures} test pictures."
    return [*by_hand(voxels, sure, weight), Table(title, columns, rows)]


METRICS = (
    "voxel accuracy",
    "Dice, background",
    "Dice, mean with background",
    "Dice, mean without background",
    "the same, background voxels ignored",
    "foreground ratio",
)


def figures(predicted: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The numbers that `METRICS` names, for predicted and reference class indices (B, 1, *spatial).

    The last but one leaves out the voxels that the reference calls background, as `ignore_index=0` does; the
    foreground ratio is the predicted foreground / the reference's.
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
    """What the question and its answer consider, and our choice; each called gives a loss of scores and indices."""

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
    """Weighted cross entropy + alpha x Dice loss, alpha growing from 0.

    The weights are scaled to a mean of 1 over the structures. That changes nothing in the cross entropy, whose mean is
    weighted, and keeps the Dice loss, which takes the same weights, within [0, 1].
    """
    scaled = weight / weight[1:].mean()

    def make() -> Loss:
        return DiceCELoss(
            False, to_onehot_y=True, softmax=True, weight=scaled, lambda_dice=LinearRamp(0.0, alpha, until=1.0)
        )

    return {f"weighted cross entropy + Dice x 0 to {alpha:g} (ours)": make}


def by_hand(voxels: Sequence[int], sure: float, weight: torch.Tensor) -> list[Table]:
    """Metrics and losses of four predictions for a scan that is a row of voxels."""
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
        Table(f"What metrics say of a scan with {list(voxels)} voxels per class.", ["prediction", *METRICS], metrics),
        Table(f"What losses say of the same, each prediction {sure:.0%} sure.", ["loss", *predictions], values),
    ]


def _predictions(labels: torch.Tensor, voxels: Sequence[int]) -> dict[str, torch.Tensor]:
    """Class indices; what the structures take too much, they take from the background, which comes first."""
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
