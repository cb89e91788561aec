"""The loader of a training's patches, from what stands in the YAML."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segbundle.engines.ranks import rank, world_size
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
        patch_size, batch_size, seed, device: as in `PatchLoader`.
        augmentation: arguments of `segbundle.patches.Augmentation`; None for its defaults.

    Raises:
        ConfigError: an unknown or impossible setting.
    """
    options = dict(augmentation or {})
    for name in options:
        if name not in (known := inspect.signature(Augmentation).parameters):
            raise ConfigError(f"augmentation: unknown setting {name!r}{suggestion(name, known)}")
    try:
        return PatchLoader(dataset, patch_size, batch_size, Augmentation(**options), seed, device, rank(), world_size())
    except ValueError as error:
        raise ConfigError(f"augmentation: {error}" if "batch_size" not in str(error) else str(error)) from error
