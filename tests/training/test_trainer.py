"""Trainer: inputs of the loss, error messages, gradient clipping and weight averaging."""

from __future__ import annotations

import re
from types import SimpleNamespace

import monai.losses
import pytest
import torch
from ignite.engine import Events

from segbundle.errors import ConfigError, TrainingError, root_error
from segbundle.inference.patch_inferer import PatchInferer
from segbundle.losses import DiceCELoss, LinearRamp
from segbundle.training.handlers import StopAtNaN
from segbundle.training.trainer import SegmentationTrainer
from segbundle.training.weight_average import WeightAverage, averaged_network


def batches(annotated, label_value=1.0, count=1):
    label = torch.zeros(2, 1, 4, 4, 4)
    label[:, :, 1] = label_value
    batch = {
        "image": torch.rand(2, 1, 4, 4, 4),
        "label": label,
        "annotated": torch.tensor(annotated),
        "case": ["a", "b"],
    }
    return [batch] * count


def trainer_of(loss, data, max_epochs=1, **kwargs):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 1)
    return SegmentationTrainer(
        loss_function=loss, device=torch.device("cpu"), max_epochs=max_epochs, train_data_loader=data,
        network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1), inferer=PatchInferer("fp32"),
        decollate=False, **kwargs,
    )  # fmt: skip


def train(loss, data, max_epochs=1):
    trainer = trainer_of(loss, data, max_epochs)
    trainer.run()
    return trainer.state.output["loss"]


class RecordingLoss(DiceCELoss):
    """Loss that records its progress and annotation masks."""

    def forward(self, input, target, annotated=None):
        self.recorded = [*getattr(self, "recorded", []), (self.progress, annotated.tolist())]
        return super().forward(input, target, annotated)


ALL, PART = [[True] * 3] * 2, [[True] * 3, [True, True, False]]


def test_loss_gets_annotation_masks_and_progress():
    loss = RecordingLoss(softmax=True, to_onehot_y=True, lambda_dice=LinearRamp())
    train(loss, batches(PART, count=2), max_epochs=2)
    assert loss.recorded == [(progress, PART) for progress in (0, 0.25, 0.5, 0.75)]


def test_any_loss_works_with_complete_annotations():
    assert train(monai.losses.DiceCELoss(softmax=True, to_onehot_y=True), batches(ALL)) > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batches(PART), "case b: not every class was annotated, but loss DiceCELoss treats such classes as background"),
        (
            batches(ALL, 255.0),
            r"case a: has voxels of unknown class \(ignore\), but loss DiceCELoss does not exclude them\. Use",
        ),
    ],
)
def test_loss_without_masks_raises_with_partial_annotations(data, message):
    with pytest.raises(ConfigError, match=message):
        train(monai.losses.DiceCELoss(softmax=True, to_onehot_y=True), data)


def test_monai_loss_with_ignore_index_gets_unknown_voxels():
    loss = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255)
    data = batches(ALL, 255.0)
    data[0]["label"][:, :, 2] = 1
    assert 0 < train(loss, data) < 1


def test_config_error_is_not_wrapped():
    with pytest.raises(ConfigError) as error:
        train(monai.losses.DiceLoss(softmax=True, to_onehot_y=True), batches(PART))
    assert root_error(error.value) is error.value


def test_loss_error_names_the_cases_of_the_batch():
    loss = DiceCELoss(softmax=True, to_onehot_y=True, weight=[1.0, 2.0])
    with pytest.raises(TrainingError, match="loss DiceCELoss, cases a, b: weight has 2 entries for 3 classes"):
        train(loss, batches(ALL))
    data = batches(ALL)
    data[0]["image"] = torch.full_like(data[0]["image"], torch.nan)
    with pytest.raises(TrainingError, match="cases a, b: input contains NaN"):
        train(DiceCELoss(softmax=True, to_onehot_y=True), data)


class Failing(torch.nn.Module):
    """Loss that raises an error, or returns a value."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, input, target):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            Failing(IndexError("dim 7")),
            "loss Failing, cases a, b: IndexError: dim 7. Check `loss`, or use a loss of s",
        ),
        (Failing(ValueError("shapes differ")), "loss Failing, cases a, b: shapes differ. Check `loss`"),
        (Failing(None), "loss Failing, cases a, b: unsupported operand"),
        (Failing(torch.ones(())), "gradient of the loss Failing, cases a, b: RuntimeError: element 0 of tensors does"),
        (torch.nn.TripletMarginLoss(), "loss TripletMarginLoss, cases a, b: TripletMarginLoss.forward() missing 1"),
        (torch.nn.MSELoss(), "loss MSELoss, cases a, b: UserWarning: Using a target size (torch.Size([2, 1, 4, 4, 4])"),
        (torch.nn.L1Loss(), "loss L1Loss, cases a, b: UserWarning: Using a target size"),
        (monai.losses.MaskedLoss(torch.nn.MSELoss), "loss MaskedLoss, cases a, b: UserWarning: Using a target size"),
    ],
)
def test_error_names_the_failing_loss(loss, message):
    with pytest.raises(TrainingError, match=re.escape(message)):
        train(loss, batches(ALL))


def test_labels_with_the_shape_of_the_logits_are_valid():
    data = batches(ALL)
    data[0]["label"] = torch.zeros(2, 3, 4, 4, 4)
    assert train(torch.nn.MSELoss(), data) > 0


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.LBFGS, "optimizer LBFGS, cases a, b: .* missing 1 .* 'closure'. Check `optimizer`"),
        (torch.optim.SparseAdam, "optimizer SparseAdam, cases a, b: RuntimeError: SparseAdam does not support dense"),
    ],
)
def test_error_names_the_failing_optimizer(optimizer, message):
    trainer = trainer_of(plain_loss(), batches(ALL))
    trainer.optimizer = optimizer(list(trainer.network.parameters()), lr=0.1)
    with pytest.raises(TrainingError, match=message):
        trainer.run()


def test_error_names_the_failing_network():
    trainer = trainer_of(plain_loss(), batches(ALL))
    trainer.network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.InstanceNorm3d(1))
    with pytest.raises(
        TrainingError,
        match=r"network Sequential, cases a, b: Expected more than 1 .*\. Check network_def, patch_size and",
    ):
        trainer.run()


def test_loss_without_ignore_index_raises_with_unknown_voxels():
    with pytest.raises(ConfigError, match=r"loss DiceCELoss does not exclude them\. Set loss#ignore_index: 255"):
        train(DiceCELoss(softmax=True, to_onehot_y=True), batches(ALL, 255.0))
    assert train(DiceCELoss(softmax=True, to_onehot_y=True, ignore_index=255), batches(ALL, 255.0)) > 0


def plain_loss():
    return DiceCELoss(softmax=True, to_onehot_y=True)


@pytest.mark.parametrize("max_norm", [None, 1e-3])
def test_gradient_clipping(max_norm):
    trainer = trainer_of(plain_loss(), batches(ALL), max_gradient_norm=max_norm)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.run()
    after = trainer.network.parameters()
    step = torch.stack([(new - old).square().sum() for new, old in zip(after, before, strict=True)]).sum().sqrt()
    norm = float(trainer.state.gradient_norm)
    assert norm > 0.01
    assert float(step) == pytest.approx(0.1 * (norm if max_norm is None else max_norm), rel=1e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_loss_stops_the_training_and_names_the_cases(value):
    bad = batches(ALL)[0]
    bad = {**bad, "image": torch.full_like(bad["image"], value), "case": ["c", "d"]}
    loss = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True)  # segbundle.losses raise an error themselves
    trainer = trainer_of(loss, [*batches(ALL), bad])
    StopAtNaN().attach(trainer)
    with pytest.raises(TrainingError, match=r"the loss is nan in step 2, cases c, d"):
        trainer.run()
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.network.parameters())


def test_nan_gradient_in_the_last_step_stops_before_saving():
    class NanGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    saved = []
    trainer = trainer_of(lambda pred, label: NanGradient.apply(pred).square().mean(), batches(ALL))
    StopAtNaN().attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: saved.append(1))
    with pytest.raises(TrainingError, match=r"the gradient norm is nan in step 1, cases .*\. Nothing is saved yet"):
        trainer.run()
    assert not saved


def test_weight_average_by_hand():
    trainer = trainer_of(plain_loss(), batches(ALL, count=3))
    average = WeightAverage(trainer.network, 0.25)
    seen = [trainer.network.bias.detach().clone()]
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(trainer.network.bias.detach().clone()))
    average.attach(trainer)
    trainer.run()
    expected = seen[0]
    for decay, weights in zip((2 / 11, 0.25, 0.25), seen[1:], strict=True):  # (1 + 1) / (10 + 1) is less than 0.25
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(average.network.bias, expected)
    assert not average.network.bias.requires_grad


def test_without_decay_the_network_is_not_averaged():
    network = torch.nn.Conv3d(1, 1, 1)
    assert averaged_network(WeightAverage(network, None)) is network
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(network, 1.0)


def test_batch_norm_statistics_are_copied():
    network = torch.nn.BatchNorm3d(2)
    average = WeightAverage(network, 0.9)
    network.running_mean.fill_(3)
    average._update(SimpleNamespace(state=SimpleNamespace(iteration=1)))
    assert average.network.running_mean.tolist() == [3, 3]
