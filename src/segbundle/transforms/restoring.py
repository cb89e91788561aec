"""From class scores on the network's grid to labels on the scan's own voxels."""

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
"""Interpolated probabilities, voxels times classes, held at a time."""
_MIXED = 2**18
"""Voxels between different labels interpolated at a time."""
_MOSTLY_MIXED = 0.2
"""Above this part of voxels between different labels, interpolating all of them is cheaper than picking them out."""


def restore_labels(
    scores: torch.Tensor | ScoreSlabs,
    to_grid: np.ndarray,
    shape: Sequence[int],
    probabilities: Callable[[int], np.ndarray] | None = None,
) -> torch.Tensor:
    """The most probable class at every voxel of another grid.

    Softmax, linear interpolation of every class's probability, and the class with the largest. Most of that work is not
    needed for the same result:

    - Between grids with parallel axes, interpolation goes along one axis after another, slab by slab.
    - Of two classes the sign of the difference of their probabilities decides: one volume instead of two.
    - Of more, where one class is the largest at all corners of the cell around a voxel, interpolation cannot make
      another one larger. Only voxels between different labels need the probabilities.

    Args:
        scores: (num_classes, X', Y', Z') floating point, before softmax, on the network's grid; or the same in
            slabs, of which one at a time is held.
        to_grid: (4, 4), maps voxel indices of the wanted grid to those of the network's.
        shape: (X, Y, Z) of the wanted grid.
        probabilities: gives, for a number of classes, a uint16 array (num_classes, X, Y, Z), for instance mapped to a
            file, that is filled with the probabilities times 65535; None if they are not wanted.

    Returns:
        class indices (X, Y, Z), uint8 up to 256 classes, int16 above, on the scores' device. Voxels beyond the
        network's grid get the class at its border.
    """
    axes = parallel_axes(to_grid, shape)
    if axes is None:
        whole = scores.whole() if isinstance(scores, ScoreSlabs) else scores
        return _restore_sheared(whole.float().softmax(dim=0), to_grid, shape, probabilities)
    size = scores.shape[-3:]
    if not isinstance(scores, ScoreSlabs):
        scores = ScoreSlabs(size, 0, iter([(0, scores)]))
    order = (scores.axis, *(axis for axis in range(3) if axis != scores.axis))
    wanted = [axes.index(axis) for axis in order]  # which wanted axis runs along each of the network's
    along = [
        _Along.at(to_grid[axis, 3] + to_grid[axis, k] * np.arange(shape[k]), size[axis])
        for axis, k in zip(order, wanted, strict=True)
    ]
    labels: torch.Tensor | None = None
    for start, slab in scores:
        slab = slab.permute(0, *(1 + axis for axis in order))
        if labels is None:
            stored = torch.empty(tuple(reversed(shape)), dtype=_index_dtype(len(slab)), device=slab.device)
            labels = stored.permute(2, 1, 0)  # the first axis fastest, as NIfTI files have it
            filled = None if probabilities is None else probabilities(len(slab))
            volume = None if filled is None else filled.transpose(0, *(1 + k for k in wanted))
        try:
            _restore_slab(start, slab, along, labels.permute(wanted), volume)
        except torch.OutOfMemoryError:  # of the GPU
            if slab.is_cpu:
                raise
            torch.cuda.empty_cache()
            _restore_slab(start, slab.cpu(), along, labels.permute(wanted), volume)
    assert labels is not None  # a volume has a slab
    return labels


def _restore_slab(
    start: int, slab: torch.Tensor, along: Sequence[_Along], labels: torch.Tensor, probabilities: np.ndarray | None
) -> None:
    """Fill the planes of labels, and of probabilities (num_classes, ...) times 65535, for which a slab is enough.

    All of them have the axis along which slabs follow each other first.
    """
    cells = [one.to(slab.device) for one in along]
    for planes, first, local in _ready_planes(cells[0], start, slab, cells[1:], probabilities is not None):
        part = slab.narrow(1, first, int(local.upper.max()) + 1)
        if probabilities is None:
            labels[planes].copy_(_most_probable(part, (local, *cells[1:])))
            continue
        stored = np.empty((len(slab), len(local), *labels.shape[1:]), dtype=np.uint16)  # mapped files want large parts
        for index, values in enumerate(_interpolated_planes(part.float().softmax(dim=0), (local, *cells[1:]))):
            labels[planes.start + index] = values.max(dim=0).indices
            stored[:, index] = (values * 65535).round_().to(torch.int32).cpu().numpy()
        probabilities[:, planes] = stored


@dataclass(frozen=True)
class _Along:
    """For the voxels along one axis of the wanted grid: the indices on the network's grid between which they lie.

    Attributes:
        lower, upper: int64 (n,), equal where a voxel lies on the network's own.
        weight: float32 (n,), of `upper`.
        aligned: whether every voxel lies on one of the network's, so that there is nothing to interpolate.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor
    aligned: bool

    @classmethod
    def at(cls, positions: np.ndarray, size: int) -> _Along:
        """From positions in voxels of the network's grid; those outside are moved to its border."""
        positions = np.clip(positions, 0, size - 1)
        nearest = np.round(positions)
        positions = np.where(np.abs(positions - nearest) < 1e-4, nearest, positions)
        lower = np.floor(positions)
        upper = np.ceil(positions)
        weight = torch.from_numpy(positions - lower).float()
        return cls(torch.from_numpy(lower).long(), torch.from_numpy(upper).long(), weight, bool((lower == upper).all()))

    def part(self, chosen: slice, first: int) -> _Along:
        """Some of the voxels, with indices that count from `first`."""
        return _Along(self.lower[chosen] - first, self.upper[chosen] - first, self.weight[chosen], self.aligned)

    def to(self, device: torch.device) -> _Along:
        """The same on another device."""
        return _Along(self.lower.to(device), self.upper.to(device), self.weight.to(device), self.aligned)

    def aligned_with(self, size: int) -> bool:
        """Whether the voxels are the network's own, all of them and in order."""
        return self.aligned and len(self) == size and bool((self.lower.diff() == 1).all())

    def triples(self) -> list[tuple[int, int, float]]:
        """`lower`, `upper` and `weight` of each voxel as numbers."""
        return list(zip(self.lower.tolist(), self.upper.tolist(), self.weight.tolist(), strict=True))

    def matrix(self, size: int) -> torch.Tensor:
        """The weights as a matrix (size, n), each column with one or two that are not zero."""
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
    """Planes of the wanted grid that a slab is enough for, a few at a time.

    Slabs begin with the last slice of the one before, so a plane belongs to the slab that holds its upper neighbour
    first.

    Yields:
        the planes, the slab's slice at which what they need begins, and where they lie, counted from there.
    """
    begin = start if start == 0 else start + 1  # upper neighbours before this were in the slab before
    ready = (along.upper >= begin) & (along.upper < start + slab.shape[1])
    planes = ready.nonzero().squeeze(1).tolist()
    if not planes:
        return
    area = len(across[0]) * len(across[1])
    values = area * (len(slab) if dense else 1)
    most = max(min(_VOXELS // area, _VALUES // values), 1)
    for index in range(planes[0], planes[-1] + 1, most):
        chosen = slice(index, min(index + most, planes[-1] + 1))
        first = int(along.lower[chosen].min())
        yield chosen, first - start, along.part(chosen, first)


def _most_probable(scores: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
    """Class indices (n0, n1, n2) from scores (num_classes, d, Y, Z) and where the wanted voxels lie between them."""
    aligned = all(along.aligned for along in cells)
    if len(scores) == 2 and not aligned:
        difference = torch.tanh((scores[1] - scores[0]).float() / 2)  # of the two probabilities
        return torch.stack([plane[0] > 0 for plane in _interpolated_planes(difference[None], cells)])
    largest = scores.max(dim=0).indices.to(_index_dtype(len(scores)))  # several times faster than argmax on CPU
    if aligned:
        return _at_lower_corner(largest, cells)
    mixed = _differ(largest, cells)
    between = _at_lower_corner(mixed, cells).flatten().nonzero().squeeze(1)
    if len(between) > _MOSTLY_MIXED * math.prod(map(len, cells)):
        return _most_probable_everywhere(scores, cells)
    labels = _at_lower_corner(largest, cells)
    flat = labels.view(-1)
    corners = _Corners.of(scores, mixed, cells)
    for some in between.split(_MIXED):
        flat[some] = corners.most_probable(some, cells).to(labels.dtype)
    return labels


def _most_probable_everywhere(scores: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
    """As `_most_probable`, by interpolating every class at every voxel, a few planes at a time."""
    most = max(_VALUES // (len(scores) * len(cells[1]) * len(cells[2])), 1)
    labels = []
    for index in range(0, len(cells[0]), most):
        chosen = slice(index, index + most)
        first = int(cells[0].lower[chosen].min())
        local = cells[0].part(chosen, first)
        part = scores.narrow(1, first, int(local.upper.max()) + 1).float().softmax(dim=0)
        planes = _interpolated_planes(part, (local, *cells[1:]))
        labels += [plane.max(dim=0).indices.to(_index_dtype(len(scores))) for plane in planes]
    return torch.stack(labels)


@dataclass(frozen=True)
class _Corners:
    """Probabilities at the corners of the cells whose corners have different labels.

    Attributes:
        probabilities: (n, num_classes).
        row: int64 (d, Y, Z), the row of each corner's probabilities.
    """

    probabilities: torch.Tensor
    row: torch.Tensor

    @classmethod
    def of(cls, scores: torch.Tensor, mixed: torch.Tensor, cells: Sequence[_Along]) -> _Corners:
        """From scores (num_classes, d, Y, Z) and the cells that are mixed (d, Y, Z), named by their lower corner."""
        needed = mixed.clone()
        for dim, along in enumerate(cells):
            if not along.aligned and needed.shape[dim] > 1:
                behind = needed.narrow(dim, 0, needed.shape[dim] - 1).clone()
                needed.narrow(dim, 1, needed.shape[dim] - 1).logical_or_(behind)
        chosen = needed.flatten().nonzero().squeeze(1)
        probabilities = scores.reshape(len(scores), -1).index_select(1, chosen).float().softmax(dim=0)
        row = torch.zeros(needed.numel(), dtype=torch.long, device=needed.device)
        row[chosen] = torch.arange(len(chosen), device=needed.device)
        return cls(probabilities.t().contiguous(), row.reshape(needed.shape))

    def most_probable(self, voxels: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
        """Class indices at some voxels (n,) of the wanted grid, given by their flat index."""
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
        return values.max(dim=1).indices


def _differ(largest: torch.Tensor, cells: Sequence[_Along]) -> torch.Tensor:
    """Which cells (d, Y, Z), named by their lower corner, have corners with different labels."""
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
    """Values (d, Y, Z) of the cells in which the wanted voxels (n0, n1, n2) lie, as a new tensor.

    The last axis goes first: single values are picked while there are few, whole rows and planes afterwards.
    """
    for dim in (2, 1, 0):
        values = values.index_select(dim, cells[dim].lower)
    return values


def _interpolated_planes(values: torch.Tensor, cells: Sequence[_Along]) -> Iterator[torch.Tensor]:
    """Linear interpolation of values (K, d, Y, Z) along one axis after another.

    A product with a matrix of weights for the last axis, whole rows and planes for the others: picking single values
    is what takes time. Every plane is used again for the next, so that it stays in the cache.

    Yields:
        planes (K, n1, n2), one for each of the n0.
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
) -> torch.Tensor:
    """Labels (X, Y, Z) by trilinear interpolation of probabilities (num_classes, X', Y', Z') at arbitrary positions."""
    labels = torch.empty(tuple(shape), dtype=_index_dtype(len(given)), device=given.device)
    filled = None if probabilities is None else probabilities(len(given))
    size = torch.tensor(given.shape[1:], device=given.device)
    most = max(_VALUES // (len(given) * shape[1] * shape[2]), 1)
    for start in range(0, shape[0], most):
        planes = slice(start, min(start + most, shape[0]))
        index = np.stack(
            np.meshgrid(np.arange(planes.start, planes.stop), *map(np.arange, shape[1:]), indexing="ij"), -1
        )
        at = torch.from_numpy(index @ to_grid[:3, :3].T + to_grid[:3, 3]).float().to(given.device)
        normalised = 2 * at / (size - 1).clamp(min=1) - 1  # grid_sample counts from -1 to 1, and in the order z, y, x
        values = torch.nn.functional.grid_sample(
            given[None], normalised.flip(-1)[None], padding_mode="border", align_corners=True
        )[0]
        labels[planes] = values.max(dim=0).indices.to(labels.dtype)
        if filled is not None:
            filled[:, planes] = (values * 65535).round_().to(torch.int32).cpu().numpy()
    return labels
