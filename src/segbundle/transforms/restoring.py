"""From the network's class scores back to labels on the scan's own voxels, and into a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from monai.utils import CommonKeys

from segbundle.data.scans import write_segmentation

_SLAB = 16
"""Slices of the scan restored at a time: bounds memory to classes x slab instead of classes x volume."""


def postprocessing(output_dir: str | Path | None = None) -> Compose:
    """Class scores to labels in the scan's geometry; with `output_dir`, also to `<case>_seg.nii.gz` in there."""
    restore: list[Transform] = [RestoreLabelsd()]
    return Compose(restore if output_dir is None else [*restore, SaveLabelsd(output_dir)])


class RestoreLabelsd(Transform):
    """Replace `pred`, the network's scores on its grid, by a label map on the scan's own voxels.

    Softmax, linear interpolation of every class's probability at the centres of the scan's voxels, then the class
    with the largest. Preprocessing only flipped, permuted and rescaled axes, so the interpolation is done axis by
    axis and is exact.

    `pred` (num_classes, X', Y', Z') becomes a uint8 or int16 `MetaTensor` (1, X, Y, Z) with the scan's affine;
    `image` gives the two geometries by its meta data `affine`, `original_affine` and `spatial_shape`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        restored = dict(data)
        meta = restored[CommonKeys.IMAGE].meta
        native = np.asarray(meta["original_affine"], dtype=np.float64)
        scores = torch.as_tensor(restored[CommonKeys.PRED])
        if isinstance(scores, MetaTensor):
            scores = scores.as_tensor()
        to_grid = np.linalg.inv(np.asarray(meta["affine"], dtype=np.float64)) @ native
        shape = tuple(int(size) for size in meta["spatial_shape"])
        labels = restore_labels(scores.float().softmax(dim=0), to_grid, shape)
        restored[CommonKeys.PRED] = MetaTensor(labels[None], meta={**meta, "affine": torch.from_numpy(native)})
        return restored


class SaveLabelsd(Transform):
    """Write `pred` (1, X, Y, Z) to `<output_dir>/<case>_seg.nii.gz` on the grid of the scan in `image`'s meta data.

    The path that was written is added as `prediction`.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        path = self.output_dir / f"{saved['case']}_seg.nii.gz"
        labels = saved[CommonKeys.PRED].as_tensor()[0].cpu().numpy()
        write_segmentation(labels, saved[CommonKeys.IMAGE].meta["filename_or_obj"], path)
        saved["prediction"] = str(path)
        return saved


def restore_labels(probabilities: torch.Tensor, to_grid: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """The most probable class at every voxel of another grid.

    Args:
        probabilities: (num_classes, X', Y', Z') floating point, on the network's grid.
        to_grid: (4, 4), maps voxel indices of the wanted grid to those of the network's. Each of its axes must be
            parallel to one of the network's axes.
        shape: (X, Y, Z) of the wanted grid.

    Returns:
        class indices (X, Y, Z), uint8 up to 256 classes, int16 above, on the probabilities' device. Voxels beyond
        the network's grid get the class at its border.

    Raises:
        ValueError: the grids are rotated against each other.
    """
    axes = np.abs(to_grid[:3, :3]).argmax(axis=0)  # wanted axis k runs along the network's axis axes[k]
    scale = to_grid[axes, range(3)]
    if sorted(axes) != [0, 1, 2] or not np.allclose(
        np.abs(to_grid[:3, :3]).sum(axis=0), np.abs(scale), atol=1e-3 * np.abs(scale).min()
    ):
        raise ValueError("the network's grid is rotated against the scan's; preprocessing must not rotate.")
    turned = probabilities.permute(0, *(1 + int(axis) for axis in axes))
    positions = [
        np.clip(to_grid[axis, 3] + scale[k] * np.arange(shape[k]), 0, probabilities.shape[1 + axis] - 1)
        for k, axis in enumerate(axes)
    ]
    dtype = torch.uint8 if len(probabilities) <= 256 else torch.int16
    labels = torch.empty(shape, dtype=dtype, device=probabilities.device)
    for start in range(0, shape[0], _SLAB):
        slab = slice(start, min(start + _SLAB, shape[0]))
        values = turned
        for dim, at in enumerate((positions[0][slab], positions[1], positions[2]), start=1):
            values = _interpolate(values, at, dim)
        labels[slab] = values.max(dim=0).indices.to(dtype)  # several times faster than argmax on CPU
    return labels


def _interpolate(values: torch.Tensor, at: np.ndarray, dim: int) -> torch.Tensor:
    """Linear interpolation of a tensor along one dimension at fractional, in-range indices."""
    nearest = np.round(at)
    if np.abs(at - nearest).max() < 1e-4:  # the same voxels, perhaps flipped
        if len(at) == values.shape[dim] and (nearest == np.arange(len(at))).all():
            return values
        return values.index_select(dim, torch.from_numpy(nearest).long().to(values.device))
    lower = np.minimum(np.floor(at), values.shape[dim] - 1)
    upper = np.minimum(lower + 1, values.shape[dim] - 1)
    weight = torch.from_numpy(at - lower).to(values)
    shape = [1] * values.ndim
    shape[dim] = -1
    first = values.index_select(dim, torch.from_numpy(lower).long().to(values.device))
    second = values.index_select(dim, torch.from_numpy(upper).long().to(values.device))
    return first.lerp_(second, weight.reshape(shape))
