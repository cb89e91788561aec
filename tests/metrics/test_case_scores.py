import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segbundle.metrics import Status, per_class_dice, score_case


def test_by_hand():
    # class 1: 3 voxels in the reference, 2 predicted, 2 shared: 2*2/(3+2); class 2: 1, 2 and 1: 2/3
    ref = torch.tensor([0, 1, 1, 1, 2, 0])
    pred = torch.tensor([0, 1, 1, 2, 2, 0])
    dice = per_class_dice(pred, ref, num_classes=3)
    assert dice.tolist() == pytest.approx([1.0, 4 / 5, 2 / 3])


def test_every_status():
    #                    missed  false+  scored  absent
    ref = torch.tensor([1, 0, 3, 0])
    pred = torch.tensor([0, 2, 3, 0])
    scores = score_case(pred, ref, num_classes=5)
    assert [score.status for score in scores[1:]] == [
        Status.MISSED,
        Status.FALSE_POSITIVE,
        Status.SCORED,
        Status.TRUE_ABSENT,
    ]
    assert [score.dice for score in scores[1:4]] == [0.0, 0.0, 1.0]
    assert math.isnan(scores[4].dice)


def test_unannotated_is_not_scored_even_where_it_was_predicted():
    ref, pred = torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1])
    scores = score_case(pred, ref, num_classes=3, annotated=[True, True, False])
    assert scores[2].status is Status.UNANNOTATED
    assert math.isnan(scores[2].dice)
    assert scores[2].voxels_pred == 1
    assert per_class_dice(pred, ref, 3, [True, True, False]).isnan().tolist() == [False, False, True]


def test_uint8_and_shape_are_taken_as_they_come():
    ref = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    ref[0, 0] = 200
    assert per_class_dice(ref, ref, 201)[200] == 1.0


@pytest.mark.parametrize(
    ("pred", "ref", "annotated", "message"),
    [
        ([0, 1], [0, 1, 1], None, "same shape"),
        ([0, 3], [0, 1], None, "the prediction contains values from 0 to 3"),
        ([0, 1], [-1, 1], None, "the reference contains values from -1 to 1"),
        ([0, 1], [0, 1], [True], "annotated has 1 entries for 3 classes"),
    ],
)
def test_contradictions_are_refused(pred, ref, annotated, message):
    with pytest.raises(ValueError, match=message):
        score_case(torch.tensor(pred), torch.tensor(ref), 3, annotated)


label_maps = hnp.arrays(np.uint8, (4, 3, 3), elements=st.integers(0, 3))


@given(label_maps, label_maps)
def test_agrees_with_the_definition_and_is_symmetric(pred, ref):
    dice = per_class_dice(torch.from_numpy(pred), torch.from_numpy(ref), 4)
    for c in range(4):
        both, total = np.sum((pred == c) & (ref == c)), np.sum(pred == c) + np.sum(ref == c)
        assert (math.isnan(dice[c]) and total == 0) or dice[c] == pytest.approx(2 * both / total)
    swapped = per_class_dice(torch.from_numpy(ref), torch.from_numpy(pred), 4)
    assert torch.equal(dice.nan_to_num(-1), swapped.nan_to_num(-1))


@given(label_maps)
def test_a_perfect_prediction_scores_one_or_nothing(ref):
    dice = per_class_dice(torch.from_numpy(ref), torch.from_numpy(ref), 4)
    assert set(dice.nan_to_num(1).tolist()) == {1.0}


def test_unknown_voxels_count_nowhere():
    ref = torch.tensor([0, 1, 1, 255, 255, 0], dtype=torch.uint8)
    pred = torch.tensor([0, 1, 2, 1, 2, 0], dtype=torch.uint8)
    scores = score_case(pred, ref, 3, ignore_index=255)
    assert [(score.voxels_ref, score.voxels_pred) for score in scores] == [(2, 2), (2, 1), (0, 1)]
    assert per_class_dice(pred, ref, 3, ignore_index=255)[1] == pytest.approx(2 / 3)
    assert score_case(ref, ref.fill_(255), 256, ignore_index=255)[1].status is Status.TRUE_ABSENT
    with pytest.raises(ValueError, match="the reference contains values from 0 to 254"):
        score_case(pred * 0, torch.tensor([0, 1, 1, 255, 254, 0]), 3, ignore_index=255)


def in_volume(*rows):
    """Labels in rows along the first axis of a volume, with a row of background between and around them."""
    labels = torch.zeros(len(rows[0]), 2 * len(rows), 1, dtype=torch.uint8)
    for index, row in enumerate(rows):
        labels[:, 2 * index, 0] = torch.tensor(row)
    return labels


def test_surfaces_and_components_of_a_case_by_hand():
    ref = in_volume([1, 1, 0, 2, 0, 0], [0, 0, 0, 0, 255, 255])
    pred = in_volume([0, 1, 1, 0, 0, 2], [3, 3, 1, 0, 0, 3])
    scores = score_case(pred, ref, 4, [True, True, True, False], 255, (1, 1, 1))
    liver, lesion, unannotated = scores[1:]
    assert (liver.components_ref, liver.components_pred) == (1, 2)
    assert (lesion.components_ref, lesion.components_pred) == (1, 1)
    assert (unannotated.components_ref, unannotated.components_pred) == (
        None,
        1,
    )  # a component in unknown voxels does not count
    assert (lesion.hd95_mm, lesion.nsd) == (2.0, 0.5)  # within 1 mm: the corners between the two voxels
    assert math.isnan(unannotated.nsd)
    assert scores[0].components_ref == scores[0].components_pred == 0
    assert score_case(pred, ref, 4, ignore_index=255)[1].components_ref is None
    every = score_case(pred, pred, 4, spacing=(1, 1, 1))
    assert [(score.components_ref, score.components_pred) for score in every] == [(0, 0), (2, 2), (1, 1), (2, 2)]


def test_surfaces_have_a_tolerance_of_1_mm_without_another():
    ref, pred = in_volume([1, 0, 0, 0]), in_volume([0, 0, 1, 0])
    nsd = [score_case(pred, ref, 2, spacing=(size, 9, 9))[1].nsd for size in (0.5, 1, 1.01)]
    assert nsd == [1.0, 0.5, 0.0]


def test_counts_of_every_status():
    ref = torch.tensor([1, 0, 3, 3, 0, 0])
    pred = torch.tensor([0, 2, 3, 2, 0, 5])
    scores = score_case(pred, ref, 6, [True, True, True, True, True, False])
    assert [(score.voxels_ref, score.voxels_pred) for score in scores] == [
        (3, 2),
        (1, 0),
        (0, 2),
        (2, 1),
        (0, 0),
        (0, 1),
    ]
    assert [score.status.value for score in scores] == [
        "scored", "missed", "false_positive", "scored", "true_absent", "unannotated",
    ]  # fmt: skip
    assert [score.dice for score in scores[1:4]] == [0, 0, 2 / 3]


def test_a_reference_of_unknown_voxels_only():
    ref, pred = torch.full((4,), 255), torch.tensor([0, 1, 1, 2])
    assert {score.status for score in score_case(pred, ref, 3, ignore_index=255)} == {Status.TRUE_ABSENT}


def test_a_few_million_voxels_are_counted_at_a_time(monkeypatch):
    sizes = []
    bincount = torch.bincount
    monkeypatch.setattr(
        torch, "bincount", lambda values, **kwargs: sizes.append(len(values)) or bincount(values, **kwargs)
    )
    labels = torch.ones(2**22 + 3, dtype=torch.uint8)
    assert per_class_dice(labels, labels, 2)[1] == 1
    assert sizes == [2**22, 3]


def test_overlapping_classes_are_scored_as_masks():
    """whole = {1, 2, 3}, core = {2, 3}; every score is that of the mask of the class alone."""
    regions = [[0], [1, 2, 3], [2, 3]]
    ref, pred = (torch.randint(0, 4, (6, 5, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    ref[0] = 255
    found = score_case(pred, ref, 3, [True, True, False], 255, (1.0, 2.0, 3.0), [0.0, 1.0, 2.0], regions)
    for index, members in enumerate(regions):
        in_pred, in_ref = [[value in members for value in volume.flatten().tolist()] for volume in (pred, ref)]
        known = [value != 255 for value in ref.flatten().tolist()]
        both = sum(a and b for a, b, k in zip(in_pred, in_ref, known, strict=True) if k)
        sizes = [sum(a for a, k in zip(mask, known, strict=True) if k) for mask in (in_pred, in_ref)]
        assert (found[index].voxels_pred, found[index].voxels_ref) == tuple(sizes)
        if index < 2:
            assert found[index].dice == pytest.approx(2 * both / sum(sizes))
    assert found[2].status is Status.UNANNOTATED and math.isnan(found[2].dice)
    alone = [torch.isin(volume, torch.tensor([1, 2, 3])).long() for volume in (pred, ref)]
    alone[1][0] = 255
    expected = score_case(*alone, 2, None, 255, (1.0, 2.0, 3.0), [0.0, 1.0])[1]
    assert found[1] == expected
    assert expected.components_pred and expected.nsd > 0.5
    perfect = score_case(ref.clamp(max=3), ref, 3, None, 255, regions=regions)
    assert [score.dice for score in perfect] == [1.0] * 3
