"""CUDA graphs of training steps, with a stand-in that computes where a GPU would replay.

Tests that need a GPU are in test_cuda.py.
"""

from __future__ import annotations

import copy

import pytest
import torch

from segbundle import losses
from segbundle.acceleration import cuda_graphs as graphs
from segbundle.acceleration.cuda_graphs import StepGraphs
from segbundle.inference.patch_inferer import PatchInferer
from segbundle.losses import LinearRamp
from segbundle.sampling.loader import PatchLoader
from segbundle.training import trainer
from segbundle.training.fine_tuning import freeze_layers
from segbundle.training.trainer import SegmentationTrainer
from segbundle.training.weight_average import WeightAverage

INFERER = PatchInferer("fp32")


class Replay(torch.autograd.Function):
    """Function that recomputes forward and backward from the memory of the captured inputs and weights."""

    @staticmethod
    def forward(ctx, recording, *inputs):
        ctx.recording = recording
        recording.load(inputs)
        return recording.forward()

    @staticmethod
    def backward(ctx, gradient):
        return None, *ctx.recording.backward(gradient)


class Recording:
    def __init__(self, function, arguments):
        self.function = function
        self.weights = list(function.parameters()) if isinstance(function, torch.nn.Module) else []
        self.arguments = list(arguments)
        self.surface = [*self.arguments, *self.weights]
        with torch.enable_grad():
            self.output = function(*arguments).detach().clone()

    def load(self, inputs):
        for place, given in zip(self.arguments, inputs, strict=False):
            if place.data_ptr() != given.data_ptr():
                place.data.copy_(given)

    def forward(self):
        with torch.enable_grad():
            self.result = self.function(*self.arguments)
        return self.output.copy_(self.result.detach()).detach()

    def backward(self, gradient):
        wanted = [tensor for tensor in self.surface if tensor.requires_grad]
        found = iter(torch.autograd.grad(self.result, wanted, gradient, allow_unused=True))
        return [next(found) if tensor.requires_grad else None for tensor in self.surface]


def make_graphed_callables(function, arguments, allow_unused_input):
    assert allow_unused_input
    recording = Recording(function, arguments)
    return lambda *given: Replay.apply(recording, *given, *recording.weights)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    monkeypatch.setattr(graphs, "_refuse_synchronization", lambda *_: None)


def network_of(norm=torch.nn.InstanceNorm3d, dropout=0.0):
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(1, 4, 3, padding=1), norm(4), torch.nn.Dropout3d(dropout), torch.nn.Conv3d(4, 3, 1)
    return torch.nn.Sequential(*layers).train()


def batch_of(seed=0, size=8, count=2):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (count, 1, size, size, size), generator=generator, dtype=torch.uint8)
    image = label.float() + torch.rand(label.shape, generator=generator)
    return {"image": image, "label": label}


def gradients(network):
    return [weight.grad.clone() for weight in network.parameters()]


@pytest.mark.parametrize("more", [{}, {"weight": [1.0, 2.0, 3.0]}, {"ignore_index": 255, "batch": True}])
@pytest.mark.parametrize("norm", [torch.nn.InstanceNorm3d, torch.nn.BatchNorm3d])
def test_captured_step_equals_eager_step(norm, more):
    network, loss = network_of(norm), losses.DiceCELoss(to_onehot_y=True, softmax=True, **more)
    recorded = StepGraphs(network, INFERER, loss, batch_of())
    for seed in (1, 2):
        batch = batch_of(seed)
        scores = recorded.logits(batch["image"])
        value = recorded.loss(scores, batch["label"])
        value.backward()
        recorded.copy_gradients()
        found, of_found = value.item(), gradients(network)
        network.zero_grad()
        expected = loss(network(batch["image"]), batch["label"])
        expected.backward()
        assert found == pytest.approx(expected.item(), rel=1e-5)
        for one, other in zip(of_found, gradients(network), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_captured_step_with_frozen_layers_equals_eager_step():
    network, loss = network_of(torch.nn.BatchNorm3d), losses.DiceCELoss(to_onehot_y=True, softmax=True)
    freeze_layers(
        network, torch.optim.SGD(network.parameters(), 0.1), set(network.state_dict()) - {"3.weight", "3.bias"}
    )
    statistics = network.train()[1].running_mean.clone()
    recorded, batch = StepGraphs(network, INFERER, loss, batch_of()), batch_of(1)
    recorded.loss(recorded.logits(batch["image"]), batch["label"]).backward()
    recorded.copy_gradients()
    found = [weight.grad for weight in network.parameters()]
    assert found[:-2] == [None] * 4 and torch.equal(network[1].running_mean, statistics)
    network.zero_grad()
    loss(network(batch["image"]), batch["label"]).backward()
    for one, other in zip(found[-2:], network[3].parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-6)


def test_other_shapes_and_other_logits_return_none():
    network, loss = network_of(), losses.DiceLoss(to_onehot_y=True, softmax=True)
    recorded, other = StepGraphs(network, INFERER, loss, batch_of()), batch_of(size=10)
    assert recorded.logits(other["image"]) is None
    scores = recorded.logits(batch_of()["image"])
    assert recorded.loss(network(batch_of()["image"]), batch_of()["label"]) is None
    assert recorded.loss(scores, batch_of()["label"].float()) is None
    assert recorded.loss([scores], batch_of()["label"]) is None


class OwnLoss(losses.DiceLoss):
    """Loss of another package, with arbitrary code."""


@pytest.mark.parametrize(
    "loss",
    [
        OwnLoss(softmax=True, to_onehot_y=True),
        losses.DiceCELoss(softmax=True, to_onehot_y=True, lambda_ce=LinearRamp()),
    ],
)
def test_losses_that_may_change_are_not_captured(loss):
    recorded, batch = StepGraphs(network_of(), INFERER, loss, batch_of()), batch_of(1)
    assert recorded.loss(recorded.logits(batch["image"]), batch["label"]) is None


def test_capture_preserves_network_and_random_state():
    network, loss = network_of(torch.nn.BatchNorm3d, dropout=0.3), losses.DiceLoss(to_onehot_y=True, softmax=True)
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(7)
    random = torch.get_rng_state()
    StepGraphs(network, INFERER, loss, batch_of())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in network.parameters())


def test_moved_or_frozen_weights_do_not_fit():
    network = network_of()
    recorded = StepGraphs(network, INFERER, losses.DiceLoss(to_onehot_y=True, softmax=True), batch_of())
    assert recorded.fits(network)
    network[0].bias.requires_grad_(False)
    assert not recorded.fits(network)
    network[0].bias.requires_grad_(True)
    network[0].bias.data = network[0].bias.data.clone()
    assert not recorded.fits(network)


def test_network_with_hooks_is_refused():
    network = network_of()
    network[1].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="hooks"):
        StepGraphs(network, INFERER, losses.DiceLoss(), batch_of())


class OtherGradient(torch.autograd.Function):
    """Identity whose gradient is halved after the first call."""

    calls = 0

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        OtherGradient.calls += 1
        return gradient / (1 if OtherGradient.calls == 1 else 2)


def test_capture_with_different_gradients_is_refused():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv3d(1, 3, 1)

        def forward(self, image):
            return OtherGradient.apply(self.layer(image))

    with pytest.raises(RuntimeError, match="captured network has different gradients"):
        StepGraphs(Network(), INFERER, losses.DiceLoss(), batch_of())


@pytest.mark.parametrize("reason", ["memory", "network", "nothing"])
def test_failed_capture_is_logged_in_one_line(reason, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name in ("max_memory_allocated", "empty_cache", "synchronize", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(graphs, "has_room", lambda *_: reason != "memory")
    network = network_of()
    if reason == "network":
        network.register_forward_hook(lambda *_: None)
    found = graphs.capture_step(network, INFERER, losses.DiceLoss(to_onehot_y=True, softmax=True), batch_of())
    assert (found is not None) == (reason == "nothing")
    told = {"memory": "too little free", "network": "cannot be captured: the network has hooks", "nothing": ""}[reason]
    assert len(caplog.messages) == bool(told)
    assert told in caplog.text


def test_capture_with_different_logits_is_refused():
    class Counting(torch.nn.Module):
        """Network with different logits at every call."""

        def __init__(self):
            super().__init__()
            self.layer, self.calls = torch.nn.Conv3d(1, 3, 1), 0

        def forward(self, image):
            self.calls += 1
            return self.layer(image) * self.calls

    with pytest.raises(RuntimeError, match="captured network has different logits"):
        StepGraphs(Counting(), INFERER, losses.DiceLoss(to_onehot_y=True, softmax=True), batch_of())


class OnGpu(PatchLoader):
    """Loader on the CPU that claims to be on a GPU."""

    device = property(lambda self: torch.device("cuda"), lambda self, _: None)

    def __init__(self, *args):
        super().__init__(*args, read_ahead=False)

    def _patch(self, case, epoch, place):
        return {"image": case["image"].float(), **{key: case[key] for key in ("label", "annotated", "case")}}


def case_of(seed, annotated=(True, True, True)):
    batch = batch_of(seed, count=1)
    return {
        "image": batch["image"][0], "label": batch["label"][0], "annotated": torch.tensor(annotated),
        "case": f"case {seed}", "indices": [torch.arange(3)] * 3, "spacing": [1.0] * 3,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("partly", [False, True])
def test_training_with_graphs_equals_eager_training(partly, monkeypatch):
    """Graphs are used after the first epoch. Batches with unannotated classes have the eager loss."""
    ended, seen = [], []
    for recorded in (True, False):
        make = (lambda *given: StepGraphs(*given)) if recorded else (lambda *_: None)
        monkeypatch.setattr(trainer, "capture_step", make)
        cases = [case_of(seed, (True, True, seed != 3 or not partly)) for seed in range(24)]
        network = network_of()
        run = SegmentationTrainer(
            loss_function=losses.DiceCELoss(to_onehot_y=True, softmax=True), device=torch.device("cpu"), max_epochs=3,
            train_data_loader=OnGpu(cases, (8, 8, 8), 2), network=network, inferer=INFERER, decollate=False,
            optimizer=torch.optim.SGD(network.parameters(), 0.05), average=WeightAverage(network),
        )  # fmt: skip
        if recorded:
            loss = graphs.StepGraphs.loss
            monkeypatch.setattr(StepGraphs, "loss", lambda *given, loss=loss: seen.append(1) or loss(*given))
        run.run()
        ended.append([run.state.output["loss"].item(), *(value.clone() for value in network.state_dict().values())])
    assert len(seen) == (24 if not partly else 22)
    assert ended[0][0] == pytest.approx(ended[1][0], rel=1e-4)
    for one, other in zip(ended[0][1:], ended[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", [{"accumulation_steps": 2}, {"amp": True}, {"epoch_length": 6}, {}])
def test_training_is_captured_at_most_once(given, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "capture_step", lambda *_: asked.append(1))
    network = network_of()
    cases = [case_of(seed) for seed in range(24)]
    SegmentationTrainer(
        loss_function=losses.DiceCELoss(to_onehot_y=True, softmax=True), device=torch.device("cpu"), max_epochs=5,
        train_data_loader=OnGpu(cases, (8, 8, 8), 2), network=network, inferer=INFERER, decollate=False,
        optimizer=torch.optim.SGD(network.parameters(), 0.05), **given,
    ).run()  # fmt: skip
    assert len(asked) == (not given)
