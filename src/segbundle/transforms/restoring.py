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

from segbundle.data.scans import stem, write_segmentation

_SLAB = 16
"""Slices of the scan restored at a time: bounds memory to classes x slab instead of classes x volume."""


def postprocessing(output_dir: str | Path | None = None) -> Compose:
    """Class scores to labels in the scan's geometry; with `output_dir`, also to `<case>_seg.nii.gz` in there."""
    restore: list[Transform] = [RestoreLabelsd()]
    return Compose(restore if output_dir is None else [*restore, SaveLabelsd(output_dir)])


class RestoreLabelsd(Transform):
    """Replace `pred`, the network's scores on its grid, by a label map on the scan's own voxels.

    Softmax, linear interpolation of every class's probability at the centres of the scan's voxels, then the class
    with the largest. Preprocessing only flips, permutes and rescales axes, so the interpolation is done axis by axis;
    only scans with sheared axes, which preprocessing straightens, are sampled in all directions at once.

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
        labels = restore_labels(scores, to_grid, shape)
        restored[CommonKeys.PRED] = MetaTensor(labels[None], meta={**meta, "affine": torch.from_numpy(native)})
        return restored


class SaveLabelsd(Transform):
    """Write `pred` (1, X, Y, Z) to `<output_dir>/<case>_seg.nii.gz` on the grid of the scan in `image`'s meta data.

    Without a `case` the file is named after the scan's. The path that was written is added as `prediction`.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        scan = saved[CommonKeys.IMAGE].meta["filename_or_obj"]
        path = self.output_dir / f"{saved.get('case', stem(scan))}_seg.nii.gz"
        labels = saved[CommonKeys.PRED].as_tensor()[0].cpu().numpy()
        write_segmentation(labels, scan, path)
        saved["prediction"] = str(path)
        return saved


def restore_labels(scores: torch.Tensor, to_grid: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """The most probable class at every voxel of another grid.

    Works through the wanted grid slab by slab, so that beside the scores no buffer of classes times volume exists,
    except for sheared scans.

    Args:
        scores: (num_classes, X', Y', Z') floating point, before softmax, on the network's grid.
        to_grid: (4, 4), maps voxel indices of the wanted grid to those of the network's.
        shape: (X, Y, Z) of the wanted grid.

    Returns:
        class indices (X, Y, Z), uint8 up to 256 classes, int16 above, on the scores' device. Voxels beyond the
        network's grid get the class at its border.
    """
    dtype = torch.uint8 if len(scores) <= 256 else torch.int16
    labels = torch.empty(shape, dtype=dtype, device=scores.device)
    axes = _parallel_axes(to_grid, shape)
    if axes is None:
        scores = scores.float().softmax(dim=0)
    for start in range(0, shape[0], _SLAB):
        stop = min(start + _SLAB, shape[0])
        if axes is None:
            values = _sample_slab(scores, to_grid, (start, stop), shape)
        else:
            values = _interpolate_slab(scores, to_grid, axes, (start, stop), shape)
        labels[start:stop] = values.max(dim=0).indices.to(dtype)  # several times faster than argmax on CPU
    return labels


def _parallel_axes(to_grid: np.ndarray, shape: tuple[int, ...]) -> list[int] | None:
    """Along which axis of the network's grid each wanted axis runs; None if they are not parallel.

    They count as parallel if, over the whole extent of the wanted grid, no voxel is off by a hundredth of one.
    """
    matrix = to_grid[:3, :3]
    axes = [int(axis) for axis in np.abs(matrix).argmax(axis=0)]
    off_axis = matrix.copy()
    off_axis[axes, range(3)] = 0
    if sorted(axes) != [0, 1, 2] or (np.abs(off_axis) @ (np.array(shape) - 1)).max() > 0.01:
        return None
    return axes


def _interpolate_slab(
    scores: torch.Tensor, to_grid: np.ndarray, axes: list[int], bounds: tuple[int, int], shape: tuple[int, ...]
) -> torch.Tensor:
    """Probabilities (num_classes, slab, Y, Z) by linear interpolation along one axis after another."""
    ranges = (np.arange(*bounds), np.arange(shape[1]), np.arange(shape[2]))
    positions = [
        np.clip(to_grid[axis, 3] + to_grid[axis, k] * ranges[k], 0, scores.shape[1 + axis] - 1)
        for k, axis in enumerate(axes)
    ]
    first = int(np.floor(positions[0].min()))
    count = int(np.ceil(positions[0].max())) - first + 1
    values = scores.permute(0, *(1 + axis for axis in axes)).narrow(1, first, count).float().softmax(dim=0)
    for dim, at in enumerate((positions[0] - first, positions[1], positions[2]), start=1):
        values = _interpolate(values, at, dim)
    return values


def _sample_slab(
    probabilities: torch.Tensor, to_grid: np.ndarray, bounds: tuple[int, int], shape: tuple[int, ...]
) -> torch.Tensor:
    """Probabilities (num_classes, slab, Y, Z) by trilinear interpolation at arbitrary positions."""
    index = np.stack(np.meshgrid(np.arange(*bounds), *map(np.arange, shape[1:]), indexing="ij"), axis=-1)
    at = torch.from_numpy(index @ to_grid[:3, :3].T + to_grid[:3, 3]).float().to(probabilities.device)
    size = torch.tensor(probabilities.shape[1:], device=probabilities.device)
    normalised = 2 * at / (size - 1).clamp(min=1) - 1  # grid_sample counts from -1 to 1, and in the order z, y, x
    return torch.nn.functional.grid_sample(
        probabilities[None], normalised.flip(-1)[None], padding_mode="border", align_corners=True
    )[0]


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
