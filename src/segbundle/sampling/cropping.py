"""Patches out of a case: where they lie, and cutting and deforming them in one interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from segbundle.sampling.augmentation import Change

_INFINITESIMAL = 1e-6


def draw_start(
    rng: np.random.Generator, indices: Sequence[torch.Tensor], shape: Sequence[int], patch_size: Sequence[int]
) -> tuple[int, ...]:
    """Where a patch begins whose centre lies in a class drawn uniformly from those that the case holds.

    A rare class is thus seen as often as a large one, the background as often as any class.

    Args:
        rng: the source of chance.
        indices: of every class, places of voxels in the flattened volume.
        shape: (X, Y, Z) of the volume, not smaller than the patch anywhere.
        patch_size: (X, Y, Z) of the patch.

    Returns:
        The first voxel of a patch that lies wholly in the volume.
    """
    present = [places for places in indices if len(places)]
    if present:
        places = present[rng.integers(len(present))]
        centre = np.unravel_index(int(places[int(rng.integers(len(places)))]), tuple(shape))
    else:  # nothing but voxels of unknown class
        centre = tuple(rng.integers(size) for size in shape)
    return tuple(
        min(max(int(c) - size // 2, 0), whole - size) for c, size, whole in zip(centre, patch_size, shape, strict=True)
    )


def cut(
    case: Mapping[str, Any], start: Sequence[int], patch_size: Sequence[int], change: Change, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch, rotated and scaled about its centre and then mirrored; the image linearly, labels by nearest neighbour.

    Args:
        case: `image` (C, X, Y, Z) and `label` (1, X, Y, Z), of any dtype; `spacing` (3,) in mm, within which angles
            are kept.
        start: the patch's first voxel, were it not deformed.
        patch_size: (X, Y, Z).
        change: only its deformation is applied.
        device: of the result. What lies beyond the border is the border repeated, in the label map as in the image.

    Returns:
        image float32 (C, *patch_size) and label uint8 (1, *patch_size).
    """
    image, label = case["image"], case["label"]
    if not change.deforms:
        at = (slice(None), *(slice(first, first + size) for first, size in zip(start, patch_size, strict=True)))
        patches = image[at].to(device, torch.float32, copy=True), label[at].to(device, copy=True)
    else:
        matrix = _to_source(change, case["spacing"])
        half = (np.asarray(patch_size) - 1) / 2
        centre = np.asarray(start) + half
        reach = np.abs(matrix) @ half + _INFINITESIMAL
        shape = np.asarray(image.shape[1:])
        low = np.clip(np.floor(centre - reach), 0, shape - 1).astype(int)
        high = np.clip(np.ceil(centre + reach), 0, shape - 1).astype(int) + 1
        grid = _grid(matrix, centre - low, high - low, patch_size, device)
        at = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        patches = (
            _sampled(image[at].to(device).float(), grid, "bilinear"),
            _sampled(label[at].to(device).float(), grid, "nearest").to(label.dtype),
        )
    dims = [1 + axis for axis in change.flips]
    return (patches[0].flip(dims), patches[1].flip(dims)) if dims else patches


def _to_source(change: Change, spacing: Sequence[float]) -> np.ndarray:
    """The matrix (3, 3) from a voxel's offset to the patch's centre to the offset at which its value lies."""
    mm = np.diag(np.asarray(spacing, float))
    rotation = np.eye(3)
    for axis, angle in enumerate(change.angles):
        one = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ one
    return np.linalg.inv(mm) @ rotation.T @ mm / change.scale


def _grid(
    matrix: np.ndarray, centre: np.ndarray, block: np.ndarray, patch_size: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Where the voxels of a patch lie in a block, in the coordinates of `grid_sample`: (1, X, Y, Z, 3).

    Args:
        matrix: from offsets in the patch to offsets in the block.
        centre: of the patch, in voxels of the block.
        block: its size, (X, Y, Z).
        patch_size: (X, Y, Z).
        device: of the result.
    """
    unit = 2 / np.maximum(block - 1, 1)  # a voxel of the block
    grid = torch.tensor(np.where(block > 1, unit * centre - 1, 0.0)[::-1].copy(), dtype=torch.float32).to(device)
    for axis, size in enumerate(patch_size):
        offsets = np.arange(size) - (size - 1) / 2
        places = (offsets[:, None] * (unit * matrix[:, axis]))[:, ::-1]  # PyTorch counts axes from the last
        shape = [1, 1, 1, 3]
        shape[axis] = size
        grid = grid + torch.tensor(places.copy(), dtype=torch.float32).view(shape).to(device)
    return grid[None]


def _sampled(block: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Values (C, *patch_size) of a block (C, X, Y, Z) at the places of a grid."""
    return torch.nn.functional.grid_sample(block[None], grid, mode, padding_mode="border", align_corners=True)[0]
