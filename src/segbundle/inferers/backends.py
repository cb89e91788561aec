"""Running a network on windows of one fixed shape: as it is, compiled, captured or converted, and made smaller."""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch.nn.modules.utils import _triple
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from segbundle.inferers.precision import Precision, autocast, computed_dtype

Backend = Literal["eager", "compile", "cudagraph", "openvino"]
Network = Callable[[torch.Tensor], torch.Tensor]

_WARM_UP_RUNS = 3
_OPENVINO_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def prepare(
    network: Network, backend: Backend, precision: Precision, shape: tuple[int, ...], device: torch.device
) -> Network:
    """A function that runs `network` on windows of one shape.

    Call it, like this function, under `torch.inference_mode()` or `torch.no_grad()`. Prepare again after the weights
    have changed: `openvino` takes a copy, and `cudagraph` reads them where they were.

    Args:
        network: in evaluation mode and on `device`.
        backend: `eager`, PyTorch as usual; `compile`, `torch.compile`; `cudagraph`, captured once and replayed, on CUDA
            only; or `openvino`, converted for OpenVINO, on CPUs only.
        precision: see `segbundle.inferers.precision.autocast`.
        shape: (B, C, *roi), that of every batch of windows; `eager` and `compile` take others, too.
        device: where the network runs.

    Returns:
        A function from windows (B, C, *roi), float32 in any memory format, to scores (B, num_classes, *roi) in float32,
        float16 or bfloat16. The scores of `cudagraph` and `openvino` lie where the next call writes its own.

    Raises:
        ValueError: an unknown backend or precision, or a backend that does not run on `device` or with `network`.
        ImportError: OpenVINO is not installed.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}, and must be 'eager', 'compile', 'cudagraph' or 'openvino'.")
    if backend == "openvino":
        return _converted(network, computed_dtype(device, precision), shape, device)
    if backend == "compile":
        return _eager(torch.compile(network, dynamic=False), precision, device)
    if backend == "cudagraph":
        return _captured(_eager(network, precision, device), shape, device)
    one_window = (
        torch.backends.mkldnn.is_available()
        and shape[0] == 1
        and device.type == "cpu"
        and computed_dtype(device, precision) is torch.float32
    )
    return _eager(network, precision, device, _OneDnnConvolutions if one_window else nullcontext)


def _eager(
    network: Network,
    precision: Precision,
    device: torch.device,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Network:
    autocast(device, precision)  # refuses an unknown precision now rather than at the first window

    def run(windows: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision), context():
            return network(_channels_last(windows))

    return run


def _channels_last(windows: torch.Tensor) -> torch.Tensor:
    """Windows (B, C, *roi) in channels-last memory, also by their strides.

    With one channel both formats are the same memory. PyTorch then keeps the strides of the other, and the whole
    network would follow them.
    """
    if windows.dim() != 5:
        return windows
    _, channels, x, y, z = windows.shape
    strides = (channels * x * y * z, 1, channels * y * z, channels * z, channels)
    return windows.contiguous(memory_format=torch.channels_last_3d).as_strided(windows.shape, strides)


class _OneDnnConvolutions(TorchFunctionMode):
    """A context in which 3D convolutions in float32 run in oneDNN.

    For a single window with few channels or few voxels PyTorch (2.13) prefers its own kernel, which is several times
    slower (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_onednn_conv3d if func is torch.conv3d else func)(*args, **(kwargs or {}))


def _onednn_conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.conv3d`, without its choice between kernels."""
    # by name ("same") it is the caller's to resolve, and kernels of one voxel are matrix products
    if isinstance(padding, str) or input.dtype is not torch.float32 or weight[0, 0].numel() == 1:
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(input, weight, bias, _triple(padding), _triple(stride), _triple(dilation), groups)


def _captured(run: Network, shape: tuple[int, ...], device: torch.device) -> Network:
    if device.type != "cuda":
        raise ValueError(f"backend 'cudagraph' runs on CUDA devices only, not on {device.type!r}: choose 'eager'.")
    with torch.cuda.device(device):
        static = _channels_last(torch.zeros(shape, device=device))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose kernels and take workspaces, which must not be captured
            for _ in range(_WARM_UP_RUNS):
                run(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            scores = run(static)

    def replay(windows: torch.Tensor) -> torch.Tensor:
        static.copy_(windows)
        graph.replay()
        return scores

    return replay


def _converted(network: Network, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> Network:
    if device.type != "cpu":
        raise ValueError(f"backend 'openvino' runs on CPUs only, not on {device.type!r}: choose 'eager'.")
    openvino = _import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about other shapes: there will be none
        # of a copy, because the conversion changes a network's mode and methods, and keeps its weights
        model = openvino.convert_model(copy.deepcopy(network), example_input=torch.zeros(shape), input=[list(shape)])
    if len(model.outputs) != 1:
        raise ValueError(f"backend 'openvino' needs a network with one output, got {len(model.outputs)}.")
    options = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_NAMES[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.compile_model(model, "CPU", options)

    def run(windows: torch.Tensor) -> torch.Tensor:
        scores = compiled([windows.contiguous().numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(scores[0])

    return run


def _import_openvino() -> Any:
    # importing OpenVINO and converting with it each report to Google Analytics; it does without the reporting package
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it fails
    try:
        import openvino
    except ImportError as error:
        raise ImportError("backend 'openvino' needs OpenVINO: pip install \"segbundle[openvino]\"") from error
    return openvino


def optimised(network: torch.nn.Module) -> torch.nn.Module:
    """An equivalent network that computes less: for inference only.

    Batch norm becomes part of the convolution before it. On CPUs, transposed convolutions to one or two channels
    become ordinary ones, which keep vector units busier.

    Args:
        network: in evaluation mode; it stays as it is. Hooks on it and on what disappears are not called any more.

    Returns:
        A network that shares all weights but the changed ones with `network`, or `network` itself if it is in training
        mode or `torch.fx` cannot follow its forward pass.
    """
    if network.training:
        return network
    try:
        traced = torch.fx.symbolic_trace(network)
    except Exception:  # whatever a forward pass does that cannot be done with symbols
        return network
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in traced.graph.nodes:
        if node.op == "call_module" and calls.count(node.target) == 1:
            _absorb_batch_norm(traced, node, calls)
    for name in set(calls):
        _replace_transposed(traced, name)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _absorb_batch_norm(traced: torch.fx.GraphModule, node: torch.fx.Node, calls: list[Any]) -> None:
    """Folds a batch norm called at `node` into the convolution whose result only it uses."""
    norm = traced.get_submodule(str(node.target))
    before = node.args[0] if node.args else None
    if not isinstance(norm, torch.nn.BatchNorm3d) or norm.training or norm.running_mean is None:
        return
    if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return
    convolution = traced.get_submodule(str(before.target))
    if not isinstance(convolution, torch.nn.Conv3d | torch.nn.ConvTranspose3d) or calls.count(before.target) > 1:
        return
    transposed = isinstance(convolution, torch.nn.ConvTranspose3d)
    traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm, transposed))
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)


def _replace_transposed(traced: torch.fx.GraphModule, name: str) -> None:
    module = traced.get_submodule(name)
    if type(module) is torch.nn.ConvTranspose3d and _is_doubling(module):
        traced.set_submodule(name, _DoublingConvolution(module))


def _is_doubling(module: torch.nn.ConvTranspose3d) -> bool:
    """Whether `_DoublingConvolution` can stand for a transposed convolution, and is faster."""
    settings = (module.kernel_size, module.stride, module.padding, module.output_padding, module.dilation)
    few = module.out_channels <= 2 and module.weight.device.type == "cpu"
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
        self.weight = torch.nn.Parameter(weight.flatten(0, 3), requires_grad=False)
        bias = None if transposed.bias is None else transposed.bias.detach().repeat(8)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (B, in, X, Y, Z) to (B, out, 2X, 2Y, 2Z), in channels-last memory."""
        parities = torch.conv3d(torch.nn.functional.pad(x, (0, 1, 0, 1, 0, 1)), self.weight, self.bias)
        split = parities.permute(0, 2, 3, 4, 1).unflatten(4, (2, 2, 2, self.out_channels))
        interleaved = split.permute(0, 1, 4, 2, 5, 3, 6, 7)  # B, X, 2, Y, 2, Z, 2, out
        return interleaved.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)
