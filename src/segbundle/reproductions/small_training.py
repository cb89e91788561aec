"""What the reproductions that train share: pictures of discs, a small U-Net, a training loop, and hard Dice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.nets import UNet

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Discs:
    """Square pictures with discs on a background of 0: every class has a colour of its own, and there is noise.

    Attributes:
        size: voxels along a side.
        radius: smallest and largest radius of a disc.
        discs: discs per picture, each of another class (class 0 is the background).
        colours: (C - 1, channels), one per class.
        noise: standard deviation of what is added to every voxel.
    """

    size: int
    radius: tuple[float, float]
    discs: int
    colours: torch.Tensor
    noise: float

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (count, channels, size, size), and their class indices (count, 1, size, size)."""
        labels = torch.stack([self._labels(generator) for _ in range(count)])
        palette = torch.cat([torch.zeros_like(self.colours[:1]), self.colours])
        pictures = palette[labels].movedim(-1, 1)
        return pictures + self.noise * torch.randn(pictures.shape, generator=generator), labels[:, None]

    def batches(self, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """New pictures without end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.draw(batch_size, generator)

    def _labels(self, generator: torch.Generator) -> torch.Tensor:
        labels = torch.zeros(self.size, self.size, dtype=torch.long)
        place = torch.arange(self.size)
        smallest, largest = self.radius
        for index in torch.randperm(len(self.colours), generator=generator)[: self.discs]:
            radius = smallest + (largest - smallest) * float(torch.rand((), generator=generator))
            row, column = (radius + (self.size - 1 - 2 * radius) * torch.rand(2, generator=generator)).tolist()
            labels[(place[:, None] - row) ** 2 + (place[None] - column) ** 2 <= radius**2] = int(index) + 1
        return labels


def colours(num_classes: int, channels: int, seed: int) -> torch.Tensor:
    """A random direction of length 1 for every class but the background, (num_classes - 1, channels)."""
    drawn = torch.randn(num_classes - 1, channels, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def small_unet(
    in_channels: int, out_channels: int, widths: Iterable[int], seed: int, norm: str | None = "batch"
) -> UNet:
    """A 2D U-Net with batch normalization, initialized from a seed."""
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
    """Train, and return the loss of every step; `after_step` gets the number of steps done."""
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
    """Per class over the whole batch, after a softmax: sum of p g, of p + g, and of g, (C,) each."""
    probabilities = scores.softmax(dim=1)
    reference = torch.zeros_like(probabilities).scatter_(1, labels, 1.0)
    over = [0, *range(2, scores.ndim)]
    volume = reference.sum(over)
    return (probabilities * reference).sum(over), probabilities.sum(over) + volume, volume


def gradient_size(loss: Loss, scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Euclidean norm of the gradient with respect to the scores."""
    scores = scores.detach().requires_grad_()
    return float(torch.autograd.grad(loss(scores, labels), scores)[0].norm())


def predict(network: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Class indices (B, 1, *spatial) with the largest score."""
    network.eval()
    with torch.no_grad():
        scores: torch.Tensor = network(pictures)
    return scores.argmax(dim=1, keepdim=True)


def mean_dice(predicted: torch.Tensor, labels: torch.Tensor, with_background: bool = True) -> float:
    """Hard Dice, the mean over all pictures and the classes that are there in each."""
    found = [
        2 * float(((guess == index) & (label == index)).sum()) / float((guess == index).sum() + (label == index).sum())
        for guess, label in zip(predicted, labels, strict=True)
        for index in label.unique().tolist()
        if with_background or index
    ]
    return sum(found) / len(found)


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """`mean (smallest – largest)`."""
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def sure_scores(predicted: torch.Tensor, num_classes: int, sure: float) -> torch.Tensor:
    """Scores (B, C, *spatial) for class indices (B, 1, *spatial): log probabilities, `sure` for the predicted class."""
    chosen = F.one_hot(predicted[:, 0], num_classes).movedim(-1, 1).bool()
    return torch.where(chosen, sure, (1 - sure) / (num_classes - 1)).log()
