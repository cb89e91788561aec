"""Fine-tuning: frozen layers, and learning rates that depend on the depth of a layer."""

from __future__ import annotations

import logging
import types
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim import Optimizer

from segbundle.checkpoints.network_layers import NetworkLayers, network_layers
from segbundle.checkpoints.weights import first_names
from segbundle.config.from_settings import from_settings
from segbundle.errors import ConfigError

_logger = logging.getLogger(__name__)


@from_settings
def prepare_fine_tuning(
    network: torch.nn.Module,
    optimizer: Optimizer,
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int = 1,
    freeze: str | Sequence[str] | None = None,
    layer_decay: float | None = None,
) -> None:
    """Freeze layers of a network, and give the optimizer a learning rate for each depth.

    Frozen parameters need no gradient and leave the optimizer, so that no step and no weight decay changes them. Frozen
    norms with running statistics stay in evaluation mode.

    With `layer_decay`, the learning rate of a layer is that of the optimizer times `layer_decay` to the power of its
    depth, as in timm and BEiT (arXiv:2106.08254). Output layers have depth 0, the stage before them 1, and so on to the
    input. A stage is a sequence of layers at one resolution, see `network_layers`. Each parameter group of the
    optimizer becomes one group per depth, with the factor as its `lr_scale`.

    Call this function before a learning rate schedule of the optimizer is created.

    Args:
        network: network on any device.
        optimizer: optimizer of the network, before its first step.
        num_channels: number of input channels.
        patch_size: size of a patch (X, Y, Z) in voxels.
        batch_size: number of patches per batch (default 1), see `network_layers`.
        freeze: layers that are not trained: `encoder` for the layers before the resolution first increases,
            `all_but_output`, or a list of layer names and patterns, such as `["input_block", "downsamples.*"]`.
            Default: none.
        layer_decay: factor of the learning rate per stage. Default: the same learning rate for all layers.

    Raises:
        ConfigError: a name matches no layer, the network has no encoder, or no parameter is left to train.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 1))
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> prepare_fine_tuning(network, optimizer, 1, [8, 8, 8], layer_decay=0.5)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.05]
    """
    if not freeze and layer_decay is None:
        return
    layers = network_layers(network, num_channels, patch_size, min(batch_size, 2))
    if freeze:
        freeze_layers(network, optimizer, frozen_names(network, layers, freeze))
    if layer_decay is not None:
        scale_learning_rates(network, optimizer, layers.depths(), layer_decay)


def frozen_names(network: torch.nn.Module, layers: NetworkLayers, freeze: str | Sequence[str]) -> set[str]:
    """Return the names of the parameters and buffers of the layers to freeze.

    Args:
        network: the network.
        layers: layers of the network.
        freeze: see `prepare_fine_tuning`.

    Raises:
        ConfigError: a name matches no layer, or the network has no encoder.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 1), torch.nn.Conv3d(4, 2, 1))
        >>> sorted(frozen_names(network, network_layers(network, 1, [4, 4, 4]), ["0"]))
        ['0.bias', '0.weight']
    """
    names = [name for name, _ in (*network.named_parameters(), *network.named_buffers())]
    if freeze == "all_but_output":
        return set(names) - set(layers.outputs)
    if freeze == "encoder":
        if not layers.num_encoder_stages:
            raise ConfigError(
                f"freeze is encoder, but {type(network).__name__} has no layers before an increase of the resolution. "
                "List the names of layers instead."
            )
        return {name for stage in layers.stages[: layers.num_encoder_stages] for name in stage}
    tensors = {name: id(tensor) for name, tensor in _with_all_names(network)}
    found: set[int] = set()
    for pattern in [freeze] if isinstance(freeze, str) else freeze:
        matching = {key for name, key in tensors.items() if _matches(name, pattern)}
        if not matching:
            modules = [name for name, _ in network.named_children()]
            raise ConfigError(
                f"freeze: {pattern!r} matches no layer of {type(network).__name__}. Its layers are in "
                f"{first_names(modules, 8)}."
            )
        found |= matching
    return {name for name in names if tensors[name] in found}


def _with_all_names(network: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return all parameters and buffers; shared ones with each of their names."""
    return [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]


def _matches(name: str, pattern: str) -> bool:
    """Return whether a tensor or one of the modules that contain it matches a pattern."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def freeze_layers(network: torch.nn.Module, optimizer: Optimizer, names: set[str]) -> None:
    """Exclude parameters from training, and keep norms with running statistics in evaluation mode.

    Args:
        network: network, changed in place.
        optimizer: optimizer of the network, changed in place.
        names: names of the parameters and buffers to freeze.

    Raises:
        ConfigError: no parameter is left to train.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 1), torch.nn.Conv3d(4, 2, 1))
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> freeze_layers(network, optimizer, {"0.weight", "0.bias"})
        >>> len(optimizer.param_groups[0]["params"])
        2
    """
    parameters = dict(network.named_parameters())
    frozen = {id(parameters[name]) for name in names if name in parameters}
    kept = [_part_of(group, lambda each: id(each) not in frozen) for group in optimizer.param_groups]
    if not any(group["params"] for group in kept):
        raise ConfigError("freeze leaves no parameter to train. Freeze fewer layers.")
    optimizer.param_groups[:] = [group for group in kept if group["params"]]
    for parameter in network.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)
    buffers = {id(buffer) for name, buffer in network.named_buffers() if name in names}
    for module in network.modules():
        if id(getattr(module, "running_mean", None)) in buffers:
            vars(module)["train"] = types.MethodType(_stay_in_evaluation, module)
            module.eval()
    count = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    total = sum(parameter.numel() for parameter in network.parameters())
    _logger.info("frozen: %d of %d parameter tensors, %s of %s values", len(frozen), len(parameters), count, total)


def _stay_in_evaluation(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    """Do what `train` does for a module in evaluation mode, whatever the mode."""
    return torch.nn.Module.train(module, False)


def scale_learning_rates(
    network: torch.nn.Module, optimizer: Optimizer, depths: Mapping[str, int], decay: float
) -> None:
    """Split the parameter groups of an optimizer by depth, and scale their learning rates.

    The learning rate of depth n is multiplied by `decay` to the power of n. Parameters without a depth have depth 0.
    The groups are sorted by depth.

    Args:
        network: network of the optimizer.
        optimizer: optimizer, changed in place.
        depths: depth of every parameter by name.
        decay: factor of the learning rate from one depth to the next.

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> scale_learning_rates(network, optimizer, {"weight": 1, "bias": 0}, 0.5)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.05]
    """
    depth_of = defaultdict(int, {id(each): depths.get(name, 0) for name, each in network.named_parameters()})
    groups = []
    for group in optimizer.param_groups:
        for depth in sorted({depth_of[id(each)] for each in group["params"]}):
            scale = decay**depth
            part = _part_of(group, lambda each, depth=depth: depth_of[id(each)] == depth)
            groups.append({**part, "lr": group["lr"] * scale, "lr_scale": scale})
    optimizer.param_groups[:] = groups
    rates = [group["lr"] for group in groups]
    _logger.info("learning rates by depth: %.3g to %.3g", max(rates), min(rates))


def _part_of(group: Mapping[str, Any], belongs: Any) -> dict[str, Any]:
    """Return a parameter group with the parameters for which `belongs` is true."""
    places = [index for index, parameter in enumerate(group["params"]) if belongs(parameter)]
    lists = {key: [group[key][index] for index in places] for key in ("params", "param_names") if key in group}
    return {**group, **lists}
