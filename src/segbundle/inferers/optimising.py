"""Rewriting a network for inference, so that it computes the same with less."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segbundle.inferers.windows import small_window

_NOTHING = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Dropout3d, torch.nn.AlphaDropout)
"""What does nothing in evaluation mode."""
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_TOLERANCE = 0.01
"""By which part of the largest score a rewritten network may differ; TF32 on GPUs accounts for a tenth of it."""
_WORTH_PACKING = 2**16
"""Weights of a convolution from which bringing them into oneDNN's order at every call takes time."""
_VECTOR = 8
"""Channels that a vector unit holds in float32 (AVX2; AVX-512 twice as many)."""
_BLOCK = 2**18
"""Values whose mean and variance are taken at a time, so that they stay in the cache."""
_PARTS = 64
"""Parts of a block that are summed by themselves, on all cores."""

Activation = tuple[str, list[float]]
"""oneDNN's name of an activation and its arguments."""


def optimised(network: torch.nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.nn.Module:
    """An equivalent network that computes less: for inference only.

    Batch norm becomes part of the convolution before it. On CPUs, transposed convolutions to one or two channels
    become ordinary ones, which keep vector units busier; and instance norm works on channels-last memory as it is. In
    float32 there, what follows a convolution, an activation or a sum, is computed with it, by oneDNN.

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
        traced = torch.fx.symbolic_trace(network)
    except Exception:  # whatever a forward pass does that cannot be done with symbols
        return network
    _rewrite(traced, dtype)
    return traced if _agree(traced, network, shape) else network


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


def _rewrite(traced: torch.fx.GraphModule, dtype: torch.dtype | None) -> None:
    for node in _module_calls(traced):
        if isinstance(_called(traced, node), _NOTHING):
            _remove(node, node.args[0])
    for node in _module_calls(traced, once=True):
        _absorb_batch_norm(traced, node)
    for name in {str(node.target) for node in _module_calls(traced)}:
        _replace(traced, name)
    if dtype is torch.float32 and torch.backends.mkldnn.is_available():
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
    """Puts a faster module of ours in the place of one of PyTorch's, on CPUs."""
    module = traced.get_submodule(name)
    if type(module) is torch.nn.ConvTranspose3d and _is_doubling(module):
        traced.set_submodule(name, _DoublingConvolution(module))
    elif type(module) is torch.nn.InstanceNorm3d and not module.track_running_stats and _on_cpu(module):
        traced.set_submodule(name, _ChannelsLastInstanceNorm(module))


def _on_cpu(module: torch.nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in module.parameters())


def _is_doubling(module: torch.nn.ConvTranspose3d) -> bool:
    """Whether `_DoublingConvolution` can stand for a transposed convolution, and is faster."""
    settings = (module.kernel_size, module.stride, module.padding, module.output_padding, module.dilation)
    few = module.out_channels <= 2 and _on_cpu(module)
    return few and module.groups == 1 and settings == ((3,) * 3, (2,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)


class _DoublingConvolution(torch.nn.Module):
    """ConvTranspose3d(kernel 3, stride 2, padding 1, output_padding 1) as a convolution to eight times the channels.

    Along an axis, voxel 2i of the result is w[1] x[i], and voxel 2i + 1 is w[2] x[i] + w[0] x[i + 1]. So each of the
    eight parities is a convolution of its own with a kernel of two voxels, and their results interleave.
    """

    def __init__(self, transposed: torch.nn.ConvTranspose3d) -> None:
        super().__init__()
        old = transposed.weight.detach()  # (in, out, 3, 3, 3)
        taps = (((0, 1),), ((0, 2), (1, 0)))  # per parity: places in the new kernel and in the old
        weight = old.new_zeros(2, 2, 2, old.shape[1], old.shape[0], 2, 2, 2)
        for parity in itertools.product((0, 1), repeat=3):
            for pairs in itertools.product(*(taps[axis] for axis in parity)):
                (a, b, c), (i, j, k) = zip(*pairs, strict=True)
                weight[parity][:, :, a, b, c] = old[:, :, i, j, k].T
        self.out_channels = old.shape[1]
        self.parities = torch.nn.Conv3d(old.shape[0], 8 * old.shape[1], 2, padding=1, bias=transposed.bias is not None)
        self.parities.weight = torch.nn.Parameter(weight.flatten(0, 3), requires_grad=False)
        if transposed.bias is not None:
            self.parities.bias = torch.nn.Parameter(transposed.bias.detach().repeat(8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (B, in, X, Y, Z) to (B, out, 2X, 2Y, 2Z), in channels-last memory."""
        inner = self.parities(x)[:, :, 1:, 1:, 1:]  # a voxel was added on both sides, and is needed behind only
        split = inner.permute(0, 2, 3, 4, 1).unflatten(4, (2, 2, 2, self.out_channels))
        interleaved = split.permute(0, 1, 4, 2, 5, 3, 6, 7)  # B, X, 2, Y, 2, Z, 2, out
        return interleaved.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)


class _ChannelsLastInstanceNorm(torch.nn.Module):
    """InstanceNorm3d for channels-last memory, which PyTorch (2.13) copies into the other format and back.

    PyTorch's batch norm for this format is no way out: it sums up all voxels in single precision, one after the other,
    and is off by 4e-4 standard deviations for 96³ voxels.
    """

    def __init__(self, norm: torch.nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (B, C, X, Y, Z) to the same shape."""
        samples = []
        for sample in x.split(1):
            mean, variance = _mean_and_variance(sample.permute(0, 2, 3, 4, 1).flatten(0, 3))
            normalised = torch.batch_norm(sample, self.weight, self.bias, mean, variance, False, 0, self.eps, False)
            samples.append(normalised)
        return samples[0] if len(samples) == 1 else torch.cat(samples)


def _mean_and_variance(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each column of (n, C), in float32 with sums that are as good as float64's: two tensors (C,)."""
    count, channels = values.shape
    rows = max(_BLOCK // (channels * _PARTS), 1) * _PARTS
    whole = count - count % rows
    blocks = [*values[:whole].view(-1, _PARTS, rows // _PARTS, channels), values[None, whole:]]
    mean = (sum(map(_column_sums, blocks)) / count).float()
    variance = sum(_column_sums((block - mean).square_()) for block in blocks) / count
    return mean, variance.float()


def _column_sums(block: torch.Tensor) -> Any:
    """Sums (C,) in float64 of (parts, n, C), which PyTorch takes pairwise within a part."""
    return block.sum(1, dtype=torch.float32).sum(0, dtype=torch.float64)


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
        traced.set_submodule(str(node.target), _fused(convolution, activation or ("none", [])))
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
    return plain and module.weight[0, 0].numel() > 1 and module.weight.dtype is torch.float32 and _on_cpu(module)


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
        if not isinstance(convolution, _FusedConvolution) or convolution.activation[0] != "none":
            continue
        if not isinstance(first, _FusedConvolution) or first.out_channels != convolution.out_channels:
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
    if not isinstance(module, _FusedConvolution | _FusedTransposed) or module.groups > 1 or len(node.args) > 1:
        return
    missing = -module.out_channels % _VECTOR
    if not missing or missing > module.out_channels // 3:
        return
    if any(user.op == "call_module" and len(user.args) > 1 for user in node.users):  # a sum in this one's memory
        return
    following = [_called(traced, user) for user in node.users]
    fused = [one for one in following if isinstance(one, _FusedConvolution | _FusedTransposed) and one.groups == 1]
    if fused and len(fused) == len(following):
        for one in fused:
            one.take_more(missing)
    else:
        with traced.graph.inserting_after(node):
            wanted = traced.graph.call_function(torch.narrow, (node, 1, 0, module.out_channels))
        node.replace_all_uses_with(wanted, lambda user: user is not wanted)
    module.give_more(missing)


def _with_zeros(weight: torch.Tensor, channels: int, dim: int) -> torch.nn.Parameter:
    """Weights or a bias with so many more channels along a dimension."""
    shape = list(weight.shape)
    shape[dim] = channels
    return torch.nn.Parameter(torch.cat([weight.detach(), weight.new_zeros(shape)], dim), requires_grad=False)


def _fused(convolution: torch.nn.Conv3d | torch.nn.ConvTranspose3d, activation: Activation) -> torch.nn.Module:
    if isinstance(convolution, torch.nn.ConvTranspose3d):
        return _FusedTransposed(convolution, activation)
    return _FusedConvolution(convolution, activation)


class _FusedConvolution(torch.nn.Module):
    """Conv3d, and an activation or a sum after it, in one call of oneDNN: float32 on CPUs, channels-last.

    For a single window PyTorch (2.13) would prefer kernels that are several times slower (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp). The functions are those that `torch.compile` uses.
    """

    def __init__(self, convolution: torch.nn.Conv3d, activation: Activation) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.out_channels = convolution.out_channels
        self.padding: list[int] = [int(size) for size in convolution.padding]
        self.stride, self.dilation = list(convolution.stride), list(convolution.dilation)
        self.groups = convolution.groups
        self.activation = activation
        self._packed: tuple[torch.Size, torch.Tensor] | None = None

    def take_more(self, channels: int) -> None:
        """Take so many more channels than before, without using them."""
        self.weight = _with_zeros(self.weight, channels, 1)

    def give_more(self, channels: int) -> None:
        """Return so many more channels than before; they are zero."""
        self.weight = _with_zeros(self.weight, channels, 0)
        self.bias = None if self.bias is None else _with_zeros(self.bias, channels, 0)
        self.out_channels += channels

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """From (B, in, X, Y, Z) to (B, out, X', Y', Z'); with `other` (same shape), added to it, in its memory."""
        if self._packed is None or self._packed[0] != x.shape:  # packed for another shape, it would be unpacked first
            self._packed = x.shape, self._ordered_weight(x)
        settings = (self._packed[1], self.bias, self.padding, self.stride, self.dilation, self.groups)
        name, values = self.activation
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *settings, name, values, "")
        if other.shape != self._shape(x) or not other.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.ops.mkldnn._convolution_pointwise(x, *settings, "none", [], "") + other
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *settings, "add", 1.0, None, [], None)

    def _ordered_weight(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.numel() < _WORTH_PACKING:
            return self.weight.detach().contiguous(memory_format=torch.channels_last_3d)
        order = torch.ops.mkldnn._reorder_convolution_weight
        return order(self.weight.detach(), self.padding, self.stride, self.dilation, self.groups, list(x.shape))

    def _shape(self, x: torch.Tensor) -> tuple[int, ...]:
        along = zip(x.shape[2:], self.weight.shape[2:], self.padding, self.stride, self.dilation, strict=True)
        return (len(x), self.out_channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in along))


class _FusedTransposed(torch.nn.Module):
    """ConvTranspose3d and an activation after it, in one call of oneDNN; see `_FusedConvolution`."""

    def __init__(self, transposed: torch.nn.ConvTranspose3d, activation: Activation) -> None:
        super().__init__()
        self.weight, self.bias = transposed.weight, transposed.bias
        self.out_channels, self.groups = transposed.out_channels, transposed.groups
        sizes = (transposed.padding, transposed.output_padding, transposed.stride, transposed.dilation)
        self.sizes = [list(size) for size in sizes]
        self.activation = activation

    def take_more(self, channels: int) -> None:
        """As `_FusedConvolution.take_more`."""
        self.weight = _with_zeros(self.weight, channels, 0)

    def give_more(self, channels: int) -> None:
        """As `_FusedConvolution.give_more`."""
        self.weight = _with_zeros(self.weight, channels, 1)
        self.bias = None if self.bias is None else _with_zeros(self.bias, channels, 0)
        self.out_channels += channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
        transposed = torch.ops.mkldnn._convolution_transpose_pointwise
        return transposed(x, weight, self.bias, *self.sizes, self.groups, *self.activation, "")
