"""Slices of scans with label maps overlaid, as RGB arrays for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor

from segbundle.classes import IGNORE_INDEX
from segbundle.segmentations.palette import COLORS, Rgb

_OPACITY = 0.5
_GAP = 2
"""Pixels between panels."""


def compared(image: MetaTensor, reference: MetaTensor, prediction: torch.Tensor, colors: Sequence[Rgb] = COLORS) -> Any:
    """Return a picture of a slice in three panels: scan, scan with reference overlay, scan with prediction overlay.

    The slice is perpendicular to the third axis. The slice with the most foreground in reference or prediction is
    shown, or the central slice if neither label map has foreground.

    Args:
        image: scan (C, X, Y, Z) on any grid. The first channel is shown, sampled at the voxels of the reference
            (nearest neighbor) and scaled from the 1st to the 99th percentile of the slice.
        reference: label map (1, X, Y, Z). Unknown voxels count as background.
        prediction: label map of the same shape as the reference.
        colors: color of each foreground class, repeated cyclically. Default: the palette.

    Returns:
        RGB values as a uint8 array (height, width, 3). In each panel, the first axis points right, and the second up.

    Example:
        >>> label = torch.zeros(1, 4, 3, 5, dtype=torch.uint8)
        >>> label[0, 1, 2, 3] = 1
        >>> compared(MetaTensor(torch.rand(1, 4, 3, 5)), MetaTensor(label), label).shape
        (3, 16, 3)
    """
    ref, pred = reference.as_tensor()[0].cpu().long(), torch.as_tensor(prediction)[0].cpu().long()
    ref = torch.where(ref == IGNORE_INDEX, 0, ref)
    foreground = ((ref > 0) | (pred > 0)).sum(dim=(0, 1))
    z = int(foreground.argmax()) if bool(foreground.any()) else ref.shape[2] // 2
    gray = _to_gray(_sample_slice(image, reference, z))
    panels = [gray, _overlay(gray, ref[:, :, z], colors), _overlay(gray, pred[:, :, z], colors)]
    gap = torch.full((_GAP, *gray.shape[1:]), 255.0)
    row = torch.cat([panels[0], gap, panels[1], gap, panels[2]])
    return row.transpose(0, 1).flip(0).round().to(torch.uint8).numpy()


def _sample_slice(image: MetaTensor, reference: MetaTensor, z: int) -> torch.Tensor:
    """Return the first channel of the image (X, Y) at the voxels of a slice of the reference."""
    x, y = reference.shape[1:3]
    voxels = torch.stack(
        [
            *torch.meshgrid(torch.arange(x), torch.arange(y), indexing="ij"),
            torch.full((x, y), z),
            torch.ones(x, y, dtype=torch.long),
        ],
        dim=-1,
    ).double()
    matrix = torch.linalg.inv(torch.as_tensor(image.affine).double()) @ torch.as_tensor(reference.affine).double()
    indices = (voxels @ matrix.T)[..., :3].round().long()
    values = image.as_tensor()[0].cpu()
    i, j, k = (indices[..., axis].clamp(0, size - 1) for axis, size in enumerate(values.shape))
    return values[i, j, k].float()


def _to_gray(values: torch.Tensor) -> torch.Tensor:
    """Return values (X, Y) as gray levels (X, Y, 3) from 0 to 255."""
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99]))
    return (255 * (values - low) / (high - low).clamp_min(1e-6)).clamp(0, 255)[..., None].repeat(1, 1, 3)


def _overlay(gray: torch.Tensor, labels: torch.Tensor, colors: Sequence[Rgb]) -> torch.Tensor:
    shown = torch.tensor(colors, dtype=torch.float32)[(labels - 1).clamp_min(0) % len(colors)]
    return torch.where(labels[..., None] > 0, (1 - _OPACITY) * gray + _OPACITY * shown, gray)
