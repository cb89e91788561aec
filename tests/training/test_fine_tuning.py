"""Frozen layers, learning rates by depth, and warm-up."""

import copy
import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.networks.nets import DynUNet
from torch.optim import lr_scheduler as schedules

from segbundle.checkpoints.network_layers import network_layers
from segbundle.errors import ConfigError
from segbundle.inference.patch_inferer import PatchInferer
from segbundle.losses import DiceCELoss
from segbundle.training.fine_tuning import prepare_fine_tuning
from segbundle.training.schedules import WarmUp, check_schedule, replay_schedule
from segbundle.training.trainer import SegmentationTrainer
from segbundle.training.weight_average import WeightAverage

PATCH = [16, 16, 16]
STAGES = ["output_block", "upsamples.1", "upsamples.0", "bottleneck", "downsamples.0", "input_block"]


def dynunet(norm="BATCH"):
    torch.manual_seed(0)
    levels = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8]}
    return DynUNet(3, 1, 3, norm_name=norm, **levels)


def prepared(network, **settings):
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    prepare_fine_tuning(network, optimizer, 1, PATCH, **settings)
    return optimizer


def trained_layers(network):
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    return {stage for stage in STAGES if any(name.startswith(stage) for name in trained)}


def train(network, optimizer, steps=3, average=None, max_gradient_norm=None):
    label = torch.zeros(2, 1, *PATCH)
    label[:, :, 4:9], label[:, :, 12:] = 1, 2
    batch = {"image": torch.rand(2, 1, *PATCH), "label": label, "case": ["a", "b"]}
    trainer = SegmentationTrainer(
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True), device=torch.device("cpu"), max_epochs=1,
        train_data_loader=[batch] * steps, network=network, optimizer=optimizer, inferer=PatchInferer("fp32"),
        decollate=False, average=average, max_gradient_norm=max_gradient_norm,
    )  # fmt: skip
    trainer.run()
    return trainer


def test_without_settings_nothing_changes():
    network = dynunet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    groups = copy.copy(optimizer.param_groups)
    prepare_fine_tuning(network, optimizer, 1, PATCH)
    prepare_fine_tuning(network, optimizer, 1, PATCH, freeze=[])
    assert optimizer.param_groups == groups and trained_layers(network) == set(STAGES)


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ("encoder", {"output_block", "upsamples.1", "upsamples.0"}),
        ("all_but_output", {"output_block"}),
        (["input_block", "downsamples.*"], {"output_block", "upsamples.1", "upsamples.0", "bottleneck"}),
        (["skip_layers.downsample"], set(STAGES) - {"input_block"}),  # another name of the same block
        (["*.conv?.conv.weight", "*.norm?"], {"output_block", "upsamples.1", "upsamples.0"}),
    ],
)
def test_layers_are_frozen_by_word_name_or_pattern(freeze, trained):
    network = dynunet()
    optimizer = prepared(network, freeze=freeze)
    assert trained_layers(network) == trained
    kept = {id(each) for group in optimizer.param_groups for each in group["params"]}
    assert kept == {id(each) for each in network.parameters() if each.requires_grad}


@pytest.mark.parametrize("freeze", ["encoder", "all_but_output"])
def test_frozen_tensors_are_bit_equal_after_steps(freeze, caplog):
    caplog.set_level(logging.INFO)
    network = dynunet()
    average = WeightAverage(network, 0.9)
    optimizer = prepared(network, freeze=freeze)
    layers = network_layers(network, 1, PATCH, 2)
    frozen = [name for stage in layers.stages[:3] for name in stage]
    frozen = frozen if freeze == "encoder" else [name for name in network.state_dict() if "output_block" not in name]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, optimizer, average=average)
    after, averaged = network.state_dict(), average.network.state_dict()
    assert any("running_mean" in name for name in frozen)
    for name in frozen:
        assert torch.equal(after[name], before[name]) and torch.equal(averaged[name], before[name]), name
    assert not torch.equal(after["output_block.conv.conv.weight"], before["output_block.conv.conv.weight"])
    assert not torch.equal(averaged["output_block.conv.conv.weight"], before["output_block.conv.conv.weight"])
    assert "frozen: " in caplog.text and " parameter tensors, " in caplog.text


def test_only_frozen_norms_stay_in_evaluation_mode():
    network = dynunet()
    prepared(network, freeze=["input_block"])
    copied = copy.deepcopy(network)
    for each in (network, copied):
        each.train()
        assert each.training and not each.input_block.norm1.training and each.bottleneck.norm1.training
        assert each.input_block.training
        each.eval()
        assert not each.bottleneck.norm1.training
    copied.train()
    assert not network.training  # the copy does not change the original


def test_instance_norms_without_statistics_are_left_alone():
    network = dynunet("INSTANCE")
    prepared(network, freeze="encoder")
    assert network.train().input_block.norm1.training


def test_clipping_uses_the_gradients_of_trained_layers():
    network = dynunet("INSTANCE")
    optimizer = prepared(network, freeze="all_but_output")
    trainer = train(network, optimizer, steps=1, max_gradient_norm=1e-3)
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    assert len(gradients) == 2
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3) and float(trainer.state.gradient_norm) > 1e-3


def test_learning_rates_by_depth():
    network = dynunet()
    optimizer = prepared(network, layer_decay=0.5)
    found = {}
    names = {id(value): name for name, value in network.named_parameters()}
    for group in optimizer.param_groups:
        for value in group["params"]:
            found.setdefault(next(s for s in STAGES if names[id(value)].startswith(s)), set()).add(group["lr"])
    assert found == {stage: {0.1 * 0.5**depth} for depth, stage in enumerate(STAGES)}
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.5**depth for depth in range(6)]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}


def test_learning_rates_of_several_groups_and_frozen_layers():
    network = dynunet()
    norms = [value for name, value in network.named_parameters() if "norm" in name]
    others = [value for name, value in network.named_parameters() if "norm" not in name]
    optimizer = torch.optim.SGD([{"params": others}, {"params": norms, "lr": 1.0, "weight_decay": 0.0}], lr=0.1)
    prepare_fine_tuning(network, optimizer, 1, PATCH, freeze="encoder", layer_decay=0.5)
    rates = [(group["lr"], group["lr_scale"]) for group in optimizer.param_groups]
    assert rates == [(0.1, 1), (0.05, 0.5), (0.025, 0.25), (0.5, 0.5), (0.25, 0.25)]


def test_named_parameters_stay_with_their_names():
    network = dynunet()
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1)
    prepare_fine_tuning(network, optimizer, 1, PATCH, freeze="encoder", layer_decay=0.5)
    names = {id(value): name for name, value in network.named_parameters()}
    for group in optimizer.param_groups:
        assert [names[id(value)] for value in group["params"]] == group["param_names"]


def test_schedules_keep_the_ratio_of_the_learning_rates():
    optimizer = prepared(dynunet(), layer_decay=0.5)
    schedule = schedules.PolynomialLR(optimizer, total_iters=10, power=0.9)
    check_schedule(schedule, 10)
    replay_schedule(schedule, 5)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.1 * 0.5**0.9 * 0.5**depth for depth in range(6)])


def test_schedule_with_one_learning_rate_is_refused():
    optimizer = prepared(dynunet(), layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"OneCycleLR sets one learning rate for all layers, so layer_decay has no"):
        check_schedule(schedules.OneCycleLR(optimizer, max_lr=0.1, total_steps=10), 10)


@pytest.mark.parametrize(
    ("network", "freeze", "message"),
    [
        (
            dynunet,
            ["encoder.*"],
            r"freeze: 'encoder\.\*' matches no layer of DynUNet\. Its layers are in input_block, downsa",
        ),
        (dynunet, ["*"], "freeze leaves no parameter to train"),
        (lambda: torch.nn.Conv3d(1, 3, 1), "encoder", "freeze is encoder, but Conv3d has no layers before an increase"),
        (lambda: torch.nn.Conv3d(1, 3, 1), ["weight", "bias"], "freeze leaves no parameter to train"),
    ],
)
def test_layers_that_cannot_be_frozen_are_refused(network, freeze, message):
    network = network()
    with pytest.raises(ConfigError, match=message):
        prepared(network, freeze=freeze)
    assert all(value.requires_grad for value in network.parameters())


def rates_of(make_schedule, warmup_epochs, epochs=6, resume_after=0):
    """Return the learning rate of every epoch, with the schedule as in the bundle."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule, rates = make_schedule(optimizer), []
    trainer = Engine(lambda engine, batch: rates.append(optimizer.param_groups[0]["lr"]))
    WarmUp(optimizer, warmup_epochs).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: schedule.step())

    @trainer.on(Events.STARTED)
    def resume():
        trainer.state.epoch = resume_after
        replay_schedule(schedule, resume_after)

    trainer.run([0], max_epochs=epochs)
    return rates


def test_warm_up_is_linear_and_ends_at_the_schedule():
    constant = lambda optimizer: schedules.ConstantLR(optimizer, 1.0)  # noqa: E731
    assert rates_of(constant, 3) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert rates_of(constant, 1) == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert rates_of(constant, 0) == [0.8] * 6


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: schedules.PolynomialLR(optimizer, total_iters=6, power=0.9),
        lambda optimizer: schedules.CosineAnnealingLR(optimizer, T_max=6),
        lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=0.8, total_steps=6),
        lambda optimizer: schedules.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: schedules.MultiStepLR(optimizer, [2, 4]),
    ],
    ids=["poly", "cosine", "one cycle", "lambda", "steps"],
)
def test_warm_up_multiplies_any_schedule_and_resumes(schedule):
    plain, warm = rates_of(schedule, 0), rates_of(schedule, 3)
    factors = [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm == [rate * factor for rate, factor in zip(plain, factors, strict=True)]
    for epoch in range(1, 6):
        assert rates_of(schedule, 3, resume_after=epoch) == warm[epoch:]


def test_stop_within_an_epoch_restores_the_learning_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    trainer = Engine(lambda engine, batch: engine.terminate())
    WarmUp(optimizer, 3).attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    assert optimizer.param_groups[0]["lr"] == 0.8
