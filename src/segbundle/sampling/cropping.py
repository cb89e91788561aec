"""Extract patches at random positions, cropped and deformed in a single interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from segbundle.sampling.augmentation import Change

_EPSILON = 1e-6


def draw_start(
    rng: np.random.Generator, indices: Sequence[torch.Tensor], shape: Sequence[int], patch_size: Sequence[int]
) -> tuple[int, ...]:
    """Draw a random, class-balanced position of a patch.

    The class of the center voxel is drawn uniformly from the classes of the case, so rare classes are sampled as often
    as large classes and the background. If the case has no known voxel, any voxel can be the center. A patch that would
    cross the edge of the volume is moved inside.

    Args:
        rng: random generator.
        indices: for every class, indices of its voxels in the flattened volume, (n,).
        shape: (X, Y, Z) of the volume, at least the size of the patch.
        patch_size: (X, Y, Z) of the patch.

    Returns:
        index (x, y, z) of the first voxel of the patch

    Example:
        >>> draw_start(np.random.default_rng(0), [torch.tensor([63])], shape=(4, 4, 4), patch_size=(2, 2, 2))
        (2, 2, 2)
    """
    present = [positions for positions in indices if len(positions)]
    if present:
        positions = present[rng.integers(len(present))]
        center = np.unravel_index(int(positions[int(rng.integers(len(positions)))]), tuple(shape))
    else:  # all voxels are unknown
        center = tuple(rng.integers(size) for size in shape)
    return tuple(
        min(max(int(c) - size // 2, 0), whole - size) for c, size, whole in zip(center, patch_size, shape, strict=True)
    )


def cut(
    case: Mapping[str, Any], start: Sequence[int], patch_size: Sequence[int], change: Change, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and label map of a patch, rotated and scaled about the center of the patch, and then mirrored.

    The image is interpolated linearly, the label map by nearest neighbor. Positions beyond the edge of the volume get
    the nearest edge value, in the image and in the label map.

    Args:
        case: `image` (C, X, Y, Z) and `label` (1, X, Y, Z), of any dtype; `spacing` (3,) in mm, so that angles are
            correct for anisotropic voxels.
        start: first voxel of the patch before deformation.
        patch_size: (X, Y, Z) in voxels.
        change: augmentation parameters, of which `angles`, `scale` and `flips` are applied.
        device: device of the result.

    Returns:
        the image, float32 (C, *patch_size), and the label map, (1, *patch_size), in the dtype of `label`. The two
        tensors are copies on `device`.

    Example:
        >>> volume = torch.arange(8).reshape(1, 2, 2, 2)
        >>> case = {"image": volume, "label": volume.to(torch.uint8), "spacing": (1.0, 1.0, 1.0)}
        >>> image, label = cut(case, (0, 0, 0), (1, 1, 2), Change(flips=(2,)), torch.device("cpu"))
        >>> image.flatten().tolist()
        [1.0, 0.0]
    """
    image, label = case["image"], case["label"]
    if not change.deforms:
        at = (slice(None), *(slice(first, first + size) for first, size in zip(start, patch_size, strict=True)))
        patches = image[at].to(device, torch.float32, copy=True), label[at].to(device, copy=True)
    else:
        matrix = _to_source(change, case["spacing"])
        half = (np.asarray(patch_size) - 1) / 2
        center = np.asarray(start) + half
        reach = np.abs(matrix) @ half + _EPSILON
        shape = np.asarray(image.shape[1:])
        low = np.clip(np.floor(center - reach), 0, shape - 1).astype(int)
        high = np.clip(np.ceil(center + reach), 0, shape - 1).astype(int) + 1
        grid = _grid(matrix, center - low, high - low, patch_size, device)
        at = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        patches = (
            _sampled(image[at].to(device).float(), grid, "bilinear"),
            _sampled(label[at].to(device).float(), grid, "nearest").to(label.dtype),
        )
    dims = [1 + axis for axis in change.flips]
    return (patches[0].flip(dims), patches[1].flip(dims)) if dims else patches


def _to_source(change: Change, spacing: Sequence[float]) -> np.ndarray:
    """Return the matrix (3, 3) from offsets in the patch, relative to its center, to offsets in the volume."""
    mm = np.diag(np.asarray(spacing, float))
    rotation = np.eye(3)
    for axis, angle in enumerate(change.angles):
        about_axis = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        about_axis[i, i] = about_axis[j, j] = math.cos(angle)
        about_axis[i, j], about_axis[j, i] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ about_axis
    return np.linalg.inv(mm) @ rotation.T @ mm / change.scale


def _grid(
    matrix: np.ndarray, center: np.ndarray, block: np.ndarray, patch_size: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Return the sampling grid of a patch in a block for `grid_sample`, (1, X, Y, Z, 3).

    Args:
        matrix: (3, 3), from offsets in the patch to offsets in the block.
        center: center of the patch, in voxels of the block.
        block: (X, Y, Z) of the block.
        patch_size: (X, Y, Z) of the patch.
        device: device of the result.
    """
    unit = 2 / np.maximum(block - 1, 1)  # size of a voxel of the block
    grid = torch.tensor(np.where(block > 1, unit * center - 1, 0.0)[::-1].copy(), dtype=torch.float32).to(device)
    for axis, size in enumerate(patch_size):
        offsets = np.arange(size) - (size - 1) / 2
        positions = (offsets[:, None] * (unit * matrix[:, axis]))[:, ::-1]  # PyTorch expects the last axis first
        shape = [1, 1, 1, 3]
        shape[axis] = size
        grid = grid + torch.tensor(positions.copy(), dtype=torch.float32).view(shape).to(device)
    return grid[None]


def _sampled(block: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Return the values (C, *patch_size) of a block (C, X, Y, Z) at the positions of a grid."""
    return torch.nn.functional.grid_sample(block[None], grid, mode, padding_mode="border", align_corners=True)[0]
