"""Backends that run a network on windows of a fixed shape: eager, compiled, CUDA graph or OpenVINO."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch.jit._trace import TracerWarning
from torch.nn.modules.utils import _triple
from torch.overrides import TorchFunctionMode

from segbundle.config.choices import Backend, Precision
from segbundle.inference.precision import autocast, computed_dtype

Network = Callable[[torch.Tensor], torch.Tensor]

_WARM_UP_RUNS = 3
_OPENVINO_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def prepare(
    network: Network, backend: Backend, precision: Precision, shape: tuple[int, ...], device: torch.device
) -> Network:
    """Return a function that runs a network on windows of a fixed shape.

    Call `prepare` and the returned function under `torch.inference_mode()` or `torch.no_grad()`. Call `prepare` again
    after the weights have changed, because `openvino` copies them, and `cudagraph` reads them from a fixed address.

    Args:
        network: network in evaluation mode on `device`.
        backend: `eager` (plain PyTorch), `compile` (`torch.compile`), `cudagraph` (CUDA kernels that are captured once
            and then replayed; CUDA only) or `openvino` (network converted to OpenVINO; CPU only).
        precision: see `segbundle.inference.precision.autocast`.
        shape: (B, C, *roi) of every batch of windows. Functions for `eager` and `compile` also accept other shapes.
        device: device of the network.

    Returns:
        A function from windows (B, C, *roi), float32 in any memory format, to logits (B, num_classes, *roi) in float32,
        float16 or bfloat16. With `cudagraph` and `openvino`, the next call overwrites the logits.

    Raises:
        ValueError: if backend or precision are unknown, or the backend does not support `device` or `network`.
        ImportError: if OpenVINO is not installed.

    Example:
        >>> network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
        >>> with torch.inference_mode():
        ...     run = prepare(network, "eager", "fp32", (1, 1, 8, 8, 8), torch.device("cpu"))
        ...     logits = run(torch.zeros(1, 1, 8, 8, 8))
        >>> logits.shape
        torch.Size([1, 2, 8, 8, 8])
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}, but must be 'eager', 'compile', 'cudagraph' or 'openvino'.")
    if backend == "openvino":
        return _convert(network, computed_dtype(device, precision), shape, device)
    if backend == "compile":
        return _wrap_eager(torch.compile(network, dynamic=False), precision, device)
    if backend == "cudagraph":
        return _capture(_wrap_eager(network, precision, device), shape, device)
    single_window = (
        torch.backends.mkldnn.is_available()
        and shape[0] == 1
        and device.type == "cpu"
        and computed_dtype(device, precision) is torch.float32
    )
    return _wrap_eager(network, precision, device, _OneDnnConvolutions if single_window else nullcontext)


def _wrap_eager(
    network: Network,
    precision: Precision,
    device: torch.device,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Network:
    autocast(device, precision)  # raises an error for an unknown precision before the first window

    def run(windows: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision), context():
            return network(_channels_last(windows))

    return run


def _channels_last(windows: torch.Tensor) -> torch.Tensor:
    """Return windows (B, C, *roi) with the memory layout and strides of channels-last.

    With a single channel, both formats have the same layout. PyTorch then keeps contiguous strides, and the whole
    network would follow them.
    """
    if windows.dim() != 5:
        return windows
    _, channels, x, y, z = windows.shape
    strides = (channels * x * y * z, 1, channels * y * z, channels * z, channels)
    return windows.contiguous(memory_format=torch.channels_last_3d).as_strided(windows.shape, strides)


class _OneDnnConvolutions(TorchFunctionMode):
    """Context in which 3D convolutions in float32 run in oneDNN.

    For a single window with few channels or few voxels, PyTorch (2.13) selects its native kernel, which is several
    times slower (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp).
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
    """Compute `torch.conv3d` in oneDNN where it supports the arguments."""
    # oneDNN does not accept padding by name ("same"); kernels with one voxel are matrix products
    if isinstance(padding, str) or input.dtype is not torch.float32 or weight[0, 0].numel() == 1:
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(input, weight, bias, _triple(padding), _triple(stride), _triple(dilation), groups)


def _capture(run: Network, shape: tuple[int, ...], device: torch.device) -> Network:
    if device.type != "cuda":
        raise ValueError(f"backend 'cudagraph' runs on CUDA devices only, not on {device.type!r}. Choose 'eager'.")
    with torch.cuda.device(device):
        static = _channels_last(torch.zeros(shape, device=device))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernel selection and workspaces must not be captured
            for _ in range(_WARM_UP_RUNS):
                run(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads read and write scans
            logits = run(static)

    def replay(windows: torch.Tensor) -> torch.Tensor:
        static.copy_(windows)
        graph.replay()
        return logits

    return replay


def _convert(network: Network, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> Network:
    if device.type != "cpu":
        raise ValueError(f"backend 'openvino' runs on CPUs only, not on {device.type!r}. Choose 'eager'.")
    openvino = _import_openvino()
    # permanent: `catch_warnings` would revert concurrent changes of other threads
    warnings.filterwarnings("ignore", category=TracerWarning)  # about other shapes, but the shape is fixed
    warnings.filterwarnings("ignore", "`torch.jit.trace", DeprecationWarning)
    # copy: the conversion changes mode and methods of the network, and keeps its weights
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
        logits = compiled([windows.contiguous().numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(logits[0])

    return run


def _import_openvino() -> Any:
    # OpenVINO reports imports and conversions to Google Analytics, unless the telemetry package cannot be imported
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None makes the import fail
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "backend 'openvino' needs OpenVINO. Install it: pip install \"segbundle[openvino]\""
        ) from error
    return openvino
