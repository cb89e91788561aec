"""Checks of a network, its patch size and its batch size before a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks import eval_mode

from segbundle.config.choices import Precision
from segbundle.config.from_settings import from_settings
from segbundle.distributed import local_world_size
from segbundle.errors import ConfigError, first_cause, one_line
from segbundle.hardware.memory_usage import free_memory
from segbundle.inference.memory import measured_needs, training_bytes

_AMPLE_BYTES = 4096
"""Bytes per voxel that are enough for common networks. If they are free, the memory footprint is not measured."""


@from_settings
def check_network(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    class_names: Sequence[str],
    window_size: Sequence[int] | str = "auto",
    inferer: Any = None,
) -> None:
    """Raise an error if a network does not work for patches and windows, tested by inference on zeros.

    Args:
        network: network on `device`.
        device: device or its name.
        num_channels: number of input channels.
        patch_size: size of a patch (X, Y, Z) in voxels.
        class_names: class names, background first.
        window_size: size of a sliding window (X, Y, Z) in voxels, checked if different from `patch_size`. Default:
            `auto`, not checked.
        inferer: inferer whose method `warm_up`, if present, runs the network for the patch. Default: None.

    Raises:
        ConfigError: a patch does not fit into memory, the network fails, or the network does not return one channel per
            class.

    Example:
        >>> network = torch.nn.Conv3d(1, 2, kernel_size=3, padding=1)
        >>> check_network(network, "cpu", 1, [8, 8, 8], ["background", "liver"])
    """
    _check_patch_memory(network, device, num_channels, "patch_size", patch_size, len(class_names))
    if not _warmed_up(inferer, network, device, num_channels, (1, len(class_names), *patch_size)):
        _check_patch(network, device, num_channels, "patch_size", patch_size, class_names)
    if not isinstance(window_size, str) and window_size != patch_size:
        _check_patch_memory(network, device, num_channels, "window_size", window_size, len(class_names))
        _check_patch(network, device, num_channels, "window_size", window_size, class_names)


def _check_patch_memory(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    key: str,
    size: Sequence[int],
    num_classes: int,
) -> None:
    """Raise an error if a patch does not fit into memory: first for its voxels, then for the network's footprint."""
    voxels, free = math.prod(size), free_memory(torch.device(device))
    needed = 4.0 * voxels * (num_channels + num_classes)
    if needed <= free < voxels * _AMPLE_BYTES:
        try:
            with eval_mode(network):
                needed = measured_needs(network, num_channels, size).bytes_per_voxel * voxels / 2
        except Exception:  # the check of a patch reports the error
            return
    if needed > free:
        raise ConfigError(
            f"{key} is {list(size)}: a patch of {voxels:,} voxels takes about {needed / 1e9:.3g} GB, but only "
            f"{free / 1e9:.3g} GB are free. Choose a smaller {key}."
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
    except Exception:  # the check of a patch reports the error
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
            f"the network fails for patches of {key} {list(patch_size)} ({cause}). Each side must be divisible by the "
            "product of the strides along it (8 for the network of the bundle)."
        ) from error
    finally:
        network.train(training)
    wanted = (1, len(class_names), *patch_size)
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != wanted:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise ConfigError(
            f"the network returns {found} for a patch; one tensor of shape {wanted} is needed, with one channel for "
            f"each of the {len(class_names)} class_names. Correct its output channels; if it has deep supervision, it "
            "must return the additional outputs in training mode only."
        )


@from_settings
def check_batch(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: Precision = "auto",
) -> None:
    """Raise an error if training batches do not fit into memory. On a CPU, the ranks share the memory.

    The memory is not checked for networks whose memory footprint cannot be measured on small patches.

    Args:
        network: network on `device`.
        device: device or its name.
        num_channels: number of input channels.
        patch_size: size of a patch (X, Y, Z) in voxels.
        batch_size: number of patches per batch and rank.
        precision: precision of the training run. Default: `auto`.

    Raises:
        ConfigError: a batch does not fit (the message has a batch size that fits), or `precision` is fp16.

    Example:
        >>> check_batch(torch.nn.Conv3d(1, 2, kernel_size=3, padding=1), "cpu", 1, [8, 8, 8], batch_size=2)
    """
    if precision == "fp16":
        raise ConfigError(
            "precision fp16 is for inference only, because small gradients would underflow. Use bf16, fp32 or auto."
        )
    try:
        each = training_bytes(network, num_channels, patch_size, precision)
    except (RuntimeError, ValueError):  # the network only accepts one patch size, so the footprint is unknown
        return
    free = free_memory(torch.device(device)) // (local_world_size() if torch.device(device).type == "cpu" else 1)
    if each * batch_size <= free:
        return
    fitting = int(free // each)
    advice = f"Use batch_size {fitting}." if fitting else "Not even one patch fits; choose a smaller patch_size."
    raise ConfigError(
        f"batch_size {batch_size} does not fit into memory: a step takes about {each * batch_size / 1e9:.1f} GB, but "
        f"only {free / 1e9:.1f} GB are free. {advice}"
    )
