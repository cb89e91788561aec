"""What arguments and batches must obey, and the small functions that losses are made of."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.distributed as dist

from losses.volumes import ALL, LABELS, P
from segbundle.losses import (
    DiceCELoss,
    DiceLoss,
    GeneralizedDiceCELoss,
    GeneralizedDiceLoss,
    LinearRamp,
    counts,
)
from segbundle.losses import (
    target_checks as checks,
)
from segbundle.losses.all_reduce import sum_over_ranks
from segbundle.losses.deep_supervision import loss_over_depths

COMMON = {
    "include_background": True, "to_onehot_y": False, "sigmoid": False, "softmax": False, "other_act": None,
    "reduction": "mean", "smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": False, "weight": None, "ignore_index": None,
    "absent": "volume", "regions": None,
}  # fmt: skip
ENTROPY = {"lambda_ce": 1.0, "label_smoothing": 0.0}


@pytest.mark.parametrize(
    ("loss", "others"),
    [
        (DiceLoss, {"squared_pred": False, "jaccard": False, "soft_label": False}),
        (GeneralizedDiceLoss, {"w_type": "square", "soft_label": False}),
        (DiceCELoss, {"squared_pred": False, "jaccard": False, "lambda_dice": 1.0, **ENTROPY}),
        (GeneralizedDiceCELoss, {"w_type": "square", "lambda_gdl": 1.0, **ENTROPY}),
    ],
)
def test_arguments_have_these_defaults(loss, others):
    found = {name: one.default for name, one in inspect.signature(loss).parameters.items()}
    assert found == {**COMMON, **others}
    assert loss().reduction == "mean"


def test_every_argument_arrives():
    region = {
        "include_background": False, "to_onehot_y": True, "sigmoid": True, "reduction": "sum", "smooth_nr": 2,
        "smooth_dr": 3, "batch": True, "ignore_index": 7, "absent": "skip",
    }  # fmt: skip
    for loss, others in (
        (DiceCELoss(**region, squared_pred=True, jaccard=True), {"squared_pred": True, "jaccard": True}),
        (GeneralizedDiceCELoss(**region, w_type="simple"), {"w_type": "simple"}),
    ):
        assert {name: getattr(loss.region, name) for name in (*region, *others)} == {**region, **others}
        assert (loss.ignore_index, loss.reduction, loss.progress, loss.follows_progress) == (7, "sum", None, False)
    assert DiceLoss(soft_label=True).soft_label is True
    for kwargs in ({"lambda_ce": LinearRamp()}, {"lambda_dice": LinearRamp()}):
        assert DiceCELoss(**kwargs).follows_progress is True


@pytest.mark.parametrize(
    ("check", "refused"),
    [
        (lambda: checks.probabilities(torch.tensor([[[1.0], [0.0]]]), sum_to_one=True), False),
        (lambda: checks.probabilities(torch.tensor([[[1 + 2e-7], [0.0]]]), sum_to_one=False), False),
        (lambda: checks.probabilities(torch.tensor([[[1 + 4e-7], [0.0]]]), sum_to_one=False), True),
        (lambda: checks.probabilities(torch.tensor([[[-1e-9], [0.0]]]), sum_to_one=False), True),
        (lambda: checks.probabilities(torch.tensor([[[0.5], [0.50005]]]), sum_to_one=True), False),
        (lambda: checks.probabilities(torch.tensor([[[0.5], [0.5005]]]), sum_to_one=True), True),
        (lambda: checks.probabilities(torch.tensor([[[0.5], [0.5005]]]), sum_to_one=False), False),
        (lambda: checks.probabilities(torch.zeros(1, 2, 0), sum_to_one=True), False),
        (lambda: checks.class_indices(torch.tensor([0, 2]), 3, None), False),
        (lambda: checks.class_indices(torch.tensor([0, 3]), 3, None), True),
        (lambda: checks.class_indices(torch.tensor([-1, 2]), 3, None), True),
        (lambda: checks.class_indices(torch.tensor([-1, 2, 0]), 3, -1), False),
        (lambda: checks.class_indices(torch.tensor([9, 2]), 3, 9), False),
        (lambda: checks.class_indices(torch.tensor([9, 3]), 3, 9), True),
        (lambda: checks.class_indices(torch.tensor([0.0, 2.0]), 3, None), False),
        (lambda: checks.class_indices(torch.tensor([0.5, 2.0]), 3, None), True),
        (lambda: checks.class_indices(torch.tensor([0.5, 9.0]), 3, 9), True),
        (lambda: checks.class_indices(torch.zeros(0), 3, None), False),
        (lambda: checks.class_indices(torch.tensor([255], dtype=torch.uint8), 300, None), False),
        (lambda: checks.one_hot(torch.tensor([[[0.0], [1.0]]]), None), False),
        (lambda: checks.one_hot(torch.tensor([[[0.0], [1.1]]]), None), True),
        (lambda: checks.one_hot(torch.tensor([[[0.0], [-0.1]]]), None), True),
        (lambda: checks.one_hot(torch.tensor([[[0.0, 9.0]]]), 9), False),
        (lambda: checks.one_hot(torch.tensor([[[0.0, 9.0]]]), None), True),
        (lambda: checks.one_hot(torch.tensor([[[0.0], [9.0]]]), 9), True),
        (lambda: checks.one_hot(torch.tensor([[[9.0]]]), 9), False),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3), True), False),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), False), False),
        (lambda: checks.shapes(torch.zeros(1, 2), torch.zeros(1, 1), True), True),
        (lambda: checks.shapes(torch.zeros(2, 2, 3), torch.zeros(1, 1, 3), True), True),
        (lambda: checks.shapes(torch.zeros(2, 2, 3), torch.zeros(2, 1, 4), True), True),
        (lambda: checks.not_negative(a=0.0), False),
        (lambda: checks.not_negative(a=-1e-9), True),
        (lambda: checks.factors(a=LinearRamp(), b=0.0), False),
        (lambda: checks.factors(a=LinearRamp(), b=-1.0), True),
        (lambda: checks.weights([0.0, 1.0]), False),
        (lambda: checks.weights([[0.0, 1.0]]), True),
        (lambda: checks.weights(-1.0), True),
        (lambda: checks.annotated(torch.tensor([[False, True]]), 1, 2), True),
        (lambda: checks.annotated(torch.tensor([[False]]), 1, 1), False),
        (lambda: checks.annotated(torch.tensor([[True, False]]), 2, 2), True),
        (lambda: checks.one_activation(True, False, None), False),
        (lambda: checks.one_activation(False, True, None), False),
        (lambda: checks.one_activation(False, False, torch.sigmoid), False),
        (lambda: checks.one_activation(True, True, None), True),
        (lambda: checks.one_activation(True, False, torch.sigmoid), True),
        (lambda: checks.finite(torch.zeros(2), torch.zeros(1)), False),
        (lambda: checks.finite(torch.zeros(2), torch.tensor([0, math.nan])), True),
        (lambda: LinearRamp(0, 0, 1), False),
        (lambda: LinearRamp(-0.1), True),
        (lambda: LinearRamp(math.inf), True),
        (lambda: LinearRamp(0, math.inf), True),
        (lambda: LinearRamp(until=1.01), True),
        (lambda: DiceCELoss(label_smoothing=1), False),
        (lambda: DiceCELoss(label_smoothing=-0.1), True),
    ],
)  # fmt: skip
def test_checks_at_their_boundaries(check, refused):
    if refused:
        with pytest.raises(ValueError):  # a separate test checks the messages
            check()
    else:
        check()


def test_messages_say_what_to_do():
    for check, message in (
        (
            lambda: checks.class_indices(torch.tensor([7, 5, 6, 8]), 3, None),
            r"\[5.0, 6.0, 7.0\], .*\[0, 2\]\. Set ignore_in",
        ),
        (lambda: checks.class_indices(torch.tensor([7]), 3, 255), r"or be 255"),
        (
            lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), True),
            r"must have \(1, 1, 3\).*It looks one",
        ),
        (
            lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3), False),
            r"\(1, 2, 3\).*It looks like an ind",
        ),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), True), r"for this input\.$"),
        (lambda: checks.shapes(torch.zeros(2, 3, 3), torch.zeros(1, 2, 3), False), r"for this input\.$"),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1), False), r"for this input\.$"),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1), True), r"for this input\.$"),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 2), True), r"It looks one-hot"),
        (lambda: checks.shapes(torch.zeros(1, 2, 3), torch.zeros(1, 1), False), r"It looks like an index map"),
        (lambda: DiceCELoss(weight=[1.0, 2.0])(torch.zeros(3, 2), torch.zeros(3, 1)), r"input has shape \(3, 2\)"),
        (lambda: checks.one_of("a", 3, (1, "b")), r"a is 3, but must be one of 1, 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            check()


def test_checks_return_what_was_asked_for():
    assert checks.one_of("a", "b", ("b", "c")) == "b"
    assert checks.weights(None) is None
    given = torch.ones(2, requires_grad=True)
    weight = checks.weights(given)
    assert weight.requires_grad is False
    weight[0] = 5
    assert given[0] == 1
    assert checks.annotated(None, 1, 2) is None
    assert checks.annotated(torch.tensor([[True, True]]), 1, 2) is None
    assert checks.annotated(torch.tensor([[True, False]]), 1, 2).tolist() == [[True, False]]


@pytest.mark.parametrize("loss", ALL)
def test_values_are_checked_in_ten_batches_on_gpu(loss):
    function = loss(softmax=True)
    region = getattr(function, "region", function)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [region._validates(gpu) for _ in range(12)] == [True] * 10 + [False] * 2
    assert region._validates(cpu) is True
    fresh = DiceLoss(softmax=True)
    fresh.trust_data()
    assert fresh._validates(gpu) is False
    assert fresh._validates(cpu) is True


@pytest.mark.parametrize(("scores", "voxels"), [(6, [2, 2, 1]), (8, [2, 2, 1]), (9, [3, 2]), (1, [1] * 5), (99, [5])])
def test_logits_are_counted_in_chunks(monkeypatch, scores, voxels):
    monkeypatch.setattr(counts, "_CPU_CHUNK", scores)
    monkeypatch.setattr(counts, "_GPU_CHUNK", 10**9)
    settings = counts._Settings(False, None, False, False, None)
    chunks = counts._chunks(torch.rand(1, 3, 5), torch.zeros(1, 1, 5), None, settings, 0)
    assert [chunk.inputs.shape for chunk in chunks] == [(3, count) for count in voxels]


def test_a_ramp_by_hand():
    ramp = LinearRamp()
    assert [ramp(progress) for progress in (-1, 0, 0.25, 1, 2)] == [0, 0, 0.25, 1, 1]
    assert repr(LinearRamp(1, 2, 0.5)) == "LinearRamp(start=1.0, end=2.0, until=0.5)"


@pytest.fixture
def two_processes(monkeypatch):
    """Process group of two processes with the same tensors."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))
    return monkeypatch


def test_sums_over_two_processes_and_their_gradients(two_processes):
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    summed = sum_over_ranks(values)
    (summed * torch.tensor([1.0, 10.0])).sum().backward()
    assert summed.tolist() == [2, 4]
    assert values.tolist() == [1, 2]
    assert values.grad.tolist() == [2, 20]
    with torch.no_grad():
        assert sum_over_ranks(values) is values
    two_processes.setattr(dist, "get_world_size", lambda: 1)
    assert sum_over_ranks(values) is values
    two_processes.setattr(dist, "is_initialized", lambda: False)
    two_processes.setattr(dist, "get_world_size", lambda: 2)
    assert sum_over_ranks(values) is values


@pytest.mark.parametrize("kwargs", [{}, {"batch": True}, {"weight": [1.0, 3.0]}, {"reduction": "sum"}])
def test_same_batch_on_two_ranks_gives_same_cross_entropy(two_processes, kwargs):
    loss = DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0, **kwargs)
    both = loss(P.log().requires_grad_(), LABELS).item()
    whole = DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0, batch=True, reduction="sum")
    assert whole(P.log().requires_grad_(), LABELS).item() == pytest.approx(2 * (2 * math.log(2) + 2 * math.log(4 / 3)))
    two_processes.undo()
    assert both == pytest.approx(loss(P.log(), LABELS).item())


def test_a_target_of_the_same_size_is_not_resized():
    seen = []
    target = torch.zeros(1, 1, 2, 3, 4, dtype=torch.long)
    loss_over_depths(lambda scores, target: seen.append(target) or scores.sum(), torch.zeros(1, 2, 2, 3, 4), target)
    assert seen[0] is target
