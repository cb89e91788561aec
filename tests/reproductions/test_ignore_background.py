"""Metrics and losses without background by hand, and the command."""

import math

import pytest
import torch

from commands import segbundle
from segbundle.reproductions.ignore_background import blend, by_hand, figures, losses, run, sure_scores

VOXELS = [895, 34, 27, 44]
WEIGHT = torch.tensor([1.5, 40, 50, 30])


def cells(table):
    return {row[0]: [float(cell) for cell in row[1:]] for row in table.rows}


@pytest.fixture(scope="module")
def tables():
    return by_hand(VOXELS, 0.97, WEIGHT)


def test_accuracy_equal_for_background_and_doubled_structures(tables):
    metrics = cells(tables[0])
    assert metrics["right"] == [1] * 6
    accuracy, background, with_it, without_it, ignoring, ratio = metrics["all background"]
    assert (accuracy, without_it, ignoring, ratio) == (0.895, 0, 0, 0)
    assert background == pytest.approx(2 * 895 / 1895, abs=5e-4)
    assert with_it == pytest.approx(background / 4, abs=5e-4)
    accuracy, background, with_it, without_it, ignoring, ratio = metrics["structures twice as large"]
    assert (accuracy, ignoring, ratio) == (0.895, 1, 2)
    assert background == pytest.approx(2 * 790 / (895 + 790), abs=5e-4)
    assert without_it == pytest.approx(2 / 3, abs=5e-4)
    assert with_it == pytest.approx((background + 2) / 4, abs=1e-3)


def test_ignoring_background_voxels_hides_false_positives(tables):
    accuracy, background, _, without_it, ignoring, ratio = cells(tables[0])["no background"]
    assert (accuracy, background, ignoring) == (0.105, 0, 1)
    assert without_it == pytest.approx((1 + 1 + 2 * 44 / (2 * 44 + 895)) / 3, abs=5e-4)
    assert ratio == pytest.approx(1000 / 105, abs=1e-3)


def test_only_ignore_index_hides_false_positives_from_the_loss(tables):
    values = {name: dict(zip(tables[1].columns[1:], row, strict=True)) for name, row in cells(tables[1]).items()}
    ignored = values["cross entropy, background voxels ignored"]
    assert ignored["right"] == ignored["no background"] == ignored["structures twice as large"]
    assert ignored["right"] == pytest.approx(-math.log(0.97), abs=5e-4)
    for name in set(values) - {"cross entropy, background voxels ignored"}:
        assert values[name]["right"] < min(values[name]["structures twice as large"], values[name]["no background"])
    plain = values["cross entropy"]
    assert plain["all background"] == pytest.approx(-0.895 * math.log(0.97) - 0.105 * math.log(0.01), abs=1e-3)
    assert plain["all background"] == plain["structures twice as large"]


def test_blend_starts_as_cross_entropy_and_adds_alpha_dice():
    labels = torch.arange(4).repeat_interleave(torch.tensor(VOXELS))[None, None]
    scores = torch.randn(1, 4, 1000, generator=torch.Generator().manual_seed(0))
    (loss,) = (make() for make in blend(WEIGHT, alpha=2.0).values())
    weighted = losses(WEIGHT)["weighted cross entropy"]()
    loss.progress = 0.0
    torch.testing.assert_close(loss(scores, labels), weighted(scores, labels))
    terms = []
    for index in (1, 2, 3):
        p, g = scores.softmax(dim=1)[:, index], (labels[:, 0] == index).float()
        terms.append(WEIGHT[index] / 40 * (1 - 2 * (p * g).sum() / (p.sum() + g.sum())))
    loss.progress = 0.5
    expected = weighted(scores, labels) + torch.stack(terms).mean()
    torch.testing.assert_close(loss(scores, labels), expected, rtol=1e-5, atol=1e-6)


def test_sure_scores_have_the_given_probability():
    predicted = torch.tensor([[[0, 2]]])
    expected = torch.tensor([[[0.9, 0.05], [0.05, 0.05], [0.05, 0.9]]])
    torch.testing.assert_close(sure_scores(predicted, 3, 0.9).softmax(dim=1), expected)


def test_metrics_of_an_empty_prediction():
    labels = torch.tensor([[[0, 0, 0, 1]]])
    assert figures(torch.zeros_like(labels), labels) == pytest.approx([0.75, 6 / 7, 3 / 7, 0, 0, 0])


@pytest.fixture(scope="module")
def trainings():
    tables = run(
        VOXELS, sure=0.97, class_weights=WEIGHT.tolist(), alpha=1.0, size=32, radius=(3.0, 4.0),
        colours=[1.0, 2.0, 3.0], noise=0.5, widths=(8, 16), learning_rate=5e-3, batch_size=8, steps=60,
        early=0.33, test_pictures=16, test_seed=100, seeds=[0],
    )  # fmt: skip
    return {row[0]: [float(cell.split()[0]) for cell in row[1:]] for row in tables[2].rows}


@pytest.mark.slow
def test_ignore_index_predicts_foreground_everywhere(trainings):
    accuracy, _, _, dice, ignoring, ratio, _ = trainings["cross entropy, background voxels ignored"]
    assert ratio > 5
    assert accuracy < 0.4
    assert dice < 0.5 < ignoring


@pytest.mark.slow
def test_weighted_cross_entropy_oversegments_ours_does_not(trainings):
    weighted = trainings["weighted cross entropy"]
    ours = trainings["Dice without background + cross entropy (ours)"]
    assert weighted[5] > 1.15
    assert 0.8 < ours[5] < 1.15
    assert ours[0] > weighted[0]


@pytest.mark.e2e
def test_command_prints_three_tables():
    done = segbundle("reproduce", "ignore_background", "--steps", 2, "--test_pictures", 2, "--seeds", "[0]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ---") == 3
    assert "After 2 steps" in done.stdout
