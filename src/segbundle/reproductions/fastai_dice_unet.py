"""fast.ai forum, "Issues with DiceLoss UNET": a Dice loss that gives blank predictions, or only foreground.

The posted answer refers to the derivative in Milletari et al. 2016 ("V-Net") of D = 2 sum p g / (sum p² + sum g²):
dD/dp_j = 2 [g_j (sum p² + sum g²) - 2 p_j sum p g] / (sum p² + sum g²)².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segbundle.losses import DiceCELoss, DiceLoss
from segbundle.reproductions.small_training import (
    Discs,
    Loss,
    gradient_size,
    mean_and_range,
    mean_dice,
    predict,
    small_unet,
    train,
)
from segbundle.reproductions.tables import Table


def run(
    size: int,
    radius: Sequence[float],
    noise: float,
    widths: Sequence[int],
    batch_size: int,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    checkpoints: Sequence[int],
    num_test: int,
    blank: float,
    state_voxels: int,
    state_foreground: float,
    state_logits: Sequence[float],
    structures: Sequence[int],
    structure_probability: float,
) -> list[Table]:
    """Return tables of training runs, over all learning rates and for each of them, and tables of gradients.

    Args:
        size: side of an image in pixels.
        radius: smallest and largest radius of the disc in pixels.
        noise: standard deviation of the noise; the disc has the value 1, the background 0.
        widths: number of channels of each U-Net level.
        batch_size: number of images per step.
        learning_rates: learning rates of Adam.
        seeds: seeds; there is one training run per loss, learning rate and seed.
        steps: number of steps per training run.
        checkpoints: steps after which predictions are assessed, in addition to the last step. Steps from `steps` on are
            ignored.
        num_test: number of test images.
        blank: fraction of pixels below which a class counts as not predicted.
        state_voxels: number of voxels in the tables of gradients.
        state_foreground: fraction of foreground voxels in the first table of gradients.
        state_logits: logits of confident predictions in the first table of gradients.
        structures: sizes of the structure in voxels, in the second table of gradients.
        structure_probability: predicted probability of all voxels in the second table of gradients.

    Example:
        >>> from segbundle.reproductions import reproduce
        >>> tables = reproduce("fastai_dice_unet", {"steps": 2})  # doctest: +SKIP
    """
    data = Discs(size, (radius[0], radius[1]), 1, torch.ones(1, 1), noise)
    training = Training(
        data, widths, batch_size, steps, [*(c for c in checkpoints if c < steps), steps], num_test, blank
    )
    runs = {
        (name, rate): [training.run(loss, rate, seed) for seed in seeds]
        for name, loss in _losses().items()
        for rate in learning_rates
    }
    foreground = float((training.test(0)[1] > 0).float().mean())
    return [
        _summary(runs, len(seeds) * len(learning_rates), foreground),
        _per_rate(runs, training.checkpoints),
        _states(state_voxels, state_foreground, state_logits),
        _small_structures(state_voxels, structures, structure_probability),
    ]


@dataclass(frozen=True)
class Run:
    """Result of one training run.

    Attributes:
        states: prediction at each checkpoint: "B" (background only), "F" (foreground only) or "mixed".
        dice: foreground Dice after the last step.

    Example:
        >>> Run(["B", "mixed"], 0.8).states[-1]
        'mixed'
    """

    states: Sequence[str]
    dice: float


@dataclass(frozen=True)
class Training:
    """Training settings shared by all runs.

    Attributes:
        data: generator of images.
        widths: number of channels of each U-Net level.
        batch_size: number of images per step.
        steps: number of steps per run.
        checkpoints: steps after which the predictions of the test images are assessed (see `Run.states`).
        num_test: number of test images.
        blank: fraction of pixels below which a class counts as not predicted.

    Example:
        >>> training = Training(Discs(16, (2, 4), 1, torch.ones(1, 1), 0.1), [4, 8], 2, 2, [2], 3, 0.001)
        >>> training.test(seed=0)[0].shape
        torch.Size([3, 1, 16, 16])
    """

    data: Discs
    widths: Sequence[int]
    batch_size: int
    steps: int
    checkpoints: Sequence[int]
    num_test: int
    blank: float

    def test(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return test images and their label maps, which differ from the training images of the same seed.

        Args:
            seed: seed of the training run.

        Returns:
            images (num_test, channels, size, size), and class indices (num_test, 1, size, size)
        """
        return self.data.draw(self.num_test, torch.Generator().manual_seed(1000 + seed))

    def run(self, loss: Loss, learning_rate: float, seed: int) -> Run:
        """Train a U-Net and return its predictions at the checkpoints and its final Dice.

        The network has no normalization. With batch normalization, no loss gave blank predictions.

        Args:
            loss: loss function.
            learning_rate: learning rate of Adam.
            seed: seed of weights and images.
        """
        pictures, labels = self.test(seed)
        network = small_unet(1, 2, self.widths, seed, norm=None)
        states: list[str] = []

        def after_step(step: int) -> None:
            if step in self.checkpoints:
                states.append(self._state(predict(network, pictures)))

        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        train(network, self.data.batches(self.batch_size, seed), loss, optimizer, self.steps, after_step)
        return Run(states, mean_dice(predict(network, pictures), labels, with_background=False))

    def _state(self, predicted: torch.Tensor) -> str:
        fraction = float((predicted > 0).float().mean())
        return "B" if fraction < self.blank else "F" if fraction > 1 - self.blank else "mixed"


def vnet_gradient(probability: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the derivative of V-Net's Dice, dD/dp, by the formula at the top of this module.

    Args:
        probability: foreground probability per voxel, any shape.
        reference: 0 or 1 per voxel, same shape.

    Returns:
        derivative for each voxel, same shape

    Example:
        >>> gradient = vnet_gradient(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        >>> [round(value, 4) for value in gradient.tolist()]
        [0.8889, -0.4444]
    """
    both = (probability**2).sum() + (reference**2).sum()
    return 2 * (reference * both - 2 * probability * (probability * reference).sum()) / both**2


def _losses() -> dict[str, Loss]:
    entropy = torch.nn.CrossEntropyLoss()
    return {
        "Dice of both classes": DiceLoss(softmax=True, to_onehot_y=True),
        "V-Net's Dice of the foreground": DiceLoss(
            softmax=True, to_onehot_y=True, squared_pred=True, include_background=False
        ),
        "cross entropy": lambda scores, labels: entropy(scores, labels[:, 0]),
        "`DiceCELoss`": DiceCELoss(softmax=True, to_onehot_y=True),
    }


def _summary(runs: dict[tuple[str, float], list[Run]], total: int, foreground: float) -> Table:
    rows = []
    for name in dict.fromkeys(name for name, _ in runs):
        of_loss = [run for (other, _), found in runs.items() if other == name for run in found]
        rows.append(
            [
                name,
                *(str(sum(state in run.states for run in of_loss)) for state in "BF"),
                *(str(sum(run.states[-1] == state for run in of_loss)) for state in "BF"),
                str(sum(run.dice < 0.1 for run in of_loss)),
                mean_and_range([run.dice for run in of_loss]),
            ]
        )
    columns = [
        "loss", "background only, at a checkpoint", "foreground only, at a checkpoint", "background only at the end",
        "foreground only at the end", "Dice below 0.1 at the end", "Dice at the end (range)",
    ]  # fmt: skip
    return Table(f"{total} runs per loss; {100 * foreground:.1f} % of the pixels are foreground", columns, rows)


def _per_rate(runs: dict[tuple[str, float], list[Run]], checkpoints: Sequence[int]) -> Table:
    rows = [
        [
            name,
            f"{rate:g}",
            *(_counts([run.states[index] for run in found]) for index in range(len(checkpoints))),
            mean_and_range([run.dice for run in found]),
        ]
        for (name, rate), found in runs.items()
    ]
    columns = ["loss", "learning rate", *(f"step {step}" for step in checkpoints), "Dice at the end (range)"]
    count = len(next(iter(runs.values())))
    return Table(f"Number of runs (of {count}) with background only (B) or foreground only (F)", columns, rows)


def _counts(states: Sequence[str]) -> str:
    return ", ".join(f"{states.count(state)} {state}" for state in "BF" if state in states) or "–"


def _states(voxels: int, foreground: float, logits: Sequence[float]) -> Table:
    """Return the table of gradients for equal logits in all voxels; only Dice has a factor p (1 - p)."""
    labels = torch.zeros(1, 1, voxels, dtype=torch.float64)
    labels[..., : round(foreground * voxels)] = 1
    dice, both = DiceLoss(sigmoid=True, squared_pred=True), DiceCELoss(sigmoid=True, squared_pred=True)
    losses: list[Loss] = [dice, torch.nn.BCEWithLogitsLoss(), both]
    states = [(0.0, "p = 0.5"), *((-k, f"background, logit -{k:g}") for k in logits)]
    states += [(k, f"foreground, logit {k:g}") for k in logits]
    rows = [
        [name, *(f"{gradient_size(loss, torch.full_like(labels, score), labels):.1e}" for loss in losses)]
        for score, name in states
    ]
    title = f"Norm of the gradient with respect to the logits, {voxels} voxels, {100 * foreground:g} % foreground"
    return Table(title, ["prediction, all voxels", "V-Net's Dice", "cross entropy", "`DiceCELoss`"], rows)


def _small_structures(voxels: int, structures: Sequence[int], probability: float) -> Table:
    rows = []
    for structure in structures:
        reference = torch.zeros(voxels, dtype=torch.float64)
        reference[:structure] = 1
        largest = float(vnet_gradient(torch.full_like(reference, probability), reference).abs().max())
        entropy = 1 / (probability * voxels)
        rows.append([str(structure), f"{largest:.1e}", f"{entropy:.1e}"])
    title = f"Largest derivative with respect to the probability of a voxel, {voxels} voxels with p = {probability:g}"
    return Table(title, ["voxels of the structure", "V-Net's Dice", "cross entropy"], rows)
