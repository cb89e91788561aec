"""Surface measures by hand, and as DeepMind's surface-distance has them."""

import math

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segbundle.metrics.surfaces import SurfaceScore, _percentile, surface_scores


def volume(*voxels, shape=(8, 5, 5), value=1):
    labels = torch.zeros(shape, dtype=torch.uint8)
    for voxel in voxels:
        labels[voxel] = value
    return labels


def score(pred, ref, spacing=(1, 1, 1), tolerance=1.0, **kwargs):
    return surface_scores(pred, ref, 2, spacing, tolerance, **kwargs)[1]


def is_nothing(found):
    return math.isnan(found.hd95_mm) and math.isnan(found.nsd)


def test_one_voxel_on_itself():
    assert score(volume((3, 2, 2)), volume((3, 2, 2))) == SurfaceScore(0.0, 1.0)


@pytest.mark.parametrize(("tolerance", "nsd"), [(2.9, 0.0), (3.0, 0.5), (5.9, 0.5), (6.0, 1.0)])
def test_one_voxel_two_further_along_an_axis_of_thick_slices(tolerance, nsd):
    # Each surface is the corners of its voxel. One voxel (3 mm) is between the near faces; the far one of either is
    # 6 mm from the near one of the other; half of the area each.
    found = score(volume((5, 2, 2)), volume((3, 2, 2)), (3.0, 1.0, 1.0), tolerance)
    assert found == SurfaceScore(6.0, nsd)


def test_the_95th_percentile_is_of_the_area():
    # A bar of 40 voxels in the reference, of which one is missing at an end: its 4 far corners, out of 4 x 41, are less
    # than 5 % of the area, and 1 mm away.
    ref = torch.zeros(42, 3, 3, dtype=torch.uint8)
    ref[1:41, 1, 1] = 1
    pred = ref.clone()
    pred[40] = 0
    assert score(pred, ref).hd95_mm == 0
    pred[35:] = 0  # six of them: more than 5 %, up to 6 mm
    assert 1 <= score(pred, ref).hd95_mm <= 6


def test_a_surface_closes_where_the_scan_ends():
    ref = torch.ones(4, 4, 4, dtype=torch.uint8)
    pred = ref.clone()
    pred[3] = 0
    found = score(pred, ref, (2.0, 1.0, 1.0), 1.0)
    assert found.hd95_mm == 2.0
    assert 0.5 < found.nsd < 1


def test_touching_structures_do_not_see_each_other():
    labels = volume((3, 2, 2))
    labels[4, 2, 2] = 2
    assert surface_scores(labels, labels, 3, (1, 1, 1), 0.0)[1:] == [SurfaceScore(0.0, 1.0)] * 2


def test_missing_surfaces():
    there, nowhere = volume((3, 2, 2)), volume()
    for found in (score(nowhere, there), score(there, nowhere)):  # missed; false positive
        assert math.isnan(found.hd95_mm)
        assert found.nsd == 0
    assert is_nothing(score(nowhere, nowhere))
    assert is_nothing(score(there, there, annotated=[True, False]))
    assert is_nothing(surface_scores(there, there, 2, (1, 1, 1), 1.0)[0])  # the background


def test_unknown_voxels_are_neither_right_nor_wrong():
    ref, pred = volume((2, 2, 2)), volume((2, 2, 2), (6, 2, 2))
    assert score(pred, ref).nsd == pytest.approx(2 / 3)  # of three equal areas, two coincide
    ref[5:] = 255
    assert score(pred, ref, ignore_index=255) == SurfaceScore(0.0, 1.0)
    only_there = volume((6, 2, 2))
    assert is_nothing(score(only_there, ref * (ref == 255), ignore_index=255))
    assert score(only_there, ref, ignore_index=255).nsd == 0  # missed where it is known


def test_a_tolerance_for_each_class():
    ref, pred = volume((3, 2, 2)), volume((4, 2, 2))
    ref[3, 4, 4], pred[4, 4, 4] = 2, 2
    found = surface_scores(pred, ref, 3, (1, 1, 1), [0.0, 0.0, 1.0])
    assert found[1].nsd < found[2].nsd == 1


@pytest.mark.parametrize(
    ("shape", "tolerance", "message"),
    [((8, 5), 1.0, "volumes of the same shape"), ((8, 5, 5), [1.0], "1 and annotated 2")],
)
def test_contradictions_are_refused(shape, tolerance, message):
    with pytest.raises(ValueError, match=message):
        score(torch.zeros(shape, dtype=torch.uint8), volume(), tolerance=tolerance)


@pytest.mark.parametrize(("pred", "ref"), [((8, 5, 5), (8, 5, 4)), ((8, 5), (8, 5)), ((1, 8, 5, 5), (1, 8, 5, 5))])
def test_only_volumes_of_one_shape_have_surfaces(pred, ref):
    with pytest.raises(ValueError, match="must be 3D volumes of the same shape"):
        score(torch.zeros(pred, dtype=torch.uint8), torch.zeros(ref, dtype=torch.uint8))


label_maps = hnp.arrays(np.uint8, (5, 4, 6), elements=st.integers(0, 2))
sizes = st.tuples(*[st.floats(0.3, 5)] * 3)


@pytest.mark.slow
@settings(deadline=None)
@given(label_maps, label_maps, sizes, st.floats(0.1, 6))
def test_agrees_with_surface_distance(pred, ref, spacing, tolerance):
    found = surface_scores(torch.from_numpy(pred), torch.from_numpy(ref), 3, spacing, tolerance)
    for index in (1, 2):
        if (pred == index).any() and (ref == index).any():
            theirs = surface_distance.compute_surface_distances(ref == index, pred == index, spacing)
            low, high = (surface_distance.compute_robust_hausdorff(theirs, 95 + off) for off in (-1e-6, 1e-6))
            nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert low - 1e-6 <= found[index].hd95_mm <= high + 1e-6
            assert found[index].nsd == pytest.approx(nsd, abs=1e-6)


def test_the_percentile_of_a_hundred_equal_areas():
    assert _percentile(np.arange(100.0)[::-1], np.ones(100)) == 94  # 95 of 100 are not further away
    assert _percentile(np.array([0.0, 5.0]), np.array([95.0, 5.0])) == 0
    assert _percentile(np.array([0.0, 5.0]), np.array([94.9, 5.1])) == 5
    assert _percentile(np.array([3.0]), np.array([0.1])) == 3


def test_tolerance_allows_rounding_errors():
    ref, pred = volume((3, 2, 2)), volume((4, 2, 2))
    for tolerance, nsd in ((1 - 5e-7, 1.0), (1 - 2e-6, 0.5), (1, 1.0)):
        assert score(pred, ref, tolerance=tolerance).nsd == nsd


def test_a_class_number_may_be_missing_from_both():
    labels = volume((3, 2, 2), value=3)
    found = surface_scores(labels, labels, 4, (1, 1, 1), 0)
    assert [is_nothing(one) for one in found] == [True, True, True, False]
    assert found[3] == SurfaceScore(0.0, 1.0)


def test_surfaces_in_several_threads_are_the_same():
    rng = np.random.default_rng(0)
    pred, ref = (torch.from_numpy(rng.integers(0, 4, (6, 5, 4)).astype(np.uint8)) for _ in range(2))
    one, three = (surface_scores(pred, ref, 4, (1, 2, 3), 1.0, num_threads=number) for number in (1, 3))
    assert one[1:] == three[1:]


def test_elements_that_touch_unknown_voxels_have_no_area():
    ref, pred = volume((2, 2, 2)), volume((2, 2, 2), (3, 2, 2))
    assert score(pred, ref, tolerance=0).nsd < 1
    ref[4:] = 255  # the far side of the predicted voxel touches them
    assert score(pred, ref, tolerance=0, ignore_index=255) == SurfaceScore(0.0, 1.0)
    ref[:] = 255
    ref[2, 2, 2] = 1
    assert is_nothing(score(pred, ref, ignore_index=255))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [slice(0, 2), slice(4, None)])
def test_a_side_that_touches_unknown_voxels_has_no_area(axis, side):
    """Both have voxel 2 or 3 along the axis, the prediction also has the other voxel, next to the unknown voxels."""
    ref, pred = torch.zeros(6, 6, 6, dtype=torch.uint8), torch.zeros(6, 6, 6, dtype=torch.uint8)
    ref.movedim(axis, 0)[2 if side.start else 3, 2, 2] = 1
    pred.movedim(axis, 0)[2:4, 2, 2] = 1
    assert score(pred, ref, tolerance=0).nsd < 1
    ref.movedim(axis, 0)[side] = 255
    assert score(pred, ref, tolerance=0, ignore_index=255) == SurfaceScore(0.0, 1.0)


@pytest.mark.parametrize("in_pred", [True, False])
def test_surface_in_unknown_voxels_has_no_distance(in_pred):
    """One of the two has voxel 6, all of whose neighbors are unknown, the other one has voxel 2."""
    ref, pred = volume(shape=(10, 5, 5)), volume((6 if in_pred else 2, 2, 2), shape=(10, 5, 5))
    ref[5:8, 1:4, 1:4] = 255
    ref[6, 2, 2] = 0 if in_pred else 1
    ref[2, 2, 2] = 1 if in_pred else 0
    assert is_nothing(score(pred, ref, ignore_index=255))


def test_unknown_voxels_at_the_end_of_the_scan():
    labels = torch.ones(2, 2, 2, dtype=torch.uint8)
    assert score(labels, labels, tolerance=0, ignore_index=255) == SurfaceScore(0.0, 1.0)
    assert is_nothing(score(labels, torch.full_like(labels, 255), ignore_index=255))
    assert is_nothing(score(labels * 0, torch.full_like(labels, 255), ignore_index=255))
    assert is_nothing(score(labels[:1] * 0, torch.full_like(labels[:1], 255), ignore_index=255))


def test_the_inside_of_a_structure_is_not_its_surface():
    ref, pred = torch.zeros(8, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, 8, dtype=torch.uint8)
    ref[2:6, 2:6, 2:6] = 1
    pred[3, 3, 3] = 1
    assert score(pred, ref, tolerance=0.5).nsd == 0


def test_the_background_is_not_scored_between_parts_of_a_class():
    labels = volume((1, 1, 1), (3, 3, 3))
    assert is_nothing(surface_scores(labels, labels, 2, (1, 1, 1), 1.0)[0])
