"""The posted weights and sums of 21 classes: their loss, the dominant classes, and the contradictions."""

import pytest
import torch
from monai.bundle import ConfigParser

from commands import ROOT
from segbundle.reproductions.posted_sums import PostedSums


@pytest.fixture(scope="module")
def posted():
    values = ConfigParser.load_config_file(ROOT / "configs" / "reproductions" / "cross_validated_414358.yaml")
    return PostedSums(*(values[key] for key in ("weights", "numerators", "denominators", "smooth")))


@pytest.fixture(scope="module")
def small():
    # by hand: sum w n = 0.5 + 3 = 3.5, sum w d = 1 + 8 + 2 = 11
    return PostedSums([0.25, 1, 1], [2, 3, 0], [4, 8, 2], smooth=1)


def test_numbers_match_the_post(posted):
    assert len(posted.weight) == len(posted.shared) == len(posted.size) == 21
    of_one = [3, 4, 9, 10, 12, 19]
    assert (posted.weight == 1).nonzero()[:, 0].tolist() == of_one
    assert (posted.weight[2], posted.shared[14], posted.size[2]) == (5.43187e-11, 14886.7, 250343.36)
    assert float(posted.voxels) == pytest.approx(904083.99 / 2, abs=0.01)


def test_posted_loss_by_hand(small):
    assert small.loss(small.weight) == pytest.approx(1 - 2 * 4.5 / 12)
    assert small.loss(small.weight, smooth=0) == pytest.approx(1 - 7 / 11)
    # before the sum: 1 - 2 * 1.5 / 2, 1 - 2 * 4 / 9, 1 - 2 / 3
    assert small.mean_of_posted_quotients(small.weight) == pytest.approx((-0.5 + 1 / 9 + 1 / 3) / 3)


def test_six_classes_dominate_the_posted_loss(posted):
    # w = 1: n of classes 3, 10, 4 (9, 12, 19 have 0), and d of all six; the others add 0.280 and 15.045
    above = 78.8478 + 233.183 + 0.0150554
    below = 66548.234 + 6653.863 + 1951.0701 + 3559.3235 + 5984.786 + 66250.39
    value = 1 - 2 * (above + 0.280 + 1) / (below + 15.045 + 1)
    assert posted.loss(posted.weight) == pytest.approx(value, abs=1e-7)
    rows = {row[0]: row[1:] for row in posted.losses().rows}
    assert rows["as posted: 1 - 2 (sum w n + 1) / (sum w d + 1)"] == ["312.326", "150962.712", f"{value:.6f}"]
    assert rows["the same, only the 6 classes with a weight of 1"][:2] == [f"{above:.3f}", f"{below:.3f}"]
    assert rows["the same, only the other classes"][2] == "0.840484"  # 1 - 2 * 1.27975 / 16.0449


def test_contribution_of_each_class(posted):
    rows = posted.per_class().rows
    assert rows[3][:6] == ["3", "1", "78.8478", "66548.234", "78.8", "25.245 %"]  # 78.8478 / 312.326
    assert rows[19][6:8] == ["66250", "43.885 %"]  # 66250.39 / 150962.712
    assert rows[13][4] == "0.278"  # 0.00173611 * 160.128
    assert sum(float(row[7].rstrip(" %")) for row in rows if row[1] == "1") == pytest.approx(99.99, abs=0.005)
    assert sum(float(rows[index][5].rstrip(" %")) for index in (3, 10)) == pytest.approx(99.905)


@pytest.mark.parametrize(
    ("weight", "shared", "size", "reason"),
    [
        (1, 0, 9, "–"),
        (1, 0.5, 9, "n > 0: fits 1 voxel, not an absent class"),
        (1, 2, 9, "absent or 1 voxel, but n > 1"),
        (1 / 16, 0, 9, "4 voxels, but n = 0"),
        (1 / 16, 0, 3, "4 voxels, but n = 0 and d < 4"),
        (1 / 16, 5, 9, "4 voxels, but n > 4"),
        (1 / 16, 1, 3, "4 voxels, but d < 4"),
        (1 / 16, 4, 8, "–"),
        (1 / 16, 3, 4, "–"),
    ],
)
def test_contradiction_between_weight_and_sums(weight, shared, size, reason):
    assert PostedSums([weight], [shared], [size], smooth=1).contradiction(0) == reason


def test_weights_and_sums_come_from_two_batches(posted):
    above_0 = [index for index in range(21) if posted.weight[index] == 1 and posted.shared[index] > 0]
    assert above_0 == [3, 4, 10]
    said = [posted.contradiction(index) for index in range(21)]
    assert [index for index in range(21) if "1 voxel, but n > 1" in said[index]] == [3, 10]
    assert [index for index in range(21) if "but n = 0" in said[index]] == [1, 5, 15, 20]
    assert [index for index in range(21) if "voxels, but n > " in said[index]] == [13]
    assert [index for index in range(21) if "but d < " in said[index]] == [6, 18]
    volumes = [143, 67205, 135683, 1536, 13047, 17873, 1840, 212, 24, 32492, 298, 18981, 9954, 35926, 2726]
    assert posted.volume[posted.weight < 1].round().tolist() == volumes
    assert posted.batches().rows[0] == ["voxels", f"{sum(volumes)} (sum of 1 / √w)", "452042 (sum of d / 2)"]
    assert posted.batches().rows[1][1:] == ["3, 4, 9, 10, 12, 19 (w = 1)", "1, 5, 9, 12, 15, 19, 20 (n = 0)"]


def test_weights_of_the_same_batch_give_a_loss_of_1(posted):
    assert posted.absent.nonzero()[:, 0].tolist() == [1, 5, 9, 12, 15, 19, 20]
    absent = 25004.557 + 3470.502 + 1951.0701 + 5984.786 + 41497.473 + 66250.39 + 6497.735
    assert float(posted.size[posted.absent].sum()) == pytest.approx(absent)
    title = posted.losses_if_one_batch().title
    assert "7 classes with n = 0 have a total probability of 150657 in V = 452042 voxels" in title
    # at best 2 (1 + sum of 1 / n, n at least 1) / absent, at worst 2 / (absent + d of classes 4, 7 and 11)
    assert 1 - 2 * 3 / absent < posted.smallest(posted.loss_if_one_batch, posted.bounds) < 1 - 2 / absent
    worst = 1 - 2 / (absent + 6653.863 + 164206.19 + 7248.4717)
    assert posted.largest(posted.loss_if_one_batch, posted.bounds) <= worst


@pytest.mark.parametrize("seed", range(20))
def test_no_weights_within_bounds_beat_the_best_corner(posted, seed):
    lowest, highest = posted.bounds
    drawn = lowest + (highest - lowest) * torch.rand(21, generator=torch.Generator().manual_seed(seed)).double()
    loss = posted.loss_if_one_batch
    assert posted.smallest(loss, posted.bounds) <= loss(drawn) <= posted.largest(loss, posted.bounds)


def test_extremes_are_at_corners_by_hand():
    small = PostedSums([1, 1, 1], [1, 4, 0], [8, 8, 1], smooth=0)
    bounds = torch.full((3,), 0.1).double(), torch.ones(3).double()
    # best: class 1 at 1, class 0 at 0.1: 1 - 2 (0.1 + 4) / (0.8 + 8 + 1)
    assert small.smallest(small.loss_if_one_batch, bounds) == pytest.approx(1 - 8.2 / 9.8)
    # worst: class 0 at 1, class 1 at 0.1: 1 - 2 (1 + 0.4) / (8 + 0.8 + 1)
    assert small.largest(small.loss_if_one_batch, bounds) == pytest.approx(1 - 2.8 / 9.8)


def test_dice_loss_has_present_classes_and_absent_volume(posted):
    there = ~posted.absent
    mean = float((1 - 2 * posted.shared[there] / posted.size[there]).mean())
    absent = 150656.5131 / (904083.9903 / 2)
    assert posted.mean_of_classes(False) == pytest.approx(mean, abs=1e-6)
    assert posted.mean_of_classes(True) == pytest.approx(mean + (1 - mean) * absent, abs=1e-6)


def test_docs_have_these_tables(posted):
    document = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
    for table in (posted.per_class(), posted.losses(), posted.batches(), posted.losses_if_one_batch()):
        assert table.markdown().partition("\n\n")[2] in document
