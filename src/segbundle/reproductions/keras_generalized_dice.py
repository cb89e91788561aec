"""A generalized Dice loss that predicts background only: class weights, and how absent classes change these weights.

The question: https://github.com/keras-team/keras/issues/9395, also on Stack Overflow ("Generalized dice loss for
multi-class segmentation: keras implementation").
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
    """Posted loss: 1 - 2 sum w I / sum w (P + G), with w = 1 / (V² + epsilon) (after Sudre et al. 2017, DLMIA).

    I, P and G are the sums of p g, p and g over all voxels of a batch, for probabilities p and reference g; the outer
    sums are over classes. V is the reference volume in voxels. The loss is called with logits (B, C, *spatial) and
    class indices (B, 1, *spatial).

    Args:
        epsilon: constant in the weights.
        counted: whether V is the volume. If False, every V is 0 and all weights are 1 / epsilon, as in the posted code,
            which compares a symbolic tensor with ==. In TensorFlow 1, the result is a single False.
        alone: whether to compute the loss per image and average, as is usual for 3D scans, instead of per batch.
            Default: False.

    Example:
        >>> PostedLoss(0.5, counted=False).weights(torch.tensor([10.0, 20.0])).tolist()
        [2.0, 2.0]
    """

    def __init__(self, epsilon: float, counted: bool, alone: bool = False) -> None:
        self.epsilon, self.counted, self.alone = epsilon, counted, alone

    def weights(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return the weight of each class, in the shape of `volumes`.

        Args:
            volumes: reference volumes in voxels, (C,) or (B, C).
        """
        return 1 / ((volumes if self.counted else torch.zeros_like(volumes)) ** 2 + self.epsilon)

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        probabilities = scores.softmax(dim=1)
        reference = F.one_hot(labels[:, 0], scores.shape[1]).movedim(-1, 1).to(scores)
        dims = [*([] if self.alone else [0]), *range(2, scores.ndim)]
        weights = self.weights(reference.sum(dims))
        both = (weights * (probabilities * reference).sum(dims)).sum(-1)
        return (1 - 2 * both / (weights * (probabilities + reference).sum(dims)).sum(-1)).mean()


def losses(epsilon: float) -> dict[str, Loss]:
    """Return the losses to compare, by name.

    Args:
        epsilon: constant in the posted weights.

    Example:
        >>> loss = losses(1e-5)["cross entropy"]
        >>> round(float(loss(torch.zeros(1, 2, 4), torch.zeros(1, 1, 4).long())), 4)
        0.6931
    """
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
    """Return tables of the weights and losses of a 3D scan, and of training runs on images of digits.

    Args:
        volumes: number of voxels of each class of the scan, background first.
        enlarge: factors by which the scan is enlarged along every axis.
        sure: probability that a prediction gives to its predicted class; the other classes share the rest evenly.
        epsilon: constant in the posted weights.
        digit_size: side of a digit in pixels.
        size: side of an image in pixels; the digit has a random position.
        threshold: brightness (0 to 1) above which a pixel belongs to the digit.
        widths: number of channels of each U-Net level.
        learning_rate: learning rate of Adam.
        batch_size: number of images per step.
        steps: number of steps per training run.
        test_images: number of held-out images.
        learned: mean Dice on held-out images above which a digit counts as learned.
        seeds: seeds, one per training run; each has a different split and different positions.

    Raises:
        ConfigError: scikit-learn is not installed.

    Example:
        >>> from segbundle.reproductions import reproduce
        >>> tables = reproduce("keras_generalized_dice", {"steps": 2})  # doctest: +SKIP
    """
    splits = {seed: _digits(digit_size, size, threshold, seed) for seed in seeds}

    def trained(loss: Loss, seed: int) -> Score:
        network, digits = small_unet(1, NUM_DIGITS + 1, widths, seed), splits[seed]
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        train_batches = digits.batches(slice(test_images, None), batch_size, seed)
        last = train(network, train_batches, loss, optimizer, steps)[-1]
        images, labels = digits.images[:test_images], digits.labels[:test_images]
        return score(predict(network, images), labels, learned, last)

    rows = [[name, *_summary([trained(loss, seed) for seed in seeds])] for name, loss in losses(epsilon).items()]
    held_out = torch.cat([digits.labels[:test_images] for digits in splits.values()])
    foreground = float((held_out > 0).float().mean())
    title = (
        f"Digits, {steps} steps of {batch_size} images; {len(seeds)} runs, {test_images} held-out images each, "
        f"{1 - foreground:.1%} background. Counts per run; means over all runs (range)."
    )
    columns = [
        "loss", f"digits learned (Dice > {learned:g})", "digits never predicted", "mean Dice of the ten",
        "mean Dice, all images pooled", "predicted background", "last loss",
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
    """Metrics of one training run on held-out images.

    Attributes:
        learned: number of digits whose mean Dice over the images with the digit is above the limit.
        never: number of digits that are predicted in no pixel.
        dice: mean over the ten digits of the mean Dice over the images with the digit.
        pooled: mean Dice over the ten digits, computed over all images together, including false positives.
        background: fraction of pixels predicted as background.
        last: training loss of the last step.

    Example:
        >>> Score(learned=10, never=0, dice=0.86, pooled=0.82, background=0.87, last=0.11).learned
        10
    """

    learned: int
    never: int
    dice: float
    pooled: float
    background: float
    last: float


def score(predicted: torch.Tensor, labels: torch.Tensor, limit: float, last: float) -> Score:
    """Return the metrics of predicted digit label maps.

    Args:
        predicted: predicted class indices (B, 1, H, W).
        labels: reference class indices (B, 1, H, W).
        limit: mean Dice above which a digit counts as learned.
        last: training loss of the last step, which is copied to the result.

    Example:
        >>> labels = torch.arange(11).reshape(1, 1, 1, 11)
        >>> score(labels, labels, limit=0.5, last=0.0).learned
        10
    """
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
    """Digit images with their reference label maps.

    Attributes:
        images: images (N, 1, size, size) with values in [0, 1].
        labels: class indices of the same shape: 0 for background, d + 1 for pixels of digit d.

    Example:
        >>> digits = Digits(torch.zeros(5, 1, 8, 8), torch.zeros(5, 1, 8, 8).long())
        >>> next(digits.batches(slice(None), 2, seed=0))[0].shape
        torch.Size([2, 1, 8, 8])
    """

    images: torch.Tensor
    labels: torch.Tensor

    def batches(self, part: slice, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches of images and label maps, drawn from a subset with replacement, indefinitely.

        Args:
            part: slice of the images to draw from.
            batch_size: number of images per batch.
            seed: seed of the random generator.
        """
        images, labels = self.images[part], self.labels[part]
        generator = torch.Generator().manual_seed(seed)
        while True:
            drawn = torch.randint(len(images), (batch_size,), generator=generator)
            yield images[drawn], labels[drawn]


def _digits(digit_size: int, size: int, threshold: float, seed: int) -> Digits:
    """Return scikit-learn's 1797 handwritten digits, enlarged, at random positions and in random order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            "scikit-learn is not installed. Install it with: pip install segbundle[reproductions]"
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
    """Return the table of class weights: a row per class, with an absent class last, and a column per formula.

    Args:
        volumes: number of voxels of each class, background first.
        epsilon: constant in the posted weights.

    Example:
        >>> weights([100000, 20000], 1e-5).rows[0][:3]
        ['0', '100000', '1.0e-10']
    """
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
    """Return a table of losses, with a row per scan size and loss, for all background and for perfect predictions.

    Args:
        volumes: number of voxels of each class, background first.
        enlarge: factors by which the scan is enlarged along every axis.
        sure: probability that a prediction gives to its predicted class.
        epsilon: constant in the posted weights.

    Example:
        >>> scan_losses([90, 10], [1], 0.97, 1e-5).columns[:3]
        ['voxels', 'loss', 'loss, all background']
    """
    rows = []
    for factor in enlarge:
        counts = torch.tensor(volumes) * factor**3
        labels = torch.arange(len(volumes)).repeat_interleave(counts)[None, None]
        for name, loss in losses(epsilon).items():
            if "batch=True" in name or "one by one" in name:
                continue  # equal for a single scan
            cells = []
            for num_classes in (len(volumes), len(volumes) + 1):  # the last one is absent
                nothing = sure_scores(torch.zeros_like(labels), num_classes, sure).requires_grad_()
                value = loss(nothing, labels)
                value.backward()
                right = float(loss(sure_scores(labels, num_classes, sure), labels))
                gradient = 0.0 if nothing.grad is None else float(nothing.grad.abs().sum())
                cells += [f"{value.item():.4f}", f"{right:.4f}", f"{gradient:.1e}"]
            rows.append([f"{int(counts.sum())}", name, *cells])
    columns = ["voxels", "loss"]
    for suffix in ("", ", one class absent"):
        columns += [f"loss, all background{suffix}", f"loss, perfect{suffix}", f"gradient, all background{suffix}"]
    title = f"Losses of the scan; predicted class with p = {sure:g}; gradient: sum of absolute values."
    return Table(title, columns, rows)
