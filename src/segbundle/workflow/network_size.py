"""The size of a network's weights and kernels, found before the network is built."""

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
from segbundle.hardware.device_memory import free_memory

_MOST_PARAMETERS = 5_000
"""Weight tensors of a network; building one with more takes minutes."""
_COPIES_IN_TRAINING, _COPIES = 4, 2
"""Memory of a run in multiples of the weights: gradients and two moments of AdamW, or the checkpoint."""
_CONSTRUCTORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


def check_network_size(parser: ConfigParser, patch_size: Sequence[int]) -> None:
    """Build `network_def` on the meta device, and refuse it if its weights do not fit into memory.

    Networks are not checked if they depend on other components or cannot be built on the meta device.

    Args:
        parser: holds the configuration; nothing in it is evaluated or changed.
        patch_size: that the network is trained with.

    Raises:
        ConfigError: the weights do not fit, the network has too many layers, or a kernel is larger than a patch.
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
        refused = find_cause(error, ConfigError)
        if refused is not None:
            raise refused from error
        return  # building the network raises the error again, or the network cannot be built on the meta device
    if isinstance(network, torch.nn.Module):
        _check_kernels(network, patch_size)


def _needs_components(parser: ConfigParser, definition: Mapping[str, Any]) -> bool:
    """Return whether a component refers to anything that is not a plain value."""
    names = {name for text in texts(definition) for name in ReferenceResolver.match_refs_pattern(text)}
    return any(is_evaluated_later(parser.get(name)) for name in names)


class _OnMeta(TorchFunctionMode):
    """Creates tensors on the meta device, where they take no memory, and skips their initialization."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith(("__", "requires_grad_")) and getattr(first, "is_meta", False):
            return first  # normal_ and others import much of PyTorch at their first call on the meta device
        if func in _CONSTRUCTORS and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


@contextmanager
def _limited_weights(free: int, copies: int) -> Iterator[None]:
    """Raise a `ConfigError` as soon as the weights of the modules that are built exceed the limits."""
    seen: dict[int, torch.nn.Parameter] = {}  # which keeps them, as an id may be used again
    total = 0

    def add(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in seen:
            return
        seen[id(parameter)] = parameter
        total += parameter.nbytes
        if total * copies > free:
            raise ConfigError(
                f"network_def: its weights take at least {total / 1e9:,.1f} GB and a run {copies} times as much; "
                f"{free / 1e9:,.1f} GB are free. Choose fewer channels or smaller kernels."
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
        if len(size) == len(patch_size) and any(one > side for one, side in zip(size, patch_size, strict=True)):
            raise ConfigError(
                f"network_def: the kernel {size} of layer {name} is larger than patch_size {list(patch_size)}. "
                "Choose a smaller kernel or larger patches."
            )
