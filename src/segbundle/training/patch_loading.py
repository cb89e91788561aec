"""Loaders of training patches for configurations, and a warning about classes that do not occur in any case."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import monai.data
import numpy as np
import torch
from monai.utils import CommonKeys
from torch.utils.data import DistributedSampler

from segbundle.class_values import regions
from segbundle.config.from_settings import from_settings
from segbundle.datasets.folders import some
from segbundle.datasets.sides import chosen_flips, warn_about_sides
from segbundle.distributed import all_gather, broadcast, rank, world_size
from segbundle.errors import ConfigError, suggestion
from segbundle.sampling.augmentation import Augmentation
from segbundle.sampling.loader import PatchLoader
from segbundle.training.caching import PreparedCases

_logger = logging.getLogger(__name__)
_CHUNK = 1 << 22
"""Number of voxels of a label map that are counted at a time."""
_NO_AUGMENTATION = {"flip_axes": [], "rotation": 0, "scaling": 0, "intensity": False}


@from_settings
def patch_loader(
    dataset: Any,
    patch_size: Sequence[int],
    batch_size: int,
    augmentation: Mapping[str, Any] | None = MappingProxyType({}),
    seed: int | None = 0,
    device: torch.device | str = "cpu",
    class_names: Sequence[str] = (),
    axcodes: str | Sequence[str] | None = "RAS",
    patches_per_case: int = 1,
    steps_per_epoch: int | None = None,
) -> PatchLoader:
    """Return a loader of random patches for this rank that creates batches on the training device.

    If `seed` is None, every rank must call this function, because the ranks exchange the seed.

    Args:
        dataset: prepared cases (`PreparedCases`).
        patch_size: size of a patch (X, Y, Z) in voxels.
        batch_size: number of patches per batch and rank.
        augmentation: arguments of `segbundle.sampling.Augmentation`; None turns augmentation off. Missing arguments
            have the defaults of `Augmentation`, except that `flip_axes` is `auto`: axis 0 is mirrored unless classes
            differ only by side. Default: empty.
        seed: seed of order, positions and augmentation; None for a random seed, the same on all ranks. Default: 0.
        device: device on which batches are created. Default: CPU.
        class_names: names of the classes, background first, for `flip_axes: auto`. Default: none.
        axcodes: orientation of the network's grid, for `flip_axes: auto`. Default: RAS.
        patches_per_case: number of patches of each case per epoch, for datasets of few large scans. Default: 1.
        steps_per_epoch: number of batches per epoch, however many cases there are. Default: None (one pass over the
            cases).

    Raises:
        ConfigError: a setting of the augmentation is unknown or out of range, or both `patches_per_case` and
            `steps_per_epoch` set the length of an epoch.
        ValueError: `batch_size` is less than 1.

    Example:
        >>> patch_loader([], (32, 32, 32), 2, class_names=["background", "liver"]).augmentation.flip_axes
        [0]
        >>> patch_loader([], (32, 32, 32), 2, augmentation=None).augmentation
        Augmentation(flip_axes=[], rotation=0, scaling=0, intensity=False)
    """
    if steps_per_epoch is not None and patches_per_case != 1:
        raise ConfigError(
            f"patches_per_case is {patches_per_case} and steps_per_epoch is {steps_per_epoch}, but both set the length "
            "of an epoch. Remove one of them."
        )
    options = dict(_NO_AUGMENTATION if augmentation is None else augmentation)
    for name in options:
        if name not in (known := inspect.signature(Augmentation).parameters):
            raise ConfigError(f"augmentation: unknown setting {name!r}{suggestion(name, known)}")
    flips = options.get("flip_axes", "auto")
    try:
        changes = Augmentation(**{**options, "flip_axes": chosen_flips(flips, class_names, axcodes)})
    except ValueError as error:
        raise ConfigError(f"augmentation: {error}") from error
    warn_about_sides(flips, class_names, axcodes, "augmentation#flip_axes")
    return PatchLoader(
        dataset, patch_size, batch_size, changes, _shared_seed(seed), device, rank(), world_size(),
        patches_per_case=patches_per_case, steps_per_epoch=steps_per_epoch,
    )  # fmt: skip


@from_settings
def monai_loader(
    dataset: Any, batch_size: int, num_workers: int = 0, seed: int | None = 0, steps_per_epoch: int | None = None
) -> monai.data.DataLoader:
    """Return a MONAI `DataLoader` that shuffles a dataset and, with several ranks, loads the shard of this rank.

    If `seed` is None, every rank must call this function, because the ranks exchange the seed.

    Args:
        dataset: dataset with random transforms that returns one patch per case.
        batch_size: number of patches per batch and rank.
        num_workers: number of processes that prepare patches (default 0).
        seed: seed of the order with several ranks; None for a random seed, the same on all ranks. With one rank,
            PyTorch's generator determines the order. Default: 0.
        steps_per_epoch: must be None (default), because an epoch of this loader is one pass over the cases.

    Raises:
        ConfigError: `steps_per_epoch` is set.

    Example:
        >>> len(monai_loader([0, 1, 2], batch_size=2))
        2
    """
    if steps_per_epoch is not None:
        raise ConfigError(
            f"steps_per_epoch is {steps_per_epoch}, but an epoch of MONAI's data loader is one pass over the cases. "
            "Set steps_per_epoch: null and choose max_epochs accordingly."
        )
    if world_size() == 1:
        return monai.data.DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, world_size(), rank(), seed=_shared_seed(seed))
    return monai.data.DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers)


@from_settings
def warn_about_missing_classes(
    class_names: Sequence[str], training: Any, validation: Any, classes: Mapping[str, Any] | None = None
) -> None:
    """Log a warning about foreground classes that are missing from all training cases or from all validation cases.

    If some cases of a `CachedCases` dataset do not fit into memory, the dataset is assumed to contain all classes.
    Every rank must call this function, because the ranks exchange the classes in their cases. Only rank 0 logs.

    Args:
        class_names: classes of the task, background first.
        training: training cases (`PreparedCases` or `CachedCases`).
        validation: validation cases (`PreparedCases` or `CachedCases`).
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Example:
        >>> class Cases(list):
        ...     _cache = [{"label": np.array([0, 1])}]
        >>> warn_about_missing_classes(["background", "liver"], Cases("a"), Cases("b"))  # all present: no warning
    """
    members = regions(classes)
    learned, validated = (_classes_in(dataset, len(class_names), members) for dataset in (training, validation))
    unknown = [name for index, name in enumerate(class_names) if index > 0 and index not in learned]
    unscored = [name for index, name in enumerate(class_names) if index in learned - validated - {0}]
    if unknown and rank() == 0:
        _logger.warning(
            "no training case contains %s; a network needs examples of every class. Add such cases, or hold out "
            "another fold with --fold.",
            some(unknown),
        )
    if unscored and rank() == 0:
        _logger.warning(
            "no validation case contains %s, so the best epoch is selected without it. To validate all classes, hold "
            "out another fold with --fold.",
            some(unscored),
        )


def _classes_in(dataset: Any, num_classes: int, members: Sequence[Sequence[int]] | None) -> set[int]:
    """Return the indices of the classes in the cases of all ranks; all classes if some cases are not in memory."""
    if isinstance(dataset, PreparedCases):
        return {index for case in map(dataset.__getitem__, range(len(dataset))) for index in _present(case["indices"])}
    cached = getattr(dataset, "_cache", None) or []
    found: set[int] = set(range(num_classes)) if len(cached) < len(dataset) else set()
    for case in cached:
        flat = np.asarray(case[CommonKeys.LABEL]).ravel(order="K")
        for start in range(0, flat.size, _CHUNK):
            found.update(np.flatnonzero(np.bincount(flat[start : start + _CHUNK])).tolist())
    if members is not None:
        found = {index for index, values in enumerate(members) if not found.isdisjoint(values)}
    return set(all_gather(sorted(found)))


def _present(indices: Sequence[torch.Tensor]) -> list[int]:
    return [index for index, voxels in enumerate(indices) if len(voxels)]


def _shared_seed(seed: int | None) -> int:
    """Return the seed; for None, a random seed that is the same on all ranks."""
    return broadcast(torch.initial_seed() % 2**63) if seed is None else seed
