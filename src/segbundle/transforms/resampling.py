"""Onto the network's grid: the axes of a scan are flipped, permuted and rescaled, each by itself."""

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
from segbundle.io.reading import check_memory

_AXIS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
_SLAB = 16
"""Slices of the new grid made at a time, so that what lies between scan and result stays small."""
_THINNEST = 0.1
"""Extent of a scan along an axis, in voxels of the grid, below which one of the two voxel sizes is wrong."""
_SEVERAL = 16
"""Voxels of a scan along an axis that must not become a single one."""
_LONGEST = 1e4
"""Extent of a scan along an axis, in mm, above which its voxel size is wrong."""
_MOST, _MULTIPLE = 10**9, 8
_MANY, _EXTREME = 10**8, 1000
"""Voxels of a grid beyond which it may not have so many times the voxels of the scan."""
_WHOLE = 2e-7
"""Positions that are all this close to whole voxels, per voxel of the axis, are taken for them: so much is lost where
affines are stored in single precision."""


class ToGridd(MapTransform):
    """Reorient and resample as MONAI's `Orientationd` and then `Spacingd` with `padding_mode="border"` do.

    Shape, affine and values are theirs, the values to the precision of float32. As neither of the two rotates, axes are
    interpolated one after another and slab by slab, which is much faster than sampling in all directions and makes no
    copy of the scan. Only scans with sheared axes, which `Spacingd` straightens, are left to it.

    Each item, a `MetaTensor` (C, X, Y, Z) with `affine` (4, 4) in its meta data, becomes one of the same dtype with
    the grid's `affine`; all other meta data, `original_affine` and `spatial_shape` among them, still describe the scan.
    Where no voxel is needed but in another place, none is copied, except for flips.

    Args:
        keys: items to work on.
        spacing: distance in mm of the grid's voxels along each of its axes; None keeps each scan's. Axes within
            0.001 mm of it are left as they are.
        axcodes: orientation of the grid, for instance `RAS`; None keeps each scan's.
        mode: `bilinear` for images (floating point) or `nearest` for label maps; one for all keys, or one for each.
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
    """Refuse a grid that shows that the scan's voxel size, or the network's, is wrong, or that memory cannot hold.

    Args:
        scan: what is resampled.
        affine, shape: of the scan, with the axes of the grid.
        spacing: of the grid.
    """
    path, own = scan.meta.get("filename_or_obj", "the scan"), np.linalg.norm(affine[:3, :3], axis=0)
    many, wanted = np.array(shape), np.array(spacing, dtype=np.float64)
    with np.errstate(over="ignore"):
        sizes = np.rint((many - 1) * own / wanted) + 1  # too many for integers, perhaps
        voxels = float(np.prod(sizes))
    collapsed = (own * many < _THINNEST * wanted) & (many > 1) | (many >= _SEVERAL) & (sizes == 1)
    grown = voxels / math.prod(shape)
    multiplied = (voxels > _MOST and grown > _MULTIPLE) or (voxels > _MANY and grown > _EXTREME)
    if collapsed.any() or (own * many > _LONGEST).any() or multiplied:
        raise DataError(
            f"{path}: its {_times(shape)} voxels of {_times(own)} mm would become {voxels:.10g} voxel(s) of "
            f"{_times(spacing)} mm ({_times(sizes)}). Correct the voxel size in its header, or set another `spacing`."
        )
    check_memory(path, scan.element_size() * len(scan) * int(voxels), f"{_times(sizes)} voxels on the network's grid")


def _times(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _reoriented(affine: np.ndarray, shape: tuple[int, ...], axcodes: str | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape after flips and permutations of axes, so that they run as `axcodes` say."""
    if axcodes is None:
        return affine, shape
    wanted = nib.orientations.axcodes2ornt(axcodes, labels=_AXIS_LABELS)
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), wanted)
    order = [int(axis) for axis in np.argsort(change[:, 0])]
    return affine @ nib.orientations.inv_ornt_aff(change, shape), tuple(shape[axis] for axis in order)


def _respaced(
    affine: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of MONAI's `Spacing`: first voxels stay where they are, axes become orthogonal."""
    own = np.linalg.norm(affine[:3, :3], axis=0)
    kept = np.abs(own - spacing) <= AFFINE_TOL
    grid = zoom_affine(affine, np.where(kept, own, spacing), diagonal=False)
    sizes, first = compute_shape_offset(shape, affine, grid)
    grid[:3, 3] = first
    if tuple(sizes) == shape and np.allclose(np.linalg.solve(affine, grid), np.eye(4), atol=AFFINE_TOL):
        return affine, shape
    return grid, tuple(int(size) for size in sizes)


def parallel_axes(to_scan: np.ndarray, shape: Sequence[int]) -> list[int] | None:
    """Along which axis of one grid each axis of another runs; None if they are not parallel.

    They count as parallel if, over the whole extent of the other grid, no voxel is off by a hundredth of one.

    Args:
        to_scan: (4, 4), maps voxel indices of the other grid to those of the one.
        shape: voxels of the other grid along its three axes.
    """
    matrix = to_scan[:3, :3]
    axes = [int(axis) for axis in np.abs(matrix).argmax(axis=0)]
    off_axis = matrix.copy()
    off_axis[axes, range(3)] = 0
    if sorted(axes) != [0, 1, 2] or (np.abs(off_axis) @ (np.array(shape) - 1)).max() > 0.01:
        return None
    return axes


def resample(values: torch.Tensor, positions: Sequence[np.ndarray]) -> torch.Tensor:
    """Linear interpolation on a grid with parallel axes; outside, the border's values.

    Args:
        values: (C, X, Y, Z) floating point, or any dtype where all positions are whole; any strides.
        positions: for each of the three axes, where along it the slices of the new grid lie, in voxels.

    Returns:
        (C, X', Y', Z'), contiguous; `values` itself if nothing changes, a flipped copy if axes are only flipped.
    """
    positions = [np.clip(at, 0, size - 1) for at, size in zip(positions, values.shape[1:], strict=True)]
    steps = [_whole_axis(at, size) for at, size in zip(positions, values.shape[1:], strict=True)]
    if None not in steps:
        flipped = [dim for dim, step in enumerate(steps, start=1) if step == -1]
        return values.flip(flipped) if flipped else values
    # from here on axes are in the order of memory, whatever the scan's is: slabs and rows then lie in one piece
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


def _whole_axis(at: np.ndarray, size: int) -> int | None:
    """1 if positions are all voxels of an axis in their order, -1 if in the reverse one, else None."""
    if len(at) != size:
        return None
    if np.abs(at - np.arange(size)).max() < _WHOLE * size:
        return 1
    return -1 if np.abs(at[::-1] - np.arange(size)).max() < _WHOLE * size else None


def interpolate(values: torch.Tensor, at: np.ndarray, dim: int) -> torch.Tensor:
    """Linear interpolation of a tensor along one dimension.

    Args:
        values: any shape; floating point, or any dtype where all positions are whole.
        at: (n,) fractional indices between 0 and the dimension's size - 1.
        dim: the dimension.

    Returns:
        a tensor with n entries along `dim`; `values` itself where `at` are its own voxels in their order.
    """
    if _whole_axis(at, values.shape[dim]) == 1:
        return values
    nearest = np.round(at)
    if np.abs(at - nearest).max() < _WHOLE * values.shape[dim]:
        return _take(values, nearest, dim)
    lower = np.floor(at)
    upper = np.minimum(lower + 1, values.shape[dim] - 1)
    weight = torch.from_numpy(at - lower).to(values)
    weight = weight.reshape([-1 if axis == dim % values.ndim else 1 for axis in range(values.ndim)])
    return _take(values, lower, dim).lerp_(_take(values, upper, dim), weight)


def _take(values: torch.Tensor, index: np.ndarray, dim: int) -> torch.Tensor:
    if values.is_cpu:  # torch copies along the last dimension voxel by voxel, ten times slower
        return torch.from_numpy(values.numpy().take(index.astype(np.int64), axis=dim))
    return values.index_select(dim, torch.from_numpy(index).long().to(values.device))
