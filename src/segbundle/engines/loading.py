"""Loaders of a training's patches, from what stands in the YAML."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import monai.data
import torch
from torch.utils.data import DistributedSampler

from segbundle.engines.ranks import of_the_first, rank, world_size
from segbundle.errors import ConfigError, suggestion
from segbundle.patches import Augmentation, PatchLoader


def patch_loader(
    dataset: Any,
    patch_size: Sequence[int],
    batch_size: int,
    augmentation: Mapping[str, Any] | None = None,
    seed: int | None = 0,
    device: torch.device | str = "cpu",
) -> PatchLoader:
    """Batches of random patches on the training's device (`segbundle.patches.PatchLoader`), of this process's share.

    Args:
        dataset: prepared cases (`PreparedCases`).
        patch_size, batch_size, device: as in `PatchLoader`.
        seed: as in `PatchLoader`; without one, the processes agree on one.
        augmentation: arguments of `segbundle.patches.Augmentation`; None for its defaults.

    Raises:
        ConfigError: an unknown or impossible setting.
    """
    options = dict(augmentation or {})
    for name in options:
        if name not in (known := inspect.signature(Augmentation).parameters):
            raise ConfigError(f"augmentation: unknown setting {name!r}{suggestion(name, known)}")
    try:
        changes = Augmentation(**options)
    except ValueError as error:
        raise ConfigError(f"augmentation: {error}") from error
    return PatchLoader(dataset, patch_size, batch_size, changes, _agreed(seed), device, rank(), world_size())


def monai_loader(dataset: Any, batch_size: int, num_workers: int = 0, seed: int | None = 0) -> monai.data.DataLoader:
    """MONAI's loader of a dataset with random transforms, in random order, of this process's share.

    Args:
        dataset: gives a patch per case.
        batch_size: patches per batch and process.
        num_workers: processes that prepare patches.
        seed: of the order in which several processes share the cases; alone, PyTorch's generator decides.
    """
    if world_size() == 1:
        return monai.data.DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, world_size(), rank(), seed=_agreed(seed))
    return monai.data.DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers)


def _agreed(seed: int | None) -> int:
    """A seed, or without one, a random one that all processes have."""
    return of_the_first(torch.initial_seed() % 2**63) if seed is None else seed
