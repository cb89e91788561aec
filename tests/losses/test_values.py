"""Values of losses: by hand, by textbook, by MONAI, and properties for any input."""

from __future__ import annotations

import math

import monai.losses
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.volumes import (
    ALL,
    COMBINED,
    REGION,
    blocks,
    one_hot,
    random_case,
    textbook_dice,
    textbook_generalized_dice,
)
from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceLoss

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SETTINGS = [{}, {"batch": True}, {"include_background": False}, {"batch": True, "include_background": False}]


def test_dice_by_hand():
    # class 1: p is 0.5, 0.5, 0, 0 where g is 1, 0, 0, 0: 1 - 2 * 0.5 / (1 + 1) = 0.5
    # class 0: p is 0.5, 0.5, 1, 1 where g is 0, 1, 1, 1: 1 - 2 * 2.5 / (3 + 3) = 1/6
    p = torch.tensor([[[0.5, 0.5, 1, 1], [0.5, 0.5, 0, 0]]])
    target = torch.tensor([[[1, 0, 0, 0]]])
    exact = {"to_onehot_y": True, "smooth_nr": 0, "smooth_dr": 0}
    assert DiceLoss(**exact)(p, target).item() == pytest.approx((0.5 + 1 / 6) / 2)
    assert DiceLoss(**exact, include_background=False)(p, target).item() == pytest.approx(0.5)
    # weights 1/9 and 1: 1 - 2 * (2.5/9 + 0.5) / (6/9 + 2)
    assert GeneralizedDiceLoss(**exact)(p, target).item() == pytest.approx(1 - 2 * (2.5 / 9 + 0.5) / (6 / 9 + 2))


def test_an_absent_class_adds_its_part_of_the_volume():
    # class 2 is absent and gets 0.25 of every voxel; all voxels are class 0: D = 1 - 2 * 3 / (3 + 4) = 1/7
    p = torch.tensor([[[0.75] * 4, [0.0] * 4, [0.25] * 4]])
    target = torch.zeros(1, 1, 4)
    exact = {"to_onehot_y": True, "smooth_nr": 0, "smooth_dr": 0}
    for loss in REGION:
        assert loss(**exact)(p, target).item() == pytest.approx(1 / 7 + 6 / 7 * 0.25)
        assert loss(**exact, absent="skip")(p, target).item() == pytest.approx(1 / 7)
        assert loss(**exact, include_background=False)(p, target).item() == pytest.approx(0.25)
    # as MONAI: class 1, predicted nowhere, counts 0 (0/0), class 2 counts 1
    assert DiceLoss(**exact, absent="smooth")(p, target).item() == pytest.approx((1 / 7 + 0 + 1) / 3)


def test_with_sigmoid_absent_classes_fail_independently():
    # two absent classes that each take half the volume: 1 - 0.5 * 0.5
    scores = torch.zeros(1, 3, 2, 2)
    target = torch.zeros(1, 3, 2, 2)
    assert DiceLoss(sigmoid=True, include_background=False)(scores, target).item() == pytest.approx(0.75)


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize("kwargs", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index_map", [True, False])
@pytest.mark.parametrize("present", [1, 2, 4])
def test_a_perfect_prediction_costs_nothing(loss, kwargs, dtype, index_map, present):
    labels = torch.cat([blocks(8, present), blocks(8, 1)])  # the second is all background
    perfect = one_hot(labels, 4)
    target = labels if index_map else perfect
    value = loss(to_onehot_y=index_map, **kwargs)(perfect.to(dtype), target)
    assert value.dtype == torch.float32
    assert value.item() <= 1e-6
    scores = ((perfect * 2 - 1) * 1e4).to(dtype)
    assert loss(to_onehot_y=index_map, softmax=True, **kwargs)(scores, target).item() <= 1e-6


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize("kwargs", SETTINGS)
@pytest.mark.parametrize("present", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 64])
def test_every_voxel_wrong_costs_one(loss, kwargs, present, size):
    labels = blocks(size, present)
    wrong = one_hot((labels + 1) % 4, 4)
    if kwargs.get("include_background") is False and present > 1:
        wrong = one_hot(torch.where(labels == 3, 1, labels + 1), 4)  # never background
    assert loss(to_onehot_y=True, **kwargs)(wrong, labels).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", REGION)
def test_every_voxel_wrong_costs_one_in_a_large_volume(loss):
    labels = blocks(192, 3).to(torch.uint8)
    wrong = torch.zeros(1, 3, 192, 192, 192, dtype=torch.bfloat16).scatter_(1, (labels.long() + 1) % 3, 1)
    assert loss(to_onehot_y=True)(wrong, labels).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize("kwargs", SETTINGS)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    absent=st.integers(0, 3),
    scale=st.floats(0.1, 50),
    dtype=st.sampled_from(DTYPES),
    index_map=st.booleans(),
    softmax=st.booleans(),
)
def test_bounded_and_the_same_for_a_repeated_volume(loss, kwargs, seed, absent, scale, dtype, index_map, softmax):
    scores, labels = random_case(seed, num_classes=4)
    labels = labels.clamp(max=3 - absent)
    scores = (scores * scale).to(dtype)
    given_input = scores if softmax else scores.softmax(dim=1)
    target = labels if index_map else one_hot(labels, 4)
    function = loss(to_onehot_y=index_map, softmax=softmax, **kwargs)
    value = function(given_input, target).item()
    assert 0 <= value <= 1
    repeated = function(given_input.repeat(1, 1, 2, 2, 2), target.repeat(1, 1, 2, 2, 2)).item()
    assert repeated == pytest.approx(value, abs=1e-5)


def test_probabilities_that_sum_to_more_than_one_stay_bounded():
    p = torch.full((1, 3, 4, 4, 4), 0.502, dtype=torch.bfloat16)  # two absent classes: 1.004
    p[:, 0] = 0
    loss = DiceLoss(to_onehot_y=True, include_background=False)
    assert loss(p, torch.zeros(1, 1, 4, 4, 4)).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("kwargs", SETTINGS)
def test_absent_classes_with_zero_probability_change_nothing(loss, kwargs):
    scores, labels = random_case(1, num_classes=3)
    labels[0] = labels[0].clamp(max=1)
    more = torch.cat([scores, torch.full_like(scores, -1e4)], dim=1)
    function = loss(to_onehot_y=True, softmax=True, **kwargs)
    assert function(more, labels).item() == pytest.approx(function(scores, labels).item(), abs=1e-6)


def test_21_classes_of_which_18_are_absent():
    size, num_classes = 96, 21
    labels = torch.zeros(1, 1, size, size, size, dtype=torch.long)
    labels[:, :, : size // 2] = 1
    labels[0, 0, 60:70, 60:70, 60:70] = 2
    p = torch.full((1, num_classes, size, size, size), 0.01 / 20).scatter_(1, labels, 0.99)
    flat, g = p.flatten(2).numpy()[:, :3], one_hot(labels, num_classes).flatten(2).numpy()[:, :3]
    textbook = textbook_generalized_dice(flat, g)
    assert textbook == pytest.approx(0.187, abs=2e-3)
    p.requires_grad_()
    value = GeneralizedDiceLoss(to_onehot_y=True)(p, labels)
    assert value.item() == pytest.approx(textbook, abs=0.02)
    value.backward()
    by_class = p.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (by_class[3:].sum() / by_class.sum()).item() <= 0.1


@pytest.mark.parametrize("power", ["square", "simple", "uniform"])
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_equal_to_the_textbook_when_every_class_is_present(power, seed):
    scores, labels = random_case(seed)
    p = scores.softmax(dim=1).flatten(2).numpy()
    g = one_hot(labels, 4).flatten(2).numpy()
    exact = {"to_onehot_y": True, "softmax": True, "smooth_nr": 0, "smooth_dr": 0}
    assert DiceLoss(**exact)(scores, labels).item() == pytest.approx(textbook_dice(p, g), abs=1e-5)
    expected = textbook_generalized_dice(p, g, {"square": 2, "simple": 1, "uniform": 0}[power])
    assert GeneralizedDiceLoss(**exact, w_type=power)(scores, labels).item() == pytest.approx(expected, abs=1e-5)


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 4.0])


@pytest.mark.parametrize("index_map", [True, False])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"batch": True},
        {"include_background": False},
        {"squared_pred": True},
        {"jaccard": True},
        {"reduction": "sum"},
        {"smooth_nr": 0.0, "smooth_dr": 1.0},
        {"label_smoothing": 0.1},
        {"weight": WEIGHT},
        {"weight": WEIGHT, "include_background": False, "batch": True},
        {"lambda_dice": 0.3, "lambda_ce": 2.0},
        {"lambda_ce": 0.0},
        {"softmax": False, "sigmoid": True},
        {"softmax": False, "other_act": torch.sigmoid},
    ],
)
def test_equal_to_monai_when_every_class_is_present(kwargs, index_map):
    scores, labels = random_case(3)
    target = labels if index_map else one_hot(labels, 4)
    values = []
    for loss in (monai.losses.DiceCELoss, DiceCELoss):
        leaf = scores.clone().requires_grad_()
        value = loss(**{"softmax": True, "to_onehot_y": index_map, **kwargs})(leaf, target)
        value.backward()
        values.append((value.item(), leaf.grad))
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-5)
    torch.testing.assert_close(values[1][1], values[0][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("squared_pred", [True, False])
def test_soft_targets_as_monai(squared_pred):
    scores, _ = random_case(4)
    target = random_case(5)[0].softmax(dim=1)
    kwargs = {"softmax": True, "soft_label": True, "squared_pred": squared_pred}
    expected = monai.losses.DiceLoss(**kwargs)(scores, target).item()
    assert DiceLoss(**kwargs)(scores, target).item() == pytest.approx(expected, abs=1e-5)
    assert DiceLoss(soft_label=True, squared_pred=squared_pred)(target, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["DiceLoss", "GeneralizedDiceLoss"])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unreduced_as_monai(name, batch, dims):
    scores, labels = random_case(6)
    scores, labels = (t.reshape(*t.shape[:2], *[6] * (dims - 1), -1) for t in (scores, labels))
    kwargs = {"softmax": True, "to_onehot_y": True, "reduction": "none", "batch": batch, "smooth_nr": 0, "smooth_dr": 0}
    expected = getattr(monai.losses, name)(**kwargs)(scores, labels)
    torch.testing.assert_close(
        {"DiceLoss": DiceLoss}.get(name, GeneralizedDiceLoss)(**kwargs)(scores, labels), expected
    )


def test_one_class_as_monai():
    scores, labels = random_case(7, num_classes=2)
    scores, target = scores[:, :1], labels.float()
    for kwargs in ({"sigmoid": True}, {"sigmoid": True, "batch": True, "include_background": True}):
        expected = monai.losses.DiceCELoss(**kwargs)(scores, target).item()
        assert DiceCELoss(**kwargs)(scores, target).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_index_and_one_hot_targets_agree(loss):
    scores, labels = random_case(8)
    labels[0] = labels[0].clamp(max=2)
    by_index = loss(softmax=True, to_onehot_y=True)(scores, labels)
    torch.testing.assert_close(loss(softmax=True)(scores, one_hot(labels, 4)), by_index)


@pytest.mark.parametrize("loss", ALL)
def test_layout_and_label_type_do_not_matter(loss):
    scores, labels = random_case(9)
    function = loss(softmax=True, to_onehot_y=True)
    results = []
    for given_scores, given_labels in (
        (scores, labels),
        (scores.to(memory_format=torch.channels_last_3d), labels.to(torch.uint8)),
        (scores.transpose(2, 4).contiguous().transpose(2, 4), labels.float()),
    ):
        leaf = given_scores.clone().requires_grad_()
        value = function(leaf, given_labels)
        value.backward()
        results.append((value, leaf.grad.contiguous()))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("loss", ALL)
def test_half_precision_is_counted_in_float32(loss):
    # 40**3 voxels of 0.5 sum to 32000; float16 or bfloat16 sums would round this
    scores = torch.zeros(1, 2, 40, 40, 40)
    labels = blocks(40, 2)
    function = loss(softmax=True, to_onehot_y=True)
    expected = function(scores, labels).item()
    for dtype in (torch.float16, torch.bfloat16):
        leaf = scores.to(dtype).requires_grad_()
        value = function(leaf, labels)
        assert value.item() == pytest.approx(expected, abs=1e-6)
        value.backward()
        assert leaf.grad.dtype == dtype


@pytest.mark.parametrize("loss", COMBINED)
def test_ignored_voxels_count_nowhere(loss):
    scores, labels = random_case(10)
    labels[:, :, 3:] = 255
    function = loss(softmax=True, to_onehot_y=True, ignore_index=255, weight=[1.0, 2.0, 3.0, 4.0])
    cut = loss(softmax=True, to_onehot_y=True, weight=[1.0, 2.0, 3.0, 4.0])
    leaf = scores.clone().requires_grad_()
    value = function(leaf, labels)
    assert value.item() == pytest.approx(cut(scores[:, :, :3], labels[:, :, :3]).item(), abs=1e-6)
    value.backward()
    assert leaf.grad[:, :, 3:].abs().max() == 0
    assert leaf.grad[:, :, :3].abs().max() > 0
    other = scores.clone()
    other[:, :, 3:] = 100
    assert function(other, labels).item() == value.item()


def test_one_hot_voxels_are_ignored_as_in_monai():
    scores, labels = random_case(11)
    target = one_hot(labels, 4)
    unknown = target.clone()
    unknown[:, :, 3:] = 0  # in no class
    cut = DiceCELoss(softmax=True)(scores[:, :, :3], target[:, :, :3]).item()
    assert DiceCELoss(softmax=True, ignore_index=255)(scores, unknown).item() == pytest.approx(cut, abs=1e-6)
    by_class = DiceLoss(softmax=True, ignore_index=3)(scores, target)
    torch.testing.assert_close(DiceLoss(softmax=True, to_onehot_y=True, ignore_index=3)(scores, labels), by_class)
    for index, reference in ((255, unknown), (3, target)):
        ours = DiceLoss(softmax=True, ignore_index=index, absent="smooth")(scores, reference)
        torch.testing.assert_close(ours, monai.losses.DiceLoss(softmax=True, ignore_index=index)(scores, reference))


@pytest.mark.parametrize("loss", ALL)
def test_nothing_known_gives_nothing(loss):
    scores, labels = random_case(12)
    leaf = scores.clone().requires_grad_()
    value = loss(softmax=True, to_onehot_y=True, ignore_index=255)(leaf, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0
    assert leaf.grad.abs().max() == 0


def test_ignored_voxels_of_a_single_class():
    scores, labels = random_case(13, num_classes=2)
    scores, target = scores[:, :1], labels.float()
    function = DiceCELoss(sigmoid=True, ignore_index=255)
    cut = function(scores[:, :, :3], target[:, :, :3]).item()
    target[:, :, 3:] = 255
    assert function(scores, target).item() == pytest.approx(cut, abs=1e-6)


def test_cross_entropy_of_sure_and_wrong_scores_is_finite():
    scores = torch.tensor([[[1e4], [-1e4]]])
    loss = DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0.0)
    assert loss(scores, torch.ones(1, 1, 1)).item() == pytest.approx(2e4)
    assert math.isclose(loss(scores, torch.zeros(1, 1, 1)).item(), 0)


def test_numpy_textbook_is_the_textbook():
    p = np.array([[[0.5, 0.5], [0.5, 0.5]]])
    g = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert textbook_dice(p, g) == textbook_generalized_dice(p, g) == 0.5


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize("weight", [[1.0, 1.0, 10.0], [0.25, 1.0, 7.0], [3.0, 1.0, 0.0], 10.0])
@pytest.mark.parametrize("include_background", [True, False])
def test_weights_never_reward_absent_class_false_positives(loss, weight, include_background):
    if isinstance(weight, list) and not include_background:
        weight = weight[1:]
    function = loss(to_onehot_y=True, weight=weight, include_background=include_background)
    values = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        p = torch.tensor([1 - part, 0.0, part]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4)
        values.append(function(p, torch.zeros(1, 1, 4, 4, 4)).item())
    assert values == sorted(values)
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[-1] <= (1 if loss is GeneralizedDiceLoss else max(weight) if isinstance(weight, list) else weight)


def test_a_weight_for_all_changes_nothing_in_generalized_dice():
    p = torch.tensor([0.5, 0.25, 0.25]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4)
    labels = blocks(4, 2)
    values = [GeneralizedDiceLoss(to_onehot_y=True, weight=weight)(p, labels).item() for weight in (None, 2.0, 10.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_unannotated_classes_by_hand():
    # class 2 is unannotated; its 0.5 in the first voxel is the background's, its 0.25 in the second is lost to class 1
    p = torch.tensor([[[0.25, 0.25], [0.25, 0.5], [0.5, 0.25]]])
    labels = torch.tensor([[[0, 1]]])
    annotated = torch.tensor([[True, True, False]])
    # background: I 0.75, P 0.75 + 0.5, G 1; class 1: I 0.5, P 0.75, G 1
    dice = (1 - 1.5 / 2.25 + 1 - 1 / 1.75) / 2
    exact = {"smooth_nr": 0, "smooth_dr": 0}
    for target, kwargs in (
        (labels, {"to_onehot_y": True}),
        (one_hot(labels, 3), {}),
        (torch.tensor([[[2, 1]]]), {"to_onehot_y": True}),  # an unannotated label counts as background
        (one_hot(torch.tensor([[[2, 1]]]), 3), {}),
    ):
        assert DiceLoss(**exact, **kwargs)(p, target, annotated).item() == pytest.approx(dice)
        both = DiceCELoss(**exact, **kwargs, softmax=True)(p.log(), target, annotated).item()
        assert both == pytest.approx(dice - (math.log(0.75) + math.log(0.5)) / 2)
        smooth = DiceCELoss(**kwargs, softmax=True, lambda_dice=0.0, label_smoothing=0.2)
        # smoothing goes to the two classes that are left: background 0.75 and 0.5, class 1 0.25 and 0.5
        expected = (
            -sum(0.9 * math.log(right) + 0.1 * math.log(wrong) for right, wrong in ((0.75, 0.25), (0.5, 0.5))) / 2
        )
        assert smooth(p.log(), target, annotated).item() == pytest.approx(expected)


def test_with_sigmoid_the_cross_entropy_merges_all_the_same():
    p = torch.tensor([[[0.25, 0.25], [0.25, 0.5], [0.5, 0.25]]])
    labels, annotated = torch.tensor([[[0, 1]]]), torch.tensor([[True, True, False]])
    loss = DiceCELoss(sigmoid=True, to_onehot_y=True, lambda_dice=0.0)
    assert loss(p.log(), labels, annotated).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_single_unannotated_class_has_no_gradient():
    scores, target = torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    annotated = torch.tensor([[True], [False]])
    loss = DiceCELoss(sigmoid=True)
    alone = loss(scores[:1], target[:1]).item()
    assert loss(scores, target, annotated).item() == pytest.approx(alone / 2)


@pytest.mark.parametrize("loss", COMBINED)
def test_batch_loss_is_mean_of_cases_with_ignored_voxels(loss):
    scores, labels = random_case(14)
    labels[0, :, 1:] = 255
    function = loss(softmax=True, to_onehot_y=True, ignore_index=255)
    alone = [function(scores[i : i + 1], labels[i : i + 1]).item() for i in range(2)]
    assert function(scores, labels).item() == pytest.approx(sum(alone) / 2, abs=1e-6)
    labels[0] = 255
    assert function(scores, labels).item() == pytest.approx(alone[1] / 2, abs=1e-6)
    pooled = loss(softmax=True, to_onehot_y=True, ignore_index=255, batch=True)
    assert pooled(scores, labels).item() == pytest.approx(pooled(scores[1:], labels[1:]).item(), abs=1e-6)


def test_an_ignore_index_beyond_the_labels_type_ignores_nothing():
    scores, labels = random_case(15)
    expected = DiceLoss(softmax=True, to_onehot_y=True)(scores, labels).item()
    for dtype in (torch.uint8, torch.int8):
        function = DiceLoss(softmax=True, to_onehot_y=True, ignore_index=256)
        assert function(scores, labels.to(dtype)).item() == pytest.approx(expected)


def test_sigmoid_is_taken_in_float32():
    scores = torch.full((1, 1, 40, 40, 40), 3.3, dtype=torch.bfloat16)
    target = torch.ones(1, 1, 40, 40, 40)
    p = torch.sigmoid(scores[0, 0, 0, 0, 0].float()).item()
    value = DiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)(scores, target).item()
    assert value == pytest.approx(1 - 2 * p / (p + 1), abs=1e-6)


@pytest.mark.parametrize("loss", COMBINED)
def test_autocast_around_it_changes_nothing(loss):
    scores, labels = random_case(16)
    results = []
    for enabled in (False, True):
        leaf = scores.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = loss(softmax=True, to_onehot_y=True, label_smoothing=0.1)(leaf, labels)
            value.backward()
        results.append((value, leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch", [True, False])
def test_unreduced_without_background_as_monai(batch):
    scores, labels = random_case(17)
    kwargs = {"softmax": True, "to_onehot_y": True, "reduction": "none", "include_background": False, "batch": batch}
    expected = monai.losses.DiceLoss(**kwargs)(scores, labels)
    torch.testing.assert_close(DiceLoss(**kwargs)(scores, labels), expected)
