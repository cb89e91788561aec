"""Loaders of a training's patches, from what stands in the YAML."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import monai.data
import numpy as np
import torch
from monai.utils import CommonKeys
from torch.utils.data import DistributedSampler

from segbundle.datasets.folders import some
from segbundle.datasets.sides import chosen_flips, warn_about_sides
from segbundle.distributed import all_gather, broadcast, rank, world_size
from segbundle.errors import ConfigError, suggestion
from segbundle.sampling.augmentation import Augmentation
from segbundle.sampling.loader import PatchLoader
from segbundle.training.caching import PreparedCases

_logger = logging.getLogger(__name__)
_CHUNK = 1 << 22
"""Voxels of a label map that are counted at a time."""


def patch_loader(
    dataset: Any,
    patch_size: Sequence[int],
    batch_size: int,
    augmentation: Mapping[str, Any] | None = None,
    seed: int | None = 0,
    device: torch.device | str = "cpu",
    class_names: Sequence[str] = (),
    axcodes: str | Sequence[str] | None = "RAS",
) -> PatchLoader:
    """Batches of random patches on the training's device (`segbundle.sampling.PatchLoader`), of this process's share.

    Args:
        dataset: prepared cases (`PreparedCases`).
        patch_size, batch_size, device: as in `PatchLoader`.
        seed: as in `PatchLoader`; without one, the processes agree on one.
        augmentation: arguments of `segbundle.sampling.Augmentation`; None for its defaults. `flip_axes: auto` mirrors
            the first axis, unless that exchanges classes that differ by their side only.
        class_names, axcodes: the task's classes and the orientation of the network's grid, which decide that.

    Raises:
        ConfigError: an unknown or impossible setting.
    """
    options = dict(augmentation or {})
    for name in options:
        if name not in (known := inspect.signature(Augmentation).parameters):
            raise ConfigError(f"augmentation: unknown setting {name!r}{suggestion(name, known)}")
    flips = options.get("flip_axes", "auto")
    try:
        changes = Augmentation(**{**options, "flip_axes": chosen_flips(flips, class_names, axcodes)})
    except ValueError as error:
        raise ConfigError(f"augmentation: {error}") from error
    warn_about_sides(flips, class_names, axcodes, "augmentation#flip_axes")
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


def warn_about_missing_classes(class_names: Sequence[str], training: Any, validation: Any) -> None:
    """Log a warning that names the classes that no training case holds, or no validation case.

    Args:
        class_names: the task's classes, the background first.
        training, validation: datasets of prepared or cached cases (`PreparedCases`, `CachedCases`).
    """
    learned, validated = (_classes_in(dataset, len(class_names)) for dataset in (training, validation))
    unknown = [name for index, name in enumerate(class_names) if index > 0 and index not in learned]
    unscored = [name for index, name in enumerate(class_names) if index in learned - validated - {0}]
    if unknown and rank() == 0:
        _logger.warning("no training case holds %s: a network cannot learn a class from none", some(unknown))
    if unscored and rank() == 0:
        _logger.warning("no validation case holds %s, so the choice of the best epoch leaves it out", some(unscored))


def _classes_in(dataset: Any, num_classes: int) -> set[int]:
    """Label values in the cases of a dataset and of its other processes; all of them if not all cases are in memory."""
    if isinstance(dataset, PreparedCases):
        return {index for case in map(dataset.__getitem__, range(len(dataset))) for index in _places(case["indices"])}
    cached = getattr(dataset, "_cache", None) or []
    found: set[int] = set(range(num_classes)) if len(cached) < len(dataset) else set()
    for case in cached:
        flat = np.asarray(case[CommonKeys.LABEL]).ravel(order="K")
        for start in range(0, flat.size, _CHUNK):
            found.update(np.flatnonzero(np.bincount(flat[start : start + _CHUNK])).tolist())
    return set(all_gather(sorted(found)))


def _places(indices: Sequence[torch.Tensor]) -> list[int]:
    return [index for index, places in enumerate(indices) if len(places)]


def _agreed(seed: int | None) -> int:
    """A seed, or without one, a random one that all processes have."""
    return broadcast(torch.initial_seed() % 2**63) if seed is None else seed
