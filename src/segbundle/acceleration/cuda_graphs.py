"""Run training steps on a GPU as CUDA graphs, whose kernels are captured once and replayed in every step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import CommonKeys

import segbundle.losses
from segbundle.acceleration.gate import is_accelerated
from segbundle.hardware.memory_usage import has_room
from segbundle.losses.base import RegionLoss
from segbundle.losses.deep_supervision import loss_over_depths

_logger = logging.getLogger(__name__)
_TOLERANCE = 0.02
"""Relative tolerance between captured and eager outputs and gradients; suitable for bfloat16."""
_MEMORY_FACTOR = 3
"""Peak memory of the warm-up, the capture and the graphs, in multiples of the peak memory of a training step."""


class StepGraphs:
    """CUDA graphs of the forward and backward pass of a network and a loss.

    With small patches, a GPU executes the kernels of a step (about a thousand) faster than Python can launch them one
    by one. A graph launches all kernels at once, but needs the same shapes and memory addresses in every step. `logits`
    and `loss` return None for batches that do not match, so that the caller can run the network or the loss eagerly.
    Values that Python computes, such as settings of the loss, are constants of the graph.

    Args:
        network: network on a CUDA device, in training mode.
        inferer: callable that passes patches (B, C, X, Y, Z) through the network, such as
            `segbundle.inference.PatchInferer`.
        loss: loss function. Losses of `segbundle.losses` are captured for batches in which all classes are annotated,
            without the checks of their inputs. Other losses run eagerly, because a graph would skip everything that
            they do besides launching kernels.
        batch: a typical batch on the device, with `image` (B, C, X, Y, Z) and `label` (B, 1, X, Y, Z).

    Raises:
        RuntimeError: the network cannot be captured, or the graph returns different logits or gradients.

    Example:
        >>> graphs = StepGraphs(network, PatchInferer("bf16"), loss, batch)  # doctest: +SKIP
        >>> logits = graphs.logits(batch["image"])  # doctest: +SKIP
        >>> graphs.loss(logits, batch["label"]).backward()  # doctest: +SKIP
        >>> graphs.copy_gradients()  # doctest: +SKIP
    """

    def __init__(
        self, network: torch.nn.Module, inferer: Callable[..., Any], loss: Any, batch: Mapping[str, torch.Tensor]
    ) -> None:
        image, label = batch[CommonKeys.IMAGE].clone(), batch[CommonKeys.LABEL].clone()
        self._image_signature, self._label_signature = _signature(image), _signature(label)
        if any(hooks for module in network.modules() for hooks in _hooks(module)):
            raise RuntimeError("the network has hooks, which a graph does not call")
        self._addresses = _weight_addresses(network)
        functional = _FunctionalNetwork(network, inferer)
        self._weights = list(zip(network.parameters(), functional.weights, strict=True))
        with _PreservedState(network, image.device):
            expected = _logits_and_gradients(lambda image: inferer(image, network), network.parameters(), image)
            self._network = _captured(functional, image)
            found = _logits_and_gradients(self._network, functional.weights, image)
            for name, captured, eager in zip(("logits", "gradients"), found, expected, strict=True):
                if not bool((captured - eager).norm() <= _TOLERANCE * eager.norm()):
                    raise RuntimeError(f"the captured network has different {name}")
            logits = self._network(image).detach()
            self._logits_address = logits.data_ptr()
            self._loss = _captured_loss(loss, logits.requires_grad_(), label)

    def fits(self, network: torch.nn.Module) -> bool:
        """Return whether the graphs are still valid for the weights of the network.

        This is the case if memory addresses and `requires_grad` are the same as during the capture.

        Args:
            network: the captured network.
        """
        return _weight_addresses(network) == self._addresses

    def logits(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return the logits of a batch of patches; None if shape, dtype or device differ from the captured batch.

        The logits have the shape and dtype that the inferer returns. The next call overwrites the returned tensor.

        Args:
            image: patches (B, C, X, Y, Z).
        """
        if _signature(image) != self._image_signature:
            return None
        logits: torch.Tensor = self._network(image)
        return logits

    def loss(self, logits: Any, label: torch.Tensor) -> torch.Tensor | None:
        """Return the loss of fully annotated patches; None if the loss was not captured or the batch does not match.

        The result is a scalar that later steps do not overwrite.

        Args:
            logits: the tensor that `logits` returned; for any other value, the result is None.
            label: class indices (B, 1, X, Y, Z).
        """
        if self._loss is None or not isinstance(logits, torch.Tensor) or logits.data_ptr() != self._logits_address:
            return None
        if _signature(label) != self._label_signature:
            return None
        value: torch.Tensor = self._loss(logits, label)
        return value.clone()  # the next step overwrites the memory

    def copy_gradients(self) -> None:
        """Move the gradients of the last backward pass from the graph to the weights of the network.

        Call this method after every backward pass. The method does nothing if the pass did not use the result of
        `logits`.
        """
        for weight, captured in self._weights:
            if captured.grad is not None:
                weight.grad, captured.grad = captured.grad, None


class _FunctionalNetwork(torch.nn.Module):
    """Module that applies an inferer to a network, with weights that share the memory of the network's weights.

    The weights are separate leaf tensors, because autograd remembers the stream in which a leaf was first used, and
    capturing uses a different stream.
    """

    def __init__(self, network: torch.nn.Module, inferer: Callable[..., Any]) -> None:
        super().__init__()
        self._unregistered = network, inferer
        self._names = [name for name, _ in network.named_parameters()]
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(weight.detach(), weight.requires_grad) for weight in network.parameters()
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        network, inferer = self._unregistered
        weights = dict(zip(self._names, self.weights, strict=True))

        def run(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(network, weights, args, kwargs)

        logits: torch.Tensor = inferer(image, run)
        return logits


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _weight_addresses(network: torch.nn.Module) -> list[tuple[int, bool]]:
    return [(weight.data_ptr(), weight.requires_grad) for weight in network.parameters()]


def _logits_and_gradients(
    run: Callable[[torch.Tensor], Any], weights: Iterable[torch.Tensor], image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits, and the gradients of their sum of squares with respect to all weights as a 1D tensor."""
    torch.manual_seed(0)  # for dropout
    logits = run(image)
    if not isinstance(logits, torch.Tensor):
        raise RuntimeError("the network returns several tensors")
    trained = [weight for weight in weights if weight.requires_grad]
    found = torch.autograd.grad(logits, trained, 2 * logits.detach(), allow_unused=True)
    gradients = [
        torch.zeros_like(weight) if gradient is None else gradient
        for gradient, weight in zip(found, trained, strict=True)
    ]
    return logits.detach().clone(), torch.cat([gradient.float().flatten() for gradient in gradients])


def capture_step(
    network: torch.nn.Module, inferer: Callable[..., Any], loss: Any, batch: Mapping[str, torch.Tensor]
) -> StepGraphs | None:
    """Capture a training step as CUDA graphs; return None if this is not possible or the acceleration is off.

    If a step cannot be captured, the reason is logged. Call this function after some steps, whose peak memory predicts
    whether the graphs fit into memory, and while no other thread uses the GPU.

    Args:
        network, inferer, loss, batch: see `StepGraphs`.

    Example:
        >>> graphs = capture_step(network, PatchInferer("bf16"), loss, batch)  # doctest: +SKIP
    """
    if not is_accelerated():
        return None
    device = batch[CommonKeys.IMAGE].device
    stream = torch.cuda.current_stream(device)
    if not has_room(_MEMORY_FACTOR * torch.cuda.max_memory_allocated(device), device):
        _logger.info("the training step runs without CUDA graphs: too little free GPU memory to capture them")
        return None  # a step that needs this much memory keeps the GPU busy without graphs
    torch.cuda.empty_cache()  # graphs do not reuse the cached memory of earlier steps
    _silence_stream_warning()
    try:
        return StepGraphs(network, inferer, loss, batch)
    except Exception as error:  # networks fail in many ways during a capture
        torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current
        torch.cuda.synchronize(device)
        _logger.info(f"the training step runs without CUDA graphs; it cannot be captured: {_first_cause(error)}")
        return None
    finally:
        torch.cuda.empty_cache()


def _silence_stream_warning() -> None:
    """Turn off PyTorch's warning that weights were first used in another stream, which is intended here."""
    switch = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # PyTorch 2.10 or later
    if switch is not None:
        switch(False)


def _captured(function: Any, *arguments: torch.Tensor) -> Any:
    """Return a function, or a module with its weights, as CUDA graphs.

    Raises:
        RuntimeError: it cannot be captured.
    """
    _refuse_synchronization(function, arguments)
    return torch.cuda.make_graphed_callables(function, arguments, allow_unused_input=True)


def _refuse_synchronization(function: Any, arguments: Sequence[torch.Tensor]) -> None:
    """Raise an error if a function synchronizes with the GPU, before a failed capture leaves an inconsistent state.

    The function runs in a side stream, because autograd would remember the default stream.
    """
    weights = list(function.parameters()) if isinstance(function, torch.nn.Module) else []
    inputs = [tensor for tensor in (*arguments, *weights) if tensor.requires_grad]
    mode, current = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(current)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(side):
            result = function(*arguments)
            torch.autograd.grad(result, inputs, torch.ones_like(result), allow_unused=True)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(side)


def _captured_loss(loss: Any, logits: torch.Tensor, label: torch.Tensor) -> Any:
    stream = torch.cuda.current_stream(label.device)
    ours = type(loss).__module__.startswith(f"{segbundle.losses.__name__}.")
    if not ours or getattr(loss, "follows_progress", False):
        return None
    own = copy.deepcopy(loss).to(label.device)  # with class weights on the device; the original is not changed
    for module in own.modules():
        if isinstance(module, RegionLoss):
            module.trust_data()
    try:
        return _captured(lambda logits, label: loss_over_depths(own, logits, label), logits, label)
    except Exception as error:
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize(label.device)
        _logger.info(f"the loss runs without CUDA graphs; it cannot be captured: {_first_cause(error)}")
        return None


def _first_cause(error: BaseException) -> str:
    """Return the first line of the error that occurred first, which is the most informative."""
    while error.__context__ is not None:
        error = error.__context__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _signature(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


class _PreservedState:
    """Context that restores a network's buffers, such as batch norm statistics, and the random number generators."""

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        self._random = torch.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self._random.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._random.__exit__(*error)
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
