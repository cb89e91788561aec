"""Transfer of weights to a network with other classes, input channels or layers. This module handles tensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from segbundle.checkpoints.network_layers import NetworkLayers
from segbundle.checkpoints.weights import DEPTHS, first_names, tensor_type, without_modules


@dataclass
class Transfer:
    """State dict for a network, with a description of the tensors that were not in the checkpoint.

    By default, all attributes except `weights` are 0, False or empty.

    Attributes:
        weights: state dict with all tensors of the network.
        loaded: number of tensors whose values are entirely those of the checkpoint.
        total: number of tensors of the network. Tensors with several names count once.
        fits: whether at least one weight of more than one dimension was loaded, entirely or for some classes.
        new_classes: classes whose output weights keep their initial values.
        new_channels: indices of the input channels that the checkpoint does not have. Their weights are the mean over
            its channels (see `adapt_channels`).
        new_layers: names of all other tensors that keep their initial values.
        unused: names of the tensors of the checkpoint that the network does not have, except for deep supervision.

    Example:
        >>> Transfer({}, loaded=40, total=44, new_classes=["lesion", "cyst"]).summary()
        '40 of 44 tensors; new: classes lesion, cyst'
    """

    weights: dict[str, torch.Tensor]
    loaded: int = 0
    total: int = 0
    fits: bool = False
    new_classes: list[str] = field(default_factory=list)
    new_channels: list[int] = field(default_factory=list)
    new_layers: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the number of loaded tensors, the new classes, channels and layers, and unused tensors in one line."""
        groups = {
            "classes": self.new_classes,
            "input channels": [str(channel) for channel in self.new_channels],
            "layers": self.new_layers,
        }
        new = [f"{group} {first_names(names)}" for group, names in groups.items() if names]
        parts = [f"{self.loaded} of {self.total} tensors", *([f"new: {', '.join(new)}"] if new else [])]
        return "; ".join([*parts, *([f"not used: {first_names(self.unused)}"] if self.unused else [])])


def transfer_weights(
    network: torch.nn.Module,
    found: Mapping[str, torch.Tensor],
    layers: NetworkLayers,
    num_channels: int,
    class_names: Sequence[str],
    trained_names: Sequence[str] | None = None,
) -> Transfer:
    """Transfer the tensors of a checkpoint that fit a network; all other tensors keep the network's values.

    - Tensors of the same name and shape are loaded.
    - Output layers are loaded class by class, by name; the background is the first class of both. If the classes of the
      checkpoint are unknown, output layers are loaded only if the number of classes is the same.
    - Input layers with another number of channels: see `adapt_channels`.

    Args:
        network: network with its initial weights; not changed.
        found: state dict of the checkpoint.
        layers: layers of the network.
        num_channels: number of input channels of the network.
        class_names: classes of the network, background first.
        trained_names: classes of the checkpoint, background first. Default: None (unknown).

    Returns:
        the state dict, with lists of the tensors, classes and channels that were not in the checkpoint

    Example:
        >>> from segbundle.checkpoints.network_layers import network_layers
        >>> network = torch.nn.Conv3d(1, 3, 1)
        >>> found = {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.ones(2)}
        >>> layers = network_layers(network, 1, [2, 2, 2])
        >>> names = ["background", "cyst", "liver"]
        >>> transfer_weights(network, found, layers, 1, names, ["background", "liver"]).summary()
        '0 of 2 tensors; new: classes cyst'
    """
    own: Mapping[str, torch.Tensor] = network.state_dict(keep_vars=True)
    names = {id(value): name for name, value in network.named_parameters()}
    matching = _Matching(layers, num_channels, list(map(str, class_names)), trained_names)
    result = Transfer({name: value.detach() for name, value in own.items()})
    new_outputs: list[str] = []
    some_output, seen = False, set[int]()
    for name, value in own.items():
        other, known_as = found.get(name), names.get(id(value), name)
        fitted = None
        if other is not None and tensor_type(other) == tensor_type(value):
            fitted = matching.fit(known_as, value.detach(), other)
        if fitted is not None:
            result.weights[name] = fitted.values
        if id(value) in seen:
            continue
        seen.add(id(value))
        is_output = bool(matching.class_dims(known_as, value))
        some_output |= is_output and fitted is not None
        result.loaded += fitted is not None and fitted.complete
        result.fits |= fitted is not None and value.ndim > 1
        if fitted is None:
            (new_outputs if is_output and other is not None else result.new_layers).append(name)
    result.total = len(seen)
    result.new_channels = sorted(matching.new_channels)
    result.unused = [name for name in without_modules(found, DEPTHS) if name not in own]
    if new_outputs and not some_output:
        result.new_classes = matching.class_names
    else:
        result.new_layers += new_outputs
        result.new_classes = matching.new_classes()
    return result


class _Fitted(NamedTuple):
    """Tensor of a checkpoint in the shape of the network, and whether all its values are those of the checkpoint."""

    values: torch.Tensor
    complete: bool


class _Matching:
    """Correspondence of the classes and channels of a checkpoint and a network."""

    def __init__(
        self, layers: NetworkLayers, num_channels: int, class_names: list[str], trained: Sequence[str] | None
    ) -> None:
        self.layers = layers
        self.num_channels = num_channels
        self.class_names = class_names
        self.num_trained = None if trained is None else len(trained)
        self.sources = None if trained is None else class_sources(class_names, trained)
        self.known = layers.depths().keys()  # others are not used, such as heads of a deep supervision that is off
        self.new_channels: set[int] = set()

    def new_classes(self) -> list[str]:
        """Return the classes that the checkpoint does not have."""
        sources = self.sources or range(len(self.class_names))
        return [name for name, source in zip(self.class_names, sources, strict=True) if source is None]

    def class_dims(self, name: str, value: torch.Tensor) -> list[int]:
        """Return the dimensions of the classes in a tensor of an output layer; empty for other tensors."""
        dims = self.layers.outputs.get(name, ())
        return [dim for dim in dims if dim < value.ndim and value.shape[dim] == len(self.class_names)]

    def fit(self, name: str, value: torch.Tensor, other: torch.Tensor) -> _Fitted | None:
        """Return a tensor of the checkpoint in the shape of the network's tensor; None if it does not fit."""
        if value.ndim != other.ndim:
            return None
        differing = {dim for dim in range(value.ndim) if value.shape[dim] != other.shape[dim]}
        if name in self.layers.inputs and differing == {1} and value.shape[1] == self.num_channels:
            self.new_channels |= set(range(other.shape[1], value.shape[1]))
            return _Fitted(adapt_channels(other.to(value), self.num_channels), complete=False)
        if self.sources is not None:
            possible = self.class_dims(name, value) if name in self.known else sorted(differing)
            sizes = (len(self.class_names), self.num_trained)
            dims = [dim for dim in possible if (value.shape[dim], other.shape[dim]) == sizes]
            if dims and differing <= set(dims):
                return _Fitted(copy_classes(value, other.to(value), dims, self.sources), None not in self.sources)
        return None if differing else _Fitted(other.to(value), complete=True)


def class_sources(class_names: Sequence[str], trained_names: Sequence[str]) -> list[int | None]:
    """Return the index of every class of a network in the classes of a checkpoint, or None for new classes.

    The background, the first class, always has index 0, whatever its name.

    Args:
        class_names: classes of the network, background first.
        trained_names: classes of the checkpoint, background first.

    Example:
        >>> class_sources(["background", "cyst", "liver"], ["other", "liver", "kidney"])
        [0, None, 1]
    """
    known = {str(name): index for index, name in enumerate(trained_names) if index}
    return [known.get(str(name)) if index else 0 for index, name in enumerate(class_names)]


def copy_classes(
    value: torch.Tensor, other: torch.Tensor, dims: Sequence[int], sources: Sequence[int | None]
) -> torch.Tensor:
    """Return a copy of a tensor with the values of known classes from another tensor.

    Args:
        value: initial tensor of the network; not changed.
        other: tensor of the checkpoint, of the same dtype, and of the same size in all dimensions but `dims`.
        dims: dimensions that index the classes.
        sources: for every class of the network, its index in the checkpoint, or None for a new class.

    Returns:
        tensor of the shape and dtype of `value`; new classes have the values of `value`

    Example:
        >>> copy_classes(torch.zeros(3), torch.tensor([1.0, 2.0]), [0], [0, None, 1])
        tensor([1., 0., 2.])
    """
    result = value.clone()
    pairs = [(index, source) for index, source in enumerate(sources) if source is not None]
    targets = torch.tensor([index for index, _ in pairs], device=value.device)
    origins = torch.tensor([source for _, source in pairs], device=value.device)
    for dim in dims:
        other = other.index_select(dim, origins)
    place: list[torch.Tensor | slice] = [slice(None)] * value.ndim
    for position, dim in enumerate(dims):
        shape = [1] * len(dims)
        shape[position] = -1
        place[dim] = targets.view(shape) if len(dims) > 1 else targets
    result[tuple(place)] = other
    return result


def adapt_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Return the weight of an input layer for another number of channels.

    The first `num_channels` channels are kept, and new ones have the mean of all old ones. All are scaled by the old
    number of channels divided by the new one, so that activations keep their scale, as `adapt_input_conv` of timm does
    (https://github.com/huggingface/pytorch-image-models, timm/models/_manipulate.py).

    Args:
        weight: (out, channels, *kernel), floating point; not modified.
        num_channels: new number of channels.

    Returns:
        (out, num_channels, *kernel), in the same dtype

    Example:
        >>> adapt_channels(torch.tensor([[1.0, 3.0]]), 4)
        tensor([[0.5000, 1.5000, 1.0000, 1.0000]])
    """
    old = weight.shape[1]
    mean = weight.mean(dim=1, keepdim=True)
    kept = weight[:, :num_channels]
    new = mean.expand(-1, max(0, num_channels - old), *weight.shape[2:])
    return torch.cat([kept, new], dim=1) * (old / num_channels)
