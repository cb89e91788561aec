"""The posted sums explain a loss of 1, whichever the weights in the posted range."""

import pytest
import torch
from monai.bundle import ConfigParser

from commands import ROOT, segbundle
from segbundle.losses import GeneralizedDiceLoss
from segbundle.reproductions.cross_validated_414358 import (
    Posted,
    _why_weights,
    gradient_on_scores,
    posted_loss,
    posted_weights,
)


@pytest.fixture(scope="module")
def posted():
    values = ConfigParser.load_config_file(ROOT / "configs" / "reproductions" / "cross_validated_414358.yaml")
    return Posted(values["numerators"], values["denominators"], values["smallest_weight"], values["largest_weight"])


def test_the_posted_sums_give_the_number_of_voxels_and_the_absent_classes(posted):
    assert posted.absent.nonzero()[:, 0].tolist() == [1, 5, 9, 12, 15, 19, 20]
    assert float(posted.size[posted.absent].sum()) == 25005 + 3471 + 1951 + 5985 + 41497 + 66250 + 6498
    assert float(posted.voxels) == 904083 / 2


def test_the_loss_is_1_for_all_weights_in_the_posted_range(posted):
    assert posted.smallest(posted.loss, posted.posted_range) > 0.9993
    assert posted.smallest(posted.loss, posted.range) > 0.99999


@pytest.mark.parametrize("seed", range(20))
def test_no_weights_within_bounds_give_less_than_the_smallest_corner(posted, seed):
    lowest, highest = posted.range
    drawn = lowest + (highest - lowest) * torch.rand(21, generator=torch.Generator().manual_seed(seed)).double()
    assert posted.smallest(posted.loss, posted.range) <= posted.loss(drawn) <= posted.largest(posted.loss, posted.range)


def test_corners_are_the_extremes_of_a_case_worked_out_by_hand():
    small = Posted([1, 4, 0], [8, 8, 1], 0.1, 1.0)
    # best: class 1 at 1, class 0 at 0.1: 1 - 2 (0.1 + 4) / (0.8 + 8 + 1)
    assert small.smallest(small.loss, small.posted_range) == pytest.approx(1 - 8.2 / 9.8)
    # worst: the other way round: 1 - 2 (1 + 0.4) / (8 + 0.8 + 1)
    assert small.largest(small.loss, small.posted_range) == pytest.approx(1 - 2.8 / 9.8)


def test_ours_counts_the_classes_that_are_there_and_the_volume_given_to_the_others(posted):
    there = ~posted.absent
    mean = float((1 - 2 * posted.shared[there] / posted.size[there]).mean())
    absent = 150657 / (904083 / 2)
    assert posted.mean_of_classes(False) == pytest.approx(mean, abs=1e-6)
    assert posted.mean_of_classes(True) == pytest.approx(mean + (1 - mean) * absent, abs=1e-6)


def test_the_posted_loss_by_hand():
    scores = torch.zeros(1, 3, 4)  # p = 1 / 3
    labels = torch.tensor([[[0, 0, 0, 1]]])
    assert posted_weights(torch.tensor([3.0, 1.0, 0.0])).tolist() == pytest.approx([1 / 9, 1, 1])
    above = 2 * (1 / 9 * 1 + 1 / 3)
    below = 1 / 9 * (4 / 3 + 3) + (4 / 3 + 1) + 4 / 3
    assert float(posted_loss(scores, labels)) == pytest.approx(1 - above / below, abs=1e-5)


def test_the_posted_gradient_is_far_smaller_than_ours():
    labels = torch.zeros(1, 1, 400, dtype=torch.long)
    labels[..., :40] = 1
    scores = torch.zeros(1, 21, 400)
    ours = GeneralizedDiceLoss(softmax=True, to_onehot_y=True)
    assert gradient_on_scores(posted_loss, scores, labels)[0] < 0.01 * gradient_on_scores(ours, scores, labels)[0]


def test_only_a_ratio_of_sums_needs_weights():
    rows = {row[0]: row[1:] for row in _why_weights(1000, 10).rows}
    assert rows["generalized Dice, all weights 1"] == ["0.0100", "0.0100"]  # 10 of 1000 voxels are wrong
    # 1 - 2 w n / w d: n = 990, d = 1990, w = 1 / 990² and n = 0, d = 10, w = 1 / 10²
    missed = 1 - (2 / 990) / (1990 / 990**2 + 1 / 10)
    assert float(rows["generalized Dice, w = 1 / volume²"][0]) == pytest.approx(missed, abs=1e-4)
    assert float(rows["mean Dice over classes"][0]) == pytest.approx(1 - (2 * 990 / 1990) / 2, abs=1e-4)


def test_the_command():
    run = segbundle(
        "reproduce", "cross_validated_414358", "--steps", 2, "--size", 16, "--radius", "[2,3]", "--num_test", 2,
        "--seeds", "[0]", "--example_voxels", 1000, "--example_structure", 10,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "hold 150657 of V = 452042 voxels' probability" in run.stdout
    assert run.stdout.count("| `GeneralizedDiceCELoss` |") == 1
