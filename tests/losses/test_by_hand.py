"""Two samples of two voxels and two classes, for which every setting can be worked out on paper.

Sample A has both classes and p = 1/2 everywhere; sample B has class 0 only, with p = 3/4. Sums of class 0: in A I 0.5,
P 1, G 1; in B I 1.5, P 1.5, G 2. Of class 1: in A I 0.5, P 1, G 1; in B I 0, P 0.5, G 0: a quarter of the volume.
"""

from __future__ import annotations

from math import log

import pytest
import torch

from losses.volumes import LABELS, P
from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss, LinearRamp
from segbundle.losses.regions import Regions, absent_term, add_absent, dice_terms, generalized_dice

EXACT = {"to_onehot_y": True, "smooth_nr": 0, "smooth_dr": 0}
A, B = 0.5, 1 / 7  # Dice losses of class 0; class 1 has 0.5 in A
ABSENT = 0.25
WITH_ABSENT = B + (1 - B) * ABSENT


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, (A + WITH_ABSENT) / 2),
        ({"reduction": "sum"}, 2 * A + WITH_ABSENT),  # times the classes that are there
        ({"absent": "skip"}, (A + B) / 2),
        ({"absent": "skip", "reduction": "sum"}, 2 * A + B),
        ({"absent": "smooth"}, (A + (B + 1) / 2) / 2),
        ({"absent": "smooth", "reduction": "sum"}, 2 * A + B + 1),
        ({"include_background": False}, (A + ABSENT) / 2),
        ({"include_background": False, "reduction": "sum"}, A + ABSENT),
        ({"batch": True}, (1 - 4 / 5.5 + 1 - 1 / 2.5) / 2),
        ({"batch": True, "reduction": "sum"}, 1 - 4 / 5.5 + 1 - 1 / 2.5),
        ({"batch": True, "include_background": False}, 1 - 1 / 2.5),
        ({"jaccard": True}, (1 - 1 / 3 + 0.25 + 0.75 * ABSENT) / 2),
        ({"squared_pred": True}, (1 / 3 + 0.04 + 0.96 * 0.125 / 2) / 2),
        ({"smooth_nr": 0.1, "smooth_dr": 0.3, "absent": "skip"}, (1 - 1.1 / 2.3 + 1 - 3.1 / 3.8) / 2),
        ({"weight": [2.0, 3.0]}, (2.5 * A + 2 * B + (1 - 2 * B / 3) * 3 * ABSENT) / 2),
        ({"weight": [3.0, 2.0]}, (2.5 * A + 3 * B + (1 - 3 * B / 3) * 2 * ABSENT) / 2),
        ({"weight": 2.0}, A + WITH_ABSENT),
        ({"weight": [3.0], "include_background": False}, (3 * A + 3 * ABSENT) / 2),
        ({"ignore_index": 1}, (1 / 3 + 2 / 3 * 0.5 + WITH_ABSENT) / 2),  # one voxel of A is left, of class 0
    ],
)
def test_dice(kwargs, expected):
    assert DiceLoss(**{**EXACT, **kwargs})(P, LABELS).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, [[A, A], [B, ABSENT]]),
        ({"absent": "skip"}, [[A, A], [B, 0]]),
        ({"absent": "smooth"}, [[A, A], [B, 1]]),
        ({"include_background": False}, [[A], [ABSENT]]),
        ({"weight": [2.0, 3.0]}, [[2 * A, 3 * A], [2 * B, 3 * ABSENT]]),
        ({"batch": True}, [1 - 4 / 5.5, 1 - 1 / 2.5]),
    ],
)
def test_dice_of_every_class(kwargs, expected):
    values = DiceLoss(**EXACT, reduction="none", **kwargs)(P, LABELS)
    torch.testing.assert_close(values, torch.tensor(expected)[..., None])


def test_a_single_class_is_never_left_out():
    p, target = P[:, 1:], LABELS.float()
    values = DiceLoss(include_background=False, reduction="none", smooth_nr=0, smooth_dr=0)(p, target)
    torch.testing.assert_close(values, torch.tensor([[[0.5]], [[ABSENT]]]))
    known = torch.tensor([[True], [False]])
    assert DiceLoss(smooth_nr=0, smooth_dr=0)(p, target, known).item() == pytest.approx(0.5 / 2)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, (A + WITH_ABSENT) / 2),
        ({"reduction": "sum"}, A + WITH_ABSENT),
        ({"absent": "skip"}, (A + B) / 2),
        ({"absent": "smooth"}, (A + 0.25) / 2),  # B: 1 - 2 (1.5 / 4) / (3.5 / 4 + 0.5 / 4)
        ({"batch": True}, 1 - 2 * (2 / 9 + 0.5) / (5.5 / 9 + 2.5)),
        ({"batch": True, "w_type": "simple"}, 1 - 2 * (2 / 3 + 0.5) / (5.5 / 3 + 2.5)),
        ({"batch": True, "w_type": "uniform"}, 1 - 2 * 2.5 / 8),
        ({"batch": True, "weight": [2.0, 3.0]}, 1 - 2 * (4 / 9 + 1.5) / (11 / 9 + 7.5)),
        ({"batch": True, "include_background": False}, 1 - 1 / 2.5),
        ({"weight": [2.0, 3.0]}, (A + B + (1 - B) * ABSENT) / 2),
        ({"weight": [4.0, 2.0]}, (A + B + (1 - B) * ABSENT / 2) / 2),
        ({"weight": [0.0, 0.0]}, 0),
        # with sum w G = 1, w is 1/2 for either class of A and for class 0 of B
        ({"smooth_nr": 0.1, "smooth_dr": 0.2, "absent": "skip"}, (1 - 1.1 / 2.2 + 1 - 1.6 / 1.95) / 2),
    ],
)
def test_generalized_dice(kwargs, expected):
    assert GeneralizedDiceLoss(**{**EXACT, **kwargs})(P, LABELS).item() == pytest.approx(expected)


def test_generalized_dice_of_every_sample():
    values = GeneralizedDiceLoss(**EXACT, reduction="none")(P, LABELS)
    torch.testing.assert_close(values, torch.tensor([[[A]], [[WITH_ABSENT]]]))


@pytest.mark.parametrize(("soft_label", "both"), [(True, (1.0, 0.25)), (False, (0.875, 0.125))])
def test_soft_references(soft_label, both):
    p, g = torch.tensor([[[0.75, 0.5], [0.25, 0.5]]]), torch.tensor([[[0.5, 1.0], [0.5, 0.0]]])
    loss = DiceLoss(smooth_nr=0, smooth_dr=0, soft_label=soft_label)
    assert loss(p, g).item() == pytest.approx(1 - (2 * both[0] / 2.75 + 2 * both[1] / 1.25) / 2)
    assert (loss(g, g).item() == pytest.approx(0)) is soft_label
    squared = DiceLoss(smooth_nr=0, smooth_dr=0, soft_label=soft_label, squared_pred=True)
    assert squared(g, g).item() == pytest.approx(0)


def test_absent_classes_that_overlap_have_weights():
    scores, target = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    loss = DiceLoss(sigmoid=True, include_background=False, weight=[1.0, 2.0])
    assert loss(scores, target).item() == pytest.approx(2 * (1 - (1 - 0.25) * (1 - 0.5)))


def test_probabilities_above_1_in_all_are_not_counted_twice():
    p = torch.tensor([0.5, 0.75, 0.75]).reshape(1, 3, 1).expand(1, 3, 4)
    loss = DiceLoss(**EXACT, include_background=False)
    assert loss(p, torch.zeros(1, 1, 4)).item() == pytest.approx(1)


TWO, FOUR_THIRDS = log(2), log(4 / 3)


ENTROPIES = [
    ({}, (2 * TWO + 2 * FOUR_THIRDS) / 4),
    ({"reduction": "sum"}, 2 * TWO + 2 * FOUR_THIRDS),
    ({"weight": [1.0, 3.0]}, (4 * TWO + 2 * FOUR_THIRDS) / 6),
    ({"weight": 5.0}, (2 * TWO + 2 * FOUR_THIRDS) / 4),
    ({"weight": [0.1, 0.3]}, (4 * TWO + 2 * FOUR_THIRDS) / 6),
    ({"weight": [0.0, 0.0]}, 0),
    ({"ignore_index": 2}, (2 * TWO + 2 * FOUR_THIRDS) / 4),  # the first invalid class number
    ({"weight": 5.0, "reduction": "sum"}, 5 * (2 * TWO + 2 * FOUR_THIRDS)),
    ({"weight": [1.0, 3.0], "batch": True}, (4 * TWO + 2 * FOUR_THIRDS) / 6),
    # 0.9 for the class of the voxel, 0.1 for the other
    ({"label_smoothing": 0.2}, (2 * TWO + 2 * (0.9 * FOUR_THIRDS + 0.1 * log(4))) / 4),
    ({"label_smoothing": 1.0}, (2 * TWO + 2 * (0.5 * FOUR_THIRDS + 0.5 * log(4))) / 4),
    (
        {"label_smoothing": 0.2, "weight": [1.0, 3.0]},
        ((0.9 + 0.3 + 2.7 + 0.1) * TWO + 2 * (0.9 * FOUR_THIRDS + 0.3 * log(4))) / 6,
    ),
    # the second voxel of A is unknown, so that the other one counts twice, or with `batch` once of three
    ({"ignore_index": 1}, (2 * TWO + 2 * FOUR_THIRDS) / 4),
    ({"ignore_index": 1, "batch": True}, (TWO + 2 * FOUR_THIRDS) / 3),
    ({"ignore_index": 1, "reduction": "sum"}, TWO + 2 * FOUR_THIRDS),
    ({"ignore_index": 1, "weight": [2.0, 3.0]}, (4 * TWO + 4 * FOUR_THIRDS) / 8),
    ({"ignore_index": 1, "label_smoothing": 0.2}, (2 * TWO + 2 * (0.9 * FOUR_THIRDS + 0.1 * log(4))) / 4),
    ({"ignore_index": 0}, (2 * TWO + 0) / 4),  # B is unknown and counts as 0
]


@pytest.mark.parametrize(
    ("index_map", "kwargs", "expected"),
    [
        *((True, *one) for one in ENTROPIES),
        *((False, *one) for one in ENTROPIES if "weight" not in one[0]),  # their mean is over voxels, see below
    ],
)
def test_cross_entropy(index_map, kwargs, expected):
    loss = DiceCELoss(to_onehot_y=index_map, softmax=True, lambda_dice=0, **kwargs)
    target = LABELS if index_map else torch.nn.functional.one_hot(LABELS[:, 0], 2).movedim(-1, 1).float()
    assert loss(P.log(), target).item() == pytest.approx(expected)


def test_cross_entropy_of_one_hot_targets_has_weights():
    target = torch.nn.functional.one_hot(LABELS[:, 0], 2).movedim(-1, 1).float()
    loss = DiceCELoss(softmax=True, lambda_dice=0, weight=[1.0, 3.0])
    assert loss(P.log(), target).item() == pytest.approx((4 * TWO + 2 * FOUR_THIRDS) / 4)
    smooth = DiceCELoss(softmax=True, lambda_dice=0, weight=[1.0, 3.0], label_smoothing=0.2)
    expected = (0.9 + 0.3 + 2.7 + 0.1) * TWO + 2 * (0.9 * FOUR_THIRDS + 0.3 * log(4))
    assert smooth(P.log(), target).item() == pytest.approx(expected / 4)


@pytest.mark.parametrize(
    ("kwargs", "annotated", "expected"),
    [
        ({}, None, (TWO + log(4) + 2 * TWO) / 4),
        ({"weight": 2.0}, None, (2 * TWO + log(4) + 4 * TWO) / 4),  # of voxels of the class
        ({"reduction": "sum"}, None, TWO + log(4) + 2 * TWO),
        ({"ignore_index": 0}, None, (2 * TWO + 2 * TWO) / 4),
        ({}, [[True], [False]], (TWO + log(4)) / 4),
        ({"reduction": "sum"}, [[False], [True]], 2 * TWO),
    ],
)
def test_cross_entropy_of_a_single_class(kwargs, annotated, expected):
    scores, target = torch.tensor([[[0, log(3)]], [[0, 0]]]), torch.tensor([[[1.0, 0]], [[1, 1]]])
    loss = DiceCELoss(sigmoid=True, lambda_dice=0, **kwargs)
    assert loss(scores, target, None if annotated is None else torch.tensor(annotated)).item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize("loss", [DiceCELoss, GeneralizedDiceCELoss])
def test_factors_of_the_two_parts(loss):
    name = "lambda_dice" if loss is DiceCELoss else "lambda_gdl"
    region, entropy = (A + WITH_ABSENT) / 2, (2 * TWO + 2 * FOUR_THIRDS) / 4
    for factors in ((1, 1), (2, 3), (0, 3), (2, 0)):
        both = loss(**EXACT, softmax=True, **dict(zip((name, "lambda_ce"), factors, strict=True)))
        assert both(P.log(), LABELS).item() == pytest.approx(factors[0] * region + factors[1] * entropy)
    assert loss(**EXACT, softmax=True)(P.log(), LABELS).item() == pytest.approx(region + entropy)


def test_the_cross_entropy_follows_its_ramp():
    loss = DiceCELoss(softmax=True, to_onehot_y=True, lambda_ce=LinearRamp(0, 2))
    loss.progress = 0
    assert loss(P.log(), LABELS).item() == pytest.approx((A + WITH_ABSENT) / 2, abs=1e-4)
    loss.progress = 0.5
    assert loss(P.log(), LABELS).item() == pytest.approx((A + WITH_ABSENT) / 2 + (TWO + FOUR_THIRDS) / 2, abs=1e-4)


def test_sigmoid_excludes_background_of_unannotated_classes():
    """A background voxel may belong to the unannotated class, and sigmoid probabilities of the two cannot be added."""
    loss = DiceLoss(sigmoid=True, to_onehot_y=True, smooth_nr=0, smooth_dr=0)
    scores = torch.zeros(2, 2, 2)
    # both classes of A: 1 - 2 * 0.5 / (1 + 1); nothing of B
    assert loss(scores, LABELS, torch.tensor([[True, True], [True, False]])).item() == pytest.approx(0.5 / 2)


def regions(intersection, prediction, reference, voxels=4.0, counted=None, exclusive=True):
    sums = (torch.tensor([values]) for values in (intersection, prediction, reference))
    counted = torch.tensor([[True] * len(reference) if counted is None else counted])
    return Regions(*sums, torch.tensor([voxels]), counted, exclusive)


def test_a_class_that_is_not_counted_is_neither_there_nor_absent():
    found = regions([1.0, 0, 0], [1.0, 1, 1], [2.0, 0, 0], counted=[True, True, False])
    assert found.present.tolist() == [[True, False, False]]
    assert found.absent.tolist() == [[False, True, False]]
    assert Regions(*[torch.ones(1, 1)] * 4, torch.ones(1, 1, dtype=torch.bool)).exclusive is True


def test_a_region_that_neither_has_costs_nothing():
    nothing = regions([0.0], [0.0], [0.0])
    assert dice_terms(nothing, 0, 0).item() == 0
    assert generalized_dice(nothing, torch.ones(1), 2, nothing.present, 0, 0).item() == 0
    assert absent_term(regions([0.0], [0.0], [0.0], voxels=0.0), torch.ones(1)).item() == 0


def test_a_taken_class_without_voxels_has_the_largest_weight():
    # G 1 and 2, w 1 and 1/4; the absent third class has w 1; sum w G = 1 + 1/2
    found = regions([1.0, 1, 0], [1.0, 1, 3], [1.0, 2, 0])
    value = generalized_dice(found, torch.ones(3), 2, found.counted, 0, 0)
    assert value.item() == pytest.approx(1 - 2 * (1 + 0.25) / (2 + 0.75 + 3))


def test_two_ways_to_fail_never_exceed_the_largest_weight():
    found = regions([0.0, 0], [0.0, 4], [4.0, 0])
    for largest, weight, expected in ((1.0, [1.0, 1], 1.0), (2.0, [2.0, 1], 1.5), (1.0, [1.0, 3], 1 + 2 / 3 * 3)):
        value = add_absent(torch.ones(1), torch.tensor([largest]), found, torch.tensor(weight))
        assert value.item() == pytest.approx(expected)
    overlapping = regions([0.0, 0, 0], [0.0, 2, 1], [4.0, 0, 0], exclusive=False)
    assert absent_term(overlapping, torch.ones(3)).item() == pytest.approx(1 - 0.5 * 0.75)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"batch": True},
        {"absent": "smooth"},
        {"squared_pred": True},
        {"squared_pred": True, "softmax": False},
        {"jaccard": True, "softmax": False},
        {"ignore_index": 1},
        {"lambda_dice": 0},
        {"weight": [1.0, 3.0, 2.0]},
        {"weight": [1.0, 3.0, 2.0], "label_smoothing": 0.2},
        {"weight": [1.0, 3.0, 2.0], "label_smoothing": 0.2, "ignore_index": 1},
    ],
)
@pytest.mark.parametrize("index_map", [True, False])
@pytest.mark.parametrize("annotated", [None, [True, False, True]])
def test_gradients(kwargs, index_map, annotated):
    """As finite differences have them, with classes merged into the background as well."""
    kwargs = {"softmax": True, **kwargs}
    make = DiceCELoss if kwargs["softmax"] else DiceLoss
    loss = make(to_onehot_y=index_map, **kwargs).double()
    p = torch.tensor([[[0.5, 0.3, 0.1, 0.2], [0.3, 0.6, 0.2, 0.7], [0.2, 0.1, 0.7, 0.1]]] * 2, dtype=torch.float64)
    labels = torch.tensor([[[0, 1, 2, 0]], [[0, 2, 0, 0]]])
    target = labels if index_map else torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    scores = (p.log() if kwargs["softmax"] else p - 0.01).requires_grad_()
    known = None if annotated is None else torch.tensor([annotated, [True] * 3])
    assert torch.autograd.gradcheck(lambda given: loss(given, target, known), (scores,))


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("soft_label", [True, False])
@pytest.mark.parametrize("squared_pred", [True, False])
def test_gradients_for_soft_references(softmax, soft_label, squared_pred):
    loss = DiceLoss(softmax=softmax, soft_label=soft_label, squared_pred=squared_pred).double()
    p = torch.tensor([[[0.5, 0.3, 0.1], [0.3, 0.6, 0.2], [0.2, 0.1, 0.7]]], dtype=torch.float64)
    target = torch.tensor([[[0.7, 0.1, 0.0], [0.1, 0.7, 0.1], [0.2, 0.2, 0.9]]], dtype=torch.float64)
    scores = (p.log() if softmax else p).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss(given, target), (scores,))


def test_gradient_where_prediction_equals_soft_reference():
    """The sum of min(p, g) has two slopes there, 1 and 0: the gradient is the mean of both."""
    p = torch.tensor([[[0.5], [0.5]]], dtype=torch.float64, requires_grad=True)
    loss = DiceLoss(soft_label=True, smooth_nr=0, smooth_dr=0)
    loss(p, p.detach()).backward()
    # of 1 - 2 I / (P + G) with I 0.5, P 0.5, G 0.5: - 2 / 1 * slope + 2 * 0.5 / 1, over two classes
    assert p.grad.flatten().tolist() == pytest.approx([(-2 * 0.5 + 1) / 2] * 2)
