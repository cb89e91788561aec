"""Losses of classes that overlap, with partial labels and unknown voxels, against plain loops over voxels."""

import math

import pytest
import torch

from segbundle.losses import DiceCELoss, DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss

REGIONS = [[0], [1, 2, 3], [2, 3], [3]]
IGNORE = 255


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 4, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 1, 5, 4, 3), generator=generator)
    target[0, 0, 0] = IGNORE
    target[1][target[1] == 3] = 2  # class 3 is absent
    annotated = torch.tensor([[True] * 4, [True] * 4, [True, True, False, True]])
    return logits, target, annotated


def voxels(logits, target):
    """Yield the probabilities and the label of each known voxel."""
    for values, label in zip(logits.flatten(1).T.tolist(), target.flatten().tolist(), strict=True):
        if label != IGNORE:
            yield [1 / (1 + math.exp(-value)) for value in values], label


def naive_dice(logits, target, annotated, background):
    """Return the mean over samples of the Dice loss of the classes present, and of the penalty for absent classes."""
    losses = []
    for sample, labels, known in zip(logits, target, annotated.tolist(), strict=True):
        counted = [c for c in range(4) if known[c] and (c or (background and all(known)))]
        terms, shares = [], []
        found = list(voxels(sample, labels))
        for c in counted:
            inside = [label in REGIONS[c] for _, label in found]
            predicted = sum(p[c] for p, _ in found)
            if any(inside):
                both = sum(p[c] for (p, _), is_in in zip(found, inside, strict=True) if is_in)
                terms.append(1 - (2 * both + 1e-5) / (predicted + sum(inside) + 1e-5))
            else:
                shares.append(predicted / len(found))
        loss = sum(terms) / len(terms)
        absent = 1 - math.prod(1 - share for share in shares)
        losses.append(loss + (1 - loss) * absent)
    return sum(losses) / len(losses)


def naive_cross_entropy(logits, target, annotated):
    """Return the mean over samples and voxels of the mean binary cross entropy of the annotated classes."""
    means = []
    for sample, labels, known in zip(logits, target, annotated.tolist(), strict=True):
        counted = [c for c in range(4) if known[c] and (c or all(known))]
        per_voxel = [
            sum(-math.log(p[c] if label in REGIONS[c] else 1 - p[c]) for c in counted) / len(counted)
            for p, label in voxels(sample, labels)
        ]
        means.append(sum(per_voxel) / len(per_voxel))
    return sum(means) / len(means)


@pytest.mark.parametrize("background", [True, False])
def test_dice_is_that_of_a_loop_over_voxels(batch, background):
    loss = DiceLoss(include_background=background, ignore_index=IGNORE, regions=REGIONS)
    assert loss(*batch).item() == pytest.approx(naive_dice(*batch, background), rel=1e-9)


def test_dice_and_cross_entropy_are_those_of_a_loop_over_voxels(batch):
    loss = DiceCELoss(include_background=False, ignore_index=IGNORE, regions=REGIONS, softmax=True, to_onehot_y=True)
    expected = naive_dice(*batch, background=False) + naive_cross_entropy(*batch)
    assert loss(*batch).item() == pytest.approx(expected, rel=1e-9)


def test_classes_that_do_not_overlap_have_the_loss_of_sigmoid(batch):
    logits, target, annotated = batch
    own, plain = DiceLoss(regions=[[0], [1], [2], [3]]), DiceLoss(sigmoid=True, to_onehot_y=True)
    target = target.masked_fill(target == IGNORE, 0)
    assert own(logits, target, annotated).item() == pytest.approx(plain(logits, target, annotated).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [DiceLoss, GeneralizedDiceLoss, DiceCELoss, GeneralizedDiceCELoss])
def test_gradients_are_numerical_gradients(batch, loss):
    logits, target, annotated = (value[:, ..., :2, :2, :2] if value.ndim > 2 else value for value in batch)
    of_regions = loss(ignore_index=IGNORE, regions=REGIONS)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: of_regions(values, target, annotated), logits)


@pytest.mark.parametrize("loss", [DiceCELoss, GeneralizedDiceCELoss])
def test_unknown_voxels_and_unannotated_classes_have_no_gradient(batch, loss):
    logits, target, annotated = batch
    logits.requires_grad_()
    loss(ignore_index=IGNORE, regions=REGIONS)(logits, target, annotated).backward()
    assert not logits.grad[0, :, 0].any()
    assert not logits.grad[2, [0, 2]].any()  # the background may contain class 2
    assert logits.grad[2, [1, 3]].all()


def test_weights_and_smoothing_are_those_of_binary_cross_entropy():
    logits, target = torch.randn(1, 4, 50), torch.randint(0, 4, (1, 1, 50))
    weight = torch.tensor([0.5, 1.0, 2.0, 0.5])
    loss = DiceCELoss(lambda_dice=0.0, weight=weight, label_smoothing=0.2, regions=REGIONS)
    inside = torch.stack([torch.isin(target[:, 0], torch.tensor(values)) for values in REGIONS], dim=1).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, inside * 0.8 + 0.1, reduction="none")
    expected = (entropy * weight[None, :, None]).sum(dim=1).mean() / weight.sum()
    assert loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([[0], [1]], r"regions has 2 classes, but the input has 4"),
        ([[0], [1], [], [2]], r"regions contains \[\]; each class needs"),
        ([[0], [1], [-1], [2]], r"regions contains \[-1\]; each class needs"),
        ([[0], [1], [1], [2]], r"target contains \[3.0\], but class indices must be in \[0, 2\]"),
    ],
)
def test_invalid_regions_raise(batch, regions, message):
    with pytest.raises(ValueError, match=message):
        DiceLoss(regions=regions, ignore_index=IGNORE)(*batch[:2])
    with pytest.raises(ValueError, match=r"other_act cannot be combined with regions"):
        DiceLoss(regions=REGIONS, other_act=torch.tanh)
