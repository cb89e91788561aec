"""Restore predictions: convert logits on the network's grid to labels on the scan's grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segbundle.inference.slabs import ScoreSlabs
from segbundle.transforms.resampling import parallel_axes

_VOXELS = 2**22
"""Voxels of the scan restored at a time."""
_VALUES = 2**26
"""Interpolated probabilities (voxels x classes) in memory at a time."""
_MIXED = 2**18
"""Voxels near class boundaries interpolated at a time."""
_MOSTLY_MIXED = 0.2
"""Fraction of voxels near class boundaries above which interpolating all voxels is faster than selecting them."""


def restore_labels(
    scores: torch.Tensor | ScoreSlabs,
    to_grid: np.ndarray,
    shape: Sequence[int],
    probabilities: Callable[[int], np.ndarray] | None = None,
    paint_order: Sequence[int] | None = None,
) -> torch.Tensor:
    """Return the most probable class at every voxel of a target grid, from logits on the network's grid.

    The result is that of softmax, linear interpolation of every class probability, and argmax. The computation is
    faster than these steps:

    - Between grids with parallel axes, axes are interpolated one after another, slab by slab.
    - With two classes, the sign of the difference of their probabilities decides. One volume is interpolated instead of
      two.
    - With more classes, a class that is the most probable at all corners of a cell is the most probable inside the
      cell. Only voxels near class boundaries need interpolated probabilities.

    Args:
        scores: logits before softmax, (num_classes, X', Y', Z') floating point, on the network's grid; or `ScoreSlabs`,
            of which one slab at a time is in memory.
        to_grid: (4, 4) matrix from voxel indices of the target grid to voxel indices of the network's grid.
        shape: (X, Y, Z) of the target grid.
        probabilities: function that takes the number of classes and returns a uint16 array (num_classes, X, Y, Z), for
            instance memory-mapped, to fill with probabilities times 65535. Default: None (no probabilities).
        paint_order: indices of the foreground classes, if classes overlap. Probabilities are then those of sigmoid, and
            each class is painted over the classes before it where its probability is above 0.5, as in nnU-Net. Default:
            None (softmax and the most probable class).

    Returns:
        class indices (X, Y, Z) on the device of the logits: uint8 for up to 256 classes, otherwise int16. Voxels beyond
        the network's grid get the class at the nearest edge of the grid.

    Example:
        >>> logits = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 2.0]]]])  # (2, 1, 1, 2)
        >>> restore_labels(logits, np.diag([1, 1, 0.5, 1]), shape=(1, 1, 3)).flatten().tolist()
        [0, 1, 1]
    """
    axes = parallel_axes(to_grid, shape)
    if axes is None:
        whole = scores.whole() if isinstance(scores, ScoreSlabs) else scores
        return _restore_sheared(_probabilities(whole, paint_order), to_grid, shape, probabilities, paint_order)
    size = scores.shape[-3:]
    if not isinstance(scores, ScoreSlabs):
        scores = ScoreSlabs(size, 0, iter([(0, scores)]))
    order = (scores.axis, *(axis for axis in range(3) if axis != scores.axis))
    targets = [axes.index(axis) for axis in order]  # target axis that is parallel to each axis of the network's grid
    along = [
        _Along.at(to_grid[axis, 3] + to_grid[axis, k] * np.arange(shape[k]), size[axis])
        for axis, k in zip(order, targets, strict=True)
    ]
    labels: torch.Tensor | None = None
    for start, slab in scores:
        slab = slab.permute(0, *(1 + axis for axis in order))
        if labels is None:
            stored = torch.empty(tuple(reversed(shape)), dtype=_index_dtype(len(slab)), device=slab.device)
            labels = stored.permute(2, 1, 0)  # the first axis changes fastest, as in NIfTI files
            filled = None if probabilities is None else probabilities(len(slab))
            volume = None if filled is None else filled.transpose(0, *(1 + k for k in targets))
        try:
            _restore_slab(start, slab, along, labels.permute(targets), volume, paint_order)
        except torch.OutOfMemoryError:  # of the GPU
            if slab.is_cpu:
                raise
            torch.cuda.empty_cache()
            _restore_slab(start, slab.cpu(), along, labels.permute(targets), volume, paint_order)
    assert labels is not None  # a volume has at least one slab
    return labels


def _restore_slab(
    start: int,
    slab: torch.Tensor,
    along: Sequence[_Along],
    labels: torch.Tensor,
    probabilities: np.ndarray | None,
    paint_order: Sequence[int] | None,
) -> None:
    """Fill the planes of labels, and of probabilities (num_classes, ...) times 65535, that depend only on this slab.

    The slab axis comes first in all arrays.
    """
    cells = [one.to(slab.device) for one in along]
    for planes, first, local in _ready_planes(cells[0], start, slab, cells[1:], probabilities is not None):
        part = slab.narrow(1, first, int(local.upper.max()) + 1)
        if probabilities is None:
            labels[planes].copy_(_most_probable(part, (local, *cells[1:]), paint_order))
            continue
        # write large blocks: small writes to a memory-mapped file are slow
        stored = np.empty((len(slab), len(local), *labels.shape[1:]), dtype=np.uint16)
        for index, values in enumerate(_interpolated_planes(_probabilities(part, paint_order), (local, *cells[1:]))):
            labels[planes.start + index] = _class_of(values, paint_order)
            stored[:, index] = (values * 65535).round_().to(torch.int32).cpu().numpy()
        probabilities[:, planes] = stored


def _probabilities(logits: torch.Tensor, paint_order: Sequence[int] | None) -> torch.Tensor:
    """Return the probabilities (num_classes, ...) of classes that exclude each other, or may overlap."""
    return logits.float().softmax(dim=0) if paint_order is None else logits.float().sigmoid()


def _class_of(values: torch.Tensor, paint_order: Sequence[int] | None, threshold: float = 0.5) -> torch.Tensor:
    """Return class indices from probabilities or logits (num_classes, ...).

    The threshold is that of classes that overlap.
    """
    if paint_order is None:
        return values.max(dim=0).indices.to(_index_dtype(len(values)))  # several times faster than argmax on CPU
    labels = torch.zeros(values.shape[1:], dtype=_index_dtype(len(values)), device=values.device)
    for index in paint_order:
        labels.masked_fill_(values[index] > threshold, index)
    return labels


@dataclass(frozen=True)
class _Along:
    """Neighbors on the network's grid of all voxels along one axis of the target grid.

    Attributes:
        lower, upper: int64 (n,), neighboring indices; equal for voxels of the network's grid.
        weight: float32 (n,), weight of `upper`.
        aligned: whether all voxels are voxels of the network's grid, so that no interpolation is needed.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor
    aligned: bool

    @classmethod
    def at(cls, positions: np.ndarray, size: int) -> _Along:
        """Return the neighbors of positions on the network's grid; positions outside are moved to its border."""
        positions = np.clip(positions, 0, size - 1)
        nearest = np.round(positions)
        positions = np.where(np.abs(positions - nearest) < 1e-4, nearest, positions)
        lower = np.floor(positions)
        upper = np.ceil(positions)
        weight = torch.from_numpy(positions - lower).float()
        return cls(torch.from_numpy(lower).long(), torch.from_numpy(upper).long(), weight, bool((lower == upper).all()))

    def part(self, chosen: slice, first: int) -> _Along:
        """Return a subset of the voxels, with indices relative to `first`."""
        return _Along(self.lower[chosen] - first, self.upper[chosen] - first, self.weight[chosen], self.aligned)

    def to(self, device: torch.device) -> _Along:
        """Return a copy on another device."""
        return _Along(self.lower.to(device), self.upper.to(device), self.weight.to(device), self.aligned)

    def aligned_with(self, size: int) -> bool:
        """Return whether both grids have the same voxels along this axis, in the same order.

        Args:
            size: number of voxels of the network's grid along this axis.
        """
        return self.aligned and len(self) == size and bool((self.lower.diff() == 1).all())

    def triples(self) -> list[tuple[int, int, float]]:
        """Return `lower`, `upper` and `weight` of each voxel as numbers."""
        return list(zip(self.lower.tolist(), self.upper.tolist(), self.weight.tolist(), strict=True))

    def matrix(self, size: int) -> torch.Tensor:
        """Return the weights as a matrix (size, n) with one or two nonzero entries per column."""
        weights = torch.zeros((size, len(self)), device=self.weight.device)
        voxels = torch.arange(len(self), device=self.weight.device)
        weights[self.lower, voxels] = 1 - self.weight
        weights[self.upper, voxels] += self.weight
        return weights

    def __len__(self) -> int:
        return len(self.lower)


def _ready_planes(
    along: _Along, start: int, slab: torch.Tensor, across: Sequence[_Along], dense: bool
) -> Iterator[tuple[slice, int, _Along]]:
    """Yield the planes of the target grid that depend only on this slab, a few at a time.

    Slabs begin with the last slice of the previous slab. A plane belongs to the slab that contains its upper neighbor
    first.

    Yields:
        the planes, the first slice of the slab that they need, and their neighbors relative to that slice
    """
    begin = start if start == 0 else start + 1  # earlier upper neighbors belong to the previous slab
    ready = (along.upper >= begin) & (along.upper < start + slab.shape[1])
    planes = ready.nonzero().squeeze(1).tolist()
    if not planes:
        return
    area = len(across[0]) * len(across[1])
    values = area * (len(slab) if dense else 1)
    limit = max(min(_VOXELS // area, _VALUES // values), 1)
    for index in range(planes[0], planes[-1] + 1, limit):
        chosen = slice(index, min(index + limit, planes[-1] + 1))
        first = int(along.lower[chosen].min())
        yield chosen, first - start, along.part(chosen, first)


def _most_probable(logits: torch.Tensor, cells: Sequence[_Along], paint_order: Sequence[int] | None) -> torch.Tensor:
    """Return class indices (n0, n1, n2) from logits (num_classes, d, Y, Z) and the neighbors of the target voxels."""
    aligned = all(along.aligned for along in cells)
    if len(logits) == 2 and not aligned and paint_order is None:
        difference = torch.tanh((logits[1] - logits[0]).float() / 2)  # of both probabilities
        return torch.stack([plane[0] > 0 for plane in _interpolated_planes(difference[None], cells)])
    largest = _class_of(logits, paint_order, threshold=0.0)
    if aligned:
        return _at_lower_corner(largest, cells)
    mixed = _differ(largest, cells)
    ambiguous = _at_lower_corner(mixed, cells).flatten().nonzero().squeeze(1)
    if len(ambiguous) > _MOSTLY_MIXED * math.prod(map(len, cells)):
        return _most_probable_everywhere(logits, cells, paint_order)
    labels = _at_lower_corner(largest, cells)
    flat = labels.view(-1)
    corners = _Corners.of(logits, mixed, cells, paint_order)
    for some in ambiguous.split(_MIXED):
        flat[some] = corners.most_probable(some, cells)
    return labels


def _most_probable_everywhere(
    logits: torch.Tensor, cells: Sequence[_Along], paint_order: Sequence[int] | None
) -> torch.Tensor:
    """Return class indices by interpolating every class at every voxel; see `_most_probable`."""
    limit = max(_VALUES // (len(logits) * len(cells[1]) * len(cells[2])), 1)
    labels = []
    for index in range(0, len(cells[0]), limit):
        chosen = slice(index, index + limit)
        first = int(cells[0].lower[chosen].min())
        local = cells[0].part(chosen, first)
        part = _probabilities(logits.narrow(1, first, int(local.upper.max()) + 1), paint_order)
        planes = _interpolated_planes(part, (local, *cells[1:]))
        labels += [_class_of(plane, paint_order) for plane in planes]
    return torch.stack(labels)


@dataclass(frozen=True)
class _Corners:
    """Probabilities at the corners of mixed cells, that is of cells whose corners have different labels.

    Attributes:
        probabilities: (n, num_classes).
        row: int64 (d, Y, Z), row of `probabilities` for each corner.
        paint_order: see `restore_labels`.
    """

    probabilities: torch.Tensor
    row: torch.Tensor
    paint_order: Sequence[int] | None

    @classmethod
    def of(
        cls, logits: torch.Tensor, mixed: torch.Tensor, cells: Sequence[_Along], paint_order: Sequence[int] | None
    ) -> _Corners:
        """Return the corners from logits (num_classes, d, Y, Z) and a mask (d, Y, Z) of mixed cells by lower corner."""
        needed = mixed.clone()
        for dim, along in enumerate(cells):
            if not along.aligned and needed.shape[dim] > 1:
                previous = needed.narrow(dim, 0, needed.shape[dim] - 1).clone()
                needed.narrow(dim, 1, needed.shape[dim] - 1).logical_or_(previous)
        chosen = needed.flatten().nonzero().squeeze(1)
        probabilities = _probabilities(logits.reshape(len(logits), -1).index_select(1, chosen), paint_order)
        row = torch.zeros(needed.numel(), dtype=torch.long, device=needed.device)
        row[chosen] = torch.arange(len(chosen), device=needed.device)
        return cls(probabilities.t().contiguous(), row.reshape(needed.shape), paint_order)

    def most_probable(self, voxels: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
        """Return the class indices at voxels (n,) of the target grid, given by flat index."""
        places = torch.unravel_index(voxels, tuple(len(along) for along in cells))
        rows = torch.zeros((len(voxels), 1), dtype=torch.long, device=voxels.device)
        weights = torch.ones((len(voxels), 1), device=voxels.device)
        for place, along, stride in zip(places, cells, self.row.stride(), strict=True):
            lower, weight = along.lower[place] * stride, along.weight[place, None]
            if along.aligned:
                rows = rows + lower[:, None]
                continue
            upper = along.upper[place] * stride
            rows = torch.cat([rows + lower[:, None], rows + upper[:, None]], dim=1)
            weights = torch.cat([weights * (1 - weight), weights * weight], dim=1)
        rows = self.row.view(-1)[rows]
        values = torch.nn.functional.embedding_bag(rows, self.probabilities, per_sample_weights=weights, mode="sum")
        return _class_of(values.t(), self.paint_order)


def _differ(largest: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
    """Return the mask (d, Y, Z) of mixed cells, indexed by lower corner."""
    low = high = largest
    for dim, along in enumerate(cells):
        if along.aligned or largest.shape[dim] == 1:
            continue
        size = largest.shape[dim]
        low, high = (
            torch.cat([pick(x.narrow(dim, 0, size - 1), x.narrow(dim, 1, size - 1)), x.narrow(dim, size - 1, 1)], dim)
            for pick, x in ((torch.minimum, low), (torch.maximum, high))
        )
    return low != high


def _at_lower_corner(values: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
    """Return the values (d, Y, Z) of the cells that contain the target voxels, as a new tensor (n0, n1, n2).

    The last axis is indexed first: single values while there are few of them, then whole rows and planes.
    """
    for dim in (2, 1, 0):
        values = values.index_select(dim, cells[dim].lower)
    return values


def _interpolated_planes(values: torch.Tensor, cells: Sequence[_Along]) -> Iterator[torch.Tensor]:
    """Interpolate values (K, d, Y, Z) linearly along one axis after another.

    The last axis uses a product with a matrix of weights, and the others use whole rows and planes, because gathering
    single values is slow. The same plane is reused, so that it stays in the cache.

    Yields:
        planes (K, n1, n2), one for each of the n0. The next plane may overwrite it.
    """
    planes, rows, columns = cells
    values = values if columns.aligned_with(values.shape[3]) else values @ columns.matrix(values.shape[3])
    if not rows.aligned_with(values.shape[2]):
        wider = values.new_empty((*values.shape[:2], len(rows), values.shape[3]))
        for index, (lower, upper, weight) in enumerate(rows.triples()):
            torch.lerp(values[:, :, lower], values[:, :, upper], weight, out=wider[:, :, index])
        values = wider
    plane = torch.empty_like(values[:, 0])
    for lower, upper, weight in planes.triples():
        if lower == upper:
            yield values[:, lower]
        else:
            yield torch.lerp(values[:, lower], values[:, upper], weight, out=plane)


def _index_dtype(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 256 else torch.int16


def _restore_sheared(
    given: torch.Tensor,
    to_grid: np.ndarray,
    shape: Sequence[int],
    probabilities: Callable[[int], np.ndarray] | None,
    paint_order: Sequence[int] | None,
) -> torch.Tensor:
    """Return labels (X, Y, Z) from probabilities (num_classes, X', Y', Z') by trilinear interpolation."""
    labels = torch.empty(tuple(shape), dtype=_index_dtype(len(given)), device=given.device)
    filled = None if probabilities is None else probabilities(len(given))
    size = torch.tensor(given.shape[1:], device=given.device)
    limit = max(_VALUES // (len(given) * shape[1] * shape[2]), 1)
    for start in range(0, shape[0], limit):
        planes = slice(start, min(start + limit, shape[0]))
        index = np.stack(
            np.meshgrid(np.arange(planes.start, planes.stop), *map(np.arange, shape[1:]), indexing="ij"), -1
        )
        at = torch.from_numpy(index @ to_grid[:3, :3].T + to_grid[:3, 3]).float().to(given.device)
        normalized = 2 * at / (size - 1).clamp(min=1) - 1  # grid_sample expects [-1, 1] and the order z, y, x
        values = torch.nn.functional.grid_sample(
            given[None], normalized.flip(-1)[None], padding_mode="border", align_corners=True
        )[0]
        labels[planes] = _class_of(values, paint_order)
        if filled is not None:
            filled[:, planes] = (values * 65535).round_().to(torch.int32).cpu().numpy()
    return labels
