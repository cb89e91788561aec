"""Invalid arguments of losses, and ramps."""

from __future__ import annotations

import math

import pytest
import torch

from losses.volumes import ALL, COMBINED, REGION, random_case
from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss, LinearRamp

SCORES, LABELS = random_case(0)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"softmax": True, "sigmoid": True}, "exclude each other"),
        ({"other_act": "relu"}, "other_act must be callable"),
        ({"smooth_nr": -1}, "smooth_nr is -1"),
        ({"smooth_dr": math.nan}, "smooth_dr is nan"),
        ({"absent": "ignore"}, "absent is 'ignore', but must be one of 'volume', 'skip', 'smooth'"),
        ({"reduction": "average"}, "reduction is 'average'"),
        ({"weight": [1, -1, 1, 1]}, "weight is"),
        ({"weight": [[1, 1, 1, 1]]}, "weight has shape"),
    ],
)
def test_invalid_arguments_raise(loss, kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss(**kwargs)


@pytest.mark.parametrize("loss", COMBINED)
def test_invalid_arguments_of_combined_losses_raise(loss):
    name = "lambda_dice" if loss is DiceCELoss else "lambda_gdl"
    for kwargs in ({name: -1.0}, {"lambda_ce": -0.5}, {"label_smoothing": 1.5}, {"reduction": "none"}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            loss(**kwargs)


def test_w_type():
    with pytest.raises(ValueError, match=r"^w_type is 'cube'"):
        GeneralizedDiceLoss(w_type="cube")


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s, t: (s, torch.where(t == 3, 4, t)),
            r"target contains \[4.0\], but class indices must be in \[0, 3\]",
        ),
        (lambda s, t: (s, t - 1), r"target contains \[-1.0\]"),
        (lambda s, t: (s, t.float() / 0), "target contains"),
        (lambda s, t: (s, t[:, :, :2]), "target has shape"),
        (lambda s, t: (s, t.expand(-1, 4, -1, -1, -1)), "set to_onehot_y=False"),
        (lambda s, t: (s.masked_fill(torch.rand(s.shape) < 0.01, math.nan), t), "input contains NaN"),
        (lambda s, t: (s.masked_fill(torch.rand(s.shape) < 0.01, math.inf), t), "input contains NaN or Inf"),
        (lambda s, t: (s.long(), t), "input has dtype torch.int64"),
        (lambda s, t: (s[0, 0, 0], t[0, 0, 0]), "input has shape"),
    ],
)
def test_invalid_batches_raise(loss, change, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        loss(softmax=True, to_onehot_y=True)(*change(SCORES, LABELS))


@pytest.mark.parametrize("loss", ALL)
def test_an_index_map_without_to_onehot_y(loss):
    with pytest.raises(ValueError, match="set to_onehot_y=True"):
        loss(softmax=True)(SCORES, LABELS)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        (torch.ones(2, 3, dtype=torch.bool), r"annotated has shape \(2, 3\), but must have \(B, C\) = \(2, 4\)"),
        (torch.ones(4, dtype=torch.bool), "annotated has shape"),
        (torch.tensor([[False, True, True, True]] * 2), "annotated is False for the background"),
    ],
)
def test_invalid_annotated_raises(loss, annotated, message):
    with pytest.raises(ValueError, match=message):
        loss(softmax=True, to_onehot_y=True)(SCORES, LABELS, annotated)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("include_background", [True, False])
def test_weights_of_the_wrong_length(loss, include_background):
    function = loss(softmax=True, to_onehot_y=True, include_background=include_background, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="weight has 2 entries"):
        function(SCORES, LABELS)


def test_weights_without_background():
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, weight=[1.0, 2.0, 3.0])
    both = DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, weight=[9.0, 1.0, 2.0, 3.0], lambda_ce=0.0
    )
    torch.testing.assert_close(both(SCORES, LABELS), dice(SCORES, LABELS))


@pytest.mark.parametrize("loss", REGION)
def test_one_weight_for_all(loss):
    unweighted = loss(softmax=True, to_onehot_y=True)(SCORES, LABELS).item()
    twice = loss(softmax=True, to_onehot_y=True, weight=2.0)(SCORES, LABELS).item()
    assert twice == pytest.approx(unweighted * (2 if loss is DiceLoss else 1), rel=1e-4)


def test_ramp():
    ramp = LinearRamp(start=0.5, end=2.5, until=0.5)
    assert [ramp(progress) for progress in (0, 0.25, 0.5, 1)] == [0.5, 1.5, 2.5, 2.5]
    for kwargs in ({"start": -1}, {"end": -1}, {"until": 0}, {"until": 1.1}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            LinearRamp(**kwargs)


@pytest.mark.parametrize("loss", COMBINED)
def test_the_region_term_follows_its_ramp(loss):
    name = "lambda_dice" if loss is DiceCELoss else "lambda_gdl"
    plain = {"softmax": True, "to_onehot_y": True}
    function = loss(**plain, **{name: LinearRamp(until=0.5)})
    with pytest.raises(ValueError, match="needs the loss's `progress`"):
        function(SCORES, LABELS)
    for progress, factor in ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0)):
        function.progress = progress
        expected = loss(**plain, **{name: factor})(SCORES, LABELS)
        torch.testing.assert_close(function(SCORES, LABELS), expected)


def test_combined_losses_equal_the_sum_of_their_terms():
    kwargs = {"softmax": True, "to_onehot_y": True}
    entropy = torch.nn.functional.cross_entropy(SCORES, LABELS[:, 0])
    expected = 2 * GeneralizedDiceLoss(**kwargs)(SCORES, LABELS) + 3 * entropy
    torch.testing.assert_close(GeneralizedDiceCELoss(**kwargs, lambda_gdl=2.0, lambda_ce=3.0)(SCORES, LABELS), expected)


def test_a_loss_moves_and_is_saved_without_its_weights():
    loss = DiceCELoss(softmax=True, to_onehot_y=True, weight=[1, 2, 3, 4])
    assert loss.state_dict() == {}
    assert loss.double()(SCORES.double(), LABELS).dtype == torch.float64


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize(
    ("input", "target", "kwargs", "message"),
    [
        (SCORES, LABELS, {"to_onehot_y": True}, r"but probabilities are in \[0, 1\]\. Set softmax=True"),
        (SCORES[:, :1], LABELS.clamp(max=1).float(), {"softmax": True}, "sigmoid=True for a single class"),
        (SCORES, SCORES, {"softmax": True}, "target contains values from -"),
        (SCORES, SCORES.softmax(1) * math.nan, {"softmax": True}, "target contains values from nan"),
        (SCORES[:, :1], LABELS.float(), {"sigmoid": True}, "target contains values from 0 to 3"),
        (SCORES, LABELS + 0.5, {"softmax": True, "to_onehot_y": True}, "target contains"),
    ],
)
def test_invalid_values_raise(loss, input, target, kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss(**kwargs)(input, target)


def test_overlapping_probabilities_cannot_be_added_up():
    annotated = torch.tensor([[True, True, False, True]] * 2)
    with pytest.raises(ValueError, match="sum to more than 1 over the classes"):
        DiceLoss(to_onehot_y=True)(SCORES.sigmoid(), LABELS.clamp(max=1), annotated)
    by_function = DiceLoss(to_onehot_y=True, other_act=torch.sigmoid)(SCORES, LABELS, annotated)
    torch.testing.assert_close(by_function, DiceLoss(to_onehot_y=True, sigmoid=True)(SCORES, LABELS, annotated))


def test_annotated_is_bool():
    with pytest.raises(ValueError, match=r"annotated has dtype torch.float32, but must be bool"):
        DiceLoss(softmax=True, to_onehot_y=True)(SCORES, LABELS, torch.ones(2, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_are_finite(value):
    for make in (
        lambda: LinearRamp(end=value),
        lambda: DiceLoss(smooth_nr=value),
        lambda: DiceLoss(weight=[1.0, value]),
        lambda: DiceCELoss(lambda_ce=value),
    ):
        with pytest.raises(ValueError, match="finite"):
            make()
