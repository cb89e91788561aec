"""Load batches of random patches that are reproducible from seed, epoch and position in the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from segbundle.sampling.augmentation import Augmentation
from segbundle.sampling.cropping import cut, draw_start
from segbundle.sampling.degradation import degrade


class PatchLoader:
    """Data loader of random patches, cropped and augmented on the training device.

    Every epoch has `patches_per_case` patches of each case, in random order. If the last batch is not full, it is
    completed with more patches of the first cases. A patch depends only on `seed`, the epoch, and its position in the
    epoch. A patch does not depend on the batch size, the number of ranks, or earlier batches, so `batch(epoch, step)`
    returns any batch again.

    With `steps_per_epoch`, every epoch has this number of batches, however many cases there are. The cases are then
    taken from one sequence of passes over the dataset, each pass in another random order, and an epoch continues where
    the epoch before ended. All cases are therefore used equally often. The sequence depends only on the seed, so that
    a resumed run continues it.

    Iteration yields dicts with `image` float32 (B, C, *patch_size) and `label` uint8 (B, 1, *patch_size) on `device`,
    `annotated` bool (B, num_classes) on the CPU, and `case`, a list of names.

    Args:
        dataset: prepared cases: dicts with `image` (C, X, Y, Z) floating point, `label` (1, X, Y, Z) uint8, `indices`
            (for every class, voxel indices into the flattened label map), `annotated` bool (num_classes,), `spacing`
            (3,) in mm, and `case`, a name.
        patch_size: (X, Y, Z) in voxels, at most the size of the smallest case.
        batch_size: number of patches per batch and rank. Default: 2.
        augmentation: random augmentation. Default: None (no augmentation).
        seed: seed of order, positions and augmentation, the same on all ranks; None for the initial seed of PyTorch's
            generator (`torch.initial_seed`). Default: 0.
        device: device on which batches are created. Default: `cpu`.
        rank: rank of this process. Default: 0.
        world_size: number of processes. All ranks together load the same batches as one process with `world_size` times
            the batch size. Default: 1.
        read_ahead: whether a thread prefetches the next batch. None (default) prefetches on a GPU only, because on a
            CPU the thread would compete with the network for cores.
        patches_per_case: number of patches of each case per epoch. Default: 1.
        steps_per_epoch: number of batches per epoch and rank; replaces `patches_per_case`. Default: None (an epoch has
            `patches_per_case` patches of each case).

    Raises:
        ValueError: `batch_size`, `patches_per_case` or `steps_per_epoch` is less than 1.

    Example:
        >>> case = {
        ...     "image": torch.zeros(1, 4, 4, 4), "label": torch.zeros(1, 4, 4, 4, dtype=torch.uint8), "case": "a",
        ...     "indices": [torch.arange(64)], "annotated": torch.tensor([True]), "spacing": (1.0, 1.0, 1.0),
        ... }
        >>> for batch in PatchLoader([case], patch_size=(2, 2, 2), batch_size=2):
        ...     print(batch["image"].shape, batch["case"])
        torch.Size([2, 1, 2, 2, 2]) ['a', 'a']
    """

    def __init__(
        self,
        dataset: Any,
        patch_size: Sequence[int],
        batch_size: int = 2,
        augmentation: Augmentation | None = None,
        seed: int | None = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        read_ahead: bool | None = None,
        patches_per_case: int = 1,
        steps_per_epoch: int | None = None,
    ) -> None:
        if min(batch_size, patches_per_case) < 1:
            raise ValueError(f"batch_size ({batch_size}) and patches_per_case ({patches_per_case}) must be at least 1.")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch ({steps_per_epoch}) must be at least 1.")
        self.dataset = dataset
        self.patch_size = tuple(patch_size)
        self.batch_size = batch_size
        self.patches_per_case = patches_per_case
        self.steps_per_epoch = steps_per_epoch
        self.augmentation = augmentation
        self.seed = torch.initial_seed() % 2**63 if seed is None else seed  # must be the same on all ranks
        self.device = torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.read_ahead = self.device.type != "cpu" if read_ahead is None else read_ahead
        self.epoch = 0
        self._stream = torch.cuda.Stream(self.device) if self.read_ahead and self.device.type == "cuda" else None

    def __len__(self) -> int:
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return -(-len(self.dataset) * self.patches_per_case // (self.batch_size * self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Without a call, epochs are numbered consecutively.

        Args:
            epoch: number of the epoch, from 1.
        """
        self.epoch = epoch - 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.epoch += 1
        epoch = self.epoch
        if not self.read_ahead:
            yield from (self.batch(epoch, step) for step in range(len(self)))
            return
        with ThreadPoolExecutor(1) as thread:
            pending = thread.submit(self._load_ahead, epoch, 0)
            for step in range(1, len(self) + 1):
                ready, event = pending.result()
                if step < len(self):
                    pending = thread.submit(self._load_ahead, epoch, step)
                if event is not None:
                    self._synchronize(ready, event)
                yield ready

    def _load_ahead(self, epoch: int, step: int) -> tuple[dict[str, Any], torch.cuda.Event | None]:
        """Return a batch and the event that marks its completion; on a GPU, load it in a separate stream."""
        if self._stream is None:
            return self.batch(epoch, step), None
        with torch.cuda.stream(self._stream):
            return self.batch(epoch, step), self._stream.record_event()

    def _synchronize(self, batch: dict[str, Any], event: torch.cuda.Event) -> None:
        """Make the network's stream wait for a batch, and keep the memory of the batch until then."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(event)
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(stream)

    def batch(self, epoch: int, step: int) -> dict[str, Any]:
        """Return the batch that iteration yields at a step of an epoch; the same arguments give the same batch.

        Args:
            epoch: number of the epoch, from 1.
            step: index of the batch in the epoch, from 0.

        Returns:
            dict with `image`, `label`, `annotated` and `case`, with the shapes and dtypes that the class describes
        """
        first = (step * self.world_size + self.rank) * self.batch_size
        positions = range(first, first + self.batch_size)
        with torch.no_grad():
            patches = [
                self._patch(self.dataset[index], epoch, position)
                for index, position in zip(self._indices(epoch, positions), positions, strict=True)
            ]
            batch: dict[str, Any] = {
                key: torch.stack([patch[key] for patch in patches]) for key in ("image", "label", "annotated")
            }
        return {**batch, "case": [patch["case"] for patch in patches]}

    def _indices(self, epoch: int, positions: Sequence[int]) -> list[int]:
        """Return the index of the case at each position of an epoch."""
        count = len(self.dataset)
        if self.steps_per_epoch is None:
            order = self._order(epoch)
            return [int(order[position % count]) for position in positions]
        begun = (epoch - 1) * self.steps_per_epoch * self.world_size * self.batch_size
        orders = {number: self._order(number) for number in {1 + (begun + at) // count for at in positions}}
        return [int(orders[1 + (begun + at) // count][(begun + at) % count]) for at in positions]

    def _order(self, number: int) -> np.ndarray:
        """Return the random order of the cases in a pass over the dataset, from 1."""
        return np.random.default_rng([self.seed, number]).permutation(len(self.dataset))

    def _patch(self, case: Mapping[str, Any], epoch: int, position: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, epoch, position])
        start = draw_start(rng, case["indices"], case["image"].shape[1:], self.patch_size)
        change = (self.augmentation or _NO_AUGMENTATION).draw(rng, len(case["image"]))
        image, label = cut(case, start, self.patch_size, change, self.device)
        return {
            "image": degrade(image, change),
            "label": label,
            "annotated": case["annotated"],
            "case": case["case"],
        }


_NO_AUGMENTATION = Augmentation(flip_axes=(), rotation=0, scaling=0, intensity=False)
