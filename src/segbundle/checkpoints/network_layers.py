"""Layers of any network, found by a trial run: input and output layers, and stages of equal resolution."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class NetworkLayers:
    """Parameters and buffers of a network by the layer that they belong to.

    Names are those of `named_parameters` and `named_buffers`: a tensor that is shared has its first name.

    Attributes:
        outputs: dimensions that index the classes, by the name of each parameter of the output layers. Output layers
            are the last layers with weights before an output, including the outputs of deep supervision.
        inputs: names of the parameters of the layers that receive the image.
        stages: names of the other parameters and buffers, by stages from the input to the output. A stage is a sequence
            of layers that run one after another at one resolution.
        num_encoder_stages: number of stages before the resolution first increases; 0 if it never does.

    Example:
        >>> NetworkLayers({"head.weight": (0,)}, frozenset({"conv.weight"}), (("conv.weight",),), 0).depths()
        {'head.weight': 0, 'conv.weight': 1}
    """

    outputs: Mapping[str, tuple[int, ...]]
    inputs: frozenset[str]
    stages: tuple[tuple[str, ...], ...]
    num_encoder_stages: int

    def depths(self) -> dict[str, int]:
        """Return the depth of every tensor: 0 for the output layers, 1 for the last stage, and so on to the input."""
        found = dict.fromkeys(self.outputs, 0)
        for depth, stage in enumerate(reversed(self.stages), 1):
            found |= dict.fromkeys(stage, depth)
        return found


def network_layers(
    network: torch.nn.Module, num_channels: int, patch_size: Sequence[int], batch_size: int = 1
) -> NetworkLayers:
    """Return the layers of a network in the order in which they run in training.

    A copy of the network runs on patches of zeros. The output layers are found in the autograd graph, the stages by the
    sizes of the layers' outputs. Parameters and buffers that the network does not use are in no layer.

    Args:
        network: network on any device; not changed.
        num_channels: number of input channels.
        patch_size: size of a patch (X, Y, Z) in voxels.
        batch_size: number of patches (default 1). Batch norm needs at least 2 if its input is a single voxel.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 1))
        >>> found = network_layers(network, 1, [8, 8, 8])
        >>> found.outputs, found.stages
        ({'1.weight': (0,), '1.bias': (0,)}, (('0.weight', '0.bias'),))
    """
    trial = copy.deepcopy(network).requires_grad_(True).train()
    device = next(trial.parameters()).device
    names = {id(tensor): name for name, tensor in (*trial.named_parameters(), *trial.named_buffers())}
    image = torch.zeros(batch_size, num_channels, *patch_size, device=device)
    order: list[tuple[torch.nn.Module, Any, bool]] = []

    def record(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        size = tuple(output.shape[2:]) if isinstance(output, torch.Tensor) and output.ndim == image.ndim else None
        order.append((module, size, any(each is image for each in inputs)))

    for module in trial.modules():
        if any(True for _ in _own_tensors(module)):
            module.register_forward_hook(record)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        results = trial(image)
    outputs = {names[key]: dims for key, dims in _output_parameters(_tensors_in(results), set(names)).items()}
    inputs = {names[id(tensor)] for module, _, first in order if first for tensor in _own_tensors(module)}
    stages, sizes = _stages(order, names, outputs)
    grows = [index for index in range(1, len(sizes)) if math.prod(sizes[index]) > math.prod(sizes[index - 1])]
    return NetworkLayers(outputs, frozenset(inputs), stages, grows[0] if grows else 0)


def _own_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in the output of a network: a tensor, or nested sequences and mappings of tensors."""
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in values for tensor in _tensors_in(each)]


def _output_parameters(results: Sequence[torch.Tensor], known: set[int]) -> dict[int, tuple[int, ...]]:
    """Return the ids of the parameters of the output layers, with the dimensions of the classes in each.

    The search begins at the results and ends, on every path of the graph, at the first operation with a weight of more
    than one dimension. Parameters of one dimension on the way, as of norms, belong to the output layers too. An output
    layer that receives the output of another one, as in residual units, has classes in its input channels too.
    """
    passed, last = _nearest_weights([result.grad_fn for result in results if result.grad_fn is not None], known)
    found: dict[int, tuple[int, ...]] = {id(parameter): (0,) for parameter in passed}
    for node, parameters in last.items():
        before = _nearest_weights([parent for parent, _ in node.next_functions if parent is not None], known)[1]
        transposed = int(getattr(node, "_saved_transposed", False))
        both = any(other in last for other in before)
        for parameter in parameters:
            dims = (transposed, 1 - transposed) if both else (transposed,)
            found[id(parameter)] = dims if parameter.ndim > 1 else (0,)
    return found


def _nearest_weights(start: list[Any], known: set[int]) -> tuple[list[torch.Tensor], dict[Any, list[torch.Tensor]]]:
    """Return the parameters of one dimension up to the nearest operations with a weight, and these operations.

    Args:
        start: nodes of the autograd graph.
        known: ids of the parameters of the network.

    Returns:
        the parameters that were passed, and for every operation with a weight of more than one dimension its parameters
    """
    passed: list[torch.Tensor] = []
    last: dict[Any, list[torch.Tensor]] = {}
    pending, seen = list(start), set[Any]()
    while pending:
        node = pending.pop()
        if node in seen or hasattr(node, "variable"):
            continue
        seen.add(node)
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        leaves = [*parents, *(leaf for parent in parents for leaf in _transposed(parent))]
        own = [leaf.variable for leaf in leaves if id(getattr(leaf, "variable", None)) in known]
        if any(parameter.ndim > 1 for parameter in own):
            last[node] = own
        else:
            passed += own
            pending += parents
    return passed, last


def _transposed(node: Any) -> list[Any]:
    """Return the leaf that a node transposes, as linear layers do with their weight; else an empty list."""
    if not node.name().startswith(("TBackward", "TransposeBackward", "PermuteBackward")):
        return []
    return [parent for parent, _ in node.next_functions if hasattr(parent, "variable")]


def _stages(
    order: Sequence[tuple[torch.nn.Module, Any, bool]], names: Mapping[int, str], outputs: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[tuple[str, ...], ...], list[tuple[int, ...]]]:
    """Return the names of the tensors of every stage, and the size of its layers' outputs."""
    stages: list[dict[str, None]] = []
    sizes: list[tuple[int, ...]] = []
    seen = set(outputs)
    for module, size, _ in order:
        own = [name for tensor in _own_tensors(module) if (name := names[id(tensor)]) not in seen]
        if not own:
            continue
        seen.update(own)
        if not stages or (size is not None and size != sizes[-1]):
            stages.append({})
            sizes.append(size or ())
        stages[-1] |= dict.fromkeys(own)
    return tuple(map(tuple, stages)), sizes
