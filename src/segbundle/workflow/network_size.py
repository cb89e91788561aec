"""Size of the weights and kernels of a network, computed without allocating them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from segbundle.config.overlays import texts
from segbundle.config.values import is_evaluated_later
from segbundle.distributed import local_world_size
from segbundle.errors import ConfigError, find_cause
from segbundle.hardware.memory_usage import free_memory

_MOST_PARAMETERS = 5_000
"""Limit of the number of weight tensors. Building a network with more takes minutes."""
_COPIES_IN_TRAINING, _COPIES = 4, 2
"""Memory footprint of a run in multiples of the weights: with gradients and AdamW's moments, or with the checkpoint."""
_CONSTRUCTORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


def check_network_size(parser: ConfigParser, patch_size: Sequence[int]) -> None:
    """Raise an error if the weights of `network_def` do not fit into memory, or a kernel is larger than a patch.

    The network is built on PyTorch's meta device, without memory for its weights. Networks that refer to other
    components or cannot be built on the meta device are not checked.

    Args:
        parser: configuration; neither evaluated nor changed.
        patch_size: size of a patch (X, Y, Z) in voxels.

    Raises:
        ConfigError: the weights do not fit, the network has too many layers, or a kernel is larger than a patch.

    Example:
        >>> network_def = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 3}
        >>> check_network_size(ConfigParser({"network_def": network_def}), [16, 16, 16])
    """
    definition = parser.get("network_def")
    if not isinstance(definition, Mapping) or "_target_" not in definition or _needs_components(parser, definition):
        return
    copies = _COPIES_IN_TRAINING if "train" in parser else _COPIES
    free = free_memory(torch.device("cpu")) // local_world_size()
    try:
        with torch.random.fork_rng(devices=[]), _OnMeta(), _limited_weights(free, copies), catch_warnings():
            simplefilter("ignore")
            network = ConfigParser(copy.deepcopy(parser.get())).get_parsed_content("network_def")
    except Exception as error:
        config_error = find_cause(error, ConfigError)
        if config_error is not None:
            raise config_error from error
        return  # the run will raise the error, or the network cannot be built on the meta device
    if isinstance(network, torch.nn.Module):
        _check_kernels(network, patch_size)


def _needs_components(parser: ConfigParser, definition: Mapping[str, Any]) -> bool:
    """Return whether a component refers to other components or to expressions."""
    names = {name for text in texts(definition) for name in ReferenceResolver.match_refs_pattern(text)}
    return any(is_evaluated_later(parser.get(name)) for name in names)


class _OnMeta(TorchFunctionMode):
    """Mode that creates tensors on the meta device, without memory, and skips their initialization."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith(("__", "requires_grad_")) and getattr(first, "is_meta", False):
            return first  # on the meta device, the first call of normal_ and others imports much of PyTorch
        if func in _CONSTRUCTORS and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


@contextmanager
def _limited_weights(free: int, copies: int) -> Iterator[None]:
    """Raise a `ConfigError` as soon as the weights of new modules exceed the limits."""
    seen: dict[int, torch.nn.Parameter] = {}  # keeps the weights, because an id may be reused
    total = 0

    def add(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in seen:
            return
        seen[id(parameter)] = parameter
        total += parameter.nbytes
        if total * copies > free:
            raise ConfigError(
                f"network_def: its weights take at least {total / 1e9:,.1f} GB, and a run takes {copies} times as "
                f"much, but only {free / 1e9:,.1f} GB are free. Choose fewer channels or smaller kernels."
            )
        if len(seen) > _MOST_PARAMETERS:
            raise ConfigError(f"network_def has more than {_MOST_PARAMETERS:,} weight tensors. Choose fewer layers.")

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _check_kernels(network: torch.nn.Module, patch_size: Sequence[int]) -> None:
    for name, module in network.named_modules():
        size = list(module.kernel_size) if isinstance(module, _ConvNd) else []
        if len(size) == len(patch_size) and any(width > side for width, side in zip(size, patch_size, strict=True)):
            raise ConfigError(
                f"network_def: the kernel {size} of layer {name} is larger than patch_size {list(patch_size)}. "
                "Choose a smaller kernel or larger patches."
            )
