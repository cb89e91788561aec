"""Checks of learning rate schedules before the training."""

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from segbundle.errors import ConfigError
from segbundle.training.schedules import check_schedule


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "OneCycleLR",
            {"max_lr": 0.1, "total_steps": 2},
            r"OneCycleLR fails after epoch 3 of 4 \(Tried to step 3 times",
        ),
        ("ExponentialLR", {"gamma": 1e300}, "ExponentialLR: the learning rate is inf after epoch 2 of 4"),
        ("ExponentialLR", {"gamma": -1}, "ExponentialLR: the learning rate is -0.1 after epoch 1 of 4"),
        ("PolynomialLR", {"total_iters": 4, "power": -1}, "PolynomialLR fails after epoch 4 of 4"),
        ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (3 - epoch)}, r"LambdaLR fails after epoch 3 of 4 \(ZeroDivision"),
        ("LambdaLR", {"lr_lambda": lambda epoch: [1, 1, "x"][epoch]}, "LambdaLR fails after epoch 2 of 4 .can't mult"),
    ],
)
def test_schedules_that_fail_during_training_raise(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_schedule(getattr(schedules, name)(optimizer(), **arguments), 4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("PolynomialLR", {"total_iters": 4, "power": 0.9}),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 4}),
        ("CosineAnnealingWarmRestarts", {"T_0": 2}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2}),
        ("MultiStepLR", {"milestones": [1, 3]}),
        ("LambdaLR", {"lr_lambda": lambda epoch: 0.9**epoch}),
        ("ReduceLROnPlateau", {}),
    ],
)
def test_valid_schedule_is_not_changed(name, arguments):
    schedule = getattr(schedules, name)(optimizer(), **arguments)
    before = [group["lr"] for group in schedule.optimizer.param_groups]
    step = schedule.last_epoch
    assert check_schedule(schedule, 4) is None
    assert [group["lr"] for group in schedule.optimizer.param_groups] == before
    assert schedule.last_epoch == step


def test_combined_schedules_are_checked():
    group = optimizer()
    parts = [schedules.ConstantLR(group, total_iters=2), schedules.ExponentialLR(group, gamma=1e300)]
    with pytest.raises(ConfigError, match="SequentialLR: the learning rate is inf"):
        check_schedule(schedules.SequentialLR(group, parts, milestones=[2]), 6)
    assert check_schedule(schedules.ChainedScheduler(parts[:1]), 3) is None


def test_other_objects_are_not_checked():
    assert check_schedule(object(), 4) is None
