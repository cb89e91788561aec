"""Faster CPU versions of PyTorch layers for channels-last memory."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from segbundle.acceleration.gate import is_accelerated

_MIN_PACKED_WEIGHTS = 2**16
"""Number of weights of a convolution above which reordering them in every oneDNN call takes time."""
_BLOCK = 2**18
"""Values per block of mean and variance, so that a block fits into the cache."""
_PARTS = 64
"""Parts of a block that are summed separately, on all cores."""

Activation = tuple[str, list[float]]
"""Name of an activation in oneDNN, and its arguments."""


class DoublingConvolution(torch.nn.Module):
    """ConvTranspose3d(kernel 3, stride 2, padding 1, output_padding 1) as a convolution with eight times the channels.

    Along an axis, output voxel 2i is w[1] x[i], and output voxel 2i + 1 is w[2] x[i] + w[0] x[i + 1]. Output voxels of
    each of the eight parities are therefore computed by a convolution with a kernel of two voxels per axis, and the
    eight results are interleaved.

    Args:
        transposed: layer to replace; not modified.

    Example:
        >>> transposed = torch.nn.ConvTranspose3d(2, 1, 3, stride=2, padding=1, output_padding=1)
        >>> x = torch.rand(1, 2, 3, 3, 3)
        >>> torch.allclose(DoublingConvolution(transposed)(x), transposed(x), atol=1e-5)
        True
    """

    def __init__(self, transposed: torch.nn.ConvTranspose3d) -> None:
        super().__init__()
        old = transposed.weight.detach()  # (in, out, 3, 3, 3)
        taps = (((0, 1),), ((0, 2), (1, 0)))  # for each parity: indices in the new kernel and in the old kernel
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
        """Upsample a batch to twice its size.

        Args:
            x: (B, in, X, Y, Z), in the dtype of the weights.

        Returns:
            (B, out, 2X, 2Y, 2Z), in channels-last memory
        """
        inner = self.parities(x)[:, :, 1:, 1:, 1:]  # padding is on both sides, but needed at the end only
        split = inner.permute(0, 2, 3, 4, 1).unflatten(4, (2, 2, 2, self.out_channels))
        interleaved = split.permute(0, 1, 4, 2, 5, 3, 6, 7)  # B, X, 2, Y, 2, Z, 2, out
        return interleaved.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)


class ChannelsLastInstanceNorm(torch.nn.InstanceNorm3d):
    """InstanceNorm3d for channels-last memory on CPUs, without PyTorch's (2.13) copies to contiguous memory.

    PyTorch's batch norm supports this memory format, but in float32 it sums all voxels sequentially in single
    precision: the error is 4e-4 standard deviations for 96³ voxels. Group norm is accurate enough for bfloat16, but its
    gradient is ten times slower than that of batch norm.

    The arguments are those of `torch.nn.InstanceNorm3d`. Running statistics are not used.

    Example:
        >>> x = torch.rand(1, 2, 4, 4, 4)
        >>> torch.allclose(ChannelsLastInstanceNorm(2)(x), torch.nn.InstanceNorm3d(2)(x), atol=1e-5)
        True
    """

    @classmethod
    def of(cls, norm: torch.nn.InstanceNorm3d) -> ChannelsLastInstanceNorm:
        """Return an equivalent layer that shares the parameters of `norm`.

        Args:
            norm: layer without running statistics; not modified.
        """
        new = cls(norm.num_features, norm.eps, affine=False)
        new.momentum, new.affine, new.weight, new.bias = norm.momentum, norm.affine, norm.weight, norm.bias
        return new.train(norm.training)

    def _get_name(self) -> str:
        return "InstanceNorm3d"  # print the network as configured

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize a batch per sample and channel.

        Args:
            x: (B, C, X, Y, Z), floating point, in any memory format.

        Returns:
            (B, C, X, Y, Z), in channels-last memory

        Raises:
            ValueError: the input has a single voxel.
        """
        if math.prod(x.shape[2:]) == 1:
            raise ValueError(f"Expected more than 1 spatial element to normalize, got input of size {tuple(x.shape)}")
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if torch.is_grad_enabled() and (x.requires_grad or (self.weight is not None and self.weight.requires_grad)):
            result: torch.Tensor = _InstanceNorm.apply(x, self.weight, self.bias, self.eps)
            return result
        return _normalize(x, self.weight, self.bias, self.eps)[0]


class _InstanceNorm(torch.autograd.Function):
    """Instance norm for channels-last memory; the gradient is that of batch norm on each sample."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        result, means, scales = _normalize(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, means, scales)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, means, scales = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last_3d)
        affine = weight is not None
        of_x, of_weight, of_bias = torch.empty_like(x), None, None
        for index, statistics in enumerate(zip(means, scales, strict=True)):
            sample = slice(index, index + 1)
            found, one, other = torch.ops.aten.native_batch_norm_backward(
                gradient[sample], x[sample], weight, None, None, *statistics, True, ctx.eps, [True, affine, affine]
            )
            of_x[sample] = found
            if affine:
                of_weight, of_bias = (one, other) if index == 0 else (of_weight + one, of_bias + other)
        return of_x, of_weight, of_bias, None


def _normalize(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the normalized samples (B, C, X, Y, Z), their means and inverse standard deviations (B, C) in float32."""
    count, channels = x.shape[:2]
    if x.dtype is not torch.float32:
        # parameters in float32 make the statistics float32
        scale = torch.ones(channels, device=x.device) if weight is None else weight.float()
        shift = torch.zeros(channels, device=x.device) if bias is None else bias.float()
        return torch.native_group_norm(x, scale, shift, count, channels, x[0, 0].numel(), channels, eps)
    result, means, variances = torch.empty_like(x), [], []
    for index, sample in enumerate(x.split(1)):
        mean, variance = _mean_and_variance(sample.permute(0, 2, 3, 4, 1).flatten(0, 3))
        result[index] = torch.batch_norm(sample, weight, bias, mean, variance, False, 0, eps, False)[0]
        means.append(mean)
        variances.append(variance)
    return result, torch.stack(means), torch.rsqrt(torch.stack(variances) + eps)


def with_channels_last_norms(network: torch.nn.Module) -> torch.nn.Module:
    """Replace the instance norms of a network by `ChannelsLastInstanceNorm`, in place.

    The parameters are shared. Instance norms with running statistics, instances of subclasses and the network itself
    are not replaced.

    Args:
        network: network to modify.

    Returns:
        the network that was passed; unchanged if the acceleration is off (see `is_accelerated`)

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2))
        >>> type(with_channels_last_norms(network)[1]).__name__
        'ChannelsLastInstanceNorm'
    """
    if not is_accelerated():
        return network
    for name, module in list(network.named_modules()):
        if name and type(module) is torch.nn.InstanceNorm3d and not module.track_running_stats:
            network.set_submodule(name, ChannelsLastInstanceNorm.of(module))
    return network


def _mean_and_variance(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of each column of (n, C), (C,) each, in float32 with the accuracy of float64 sums."""
    count, channels = values.shape
    rows = max(_BLOCK // (channels * _PARTS), 1) * _PARTS
    whole = count - count % rows
    blocks = [*values[:whole].view(-1, _PARTS, rows // _PARTS, channels), values[None, whole:]]
    mean = (sum(map(_column_sums, blocks)) / count).float()
    variance = sum(_column_sums((block - mean).square_()) for block in blocks) / count
    return mean, variance.float()


def _column_sums(block: torch.Tensor) -> Any:
    """Return the sums (C,) in float64 of (parts, n, C); PyTorch uses pairwise summation within a part."""
    return block.sum(1, dtype=torch.float32).sum(0, dtype=torch.float64)


class FusedLayer(torch.nn.Module):
    """Base class of convolutions that are fused with an activation into a single oneDNN call.

    The layers compute in float32 or bfloat16 on CPUs, in channels-last memory. For a batch of one window, PyTorch
    (2.13) would otherwise select kernels that are several times slower (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp). The operators are those that `torch.compile` uses.

    Args:
        layer: convolution to replace; not modified.
        activation: name of the activation of the output and its arguments; `("none", [])` for no activation.

    Example:
        >>> layer = FusedConvolution(torch.nn.Conv3d(1, 6, 3), ("relu", []))
        >>> layer.pad_output_channels(2)
        >>> isinstance(layer, FusedLayer), layer.out_channels
        (True, 8)
    """

    dims: tuple[int, int]
    """Dimensions of the weights for input and output channels."""

    def __init__(self, layer: torch.nn.Conv3d | torch.nn.ConvTranspose3d, activation: Activation) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.out_channels, self.groups = layer.out_channels, layer.groups
        self.padding: list[int] = [int(size) for size in layer.padding]
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.activation = activation

    def compute_in(self, dtype: torch.dtype) -> None:
        """Convert the weights to a dtype. Inputs and outputs then have this dtype as well; sums stay in float32.

        Args:
            dtype: float32 or bfloat16.
        """
        self.weight = torch.nn.Parameter(self.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if self.bias is None else torch.nn.Parameter(self.bias.detach().to(dtype), requires_grad=False)

    def pad_input_channels(self, channels: int) -> None:
        """Add input channels whose weights are zero, so that their values are ignored.

        Args:
            channels: number of channels to add.
        """
        self.weight = _with_zeros(self.weight, channels, self.dims[0])

    def pad_output_channels(self, channels: int) -> None:
        """Add output channels that are always zero.

        Args:
            channels: number of channels to add.
        """
        self.weight = _with_zeros(self.weight, channels, self.dims[1])
        self.bias = None if self.bias is None else _with_zeros(self.bias, channels, 0)
        self.out_channels += channels


def _with_zeros(weight: torch.Tensor, channels: int, dim: int) -> torch.nn.Parameter:
    """Return weights or a bias, padded with zeros along a dimension."""
    shape = list(weight.shape)
    shape[dim] = channels
    return torch.nn.Parameter(torch.cat([weight.detach(), weight.new_zeros(shape)], dim), requires_grad=False)


class FusedConvolution(FusedLayer):
    """Conv3d fused with an activation or a sum.

    Args:
        layer, activation: see `FusedLayer`.

    Example:
        >>> convolution = torch.nn.Conv3d(1, 2, 3)
        >>> x = torch.rand(1, 1, 4, 4, 4)
        >>> torch.allclose(FusedConvolution(convolution, ("relu", []))(x), convolution(x).relu(), atol=1e-5)
        True
    """

    dims = (1, 0)
    _packed: tuple[tuple[torch.Size, torch.dtype], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve a batch, and apply the activation or add another tensor.

        Args:
            x: (B, in, X, Y, Z), converted to the dtype of the weights.
            other: tensor to add to the result; no activation is then applied. If `other` has the shape of the result
                and is channels-last contiguous, `other` is overwritten with the sum and returned. Default: None.

        Returns:
            (B, out, X', Y', Z'), in the dtype of the weights
        """
        x = x.to(self.weight.dtype)
        key = x.shape, x.dtype
        if self._packed is None or self._packed[0] != key:  # weights packed for another shape would be unpacked first
            self._packed = key, self._packed_weight(x)
        settings = (self._packed[1], self.bias, self.padding, self.stride, self.dilation, self.groups)
        name, values = self.activation
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *settings, name, values, "")
        if other.shape != self._shape(x) or not other.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.ops.mkldnn._convolution_pointwise(x, *settings, "none", [], "") + other
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *settings, "add", 1.0, None, [], None)

    def _packed_weight(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.numel() < _MIN_PACKED_WEIGHTS:
            return self.weight.detach().contiguous(memory_format=torch.channels_last_3d)
        order = torch.ops.mkldnn._reorder_convolution_weight
        return order(self.weight.detach(), self.padding, self.stride, self.dilation, self.groups, list(x.shape))

    def _shape(self, x: torch.Tensor) -> tuple[int, ...]:
        along = zip(x.shape[2:], self.weight.shape[2:], self.padding, self.stride, self.dilation, strict=True)
        return (len(x), self.out_channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in along))


class FusedTransposed(FusedLayer):
    """ConvTranspose3d fused with an activation.

    Args:
        layer, activation: see `FusedLayer`.

    Example:
        >>> transposed = torch.nn.ConvTranspose3d(1, 2, 2, stride=2)
        >>> x = torch.rand(1, 1, 4, 4, 4)
        >>> torch.allclose(FusedTransposed(transposed, ("relu", []))(x), transposed(x).relu(), atol=1e-5)
        True
    """

    dims = (0, 1)

    def __init__(self, layer: torch.nn.ConvTranspose3d, activation: Activation) -> None:
        super().__init__(layer, activation)
        self.output_padding = list(layer.output_padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the transposed convolution and the activation to a batch.

        Args:
            x: (B, in, X, Y, Z), converted to the dtype of the weights.

        Returns:
            (B, out, X', Y', Z'), in the dtype of the weights
        """
        x = x.to(self.weight.dtype)
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
        sizes = (self.padding, self.output_padding, self.stride, self.dilation)
        transposed = torch.ops.mkldnn._convolution_transpose_pointwise
        return transposed(x, weight, self.bias, *sizes, self.groups, *self.activation, "")
