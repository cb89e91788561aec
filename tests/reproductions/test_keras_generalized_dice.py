"""The posted generalized Dice loss, its weights worked out by hand, digits, and the command."""

import sys

import pytest
import torch

from commands import segbundle
from segbundle.errors import ConfigError
from segbundle.losses import GeneralizedDiceLoss
from segbundle.reproductions.keras_generalized_dice import PostedLoss, run, scan_losses, score, weights
from segbundle.reproductions.small_training import sure_scores

VOLUMES = [1000, 200, 80, 20]


def test_weight_of_an_absent_class_is_1_over_epsilon():
    rows = {row[1]: row[2:] for row in weights([100000, 20000], 1e-5).rows}
    assert rows["100000"][:3] == ["1.0e-10", "1.0e+05", "1.0e-10"]
    assert rows["0"] == ["1.0e+05", "1.0e+05", "2.5e-09", "none"]
    # ours: w = s / V², and s (1/V1 + 1/V2) = 1
    scale = 1 / (1 / 100000 + 1 / 20000)
    assert float(rows["20000"][3]) == pytest.approx(scale / 20000**2, rel=0.05)


def test_posted_graph_loss_is_the_fraction_of_errors():
    labels = torch.arange(4).repeat_interleave(torch.tensor(VOLUMES))[None, None]
    scores = torch.randn(1, 4, 1300, generator=torch.Generator().manual_seed(0))
    of_the_right_class = scores.softmax(dim=1).gather(1, labels)
    torch.testing.assert_close(PostedLoss(1e-5, counted=False)(scores, labels), 1 - of_the_right_class.mean())


def test_small_weights_are_harmless_with_all_classes_present():
    labels = torch.arange(4).repeat_interleave(torch.tensor(VOLUMES))[None, None]
    scores = torch.randn(1, 4, 1300, generator=torch.Generator().manual_seed(0))
    ours = GeneralizedDiceLoss(to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(PostedLoss(1e-9, counted=True)(scores, labels), ours(scores, labels))


def test_absent_class_dominates_the_others():
    labels = torch.arange(4).repeat_interleave(torch.tensor(VOLUMES))[None, None]
    posted, ours = PostedLoss(1e-5, counted=True), GeneralizedDiceLoss(to_onehot_y=True, softmax=True)
    right, nothing = sure_scores(labels, 5, 0.97), sure_scores(torch.zeros_like(labels), 5, 0.97)
    # at most 2 (1 / V) summed above, and 1e5 x the probability of the absent class below
    above, below = 2 * sum(1 / volume for volume in VOLUMES), 1e5 * 1300 * 0.03 / 4
    assert float(posted(right, labels)) >= 1 - above / below > 0.999999
    assert float(posted(nothing, labels)) - float(posted(right, labels)) < 1e-6
    assert float(ours(nothing, labels)) - float(ours(right, labels)) > 0.5


def test_smoothing_lowers_loss_of_large_scan_in_monai_only():
    table = scan_losses([100000, 20000, 8000, 3072], [1], 0.97, 1e-5)
    nothing = {row[1]: float(row[2]) for row in table.rows}
    pulls = {row[1]: float(row[7]) for row in table.rows}
    squares = [volume**-2.0 for volume in (100000, 20000, 8000, 3072)]
    given = [0.97 * 131072] + [0.01 * 131072] * 3
    shared = 2 * sum(
        w * v * p for w, v, p in zip(squares, (1e5, 2e4, 8e3, 3072), (0.97, 0.01, 0.01, 0.01), strict=True)
    )
    size = sum(w * (v + p) for w, v, p in zip(squares, (1e5, 2e4, 8e3, 3072), given, strict=True))
    assert nothing["MONAI GeneralizedDiceLoss"] == pytest.approx(1 - (shared + 1e-5) / (size + 1e-5), abs=2e-4)
    assert nothing["GeneralizedDiceLoss (ours)"] == pytest.approx(1 - shared / size, abs=2e-4)
    assert pulls["posted, volumes counted"] < 1e-9 < 1e-2 < pulls["GeneralizedDiceLoss (ours)"]


def test_digit_never_predicted_has_dice_0():
    labels = torch.zeros(3, 1, 2, 2, dtype=torch.long)
    labels[0, 0, 0], labels[1, 0, 0], labels[2, 0, 0] = 1, 1, 2
    predicted = torch.zeros_like(labels)
    predicted[0, 0, 0], predicted[2, 0, 0, 0] = 1, 1
    found = score(predicted, labels, limit=0.4, last=0.0)
    assert (found.learned, found.never) == (1, 9)
    assert found.dice == pytest.approx((1 + 0) / 2 / 10)
    assert found.pooled == pytest.approx(2 * 2 / (3 + 4) / 10)
    assert found.background == 9 / 12


def test_missing_scikit_learn_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install segbundle\[reproductions\]"):
        tiny(steps=1)


def tiny(steps):
    return run(
        VOLUMES, enlarge=[1], sure=0.97, epsilon=1e-5, digit_size=8, size=8, threshold=0.5, widths=(16, 32),
        learning_rate=1e-2, batch_size=16, steps=steps, test_images=200, learned=0.5, seeds=[0],
    )  # fmt: skip


@pytest.mark.slow
def test_posted_loss_stays_at_1_while_ours_learns():
    rows = {row[0]: row[1:] for row in tiny(steps=150)[3].rows}
    posted, ours = rows["posted, volumes counted"], rows["GeneralizedDiceCELoss (ours)"]
    assert float(posted[5]) > 0.999
    assert int(posted[0]) < int(ours[0])
    assert int(ours[0]) >= 8
    assert float(ours[2].split()[0]) > float(posted[2].split()[0]) + 0.2


@pytest.mark.e2e
def test_command_prints_four_tables():
    words = ["--steps", 1, "--seeds", "[0]", "--test_images", 20, "--enlarge", "[1]", "--volumes", "[100,20,8,4]"]
    done = segbundle("reproduce", "keras_generalized_dice", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ---") == 4
    assert "Digits, 1 steps" in done.stdout
