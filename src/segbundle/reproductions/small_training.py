"""Shared code of the reproductions: images of discs, a small U-Net, a training loop, and hard Dice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.nets import UNet

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Function of logits (B, C, *spatial) and class indices (B, 1, *spatial)."""


@dataclass(frozen=True)
class Discs:
    """Generator of noisy square images with discs on a background of 0; each class has its own color.

    Attributes:
        size: side of an image in pixels.
        radius: smallest and largest radius of a disc in pixels.
        discs: number of discs per image, each of a different class.
        colors: colors (C - 1, channels) of the foreground classes.
        noise: standard deviation of the noise.

    Example:
        >>> images, labels = Discs(16, (2, 4), 1, torch.ones(1, 1), 0.1).draw(3, torch.Generator().manual_seed(0))
        >>> images.shape, labels.shape
        (torch.Size([3, 1, 16, 16]), torch.Size([3, 1, 16, 16]))
    """

    size: int
    radius: tuple[float, float]
    discs: int
    colors: torch.Tensor
    noise: float

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw random images and their label maps.

        Args:
            count: number of images.
            generator: random generator.

        Returns:
            images, float32 (count, channels, size, size), and class indices, int64 (count, 1, size, size)
        """
        labels = torch.stack([self._labels(generator) for _ in range(count)])
        palette = torch.cat([torch.zeros_like(self.colors[:1]), self.colors])
        pictures = palette[labels].movedim(-1, 1)
        return pictures + self.noise * torch.randn(pictures.shape, generator=generator), labels[:, None]

    def batches(self, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield new images and class indices (see `draw`) indefinitely.

        Args:
            batch_size: number of images per batch.
            seed: seed of the random generator.
        """
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.draw(batch_size, generator)

    def _labels(self, generator: torch.Generator) -> torch.Tensor:
        labels = torch.zeros(self.size, self.size, dtype=torch.long)
        place = torch.arange(self.size)
        smallest, largest = self.radius
        for index in torch.randperm(len(self.colors), generator=generator)[: self.discs]:
            radius = smallest + (largest - smallest) * float(torch.rand((), generator=generator))
            row, column = (radius + (self.size - 1 - 2 * radius) * torch.rand(2, generator=generator)).tolist()
            labels[(place[:, None] - row) ** 2 + (place[None] - column) ** 2 <= radius**2] = int(index) + 1
        return labels


def colors(num_classes: int, channels: int, seed: int) -> torch.Tensor:
    """Return random unit vectors, float32 (num_classes - 1, channels), as colors of the foreground classes.

    Args:
        num_classes: number of classes, including background.
        channels: number of channels of an image.
        seed: seed of the random generator.

    Example:
        >>> colors(4, 6, seed=0).norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0, 1.0]
    """
    drawn = torch.randn(num_classes - 1, channels, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def small_unet(
    in_channels: int, out_channels: int, widths: Iterable[int], seed: int, norm: str | None = "batch"
) -> UNet:
    """Return a 2D U-Net that is initialized from a seed.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of classes, including background.
        widths: number of channels of each level.
        seed: seed of the initial weights.
        norm: normalization layer of MONAI's `UNet`; None for no normalization. Default: "batch".

    Example:
        >>> small_unet(1, 2, [4, 8], seed=0)(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 2, 8, 8])
    """
    widths = tuple(widths)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(2, in_channels, out_channels, widths, [2] * (len(widths) - 1), norm=norm)


def train(
    network: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Train a network in place, and return the loss of every step.

    Args:
        network: network to train; left in training mode unless `after_step` changes the mode.
        batches: batches of images (B, channels, *spatial) and class indices (B, 1, *spatial); at least `steps` batches.
        loss: function of logits and class indices.
        optimizer: optimizer of the network.
        steps: number of steps.
        after_step: function that is called after each step with the number of finished steps. Default: None.

    Example:
        >>> data, network = Discs(16, (2, 4), 1, torch.ones(1, 1), 0.1), small_unet(1, 2, [4, 8], seed=0)
        >>> optimizer = torch.optim.SGD(network.parameters(), 0.1)
        >>> loss = lambda logits, labels: F.cross_entropy(logits, labels[:, 0])
        >>> len(train(network, data.batches(2, seed=0), loss, optimizer, steps=2))
        2
    """
    values = []
    for step, (pictures, labels) in enumerate(islice(batches, steps), start=1):
        network.train()
        value = loss(network(pictures), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
        if after_step is not None:
            after_step(step)
    return values


def class_sums(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sums of p g, p + g and g per class over a batch, where p is the softmax and g the reference.

    Args:
        scores: logits (B, C, *spatial).
        labels: class indices (B, 1, *spatial).

    Returns:
        three tensors (C,): sums of p g, of p + g, and of g

    Example:
        >>> shared, size, volume = class_sums(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 0, 1]]]))
        >>> shared.tolist(), size.tolist(), volume.tolist()
        ([1.5, 0.5], [5.0, 3.0], [3.0, 1.0])
    """
    probabilities = scores.softmax(dim=1)
    reference = torch.zeros_like(probabilities).scatter_(1, labels, 1.0)
    over = [0, *range(2, scores.ndim)]
    volume = reference.sum(over)
    return (probabilities * reference).sum(over), probabilities.sum(over) + volume, volume


def gradient_size(loss: Loss, scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the Euclidean norm of the gradient of a loss with respect to the logits.

    Args:
        loss: loss function.
        scores: logits (B, C, *spatial).
        labels: class indices (B, 1, *spatial).

    Example:
        >>> gradient_size(lambda logits, labels: logits.sum(), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
        2.0
    """
    scores = scores.detach().requires_grad_()
    return float(torch.autograd.grad(loss(scores, labels), scores)[0].norm())


def predict(network: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Return the predicted class indices, int64 (B, 1, *spatial).

    Args:
        network: network in any mode; switched to evaluation mode, and left in it.
        pictures: images (B, channels, *spatial).

    Example:
        >>> predict(torch.nn.Identity(), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])).tolist()
        [[[1, 0]]]
    """
    network.eval()
    with torch.no_grad():
        scores: torch.Tensor = network(pictures)
    return scores.argmax(dim=1, keepdim=True)


def mean_dice(predicted: torch.Tensor, labels: torch.Tensor, with_background: bool = True) -> float:
    """Return the mean hard Dice over all images and the classes present in each reference.

    Args:
        predicted: predicted class indices (B, 1, *spatial).
        labels: reference class indices (B, 1, *spatial).
        with_background: whether to include class 0. Default: True.

    Example:
        >>> mean_dice(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), with_background=False)
        0.6666666666666666
    """
    found = [
        2 * float(((guess == index) & (label == index)).sum()) / float((guess == index).sum() + (label == index).sum())
        for guess, label in zip(predicted, labels, strict=True)
        for index in label.unique().tolist()
        if with_background or index
    ]
    return sum(found) / len(found)


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean and the range of values as text.

    Args:
        values: values to summarize, at least one.
        digits: number of decimals. Default: 2.

    Example:
        >>> mean_and_range([0.5, 1.0])
        '0.75 (0.50 – 1.00)'
    """
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def sure_scores(predicted: torch.Tensor, num_classes: int, sure: float) -> torch.Tensor:
    """Return logits for predicted class indices: log probabilities, with the same confidence in every voxel.

    Args:
        predicted: class indices (B, 1, *spatial).
        num_classes: number of classes, including background.
        sure: probability that the logits give to the predicted class; the other classes share the rest evenly.

    Returns:
        logits (B, C, *spatial)

    Example:
        >>> probabilities = sure_scores(torch.tensor([[[0]]]), 3, 0.9).softmax(dim=1)
        >>> [round(value, 4) for value in probabilities.flatten().tolist()]
        [0.9, 0.05, 0.05]
    """
    chosen = F.one_hot(predicted[:, 0], num_classes).movedim(-1, 1).bool()
    return torch.where(chosen, sure, (1 - sure) / (num_classes - 1)).log()
