"""Small volumes and textbook formulas for the tests of the losses."""

from __future__ import annotations

import numpy as np
import torch

from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss

REGION = [DiceLoss, GeneralizedDiceLoss]
COMBINED = [DiceCELoss, GeneralizedDiceCELoss]
ALL = [*REGION, *COMBINED]
P = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[0.75, 0.75], [0.25, 0.25]]])
"""Probabilities of two samples, two classes and two voxels."""
LABELS = torch.tensor([[[0, 1]], [[0, 0]]])
"""Their class indices."""


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(B, 1, *spatial) indices to (B, C, *spatial)."""
    return torch.nn.functional.one_hot(labels[:, 0].long(), num_classes).movedim(-1, 1).float()


def blocks(size: int = 12, num_classes: int = 3) -> torch.Tensor:
    """(1, 1, size, size, size): background, and a slab of each further class."""
    labels = torch.zeros(1, 1, size, size, size, dtype=torch.long)
    for index in range(1, num_classes):
        labels[..., index] = index
    return labels


def random_case(seed: int, num_classes: int = 4, batch_size: int = 2, size: int = 6):
    """Scores (B, C, s, s, s) and labels (B, 1, s, s, s) in which every class is present."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch_size, num_classes, size, size, size, generator=generator) * 2
    labels = torch.randint(0, num_classes, (batch_size, 1, size, size, size), generator=generator)
    labels[:, 0, 0, 0, :num_classes] = torch.arange(num_classes)
    return scores, labels


def textbook_dice(p: np.ndarray, g: np.ndarray) -> float:
    """Mean over samples and classes of 1 - 2 sum pg / (sum p + sum g), in float64; (B, C, N) both."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    return float(np.mean(1 - 2 * (p * g).sum(2) / (p.sum(2) + g.sum(2))))


def textbook_generalized_dice(p: np.ndarray, g: np.ndarray, power: int = 2) -> float:
    """Mean over samples of 1 - 2 sum w sum pg / sum w (sum p + sum g) with w = 1 / (sum g)^power, in float64."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    w = 1 / g.sum(2) ** power
    return float(np.mean(1 - 2 * (w * (p * g).sum(2)).sum(1) / (w * (p.sum(2) + g.sum(2))).sum(1)))
