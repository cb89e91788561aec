"""A misplaced parenthesis, and a sum instead of a mean."""

import pytest
import torch

from commands import segbundle
from segbundle.losses import DiceLoss
from segbundle.reproductions.small_training import class_sums, gradient_size
from segbundle.reproductions.wrong_generalized_dice import _vanishing, per_class, right, wrong


@pytest.mark.parametrize(
    ("shared", "size", "value"),
    [(0, 0, -1), (0.5, 1, -0.5), (50, 100, -1 / 101), (0, 1, 0), (0, 99, 0.98)],
)
def test_values_by_hand(shared, size, value):
    shared, size = torch.tensor(float(shared)), torch.tensor(float(size))
    assert float(wrong(shared, size)) == pytest.approx(value, abs=1e-6)
    assert float(wrong(shared, size) - right(shared, size)) == pytest.approx(-1 / (float(size) + 1), abs=1e-6)


def test_value_of_a_class_is_between_minus_1_and_1():
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (8 * torch.rand(1000, generator=generator, dtype=torch.float64) - 4)
    values = wrong(size / 2 * torch.rand(1000, generator=generator, dtype=torch.float64) ** 4, size)
    assert -1 <= values.min() < -0.99
    assert 0.99 < values.max() < 1


def batch():
    scores = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 1, 6, 6, dtype=torch.long)
    labels[:, :, :2] = 1
    return scores, labels


def test_sum_multiplies_the_gradient_by_the_number_of_classes():
    size = [gradient_size(per_class(wrong, total=total), *batch()) for total in (True, False)]
    assert size[0] == pytest.approx(5 * size[1], rel=1e-5)


def test_right_formula_equals_dice_loss_with_absent_smooth():
    loss = DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1, smooth_dr=1, absent="smooth")
    torch.testing.assert_close(per_class(right)(*batch()), loss(*batch()))


def test_class_sums_by_hand():
    shared, size, volume = class_sums(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 0, 1]]]))
    assert (shared.tolist(), size.tolist(), volume.tolist()) == ([1.5, 0.5], [5, 3], [3, 1])


def test_gradient_vanishes_for_large_structures():
    for row in _vanishing([10, 1000], 9).rows:
        # d: structure P = 5 V, G = V; background P = 5 V, G = 9 V, weights 1 / V² and 1 / (9 V)²
        assert float(row[1]) == pytest.approx((6 + 14 / 81) / float(row[0]), rel=0.05)
        assert float(row[3]) < 2 * float(row[1])


@pytest.mark.e2e
def test_command():
    run = segbundle(
        "reproduce", "wrong_generalized_dice", "--steps", 2, "--learning_rates", "[0.3]", "--seeds", "[0]",
        "--size", 16, "--radius", "[2,3]", "--num_test", 2,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "| 0 | 0 | – | -1.0000 | 0.0000 | -9.0000 | 0.0000 |" in run.stdout
