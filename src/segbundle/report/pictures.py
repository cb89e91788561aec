"""Slices of scans with label maps laid over them, as RGB arrays."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor

from segbundle.classes import IGNORE_INDEX
from segbundle.report.colors import COLOURS

_OPACITY = 0.5
_GAP = 2


def compared(image: MetaTensor, reference: MetaTensor, prediction: torch.Tensor) -> Any:
    """The slice with the most foreground: the scan alone, with the reference, and with the prediction, side by side.

    Args:
        image: (C, X, Y, Z) on any grid; its first channel is shown, by nearest neighbour on the reference's grid, its
            values from the 1st to the 99th percentile of the slice.
        reference: label map (1, X, Y, Z); values that are no class (ignored voxels) count as background.
        prediction: label map of the same shape.

    Returns:
        uint8 (height, width, 3); the scan's first axis goes to the right, its second upwards.
    """
    labels, found = reference.as_tensor()[0].cpu().long(), torch.as_tensor(prediction)[0].cpu().long()
    labels = torch.where(labels == IGNORE_INDEX, 0, labels)
    either = ((labels > 0) | (found > 0)).sum(dim=(0, 1))
    place = int(either.argmax()) if bool(either.any()) else labels.shape[2] // 2
    grey = _grey(_slice_on(image, reference, place))
    panels = [grey, _laid_over(grey, labels[:, :, place]), _laid_over(grey, found[:, :, place])]
    gap = torch.full((_GAP, *grey.shape[1:]), 255.0)
    row = torch.cat([panels[0], gap, panels[1], gap, panels[2]])
    return row.transpose(0, 1).flip(0).round().to(torch.uint8).numpy()


def _slice_on(image: MetaTensor, reference: MetaTensor, place: int) -> torch.Tensor:
    """Values (X, Y) of the image's first channel at the voxels of a slice of the reference."""
    x, y = reference.shape[1:3]
    places = torch.stack(
        [
            *torch.meshgrid(torch.arange(x), torch.arange(y), indexing="ij"),
            torch.full((x, y), place),
            torch.ones(x, y, dtype=torch.long),
        ],
        dim=-1,
    ).double()
    matrix = torch.linalg.inv(torch.as_tensor(image.affine).double()) @ torch.as_tensor(reference.affine).double()
    indices = (places @ matrix.T)[..., :3].round().long()
    values = image.as_tensor()[0].cpu()
    i, j, k = (indices[..., axis].clamp(0, size - 1) for axis, size in enumerate(values.shape))
    return values[i, j, k].float()


def _grey(values: torch.Tensor) -> torch.Tensor:
    """Values (X, Y) as grey (X, Y, 3) from 0 to 255."""
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99]))
    return (255 * (values - low) / (high - low).clamp_min(1e-6)).clamp(0, 255)[..., None].repeat(1, 1, 3)


def _laid_over(grey: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    colours = torch.tensor(COLOURS, dtype=torch.float32)[(labels - 1).clamp_min(0) % len(COLOURS)]
    return torch.where(labels[..., None] > 0, (1 - _OPACITY) * grey + _OPACITY * colours, grey)
