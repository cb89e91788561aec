"""Running a network on windows of one fixed shape: as it is, compiled, captured or converted."""

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
    """A function that runs `network` on windows of one shape.

    Call it, like this function, under `torch.inference_mode()` or `torch.no_grad()`. Prepare again after the weights
    have changed: `openvino` takes a copy, and `cudagraph` reads them where they were.

    Args:
        network: in evaluation mode and on `device`.
        backend: `eager`, PyTorch as usual; `compile`, `torch.compile`; `cudagraph`, captured once and replayed, on CUDA
            only; or `openvino`, converted for OpenVINO, on CPUs only.
        precision: see `segbundle.inference.precision.autocast`.
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
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others read and write scans meanwhile
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
    # for good: `catch_warnings` would undo what other threads change meanwhile
    warnings.filterwarnings("ignore", category=TracerWarning)  # about other shapes, of which there are none
    warnings.filterwarnings("ignore", "`torch.jit.trace", DeprecationWarning)
    # a copy, because the conversion changes a network's mode and methods, and keeps its weights
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
