"""The gradient of Dice vanishes where a network is confident; that of cross entropy does not."""

import pytest
import torch

from commands import segbundle
from segbundle.losses import DiceLoss
from segbundle.reproductions.fastai_dice_unet import Training, _losses, _states, vnet_gradient
from segbundle.reproductions.small_training import Discs


def test_vnet_gradient_matches_autograd():
    generator = torch.Generator().manual_seed(0)
    reference = (torch.rand(50, generator=generator) < 0.2).double()
    probability = torch.rand(50, generator=generator, dtype=torch.float64).requires_grad_()
    loss = DiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=0)(probability[None, None], reference[None, None])
    (gradient,) = torch.autograd.grad(1 - loss, probability)
    torch.testing.assert_close(gradient, vnet_gradient(probability.detach(), reference))


def test_gradients_at_p_one_half_by_hand():
    """8 voxels, 2 of them foreground: sum p² + sum g² = 4, sum p g = 1, p (1 - p) = 1 / 4."""
    row = _states(8, 0.25, [5]).rows[0]
    inside, outside = 2 * (4 - 1) / 16 / 4, 2 * -1 / 16 / 4
    assert float(row[1]) == pytest.approx((2 * inside**2 + 6 * outside**2) ** 0.5, rel=0.05)
    assert float(row[2]) == pytest.approx(8**0.5 * 0.5 / 8, rel=0.05)


@pytest.mark.parametrize("row", [1, 2, 3, 4])
def test_dice_gradient_vanishes_for_confident_predictions(row):
    rows = _states(1000, 0.05, [5, 20]).rows
    state, dice, entropy, both = rows[row][0], *(float(value) for value in rows[row][1:])
    assert dice < entropy
    assert dice < 1e-6 or "20" not in state
    assert both > 0.9 * entropy


@pytest.mark.slow
def test_dice_stays_blank_where_dice_ce_trains():
    data = Discs(32, (2, 5), 1, torch.ones(1, 1), 0.7)
    training = Training(data, [8, 16, 32], 8, 80, [80], num_test=16, blank=0.001)
    losses = _losses()
    names = ("Dice of both classes", "`DiceCELoss`")
    dice, both = ([training.run(losses[name], 0.1, seed).dice for seed in range(3)] for name in names)
    assert sorted(dice)[1] < 0.1  # in two of three, whatever the machine's rounding
    assert min(both) > 0.5


@pytest.mark.e2e
def test_command():
    run = segbundle(
        "reproduce", "fastai_dice_unet", "--steps", 2, "--learning_rates", "[0.01]", "--seeds", "[0]",
        "--num_test", 4, "--state_voxels", 1000,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "| `DiceCELoss` | 0.01 |" in run.stdout
