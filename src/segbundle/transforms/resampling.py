"""Resample scans to the network's grid by flipping, permuting and rescaling their axes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL, compute_shape_offset, zoom_affine
from monai.transforms import MapTransform, Spacing
from monai.utils import ensure_tuple_rep

from segbundle.errors import DataError
from segbundle.hardware.memory_usage import check_memory

_AXIS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
_SLAB = 16
"""Slices of the new grid computed at a time, to limit the memory footprint of intermediate results."""
_MIN_EXTENT = 0.1
"""Minimum extent of a scan along an axis, in voxels of the grid. A smaller value means a wrong voxel size."""
_MAX_COLLAPSED = 16
"""Number of voxels along an axis from which the result must not be a single voxel."""
_MAX_EXTENT_MM = 1e4
"""Maximum extent of a scan along an axis, in mm. A larger value means a wrong voxel size."""
_LARGE_GRID, _LARGE_FACTOR = 10**9, 8
_MEDIUM_GRID, _MEDIUM_FACTOR = 10**8, 1000
"""Grids with more voxels than this must not exceed the number of voxels of the scan by more than this factor."""
_INTEGER_TOLERANCE = 2e-7
"""Tolerance for integer positions, per voxel of the axis: the rounding error of affines in single precision."""


class ToGridd(MapTransform):
    """Dictionary transform that reorients and resamples scans, like MONAI's `Orientationd` followed by `Spacingd`.

    With `padding_mode="border"`, MONAI's transforms return the same shape and affine, and the same values to float32
    precision. Since these transforms do not rotate, axes are interpolated one after another, slab by slab. This is much
    faster than 3D sampling and needs no copy of the scan. Scans with sheared axes, which `Spacingd` straightens, are
    resampled by MONAI.

    Each item, a `MetaTensor` (C, X, Y, Z) with `affine` (4, 4) in its metadata, becomes a `MetaTensor` of the same
    dtype with the affine of the grid. Other metadata, such as `original_affine` and `spatial_shape`, still describes
    the scan. If nothing is interpolated, data is copied only for flips.

    Args:
        keys: items to transform.
        spacing: voxel size in mm along each axis of the grid; None (default) keeps the voxel size of each scan. Axes
            whose voxel size differs by at most 0.001 mm are not resampled.
        axcodes: orientation of the grid; None keeps the orientation of each scan. Default: `RAS`.
        mode: `bilinear` (default) for images (floating point) or `nearest` for label maps; one mode for all keys, or a
            sequence with one mode per key.

    Raises:
        DataError: the voxel size of a scan, or `spacing`, is obviously wrong, or memory is insufficient (raised when
            called).

    Example:
        >>> scan = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"affine": torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))})
        >>> ToGridd("image", spacing=(1.0, 1.0, 1.0))({"image": scan})["image"].shape
        torch.Size([1, 7, 7, 7])
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float] | None = None,
        axcodes: str | None = "RAS",
        mode: str | Sequence[str] = "bilinear",
    ) -> None:
        super().__init__(keys)
        self.spacing = spacing
        self.axcodes = axcodes
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        resampled = dict(data)
        for key, mode in self.key_iterator(resampled, self.mode):
            resampled[key] = _to_grid(resampled[key], self.spacing, self.axcodes, mode)
        return resampled


def _to_grid(scan: MetaTensor, spacing: Sequence[float] | None, axcodes: str | None, mode: str) -> MetaTensor:
    affine = np.asarray(scan.meta["affine"], dtype=np.float64)
    grid, shape = _reoriented(affine, tuple(scan.shape[1:]), axcodes)
    if spacing is not None:
        _check_size(scan, grid, shape, spacing)
        grid, shape = _respaced(grid, shape, spacing)
    to_scan = np.linalg.solve(affine, grid)
    axes = parallel_axes(to_scan, shape)
    if axes is None:
        straight: MetaTensor = Spacing(spacing, mode=mode, padding_mode="border")(_to_grid(scan, None, axcodes, mode))
        return straight.to(scan.dtype)
    positions = [to_scan[axis, 3] + to_scan[axis, k] * np.arange(shape[k]) for k, axis in enumerate(axes)]
    values = scan.as_tensor().permute(0, *(1 + axis for axis in axes))
    resampled = resample(values, [np.round(at) if mode == "nearest" else at for at in positions])
    return MetaTensor(resampled, meta={**scan.meta, "affine": torch.from_numpy(grid)})


def _check_size(scan: MetaTensor, affine: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float]) -> None:
    """Raise an error if the grid shows that a voxel size is wrong, or does not fit into memory.

    Args:
        scan: scan to resample.
        affine, shape: of the scan, with the axes of the grid.
        spacing: voxel size of the grid in mm.
    """
    path, own = scan.meta.get("filename_or_obj", "the scan"), np.linalg.norm(affine[:3, :3], axis=0)
    counts, target = np.array(shape), np.array(spacing, dtype=np.float64)
    with np.errstate(over="ignore"):
        sizes = np.rint((counts - 1) * own / target) + 1  # may exceed the range of integers
        voxels = float(np.prod(sizes))
    collapsed = (own * counts < _MIN_EXTENT * target) & (counts > 1) | (counts >= _MAX_COLLAPSED) & (sizes == 1)
    grown = voxels / math.prod(shape)
    multiplied = (voxels > _LARGE_GRID and grown > _LARGE_FACTOR) or (voxels > _MEDIUM_GRID and grown > _MEDIUM_FACTOR)
    if collapsed.any() or (own * counts > _MAX_EXTENT_MM).any() or multiplied:
        raise DataError(
            f"{path}: its {_times(shape)} voxels of {_times(own)} mm would become {voxels:.10g} voxel(s) of "
            f"{_times(spacing)} mm ({_times(sizes)}). Correct the voxel size in its header, or change `spacing`."
        )
    check_memory(path, scan.element_size() * len(scan) * int(voxels), f"{_times(sizes)} voxels on the network's grid")


def _times(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _reoriented(affine: np.ndarray, shape: tuple[int, ...], axcodes: str | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return affine and shape after the flips and permutations that lead to `axcodes`."""
    if axcodes is None:
        return affine, shape
    target = nib.orientations.axcodes2ornt(axcodes, labels=_AXIS_LABELS)
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target)
    order = [int(axis) for axis in np.argsort(change[:, 0])]
    return affine @ nib.orientations.inv_ornt_aff(change, shape), tuple(shape[axis] for axis in order)


def _respaced(
    affine: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return affine and shape of MONAI's `Spacing`: the first voxel stays in place, and axes become orthogonal."""
    own = np.linalg.norm(affine[:3, :3], axis=0)
    kept = np.abs(own - spacing) <= AFFINE_TOL
    grid = zoom_affine(affine, np.where(kept, own, spacing), diagonal=False)
    sizes, first = compute_shape_offset(shape, affine, grid)
    grid[:3, 3] = first
    if tuple(sizes) == shape and np.allclose(np.linalg.solve(affine, grid), np.eye(4), atol=AFFINE_TOL):
        return affine, shape
    return grid, tuple(int(size) for size in sizes)


def parallel_axes(to_scan: np.ndarray, shape: Sequence[int]) -> list[int] | None:
    """Return, for each axis of a grid, the parallel axis of a scan; None if axes are not parallel.

    Axes count as parallel if no voxel of the grid deviates by more than 0.01 voxels of the scan. Instead of a scan, any
    other grid may be given.

    Args:
        to_scan: (4, 4) matrix from voxel indices of the grid to voxel indices of the scan.
        shape: (X, Y, Z) of the grid.

    Returns:
        for each axis of the grid, the parallel axis of the scan (0, 1 or 2); or None

    Example:
        >>> parallel_axes(np.eye(4)[[1, 0, 2, 3]], shape=(10, 10, 10))
        [1, 0, 2]
    """
    matrix = to_scan[:3, :3]
    axes = [int(axis) for axis in np.abs(matrix).argmax(axis=0)]
    off_axis = matrix.copy()
    off_axis[axes, range(3)] = 0
    if sorted(axes) != [0, 1, 2] or (np.abs(off_axis) @ (np.array(shape) - 1)).max() > 0.01:
        return None
    return axes


def resample(values: torch.Tensor, positions: Sequence[np.ndarray]) -> torch.Tensor:
    """Interpolate a volume linearly on a grid whose axes are parallel to those of the volume.

    Positions beyond the edge get the nearest edge value.

    Args:
        values: (C, X, Y, Z) with any strides; floating point, or any dtype if all positions are integers.
        positions: for each axis of `values`, the positions of the slices of the new grid, as fractional voxel indices.

    Returns:
        a tensor (C, X', Y', Z'): `values` itself if nothing changes, a flipped copy if axes are only flipped, otherwise
        a new contiguous tensor

    Example:
        >>> values = torch.tensor([[[[0.0, 10.0]]]])
        >>> resample(values, [np.array([0.0]), np.array([0.0]), np.array([0.0, 0.5, 1.0])]).flatten()
        tensor([ 0.,  5., 10.])
    """
    positions = [np.clip(at, 0, size - 1) for at, size in zip(positions, values.shape[1:], strict=True)]
    steps = [_axis_direction(at, size) for at, size in zip(positions, values.shape[1:], strict=True)]
    if None not in steps:
        flipped = [dim for dim, step in enumerate(steps, start=1) if step == -1]
        return values.flip(flipped) if flipped else values
    # use the order of axes in memory, so that slabs and rows are contiguous
    order = sorted(range(3), key=lambda axis: -values.stride(1 + axis))
    values = values.permute(0, *(1 + axis for axis in order))
    positions = [positions[axis] for axis in order]
    result = values.new_empty((len(values), *(len(positions[order.index(axis)]) for axis in range(3))))
    slices = result.permute(0, *(1 + axis for axis in order))
    shrinking_first = sorted((2, 1, 3), key=lambda dim: len(positions[dim - 1]) > values.shape[dim])
    for start in range(0, len(positions[0]), _SLAB):
        at = positions[0][start : start + _SLAB]
        first, last = int(np.floor(at.min())), int(np.ceil(at.max()))
        slab = values.narrow(1, first, last - first + 1)
        for dim in shrinking_first:
            slab = interpolate(slab, at - first if dim == 1 else positions[dim - 1], dim)
        slices[:, start : start + _SLAB] = slab
    return result


def _axis_direction(at: np.ndarray, size: int) -> int | None:
    """Return 1 if positions are the indices 0 to size - 1, -1 if they are these indices reversed, None otherwise."""
    if len(at) != size:
        return None
    if np.abs(at - np.arange(size)).max() < _INTEGER_TOLERANCE * size:
        return 1
    return -1 if np.abs(at[::-1] - np.arange(size)).max() < _INTEGER_TOLERANCE * size else None


def interpolate(values: torch.Tensor, at: np.ndarray, dim: int) -> torch.Tensor:
    """Interpolate a tensor linearly along one dimension.

    Args:
        values: any shape; floating point, or any dtype if all positions are integers.
        at: (n,), positions as fractional indices, from 0 to the size of the dimension minus 1.
        dim: dimension along which to interpolate.

    Returns:
        a tensor of size n along `dim`; `values` itself if `at` is 0, 1, ..., up to the size of the dimension minus 1

    Example:
        >>> interpolate(torch.tensor([0.0, 10.0]), np.array([0.25, 0.75]), dim=0)
        tensor([2.5000, 7.5000])
    """
    if _axis_direction(at, values.shape[dim]) == 1:
        return values
    nearest = np.round(at)
    if np.abs(at - nearest).max() < _INTEGER_TOLERANCE * values.shape[dim]:
        return _take(values, nearest, dim)
    lower = np.floor(at)
    upper = np.minimum(lower + 1, values.shape[dim] - 1)
    weight = torch.from_numpy(at - lower).to(values)
    weight = weight.reshape([-1 if axis == dim % values.ndim else 1 for axis in range(values.ndim)])
    return _take(values, lower, dim).lerp_(_take(values, upper, dim), weight)


def _take(values: torch.Tensor, index: np.ndarray, dim: int) -> torch.Tensor:
    if values.is_cpu:  # ten times faster than torch along the last dimension
        return torch.from_numpy(values.numpy().take(index.astype(np.int64), axis=dim))
    return values.index_select(dim, torch.from_numpy(index).long().to(values.device))
