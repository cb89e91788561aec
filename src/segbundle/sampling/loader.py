"""Batches of random patches, each a function of the seed, the epoch and its place in it."""

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
    """Batches of patches from prepared cases, cut and augmented on the training's device.

    In an epoch every case gives one patch, in random order; the last batch is filled up with further patches of the
    first cases. What a patch shows depends on nothing but `seed`, the epoch, and the patch's place in it: not on the
    batch size, the device's number of ranks, or what came before. `batch(epoch, step)` gives any of them again.

    Args:
        dataset: prepared cases: dicts with `image` (C, X, Y, Z) in floating point, `label` (1, X, Y, Z) uint8,
            `indices` (per class, where it lies in the flattened label map), `annotated` bool (num_classes,),
            `spacing` (3,) in mm and `case`, a name.
        patch_size: (X, Y, Z), not larger than any case.
        batch_size: patches per batch (and rank).
        augmentation: how patches change; None for not at all.
        seed: decides order, patches and augmentation; None for others in every run.
        device: where batches are made.
        rank, world_size: which of several processes this is; together they give what one of `world_size` times the
            batch size would.
        read_ahead: whether a thread makes the next batch while one is used; None for doing so beside a GPU, as on a CPU
            it would take the cores that the network keeps busy.

    Iterating gives dicts: `image` float32 (B, C, *patch_size) and `label` uint8 (B, 1, *patch_size), on `device`;
    `annotated` bool (B, num_classes), which losses look at, on the CPU; and `case`, a list of names.
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
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.dataset = dataset
        self.patch_size = tuple(patch_size)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = torch.initial_seed() % 2**63 if seed is None else seed  # of several processes: must be the same
        self.device = torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.read_ahead = self.device.type != "cpu" if read_ahead is None else read_ahead
        self.epoch = 0
        self._stream = torch.cuda.Stream(self.device) if self.read_ahead and self.device.type == "cuda" else None

    def __len__(self) -> int:
        return -(-len(self.dataset) // (self.batch_size * self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is of, from 1 on; by itself it is always the next one."""
        self.epoch = epoch - 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.epoch += 1
        epoch = self.epoch
        if not self.read_ahead:
            yield from (self.batch(epoch, step) for step in range(len(self)))
            return
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._made_aside, epoch, 0)
            for step in range(1, len(self) + 1):
                ready, made = coming.result()
                if step < len(self):
                    coming = thread.submit(self._made_aside, epoch, step)
                if made is not None:
                    self._take_over(ready, made)
                yield ready

    def _made_aside(self, epoch: int, step: int) -> tuple[dict[str, Any], torch.cuda.Event | None]:
        """A batch, on a GPU made in a stream of its own, so that nothing waits for the network's; and when it is."""
        if self._stream is None:
            return self.batch(epoch, step), None
        with torch.cuda.stream(self._stream):
            return self.batch(epoch, step), self._stream.record_event()

    def _take_over(self, batch: dict[str, Any], made: torch.cuda.Event) -> None:
        """Let the network's stream wait for a batch, and keep its memory until that is done with it."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(made)
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(stream)

    def batch(self, epoch: int, step: int) -> dict[str, Any]:
        """The batch of a step (from 0 on) of an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))
        first = (step * self.world_size + self.rank) * self.batch_size
        with torch.no_grad():
            patches = [
                self._patch(self.dataset[int(order[place % len(order)])], epoch, place)
                for place in range(first, first + self.batch_size)
            ]
            batch: dict[str, Any] = {
                key: torch.stack([patch[key] for patch in patches]) for key in ("image", "label", "annotated")
            }
        return {**batch, "case": [patch["case"] for patch in patches]}

    def _patch(self, case: Mapping[str, Any], epoch: int, place: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, epoch, place])
        start = draw_start(rng, case["indices"], case["image"].shape[1:], self.patch_size)
        change = (self.augmentation or _NONE).draw(rng, len(case["image"]))
        image, label = cut(case, start, self.patch_size, change, self.device)
        return {
            "image": degrade(image, change),
            "label": label,
            "annotated": case["annotated"],
            "case": case["case"],
        }


_NONE = Augmentation(flip_axes=(), rotation=0, scaling=0, intensity=False)
