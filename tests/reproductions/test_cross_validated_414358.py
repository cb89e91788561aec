"""The posted loss on logits, and trainings with it."""

import pytest
import torch

from commands import ROOT, segbundle
from segbundle.losses import GeneralizedDiceLoss
from segbundle.reproductions.cross_validated_414358 import _why_weights, gradient_on_scores, posted_loss, posted_weights


@pytest.mark.parametrize("smooth", [1e-17, 1])
def test_posted_loss_by_hand(smooth):
    scores = torch.zeros(1, 3, 4)  # p = 1 / 3
    labels = torch.tensor([[[0, 0, 0, 1]]])
    assert posted_weights(torch.tensor([3.0, 1.0, 0.0])).tolist() == pytest.approx([1 / 9, 1, 1])
    above = 1 / 9 * 1 + 1 / 3
    below = 1 / 9 * (4 / 3 + 3) + (4 / 3 + 1) + 4 / 3
    value = float(posted_loss(scores, labels, smooth))
    assert value == pytest.approx(1 - 2 * (above + smooth) / (below + smooth), abs=1e-5)


def test_background_prediction_has_a_negative_posted_loss():
    """Without probability for absent classes both sums are near 0, and the loss is 1 - 2 (0 + 1) / (0 + 1)."""
    labels = torch.zeros(1, 1, 400, dtype=torch.long)
    labels[..., :40] = 1
    scores = torch.zeros(1, 21, 400)
    scores[:, 0] = 100
    # background: n = 360, d = 760, w = 1 / 360²; class 1: n = 0, d = 40, w = 1 / 40²
    value = 1 - 2 * (1 / 360 + 1) / (760 / 360**2 + 1 / 40 + 1)
    assert float(posted_loss(scores, labels, 1)) == pytest.approx(value, abs=1e-5)
    assert value < -0.9


@pytest.mark.parametrize(("smooth", "fraction"), [(1e-17, 0.01), (1, 0.1)])
def test_posted_gradient_is_much_smaller_than_ours(smooth, fraction):
    labels = torch.zeros(1, 1, 400, dtype=torch.long)
    labels[..., :40] = 1
    scores = torch.zeros(1, 21, 400)
    ours = gradient_on_scores(GeneralizedDiceLoss(softmax=True, to_onehot_y=True), scores, labels)[0]
    assert gradient_on_scores(lambda *both: posted_loss(*both, smooth), scores, labels)[0] < fraction * ours


def test_only_a_ratio_of_sums_needs_weights():
    rows = {row[0]: row[1:] for row in _why_weights(1000, 10).rows}
    assert rows["generalized Dice, all weights 1"] == ["0.0100", "0.0100"]  # 10 of 1000 voxels are wrong
    # 1 - 2 w n / w d: n = 990, d = 1990, w = 1 / 990² and n = 0, d = 10, w = 1 / 10²
    missed = 1 - (2 / 990) / (1990 / 990**2 + 1 / 10)
    assert float(rows["generalized Dice, w = 1 / volume²"][0]) == pytest.approx(missed, abs=1e-4)
    assert float(rows["mean Dice over classes"][0]) == pytest.approx(1 - (2 * 990 / 1990) / 2, abs=1e-4)


def test_docs_have_the_table_of_weights():
    document = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
    assert _why_weights(1000000, 1000).markdown().partition("\n\n")[2] in document


@pytest.mark.e2e
def test_command():
    run = segbundle(
        "reproduce", "cross_validated_414358", "--steps", 2, "--size", 16, "--radius", "[2,3]", "--num_test", 2,
        "--seeds", "[0]", "--example_voxels", 1000, "--example_structure", 10,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "| as posted: 1 - 2 (sum w n + 1) / (sum w d + 1) | 312.326 | 150962.712 | 0.995849 |" in run.stdout
    assert "have a total probability of 150657 in V = 452042 voxels" in run.stdout
    assert run.stdout.count("| `GeneralizedDiceCELoss` |") == 1
