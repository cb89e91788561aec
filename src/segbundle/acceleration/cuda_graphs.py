"""A training step on a GPU as CUDA graphs: its kernels recorded once, and launched together at every step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import CommonKeys

import segbundle.losses
from segbundle.hardware.device_memory import has_room
from segbundle.losses.base import RegionLoss
from segbundle.losses.deep_supervision import loss_over_depths

_logger = logging.getLogger(__name__)
_TOLERANCE = 0.02
"""By which part scores and gradients of the recording may differ from the network's, in bfloat16."""
_TIMES_MEMORY = 3
"""What steps, their recording and the graphs take together, in terms of a step's memory; half of the free memory is
left to others."""


class StepGraphs:
    """A network's forward and backward pass, and a loss's, launched as a whole.

    A small patch keeps a GPU busy for less time than Python needs to launch a thousand kernels one by one. Graphs need
    the same shapes and addresses at every step: batches of other shapes, and what the loss cannot do in a graph, go the
    usual way. What Python decides, such as settings of the loss, stays as it was when it was recorded.

    Args:
        network: on a CUDA device, in training mode.
        inferer: passes patches through it.
        loss: ours are recorded, too, for batches in which every class was annotated, and trust that these hold what
            they should; others run as usual, as nothing is known of what they do beside launching kernels.
        batch: one like all others, on the device: `image` (B, C, X, Y, Z) and `label` (B, 1, X, Y, Z).

    Raises:
        RuntimeError: the network cannot be recorded, or the recording gives other scores or gradients.
    """

    def __init__(
        self, network: torch.nn.Module, inferer: Callable[..., Any], loss: Any, batch: Mapping[str, torch.Tensor]
    ) -> None:
        image, label = batch[CommonKeys.IMAGE].clone(), batch[CommonKeys.LABEL].clone()
        self.image_like, self.label_like = _like(image), _like(label)
        if any(hooks for module in network.modules() for hooks in _hooks(module)):
            raise RuntimeError("the network has hooks, which would not be called")
        self._before = _places(network)
        scoring = _Scoring(network, inferer)
        self._weights = list(zip(network.parameters(), scoring.weights, strict=True))
        with _Undisturbed(network, image.device):
            expected = _scores_and_gradients(lambda image: inferer(image, network), network.parameters(), image)
            self._network = _recorded(scoring, image)
            found = _scores_and_gradients(self._network, scoring.weights, image)
            for what, one, other in zip(("scores", "gradients"), found, expected, strict=True):
                if not bool((one - other).norm() <= _TOLERANCE * other.norm()):
                    raise RuntimeError(f"the recorded network gives other {what}")
            scores = self._network(image).detach()
            self._scores = scores.data_ptr()
            self._loss = _recorded_loss(loss, scores.requires_grad_(), label)

    def fits(self, network: torch.nn.Module) -> bool:
        """Whether the network's weights are where they were, and those that are trained are the same ones."""
        return _places(network) == self._before

    def scores(self, image: torch.Tensor) -> torch.Tensor | None:
        """The network's scores of patches, which the next call overwrites; None if they have another shape."""
        if _like(image) != self.image_like:
            return None
        found: torch.Tensor = self._network(image)
        return found

    def loss(self, scores: Any, label: torch.Tensor) -> torch.Tensor | None:
        """The loss of `scores`' result, if everything was annotated; None if it was not recorded for such a batch."""
        if self._loss is None or not isinstance(scores, torch.Tensor) or scores.data_ptr() != self._scores:
            return None
        if _like(label) != self.label_like:
            return None
        value: torch.Tensor = self._loss(scores, label)
        return value.clone()  # of memory that the next step overwrites

    def hand_over_gradients(self) -> None:
        """Give the network the gradients of the last backward pass, if scores came from the graph."""
        for weight, recorded in self._weights:
            if recorded.grad is not None:
                weight.grad, recorded.grad = recorded.grad, None


class _Scoring(torch.nn.Module):
    """A network and what passes patches through it, as a module that takes nothing beside them.

    Its weights lie where the network's do, but are others to autograd, which remembers in which stream a weight was
    used first: recording happens in another one.
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

        scores: torch.Tensor = inferer(image, run)
        return scores


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _places(network: torch.nn.Module) -> list[tuple[int, bool]]:
    return [(weight.data_ptr(), weight.requires_grad) for weight in network.parameters()]


def _scores_and_gradients(
    run: Callable[[torch.Tensor], Any], weights: Iterable[torch.Tensor], image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of patches, and the gradients of the sum of their squares with respect to all weights, in one row."""
    torch.manual_seed(0)  # dropout
    scores = run(image)
    if not isinstance(scores, torch.Tensor):
        raise RuntimeError("the network returns several tensors")
    trained = [weight for weight in weights if weight.requires_grad]
    found = torch.autograd.grad(scores, trained, 2 * scores.detach(), allow_unused=True)
    gradients = [torch.zeros_like(weight) if one is None else one for one, weight in zip(found, trained, strict=True)]
    return scores.detach().clone(), torch.cat([one.float().flatten() for one in gradients])


def recorded_step(
    network: torch.nn.Module, inferer: Callable[..., Any], loss: Any, batch: Mapping[str, torch.Tensor]
) -> StepGraphs | None:
    """`StepGraphs`; or None, with a line in the log, if this network cannot be recorded, or hardly fits into memory.

    To be called after some steps, which tell how much memory they take, and while no other thread uses the GPU.
    """
    device = batch[CommonKeys.IMAGE].device
    stream = torch.cuda.current_stream(device)
    if not has_room(_TIMES_MEMORY * torch.cuda.max_memory_allocated(device), device):
        _logger.info("the training's kernels are launched one by one: memory is short for recording them")
        return None  # a step that takes so much keeps the GPU busy anyway
    torch.cuda.empty_cache()  # the steps before have left theirs, and graphs have memory of their own
    _expect_other_streams()
    try:
        return StepGraphs(network, inferer, loss, batch)
    except Exception as error:  # whatever a network does that a graph cannot hold
        torch.cuda.set_stream(stream)  # an interrupted recording stays in its own
        torch.cuda.synchronize(device)
        _logger.info(f"the training's kernels are launched one by one, as they cannot be recorded: {_in_short(error)}")
        return None
    finally:
        torch.cuda.empty_cache()


def _expect_other_streams() -> None:
    """Not be warned that weights were first used in the stream of the recording: it is meant to be so."""
    quiet = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # from PyTorch 2.10 on
    if quiet is not None:
        quiet(False)


def _recorded(function: Any, *arguments: torch.Tensor) -> Any:
    """A function, or a module with its weights, as graphs.

    Raises:
        RuntimeError: it cannot be.
    """
    _refuse_what_waits(function, arguments)
    return torch.cuda.make_graphed_callables(function, arguments, allow_unused_input=True)


def _refuse_what_waits(function: Any, arguments: Sequence[torch.Tensor]) -> None:
    """Raise an error if a function waits for the GPU: a recording that fails half way leaves traces.

    Not in the default stream, which autograd would remember for the recording.
    """
    weights = list(function.parameters()) if isinstance(function, torch.nn.Module) else []
    wanted = [tensor for tensor in (*arguments, *weights) if tensor.requires_grad]
    before, now = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream()
    aside = torch.cuda.Stream()
    aside.wait_stream(now)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(aside):
            result = function(*arguments)
            torch.autograd.grad(result, wanted, torch.ones_like(result), allow_unused=True)
    finally:
        torch.cuda.set_sync_debug_mode(before)
        now.wait_stream(aside)


def _recorded_loss(loss: Any, scores: torch.Tensor, label: torch.Tensor) -> Any:
    stream = torch.cuda.current_stream(label.device)
    ours = type(loss).__module__.startswith(f"{segbundle.losses.__name__}.")
    if not ours or getattr(loss, "follows_progress", False):
        return None
    own = copy.deepcopy(loss).to(label.device)  # its class weights, and without a trace in the other one
    for module in own.modules():
        if isinstance(module, RegionLoss):
            module.trust_data()
    try:
        return _recorded(lambda scores, label: loss_over_depths(own, scores, label), scores, label)
    except Exception as error:
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize(label.device)
        _logger.info(f"the loss's kernels are launched one by one, as they cannot be recorded: {_in_short(error)}")
        return None


def _in_short(error: BaseException) -> str:
    while error.__context__ is not None:  # what went wrong first tells more
        error = error.__context__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _like(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


class _Undisturbed:
    """Leaves a network's buffers, such as the statistics of batch norms, and random numbers as they were."""

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
