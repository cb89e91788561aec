"""Rewriting a network for inference, so that it computes the same with less."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segbundle.acceleration.layers import (
    Activation,
    ChannelsLastInstanceNorm,
    DoublingConvolution,
    FusedConvolution,
    FusedLayer,
    FusedTransposed,
)
from segbundle.acceleration.tracing import trace_network
from segbundle.acceleration.trial_window import small_window

_NOTHING = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Dropout3d, torch.nn.AlphaDropout)
"""What does nothing in evaluation mode."""
_OF_THE_WHOLE = (
    torch.nn.InstanceNorm3d,
    torch.nn.GroupNorm,
    torch.nn.AdaptiveAvgPool3d,
    torch.nn.AdaptiveMaxPool3d,
)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_TOLERANCE = 0.01
"""By which part of the largest score a rewritten network may differ; TF32 on GPUs accounts for a tenth of it."""
_VECTOR = 8
"""Channels that a vector unit holds in float32 (AVX2; AVX-512 twice as many)."""


def optimised(network: torch.nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.nn.Module:
    """An equivalent network that computes less: for inference only.

    Batch norm becomes part of the convolution before it. On CPUs, transposed convolutions to one or two channels
    become ordinary ones, which keep vector units busier; and instance norm works on channels-last memory as it is. In
    float32 and bfloat16 there, what follows a convolution, an activation or a sum, is computed with it, by oneDNN.

    Args:
        network: in evaluation mode; it stays as it is. Hooks on it and on what disappears are not called any more.
        shape: (B, C, X, Y, Z) of windows that it takes.
        dtype: what convolutions are computed in; None if it is not known, or if something else than PyTorch's own
            kernels is to compute them.

    Returns:
        A network that shares all weights but the changed ones with `network`, or `network` itself if it is in training
        mode, or `torch.fx` cannot follow its forward pass, or what came of it gives other scores for noise.
    """
    if network.training:
        return network
    try:
        traced = trace_network(network)
    except Exception:  # whatever a forward pass does that cannot be done with symbols
        return network
    _rewrite(traced, _fuses(dtype))
    if not _agree(traced, network, shape):
        return network
    for module in traced.modules():
        if isinstance(module, FusedLayer) and dtype is not None:
            module.compute_in(dtype)
    return traced


def normalises_by_window(network: Any) -> bool:
    """Whether a network has layers that look at a window as a whole, so that its size changes every voxel's score.

    Those are instance norms without statistics of the training, group norms, and poolings to a fixed size. Nothing is
    known of what is no module.
    """
    return isinstance(network, torch.nn.Module) and any(
        isinstance(module, _OF_THE_WHOLE) and not getattr(module, "track_running_stats", False)
        for module in network.modules()
    )


def _fuses(dtype: torch.dtype | None) -> bool:
    """Whether oneDNN's convolutions compute in this format here."""
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32 and torch.backends.mkldnn.is_available()


def _agree(first: torch.nn.Module, second: torch.nn.Module, shape: Sequence[int]) -> bool:
    """Whether two networks give the same scores: `torch.fx` takes one side of some branches without a word.

    In float32, for a small window if they take it, else for one of the given shape.
    """
    parameter = next(second.parameters(), torch.empty(0))
    noise = torch.rand((1, *shape[1:]), generator=torch.Generator().manual_seed(0)).to(parameter.device)
    x, y, z = small_window(shape[2:])
    for window in (noise[:, :, :x, :y, :z], noise):
        with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
            try:
                expected = second(window)
            except (RuntimeError, ValueError):
                continue
            try:
                found = first(window)
            except Exception:
                return False
        if not isinstance(expected, torch.Tensor) or not isinstance(found, torch.Tensor):
            return False
        same = found.shape == expected.shape
        return same and bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
    return False


def _rewrite(traced: torch.fx.GraphModule, fuse: bool) -> None:
    traced.graph.eliminate_dead_code()  # depths of deep supervision
    for node in _module_calls(traced):
        if isinstance(_called(traced, node), _NOTHING):
            _remove(node, node.args[0])
    for node in _module_calls(traced, once=True):
        _absorb_batch_norm(traced, node)
    if all(parameter.device.type == "cpu" for parameter in traced.parameters()):
        for name in {str(node.target) for node in _module_calls(traced)}:
            _replace(traced, name)
    if fuse:
        _fuse(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()


def _module_calls(traced: torch.fx.GraphModule, once: bool = False) -> Iterator[torch.fx.Node]:
    """The nodes that call a module, or those whose module is called nowhere else."""
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in nodes]
    return (node for node in nodes if not once or targets.count(node.target) == 1)


def _called(traced: torch.fx.GraphModule, node: Any) -> torch.nn.Module | None:
    """The module that a node calls; None if it is no node or does something else."""
    if not isinstance(node, torch.fx.Node) or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def _only_user(node: torch.fx.Node) -> torch.fx.Node | None:
    """The node that uses a node's result, if it is one only."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _remove(node: torch.fx.Node, instead: Any) -> None:
    node.replace_all_uses_with(instead)
    node.graph.erase_node(node)


def _absorb_batch_norm(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Folds the batch norm that is all that uses a convolution's result into the convolution called at `node`."""
    convolution, user = _called(traced, node), _only_user(node)
    norm = _called(traced, user)
    if user is None or not isinstance(convolution, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
        return
    if not isinstance(norm, torch.nn.BatchNorm3d) or norm.training or norm.running_mean is None:
        return
    transposed = isinstance(convolution, torch.nn.ConvTranspose3d)
    traced.set_submodule(str(node.target), fuse_conv_bn_eval(convolution, norm, transposed))
    _remove(user, node)


def _replace(traced: torch.fx.GraphModule, name: str) -> None:
    """Puts a module of ours, faster on CPUs, in the place of one of PyTorch's."""
    module = traced.get_submodule(name)
    if type(module) is torch.nn.ConvTranspose3d and _is_doubling(module):
        traced.set_submodule(name, DoublingConvolution(module))
    elif type(module) is torch.nn.InstanceNorm3d and not module.track_running_stats:
        traced.set_submodule(name, ChannelsLastInstanceNorm.of(module))


def _is_doubling(module: torch.nn.ConvTranspose3d) -> bool:
    """Whether `DoublingConvolution` can stand for a transposed convolution, and is faster."""
    settings = (module.kernel_size, module.stride, module.padding, module.output_padding, module.dilation)
    return (
        module.out_channels <= 2
        and module.groups == 1
        and settings == ((3,) * 3, (2,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)
    )


def _fuse(traced: torch.fx.GraphModule) -> None:
    """Lets oneDNN compute convolutions, each with the activation or the sum that follows."""
    for node in _module_calls(traced, once=True):
        _absorb_own_input(traced, node)
    for node in _module_calls(traced, once=True):
        convolution = _called(traced, node)
        if not _can_fuse(convolution):
            continue
        user = _only_user(node)
        activation = _activation(_called(traced, user))
        if user is not None and activation is not None:
            _remove(user, node)
        transposed = isinstance(convolution, torch.nn.ConvTranspose3d)
        kind: type[FusedLayer] = FusedTransposed if transposed else FusedConvolution
        traced.set_submodule(str(node.target), kind(convolution, activation or ("none", [])))
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs:
            _absorb_sum(traced, node)
    for node in _module_calls(traced, once=True):
        _fill_vectors(traced, node)


def _can_fuse(module: torch.nn.Module | None) -> TypeGuard[torch.nn.Conv3d | torch.nn.ConvTranspose3d]:
    """Whether oneDNN's convolutions can stand for a module. Kernels of one voxel are matrix products: no gain."""
    if not isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
        return False
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    weight = module.weight
    return plain and weight[0, 0].numel() > 1 and weight.dtype is torch.float32 and weight.device.type == "cpu"


def _activation(module: torch.nn.Module | None) -> Activation | None:
    """An activation in oneDNN's terms; None for anything else."""
    if type(module) is torch.nn.ReLU:
        return "relu", []
    if type(module) is torch.nn.LeakyReLU:
        return "leaky_relu", [module.negative_slope]
    if type(module) is torch.nn.PReLU and module.weight.numel() == 1:
        return "leaky_relu", [module.weight.item()]
    return None


def _absorb_own_input(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Makes `convolution(x) + x` a convolution whose kernel has a one in the middle."""
    convolution, addition = _called(traced, node), _only_user(node)
    if not _can_fuse(convolution) or not isinstance(convolution, torch.nn.Conv3d) or not _keeps_shape(convolution):
        return
    if addition is None or addition.target not in _ADDITIONS or addition.kwargs:
        return
    if set(addition.args) != {node, node.args[0]} or convolution.groups != 1:
        return
    changed = copy.deepcopy(convolution)
    x, y, z = (size // 2 for size in changed.kernel_size)
    with torch.no_grad():
        changed.weight[:, :, x, y, z] += torch.eye(changed.out_channels)
    traced.set_submodule(str(node.target), changed)
    _remove(addition, node)


def _keeps_shape(convolution: torch.nn.Conv3d) -> bool:
    half = tuple(d * (k - 1) // 2 for k, d in zip(convolution.kernel_size, convolution.dilation, strict=True))
    odd = all(k % 2 for k in convolution.kernel_size)
    same_channels = convolution.in_channels == convolution.out_channels
    return odd and same_channels and convolution.stride == (1, 1, 1) and convolution.padding == half


def _absorb_sum(traced: torch.fx.GraphModule, addition: torch.fx.Node) -> None:
    """Lets a convolution add its result to another one's, if nothing else needs either of them."""
    for node, other in itertools.permutations(addition.args):
        convolution, first = _called(traced, node), _called(traced, other)
        if not isinstance(convolution, FusedConvolution) or convolution.activation[0] != "none":
            continue
        if not isinstance(first, FusedConvolution) or first.out_channels != convolution.out_channels:
            continue
        assert isinstance(node, torch.fx.Node) and isinstance(other, torch.fx.Node)
        if node is other or len(node.users) > 1 or len(other.users) > 1:
            continue
        with traced.graph.inserting_before(addition):
            together = traced.graph.call_module(str(node.target), (node.args[0], other))
        _remove(addition, together)
        traced.graph.erase_node(node)
        return


def _fill_vectors(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Gives a convolution more channels, always zero, if it is faster with a multiple of what a vector unit holds."""
    module = _called(traced, node)
    if not isinstance(module, FusedLayer) or module.groups > 1 or len(node.args) > 1:
        return
    missing = -module.out_channels % _VECTOR
    if not missing or missing > module.out_channels // 3:
        return
    if any(user.op == "call_module" and len(user.args) > 1 for user in node.users):  # a sum in this one's memory
        return
    following = [_called(traced, user) for user in node.users]
    fused = [one for one in following if isinstance(one, FusedLayer) and one.groups == 1]
    if fused and len(fused) == len(following):
        for one in fused:
            one.take_more(missing)
    else:
        with traced.graph.inserting_after(node):
            wanted = traced.graph.call_function(torch.narrow, (node, 1, 0, module.out_channels))
        node.replace_all_uses_with(wanted, lambda user: user is not wanted)
    module.give_more(missing)
