"""Checks of a network, its patches and its batches before a run starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks import eval_mode

from segbundle.config.choices import Precision
from segbundle.distributed import local_world_size
from segbundle.errors import ConfigError, first_cause, one_line
from segbundle.hardware.device_memory import free_memory
from segbundle.inference.memory import measured_needs, training_bytes

_PLENTY = 4096
"""Bytes per voxel of a patch beyond what usual networks take. If more are free, the need is not measured."""


def check_network(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    class_names: Sequence[str],
    window_size: Sequence[int] | str = "auto",
    inferer: Any = None,
) -> None:
    """Pass one empty patch, and one window of another size, through the network before the run starts.

    An inferer with a `warm_up` method passes the patch.

    Raises:
        ConfigError: the network cannot take such a patch, or does not return one channel per class.
    """
    _refuse_large_patches(network, device, num_channels, "patch_size", patch_size, len(class_names))
    if not _warmed_up(inferer, network, device, num_channels, (1, len(class_names), *patch_size)):
        _check_patch(network, device, num_channels, "patch_size", patch_size, class_names)
    if not isinstance(window_size, str) and window_size != patch_size:
        _refuse_large_patches(network, device, num_channels, "window_size", window_size, len(class_names))
        _check_patch(network, device, num_channels, "window_size", window_size, class_names)


def _refuse_large_patches(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    key: str,
    size: Sequence[int],
    num_classes: int,
) -> None:
    """Refuse patches that do not fit into free memory, by their voxels and then by the network's needs."""
    voxels, free = math.prod(size), free_memory(torch.device(device))
    needed = 4.0 * voxels * (num_channels + num_classes)
    if needed <= free < voxels * _PLENTY:
        try:
            with eval_mode(network):
                needed = measured_needs(network, num_channels, size).bytes_per_voxel * voxels / 2
        except Exception:  # passing a patch will say why
            return
    if needed > free:
        raise ConfigError(
            f"{key} is {list(size)}: a patch of {voxels:,} voxels takes about {needed / 1e9:.3g} GB, {free / 1e9:.3g} "
            f"GB are free. Choose a smaller {key}."
        )


def _warmed_up(
    inferer: Any, network: torch.nn.Module, device: torch.device | str, num_channels: int, wanted: tuple[Any, ...]
) -> bool:
    """Warm up the inferer before the first scan, and return whether its scores have the expected shape."""
    if not hasattr(inferer, "warm_up"):
        return False
    try:
        with eval_mode(network):
            scores = inferer.warm_up(network, num_channels, torch.device(device))
    except Exception:  # passing a patch will say why
        return False
    return scores is not None and tuple(scores.shape) == wanted


def _check_patch(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    key: str,
    patch_size: Sequence[int],
    class_names: Sequence[str],
) -> None:
    training = network.training
    try:
        with torch.no_grad():
            scores = network.eval()(torch.zeros(1, num_channels, *patch_size, device=device))
    except Exception as error:
        cause = one_line(first_cause(error))
        raise ConfigError(
            f"the network cannot take patches of {key} {list(patch_size)} ({cause}). Each side must be divisible "
            "by the product of the network's strides along it: 8 for the bundle's own."
        ) from error
    finally:
        network.train(training)
    wanted = (1, len(class_names), *patch_size)
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != wanted:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise ConfigError(
            f"the network returns {found} for a patch; one tensor of shape {wanted} is needed: a channel for each of "
            f"the {len(class_names)} class_names (and more depths in training only)."
        )


def check_batch(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: Precision = "auto",
) -> None:
    """Refuse batches that do not fit into free memory, which processes on a CPU share.

    Raises:
        ConfigError: the batches do not fit (the message names a batch size that would), or `precision` is for inference
            only.
    """
    if precision == "fp16":
        raise ConfigError(
            "precision fp16 is for inference: in training, small gradients would vanish; use bf16, fp32 or auto."
        )
    try:
        each = training_bytes(network, num_channels, patch_size, precision)
    except (RuntimeError, ValueError):  # the network takes patches of one size only, so nothing is known
        return
    free = free_memory(torch.device(device)) // (local_world_size() if torch.device(device).type == "cpu" else 1)
    if each * batch_size <= free:
        return
    fitting = int(free // each)
    advice = f"batch_size {fitting} would" if fitting else "not even one patch does: choose a smaller patch_size"
    raise ConfigError(
        f"batch_size {batch_size} does not fit into memory: a step takes about {each * batch_size / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free; {advice}."
    )
