"""A generalized Dice loss that finds the background only: its weights, and what classes that are absent do to them.

The question: https://github.com/keras-team/keras/issues/9395, also on Stack Overflow as "Generalized dice loss for
multi-class segmentation: keras implementation".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDiceLoss

from segbundle.errors import ConfigError
from segbundle.losses import GeneralizedDiceCELoss, GeneralizedDiceLoss
from segbundle.reproductions.small_training import Loss, predict, small_unet, sure_scores, train
from segbundle.reproductions.tables import Table

NUM_DIGITS = 10


class PostedLoss:
    """1 - 2 sum w I / sum w (P + G), w = 1 / (V² + epsilon), as posted.

    I, P and G are the sums of p g, p and g over all voxels of a batch, V is the volume in the reference.

    Args:
        epsilon: as above.
        counted: whether V is the volume. The code as posted compares a symbolic tensor by ==; in TensorFlow 1 that is
            one False, so that every V is 0, and all weights are 1 / epsilon.
        alone: take every image as a batch of its own, as memory demands of 3D scans, and average.
    """

    def __init__(self, epsilon: float, counted: bool, alone: bool = False) -> None:
        self.epsilon, self.counted, self.alone = epsilon, counted, alone

    def weights(self, volumes: torch.Tensor) -> torch.Tensor:
        """One per class."""
        return 1 / ((volumes if self.counted else torch.zeros_like(volumes)) ** 2 + self.epsilon)

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        probabilities = scores.softmax(dim=1)
        reference = F.one_hot(labels[:, 0], scores.shape[1]).movedim(-1, 1).to(scores)
        dims = [*([] if self.alone else [0]), *range(2, scores.ndim)]
        weights = self.weights(reference.sum(dims))
        both = (weights * (probabilities * reference).sum(dims)).sum(-1)
        return (1 - 2 * both / (weights * (probabilities + reference).sum(dims)).sum(-1)).mean()


def losses(epsilon: float) -> dict[str, Loss]:
    """The losses compared: of scores (B, C, *spatial) and class indices (B, 1, *spatial)."""
    return {
        "posted, in the graph: equal weights": PostedLoss(epsilon, counted=False),
        "posted, volumes counted": PostedLoss(epsilon, counted=True),
        "posted, volumes counted, images one by one": PostedLoss(epsilon, counted=True, alone=True),
        "MONAI GeneralizedDiceLoss": MonaiGeneralizedDiceLoss(to_onehot_y=True, softmax=True),
        "MONAI GeneralizedDiceLoss, batch=True": MonaiGeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True),
        "GeneralizedDiceLoss (ours)": GeneralizedDiceLoss(to_onehot_y=True, softmax=True),
        "GeneralizedDiceCELoss (ours)": GeneralizedDiceCELoss(to_onehot_y=True, softmax=True),
        "cross entropy": lambda scores, labels: F.cross_entropy(scores, labels[:, 0]),
    }


def run(
    volumes: Sequence[int],
    enlarge: Sequence[int],
    sure: float,
    epsilon: float,
    digit_size: int,
    size: int,
    threshold: float,
    widths: Sequence[int],
    learning_rate: float,
    batch_size: int,
    steps: int,
    test_images: int,
    learned: float,
    seeds: Sequence[int],
) -> list[Table]:
    """The weights and losses of a 3D scan in numbers, then trainings on digits.

    Args:
        volumes: voxels per class of the scan, the background's first.
        enlarge: factors along every axis by which the scan is also looked at.
        sure: the probability that a prediction gives to the class it chooses, the rest shared evenly.
        epsilon: of the posted weights.
        digit_size, size: voxels along a side of a digit and of the image that it lies in, anywhere.
        threshold: brightness, of at most 1, above which a voxel belongs to the digit.
        widths, learning_rate, batch_size, steps: of the network and its training.
        test_images: how many images are held out.
        learned: a digit is learned if its mean Dice on held-out images is above this.
        seeds: a training each, with a split and places of its own.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    splits = {seed: _digits(digit_size, size, threshold, seed) for seed in seeds}

    def trained(loss: Loss, seed: int) -> Score:
        network, digits = small_unet(1, NUM_DIGITS + 1, widths, seed), splits[seed]
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        last = train(network, digits.batches(slice(test_images, None), batch_size, seed), loss, optimizer, steps)[-1]
        images, labels = digits.images[:test_images], digits.labels[:test_images]
        return score(predict(network, images), labels, learned, last)

    rows = [[name, *_summary([trained(loss, seed) for seed in seeds])] for name, loss in losses(epsilon).items()]
    held_out = torch.cat([digits.labels[:test_images] for digits in splits.values()])
    foreground = float((held_out > 0).float().mean())
    title = (
        f"Digits, {steps} steps of {batch_size} images; {len(seeds)} trainings, {test_images} held-out images each, "
        f"{1 - foreground:.1%} background. Counts of each training; means of all (lowest to highest)."
    )
    columns = [
        "loss", f"digits learned (Dice > {learned:g})", "digits never predicted", "mean Dice of the ten",
        "the same, all images pooled", "predicted background", "last loss",
    ]  # fmt: skip
    digit = round(foreground * size**2)
    return [
        weights(volumes, epsilon),
        scan_losses(volumes, enlarge, sure, epsilon),
        weights([size**2 - digit, digit], epsilon),
        Table(title, columns, rows),
    ]


@dataclass(frozen=True)
class Score:
    """Of one training, on held-out images.

    Attributes:
        learned: digits whose Dice, the mean over the images that show them, is above the limit.
        never: digits that no voxel of any image was predicted to be.
        dice: mean of these Dice over the ten digits.
        pooled: mean over the ten of the Dice of all images as one, in which false positives anywhere count.
        background: part of all voxels.
        last: the loss of the last step.
    """

    learned: int
    never: int
    dice: float
    pooled: float
    background: float
    last: float


def score(predicted: torch.Tensor, labels: torch.Tensor, limit: float, last: float) -> Score:
    """Score predicted and reference class indices (B, 1, H, W); a digit that is never predicted has Dice 0."""
    per_image, pooled, never = [], [], 0
    for digit in range(1, NUM_DIGITS + 1):
        guess, truth = (predicted == digit).flatten(1), (labels == digit).flatten(1)
        shown = truth.any(dim=1)
        both, sizes = (guess & truth).sum(dim=1), guess.sum(dim=1) + truth.sum(dim=1)
        per_image.append(float((2 * both[shown] / sizes[shown]).mean()) if bool(shown.any()) else 0.0)
        pooled.append(float(2 * both.sum() / sizes.sum().clamp(min=1)))
        never += not bool(guess.any())
    return Score(
        learned=sum(dice > limit for dice in per_image),
        never=never,
        dice=mean(per_image),
        pooled=mean(pooled),
        background=float((predicted == 0).float().mean()),
        last=last,
    )


def _summary(results: Sequence[Score]) -> list[str]:
    dice = [result.dice for result in results]
    return [
        ", ".join(str(result.learned) for result in results),
        ", ".join(str(result.never) for result in results),
        f"{mean(dice):.3f} ({min(dice):.3f} to {max(dice):.3f})",
        f"{mean(result.pooled for result in results):.3f}",
        f"{mean(result.background for result in results):.1%}",
        f"{mean(result.last for result in results):.4f}",
    ]


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, size, size) with values in [0, 1], and their class indices: 0, and 1 + the digit shown."""

    images: torch.Tensor
    labels: torch.Tensor

    def batches(self, part: slice, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images of a part, drawn without end."""
        images, labels = self.images[part], self.labels[part]
        generator = torch.Generator().manual_seed(seed)
        while True:
            drawn = torch.randint(len(images), (batch_size,), generator=generator)
            yield images[drawn], labels[drawn]


def _digits(digit_size: int, size: int, threshold: float, seed: int) -> Digits:
    """scikit-learn's 1797 handwritten digits, enlarged, each somewhere in an image, in an order of the seed's."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            "this reproduction needs scikit-learn's digits: pip install segbundle[reproductions]"
        ) from error
    data = load_digits()
    small = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 16
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(small), generator=generator)
    enlarged = F.interpolate(small[order], size=(digit_size, digit_size), mode="bilinear", align_corners=False)
    images = torch.zeros(len(small), 1, size, size)
    places = torch.randint(size - digit_size + 1, (len(small), 2), generator=generator).tolist()
    for image, digit, (row, column) in zip(images, enlarged, places, strict=True):
        image[:, row : row + digit_size, column : column + digit_size] = digit
    shown = torch.as_tensor(data.target)[order].long() + 1
    return Digits(images, (images > threshold) * shown[:, None, None, None])


def weights(volumes: Sequence[int], epsilon: float) -> Table:
    """Every class's weight by each formula, and in the last row that of a class that is absent."""
    voxels = torch.tensor([*volumes, 0], dtype=torch.float64)
    present = voxels > 0
    counted, in_graph = (PostedLoss(epsilon, counted).weights(voxels).tolist() for counted in (True, False))
    inverse = torch.where(present, voxels, 1.0) ** -2
    monai = torch.where(present, inverse, inverse[present].max()).tolist()
    ours = (inverse * present / (inverse * voxels * present).sum()).tolist()
    numbers = zip(voxels.tolist(), counted, in_graph, monai, ours, strict=True)
    rows = [
        [
            str(index) if volume else "absent",
            f"{volume:.0f}",
            *(f"{value:.1e}" if value else "none" for value in by_formula),
        ]
        for index, (volume, *by_formula) in enumerate(numbers)
    ]
    columns = ["class", "voxels", "posted, volumes counted", "posted, in the graph", "MONAI", "ours"]
    return Table(f"Weights for {sum(volumes)} voxels.", columns, rows)


def scan_losses(volumes: Sequence[int], enlarge: Sequence[int], sure: float, epsilon: float) -> Table:
    """What each loss says if nothing was found and if all was, and how much its gradient pulls from the former."""
    rows = []
    for factor in enlarge:
        counts = torch.tensor(volumes) * factor**3
        labels = torch.arange(len(volumes)).repeat_interleave(counts)[None, None]
        for name, loss in losses(epsilon).items():
            if "batch=True" in name or "one by one" in name:
                continue  # a single scan is a batch
            cells = []
            for num_classes in (len(volumes), len(volumes) + 1):  # the last one is absent
                nothing = sure_scores(torch.zeros_like(labels), num_classes, sure).requires_grad_()
                value = loss(nothing, labels)
                value.backward()
                right = float(loss(sure_scores(labels, num_classes, sure), labels))
                pull = 0.0 if nothing.grad is None else float(nothing.grad.abs().sum())
                cells += [f"{value.item():.4f}", f"{right:.4f}", f"{pull:.1e}"]
            rows.append([f"{int(counts.sum())}", name, *cells])
    columns = ["voxels", "loss"]
    for also in ("", ", a class absent"):
        columns += [f"all background{also}", f"all right{also}", f"gradient at all background{also}"]
    title = f"Losses of the scan, each prediction {sure:.0%} sure; gradient: the sum of its absolute values."
    return Table(title, columns, rows)
