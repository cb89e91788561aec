"""Run a network on windows of a fixed shape: load checkpoints, select the precision, and prepare a backend.

MONAI's engines support `torch.autocast` on CUDA devices only. The context of this module supports CPUs as well.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch.jit._trace import TracerWarning
from torch.nn.modules.utils import _triple
from torch.overrides import TorchFunctionMode

from segbundle.acceleration.rewriting import optimized
from segbundle.config.choices import Backend, Precision

Network = Callable[..., torch.Tensor]
Member = tuple[str | None, Network]
"""Path of a checkpoint, or None for the current weights, and the network."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CACHED_SHAPES = 4
"""Number of window shapes per checkpoint for which prepared networks are cached."""
_WARM_UP_RUNS = 3
_OPENVINO_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def members(network: Network, checkpoints: Sequence[str]) -> Iterator[Member]:
    """Yield the network with the weights of each checkpoint in turn.

    The weights are loaded into the network itself. After the last iteration, the network has the weights of the last
    checkpoint. Checkpoints are memory-mapped, so that only the network's own weights are in memory.

    Args:
        network: a `torch.nn.Module`; any callable if there are no checkpoints.
        checkpoints: paths of files with plain state dicts; if empty, the network is yielded once with its current
            weights.

    Yields:
        pairs of the path of the checkpoint (None without checkpoints) and the network, which is always the same object

    Raises:
        ValueError: checkpoints are given for a network that is not a module.
        RuntimeError: the shapes of the weights do not fit the network.
        OSError: a checkpoint cannot be read.

    Example:
        >>> network = torch.nn.Conv3d(1, 2, 3)
        >>> [(checkpoint, member is network) for checkpoint, member in members(network, [])]
        [(None, True)]
    """
    if not checkpoints:
        yield None, network
        return
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"checkpoints need a network that is a torch.nn.Module, got {type(network).__name__}.")
    for path in checkpoints:
        weights: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        network.load_state_dict(weights, strict=False)  # without layers that only deep supervision needs
        yield path, network


class PreparedNetworks:
    """Cache of networks that `prepare` returned, by window shape; a network with new weights is prepared again.

    Args:
        backend: see `prepare`.
        precision: see `autocast`.
        num_members: number of checkpoints whose weights are loaded into a network in turn; 1 without checkpoints.

    Example:
        >>> network, windows = torch.nn.Conv3d(1, 2, 3, padding=1).eval(), torch.zeros(1, 1, 8, 8, 8)
        >>> networks = PreparedNetworks("eager", "fp32", num_members=1)
        >>> with torch.inference_mode():
        ...     networks.get((None, network), windows) is networks.get((None, network), windows)
        True
    """

    def __init__(self, backend: Backend, precision: Precision, num_members: int) -> None:
        self.backend = backend
        self.precision = precision
        self._most = num_members * _CACHED_SHAPES
        self._checksums: list[float] = []  # of the weights, at the last call of `refresh`
        self._cache: dict[Any, tuple[Any, Network]] = {}  # version of the weights, prepared network

    def refresh(self, network: Network) -> None:
        """Clear the cache if weights have changed in a way that autograd does not track, such as `parameter.data`.

        Args:
            network: network to be used next.
        """
        if isinstance(network, torch.nn.Module):
            sums = [float(tensor.sum(dtype=torch.float64)) for tensor in (*network.parameters(), *network.buffers())]
            if sums != self._checksums:
                self._cache.clear()
            self._checksums = sums

    def get(self, member: Member, windows: torch.Tensor) -> Network:
        """Return the prepared network from the cache, or prepare it for new weights or a new window shape.

        Args:
            member: pair of a path and a network, as `members` yields.
            windows: (B, C, *roi) in float32, on the device of the network.

        Returns:
            function from windows of this shape to logits (B, num_classes, *roi), see `prepare`
        """
        checkpoint, network = member
        shape, device = tuple(windows.shape), windows.device
        copied = self.backend == "openvino"  # has a copy of the weights of each checkpoint
        # these share the memory into which checkpoints are loaded
        shared = checkpoint is not None and self.backend in ("compile", "cudagraph")
        weights = None if checkpoint is not None and (copied or shared) else _weights_version(network)
        key = (network, checkpoint if copied else None, shape, device)  # not id(network): ids are reused
        if key not in self._cache and len(self._cache) >= self._most:
            self._cache.clear()
        if key not in self._cache or self._cache[key][0] != weights:
            quick = network
            if isinstance(network, torch.nn.Module) and not shared:
                own = self.backend == "eager" and device.type == "cpu"
                quick = optimized(network, shape, computed_dtype(device, self.precision) if own else None)
            self._cache[key] = weights, prepare(quick, self.backend, self.precision, shape, device)
        return self._cache[key][1]


def _weights_version(network: Network) -> Any:
    """Return a value that changes with the weights and the mode of a network."""
    if not isinstance(network, torch.nn.Module):
        return None
    tensors = (*network.parameters(), *network.buffers())
    return network.training, tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32: on CPUs with AMX, and on NVIDIA GPUs since Ampere.

    AVX-512 BF16 alone is not enough: training is not faster, and oneDNN's gradients of 3D convolutions are wrong for
    volumes that are two voxels deep (torch 2.13).

    Args:
        device: device of the network.

    Example:
        >>> has_fast_bf16(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return False


def computed_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Return the dtype of convolutions on a device: bfloat16, float16 or float32.

    Args:
        device: device of the network.
        precision: `bf16`, `fp16`, `fp32` or `auto`. `auto` is bf16 on devices where bf16 is faster (`has_fast_bf16`),
            fp16 on other NVIDIA GPUs, otherwise fp32. With gradients enabled, `auto` is never fp16, because small
            gradients would underflow. Default: `auto`.

    Raises:
        ValueError: the precision is unknown.

    Example:
        >>> computed_dtype(torch.device("cpu"), "bf16")
        torch.bfloat16
    """
    if precision != "auto":
        if precision not in _DTYPES:
            raise ValueError(f"precision is {precision!r}, but must be 'auto', 'bf16', 'fp16' or 'fp32'.")
        return _DTYPES[precision]
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" and not torch.is_grad_enabled() else torch.float32


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[None]:
    """Return a context manager in which convolutions run in `computed_dtype`. Weights and sums stay in float32.

    Args:
        device: device of the network.
        precision: see `computed_dtype`. Default: `auto`.

    Raises:
        ValueError: the precision is unknown.

    Example:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     torch.nn.Conv3d(1, 1, 1)(torch.zeros(1, 1, 2, 2, 2)).dtype
        torch.bfloat16
    """
    dtype = computed_dtype(device, precision)
    if dtype is torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)


def prepare(
    network: Network, backend: Backend, precision: Precision, shape: tuple[int, ...], device: torch.device
) -> Network:
    """Return a function that runs a network on windows of a fixed shape.

    Call `prepare` and the returned function under `torch.inference_mode()` or `torch.no_grad()`. Call `prepare` again
    after the weights have changed, because `openvino` copies the weights, and `cudagraph` reads the weights from a
    fixed memory address.

    Args:
        network: network in evaluation mode on `device`.
        backend: `eager` (plain PyTorch), `compile` (`torch.compile`), `cudagraph` (CUDA kernels that are captured once
            and then replayed; CUDA only) or `openvino` (network converted to OpenVINO; CPU only).
        precision: see `autocast`.
        shape: (B, C, *roi) of every batch of windows. Functions for `eager` and `compile` also accept other shapes.
        device: device of the network.

    Returns:
        a function from windows (B, C, *roi), float32 in any memory format, to logits (B, num_classes, *roi) in float32,
        float16 or bfloat16. With `cudagraph` and `openvino`, the next call overwrites the logits.

    Raises:
        ValueError: the backend or the precision is unknown, or the backend does not support `device` or `network`.
        ImportError: OpenVINO is not installed.

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
    dtype = computed_dtype(device, precision)
    reduced = dtype is not torch.float32

    def run(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype if reduced else None, enabled=reduced), context():
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
