"""Rewrite networks into equivalent networks that are faster at inference."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segbundle.acceleration.gate import is_accelerated
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

_NO_OPS = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Dropout3d, torch.nn.AlphaDropout)
"""Layers without effect in evaluation mode."""
_WINDOW_STATISTICS = (
    torch.nn.InstanceNorm3d,
    torch.nn.GroupNorm,
    torch.nn.AdaptiveAvgPool3d,
    torch.nn.AdaptiveMaxPool3d,
)
"""Layers whose output depends on statistics of the whole window."""
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_TOLERANCE = 0.01
"""Maximum deviation of an optimized network, relative to the largest logit; TF32 on GPUs accounts for a tenth of it."""
_VECTOR_WIDTH = 8
"""Channels in a vector register in float32 (AVX2; AVX-512 has twice as many)."""


def optimized(network: torch.nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Return an equivalent network that is faster at inference, or the network itself if it cannot be optimized.

    Batch norm is folded into the preceding convolution. On CPUs, transposed convolutions with one or two output
    channels become ordinary convolutions to use vector units better, and instance norm runs in channels-last
    memory. In float32 and bfloat16 on CPUs, oneDNN fuses a convolution with the activation or sum that follows.

    Args:
        network: network in evaluation mode; not modified. Hooks on the network and on folded layers are no longer
            called.
        shape: (B, C, X, Y, Z) of windows that the network accepts.
        dtype: dtype in which convolutions run. With None (default), no layers are fused; pass None if the dtype is
            unknown or convolutions do not run in PyTorch's own kernels.

    Returns:
        a network that shares all unchanged weights with `network`; or `network` itself if `network` is in training
        mode, if the acceleration is off (see `is_accelerated`), if `torch.fx` cannot trace the forward pass, or if the
        optimized network has different logits for random input

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2)).eval()
        >>> [type(layer).__name__ for layer in optimized(network, (1, 1, 8, 8, 8)).children()]
        ['Conv3d']
    """
    if network.training or not is_accelerated():
        return network
    try:
        traced = trace_network(network)
    except Exception:  # any error of a forward pass that cannot be traced
        return network
    _rewrite(traced, _supports_fusion(dtype))
    if not _outputs_agree(traced, network, shape):
        return network
    for module in traced.modules():
        if isinstance(module, FusedLayer) and dtype is not None:
            module.compute_in(dtype)
    return traced


def normalizes_by_window(network: Any) -> bool:
    """Return whether a network uses statistics of the whole window, so that its logits depend on the window size.

    Such layers are instance norm without running statistics, group norm, and adaptive pooling. The result is False for
    a callable that is not a module.

    Args:
        network: network to inspect.

    Example:
        >>> normalizes_by_window(torch.nn.InstanceNorm3d(2)), normalizes_by_window(torch.nn.BatchNorm3d(2))
        (True, False)
    """
    return isinstance(network, torch.nn.Module) and any(
        isinstance(module, _WINDOW_STATISTICS) and not getattr(module, "track_running_stats", False)
        for module in network.modules()
    )


def _supports_fusion(dtype: torch.dtype | None) -> bool:
    """Return whether oneDNN convolutions support this dtype on this machine."""
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32 and torch.backends.mkldnn.is_available()


def _outputs_agree(first: torch.nn.Module, second: torch.nn.Module, shape: Sequence[int]) -> bool:
    """Return whether two networks have the same logits, as `torch.fx` silently follows a single side of some branches.

    Compared in float32 on a small window if the network accepts it, otherwise on a window of the given shape.
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
        equal_shape = found.shape == expected.shape
        return equal_shape and bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
    return False


def _rewrite(traced: torch.fx.GraphModule, fuse: bool) -> None:
    traced.graph.eliminate_dead_code()  # outputs of deep supervision
    for node in _module_calls(traced):
        if isinstance(_called_module(traced, node), _NO_OPS):
            _remove(node, node.args[0])
    for node in _module_calls(traced, once=True):
        _fold_batch_norm(traced, node)
    if all(parameter.device.type == "cpu" for parameter in traced.parameters()):
        for name in {str(node.target) for node in _module_calls(traced)}:
            _replace_module(traced, name)
    if fuse:
        _fuse(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()


def _module_calls(traced: torch.fx.GraphModule, once: bool = False) -> Iterator[torch.fx.Node]:
    """Return the nodes that call a module, or with `once`, only those whose module is called once."""
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in nodes]
    return (node for node in nodes if not once or targets.count(node.target) == 1)


def _called_module(traced: torch.fx.GraphModule, node: Any) -> torch.nn.Module | None:
    """Return the module that a node calls, or None."""
    if not isinstance(node, torch.fx.Node) or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def _only_user(node: torch.fx.Node) -> torch.fx.Node | None:
    """Return the only node that uses the result of a node, or None."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _remove(node: torch.fx.Node, instead: Any) -> None:
    node.replace_all_uses_with(instead)
    node.graph.erase_node(node)


def _fold_batch_norm(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Fold a batch norm into the convolution called at `node`, if nothing else uses the output of the convolution."""
    convolution, user = _called_module(traced, node), _only_user(node)
    norm = _called_module(traced, user)
    if user is None or not isinstance(convolution, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
        return
    if not isinstance(norm, torch.nn.BatchNorm3d) or norm.training or norm.running_mean is None:
        return
    transposed = isinstance(convolution, torch.nn.ConvTranspose3d)
    traced.set_submodule(str(node.target), fuse_conv_bn_eval(convolution, norm, transposed))
    _remove(user, node)


def _replace_module(traced: torch.fx.GraphModule, name: str) -> None:
    """Replace a layer of PyTorch by an equivalent layer that is faster on CPUs."""
    module = traced.get_submodule(name)
    if type(module) is torch.nn.ConvTranspose3d and _is_doubling(module):
        traced.set_submodule(name, DoublingConvolution(module))
    elif type(module) is torch.nn.InstanceNorm3d and not module.track_running_stats:
        traced.set_submodule(name, ChannelsLastInstanceNorm.of(module))


def _is_doubling(module: torch.nn.ConvTranspose3d) -> bool:
    """Return whether `DoublingConvolution` can replace a transposed convolution and is faster."""
    settings = (module.kernel_size, module.stride, module.padding, module.output_padding, module.dilation)
    return (
        module.out_channels <= 2
        and module.groups == 1
        and settings == ((3,) * 3, (2,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)
    )


def _fuse(traced: torch.fx.GraphModule) -> None:
    """Run convolutions in oneDNN, each fused with the activation or sum that follows."""
    for node in _module_calls(traced, once=True):
        _fold_residual(traced, node)
    for node in _module_calls(traced, once=True):
        convolution = _called_module(traced, node)
        if not _can_fuse(convolution):
            continue
        user = _only_user(node)
        activation = _activation(_called_module(traced, user))
        if user is not None and activation is not None:
            _remove(user, node)
        transposed = isinstance(convolution, torch.nn.ConvTranspose3d)
        kind: type[FusedLayer] = FusedTransposed if transposed else FusedConvolution
        traced.set_submodule(str(node.target), kind(convolution, activation or ("none", [])))
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs:
            _fuse_sum(traced, node)
    for node in _module_calls(traced, once=True):
        _pad_channels(traced, node)


def _can_fuse(module: torch.nn.Module | None) -> TypeGuard[torch.nn.Conv3d | torch.nn.ConvTranspose3d]:
    """Return whether oneDNN can run a convolution. Kernels with one voxel are matrix products, without gain."""
    if not isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
        return False
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    weight = module.weight
    return plain and weight[0, 0].numel() > 1 and weight.dtype is torch.float32 and weight.device.type == "cpu"


def _activation(module: torch.nn.Module | None) -> Activation | None:
    """Return an activation in oneDNN's format, or None for other modules."""
    if type(module) is torch.nn.ReLU:
        return "relu", []
    if type(module) is torch.nn.LeakyReLU:
        return "leaky_relu", [module.negative_slope]
    if type(module) is torch.nn.PReLU and module.weight.numel() == 1:
        return "leaky_relu", [module.weight.item()]
    return None


def _fold_residual(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Replace `convolution(x) + x` by a convolution with 1 added to the center of its kernel."""
    convolution, addition = _called_module(traced, node), _only_user(node)
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


def _fuse_sum(traced: torch.fx.GraphModule, addition: torch.fx.Node) -> None:
    """Make a convolution add its output to that of another convolution in place, if nothing else uses either."""
    for node, other in itertools.permutations(addition.args):
        convolution, first = _called_module(traced, node), _called_module(traced, other)
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


def _pad_channels(traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Pad a convolution with zero output channels to a multiple of the vector width, if this is faster."""
    module = _called_module(traced, node)
    if not isinstance(module, FusedLayer) or module.groups > 1 or len(node.args) > 1:
        return
    missing = -module.out_channels % _VECTOR_WIDTH
    if not missing or missing > module.out_channels // 3:
        return
    if any(user.op == "call_module" and len(user.args) > 1 for user in node.users):  # a sum in place
        return
    following = [_called_module(traced, user) for user in node.users]
    fused = [layer for layer in following if isinstance(layer, FusedLayer) and layer.groups == 1]
    if fused and len(fused) == len(following):
        for layer in fused:
            layer.pad_input_channels(missing)
    else:
        with traced.graph.inserting_after(node):
            wanted = traced.graph.call_function(torch.narrow, (node, 1, 0, module.out_channels))
        node.replace_all_uses_with(wanted, lambda user: user is not wanted)
    module.pad_output_channels(missing)
