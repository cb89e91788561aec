"""What the loss is told beside the labels."""

from __future__ import annotations

import monai.losses
import pytest
import torch

from segbundle.engines import SegmentationTrainer
from segbundle.errors import ConfigError, TrainingError, root_error
from segbundle.inferers import PatchInferer
from segbundle.losses import DiceCELoss, LinearRamp


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


def train(loss, data, max_epochs=1):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 1)
    trainer = SegmentationTrainer(
        loss_function=loss, device=torch.device("cpu"), max_epochs=max_epochs, train_data_loader=data,
        network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1), inferer=PatchInferer("fp32"),
        decollate=False,
    )  # fmt: skip
    trainer.run()
    return trainer.state.output["loss"]


class NotingLoss(DiceCELoss):
    """Remembers what the trainer says."""

    def forward(self, input, target, annotated=None):
        self.noted = [*getattr(self, "noted", []), (self.progress, annotated.tolist())]
        return super().forward(input, target, annotated)


ALL, PART = [[True] * 3] * 2, [[True] * 3, [True, True, False]]


def test_the_loss_learns_what_was_annotated_and_how_far_the_training_is():
    loss = NotingLoss(softmax=True, to_onehot_y=True, lambda_dice=LinearRamp())
    train(loss, batches(PART, count=2), max_epochs=2)
    assert loss.noted == [(progress, PART) for progress in (0, 0.25, 0.5, 0.75)]


def test_any_loss_will_do_if_nothing_is_missing():
    assert train(monai.losses.DiceCELoss(softmax=True, to_onehot_y=True), batches(ALL)) > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batches(PART), "case b: not every class was annotated, and loss DiceCELoss would learn those as background"),
        (
            batches(ALL, 255.0),
            r"case a: holds voxels of unknown class \(ignore\), which loss DiceCELoss counts; use",
        ),
    ],
)
def test_a_loss_that_knows_label_maps_only_is_refused_what_is_missing(data, message):
    with pytest.raises(ConfigError, match=message):
        train(monai.losses.DiceCELoss(softmax=True, to_onehot_y=True), data)


def test_a_loss_of_monai_that_ignores_the_index_may_have_it():
    loss = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255)
    data = batches(ALL, 255.0)
    data[0]["label"][:, :, 2] = 1
    assert 0 < train(loss, data) < 1


def test_root_errors_are_plain():
    with pytest.raises(ConfigError) as error:
        train(monai.losses.DiceLoss(softmax=True, to_onehot_y=True), batches(PART))
    assert root_error(error.value) is error.value


def test_what_the_loss_refuses_is_told_with_the_batchs_cases():
    loss = DiceCELoss(softmax=True, to_onehot_y=True, weight=[1.0, 2.0])
    with pytest.raises(TrainingError, match="loss DiceCELoss, cases a, b: weight has 2 entries for 3 classes"):
        train(loss, batches(ALL))
    data = batches(ALL)
    data[0]["image"] = torch.full_like(data[0]["image"], torch.nan)
    with pytest.raises(TrainingError, match="cases a, b: input holds NaN"):
        train(DiceCELoss(softmax=True, to_onehot_y=True), data)


def test_our_loss_without_an_ignore_index_is_refused_unknown_voxels():
    with pytest.raises(ConfigError, match="loss DiceCELoss counts; set loss#ignore_index: 255"):
        train(DiceCELoss(softmax=True, to_onehot_y=True), batches(ALL, 255.0))
    assert train(DiceCELoss(softmax=True, to_onehot_y=True, ignore_index=255), batches(ALL, 255.0)) > 0
