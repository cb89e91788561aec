"""Gradients of losses: finite, against absent classes, and zero for unannotated classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.volumes import ALL, COMBINED, REGION, blocks, one_hot, random_case
from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceLoss

ANNOTATED = torch.tensor([[True, True, False, True], [True, False, False, True]])


@pytest.mark.slow
@pytest.mark.parametrize("loss", COMBINED)
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradients_are_those_of_finite_differences(loss, batch, include_background, label_smoothing):
    scores, labels = (t[..., :3, :3, :2].contiguous() for t in random_case(0))
    labels[0] = labels[0].clamp(max=1)
    labels[1, 0, 0] = 255
    function = loss(
        softmax=True, to_onehot_y=True, batch=batch, include_background=include_background, ignore_index=255,
        label_smoothing=label_smoothing, weight=[1.0, 2.0, 3.0, 4.0],
    )  # fmt: skip
    leaf = scores.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: function(z, labels, ANNOTATED), (leaf,))
    soft = torch.rand(2, 4, 3, 3, 2, dtype=torch.float64)
    function = loss(softmax=True, batch=batch, label_smoothing=label_smoothing)
    assert torch.autograd.gradcheck(lambda z: function(z, soft, ANNOTATED), (leaf,))


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"squared_pred": True}, {"jaccard": True}, {"absent": "smooth"}])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_gradients_of_every_kind_of_dice(kwargs, activation):
    scores, labels = (t[..., :3, :3, :2].contiguous() for t in random_case(1))
    leaf = scores.double().softmax(dim=1).requires_grad_()
    known = {} if activation is None else {activation: True}
    for target, more in ((labels, {"to_onehot_y": True}), (torch.rand_like(leaf), {"soft_label": True})):
        function = DiceLoss(**kwargs, **known, **more)
        assert torch.autograd.gradcheck(lambda z, f=function, t=target: f(z, t, ANNOTATED), (leaf,))


EXTREME = st.sampled_from([-1e4, -30.0, 0.0, 1e-3, 30.0, 1e4])


@pytest.mark.parametrize("loss", ALL)
@settings(max_examples=30)
@given(
    levels=st.lists(EXTREME, min_size=4, max_size=4),
    labels=st.sampled_from(["empty", "one class", "one voxel", "all"]),
    batch=st.booleans(),
    include_background=st.booleans(),
    absent=st.sampled_from(["volume", "skip", "smooth"]),
    smooth=st.sampled_from([0.0, 1e-5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    partly=st.booleans(),
)
def test_always_finite(loss, levels, labels, batch, include_background, absent, smooth, dtype, partly):
    target = {
        "empty": torch.zeros(2, 1, 4, 4, 4),
        "one class": torch.full((2, 1, 4, 4, 4), 2),
        "one voxel": torch.zeros(2, 1, 4, 4, 4),
        "all": random_case(0, size=4)[1],
    }[labels]
    if labels == "one voxel":
        target[0, 0, 1, 2, 3] = 3
    scores = torch.tensor(levels).reshape(1, 4, 1, 1, 1).expand(2, 4, 4, 4, 4).clone()
    scores[1, :, 0] = 0.5
    leaf = scores.to(dtype).requires_grad_()
    function = loss(
        softmax=True, to_onehot_y=True, batch=batch, include_background=include_background, absent=absent,
        smooth_nr=smooth, smooth_dr=smooth,
    )  # fmt: skip
    annotated = torch.tensor([[True, True, False, True], [True, True, True, True]]) if partly else None
    value = function(leaf, target, annotated)
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("loss", REGION)
@pytest.mark.parametrize("include_background", [True, False])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), amount=st.floats(0.01, 1), extra=st.floats(0.01, 1))
def test_absent_class_false_positives_never_lower_the_loss(loss, include_background, seed, amount, extra):
    scores, labels = random_case(seed, num_classes=3)
    labels = labels.clamp(max=1)
    p = scores.softmax(dim=1)
    function = loss(to_onehot_y=True, include_background=include_background)
    before = function(p, labels).item()
    # Taken from the right class. From a wrong one that is there, the absent class may well take some: it is cheaper.
    taken = p.gather(1, labels) * amount * (torch.rand(labels.shape) < extra)
    more = p.scatter_add(1, labels, -taken)
    more[:, 2:] += taken
    assert function(more, labels).item() >= before - 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_gradient_descent_removes_an_absent_class(loss, include_background, batch):
    labels = blocks(8, 2)
    scores = (one_hot(labels, 4) * 6 - 3).clone()
    scores[0, 2, :3, :3, 4:] = 6.0  # class 2 is predicted and not there
    function = loss(softmax=True, to_onehot_y=True, include_background=include_background, batch=batch)
    leaf = scores.requires_grad_()
    before = (leaf.argmax(dim=1) == 2).sum().item()
    assert before > 0
    optimizer = torch.optim.SGD([leaf], lr=8**3)
    for _ in range(300):
        optimizer.zero_grad()
        function(leaf, labels).backward()
        optimizer.step()
    assert (leaf.argmax(dim=1) == labels[:, 0]).all()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("kwargs", [{}, {"batch": True}, {"include_background": False}, {"label_smoothing": 0.1}])
def test_no_gradient_between_background_and_unannotated_class(loss, kwargs):
    if "label_smoothing" in kwargs and loss in REGION:
        pytest.skip("only cross entropy has label smoothing")
    scores, labels = random_case(2)
    labels[labels == 2] = 0
    annotated = torch.tensor([[True, True, False, True]] * 2)
    p = scores.softmax(dim=1)
    moved = p.clone()
    background = labels == 0
    # mostly to the background: shares about a half leave Dice where it was by chance
    share = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) ** 0.25 * background
    both = p[:, 0:1] + p[:, 2:3]
    moved[:, 0:1] = torch.where(background, both * share, p[:, 0:1])
    moved[:, 2:3] = torch.where(background, both * (1 - share), p[:, 2:3])
    function = loss(softmax=True, to_onehot_y=True, **kwargs)
    before, after = (function(q.log(), labels, annotated).item() for q in (p, moved))
    assert after == pytest.approx(before, abs=1e-6)
    leaf = p.clone().requires_grad_()
    function(leaf.log(), labels, annotated).backward()
    difference = (leaf.grad[:, 0:1] - leaf.grad[:, 2:3])[background]
    assert difference.abs().max() <= 1e-4 * leaf.grad.abs().max()
    # and where everything was annotated, it does matter
    if kwargs != {"include_background": False} or loss in COMBINED:
        assert abs(function(moved.log(), labels).item() - function(p.log(), labels).item()) > 1e-4


@pytest.mark.parametrize("loss", ALL)
def test_on_other_voxels_an_unannotated_class_is_wrong(loss):
    labels = blocks(6, 2)
    p = one_hot(labels, 4) * 0.97 + 0.01
    more = p.clone()
    more[:, 1:2][labels == 1] -= 0.5
    more[:, 2:3][labels == 1] += 0.5
    annotated = torch.tensor([[True, True, False, True]])
    function = loss(softmax=True, to_onehot_y=True)
    assert function(more.log(), labels, annotated).item() > function(p.log(), labels, annotated).item()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("include_background", [True, False])
def test_a_mixed_batch_is_the_mean_of_its_cases(loss, include_background):
    scores, labels = random_case(3)
    labels[(labels == 2) | ((labels == 1) & (torch.arange(2).reshape(2, 1, 1, 1, 1) == 1))] = 0
    function = loss(softmax=True, to_onehot_y=True, include_background=include_background)
    leaf = scores.clone().requires_grad_()
    together = function(leaf, labels, ANNOTATED)
    together.backward()
    alone = [function(leaf[i : i + 1], labels[i : i + 1], ANNOTATED[i : i + 1]) for i in range(2)]
    assert together.item() == pytest.approx(sum(value.item() for value in alone) / 2, abs=1e-6)
    mean_gradient = torch.autograd.grad(sum(alone) / 2, leaf)[0]
    torch.testing.assert_close(leaf.grad, mean_gradient)


def test_case_without_annotated_classes_has_no_gradient():
    scores, labels = random_case(4)
    annotated = torch.tensor([[True, False, False, False]] * 2)
    for loss in ALL:
        leaf = scores.clone().requires_grad_()
        value = loss(softmax=True, to_onehot_y=True)(leaf, torch.zeros_like(labels), annotated)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6)
        assert leaf.grad.abs().max() < 1e-8


def test_sigmoid_excludes_background_and_unannotated_classes():
    scores, labels = random_case(5)
    annotated = torch.tensor([[True, True, False, True]] * 2)
    leaf = scores.clone().requires_grad_()
    DiceLoss(sigmoid=True, to_onehot_y=True)(leaf, labels, annotated).backward()
    by_class = leaf.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (by_class > 0).tolist() == [False, True, False, True]


def test_chunks_and_whole_agree(monkeypatch):
    scores, labels = random_case(6, size=8)
    labels[0, 0, 3] = 255
    results = []
    for size in (2**18, 100):
        monkeypatch.setattr("segbundle.losses.counts._CPU_CHUNK", size)
        leaf = scores.clone().requires_grad_()
        value = DiceCELoss(softmax=True, to_onehot_y=True, ignore_index=255)(leaf, labels, ANNOTATED)
        value.backward()
        results.append((value, leaf.grad))
    torch.testing.assert_close(results[1], results[0])


def test_weights_of_zero_silence_a_class():
    scores, labels = random_case(7)
    labels = labels.clamp(max=2)
    for loss in (DiceLoss, GeneralizedDiceLoss):
        leaf = scores.softmax(dim=1).requires_grad_()
        loss(to_onehot_y=True, weight=[1.0, 1.0, 0.0, 0.0])(leaf, labels).backward()
        assert (leaf.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).tolist() == [True, True, False, False]
