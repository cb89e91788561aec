"""A loss at several depths, by hand."""

from __future__ import annotations

import pytest
import torch

from segbundle.losses import DiceCELoss
from segbundle.losses.deep_supervision import loss_over_depths


def distance(scores, target):
    return (scores - target).abs().mean()


def test_each_depth_counts_half_as_much_as_the_finer_one():
    target = torch.zeros(1, 1, 2, 2, 2)
    scores = torch.stack([torch.full_like(target, value) for value in (1.0, 2.0, 4.0)], dim=1)
    # (1 + 2 / 2 + 4 / 4) / (1 + 1/2 + 1/4)
    assert float(loss_over_depths(distance, scores, target)) == pytest.approx(3 / 1.75)


def test_one_depth_is_the_loss_itself():
    target = torch.zeros(1, 1, 2, 2, 2)
    assert float(loss_over_depths(distance, torch.full_like(target, 3.0), target)) == 3


def test_smaller_scores_see_every_second_voxel():
    target = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    seen = []
    loss_over_depths(lambda scores, small: seen.append(small) or distance(scores, small),
                     [torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 1, 2, 1, 1)], target)  # fmt: skip
    assert [each.flatten().tolist() for each in seen] == [[0, 1, 2, 3], [1, 3]]


def test_unknown_or_unannotated_voxels_have_no_gradient():
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, ignore_index=255)
    target = torch.zeros(1, 1, 4, 4, 4)
    target[:, :, :2] = 255  # unknown: whole voxels of the coarse depth too
    target[:, :, 3] = 1
    depths = [torch.randn(1, 3, *shape, requires_grad=True) for shape in ((4, 4, 4), (2, 2, 2))]
    loss_over_depths(loss, depths, target, annotated=torch.tensor([[True, True, False]])).backward()
    fine, coarse = (depth.grad for depth in depths)
    assert not fine[:, :, :2].any()
    assert not coarse[:, :, :1].any()
    assert fine[:, :, 2:].any()
    assert coarse[:, :, 1:].any()
    # background and the unannotated class are merged: shifting both scores alike against the rest is all
    # that counts, so equal logits have equal gradients
    equal = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    loss_over_depths(loss, [equal], target, annotated=torch.tensor([[True, True, False]])).backward()
    torch.testing.assert_close(equal.grad[:, 0], equal.grad[:, 2])
