import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path

from segbundle.segmentations.outlines import pixel_outlines

RING = np.zeros((7, 9), bool)
RING[1:6, 1:8] = True
RING[2:5, 2:7] = False
RING[3, 4] = True  # an island in the hole


def area(polygon):
    x, y = polygon.T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def filled(polygons, shape):
    """Return how many of the polygons contain the center of each pixel, by matplotlib."""
    centers = np.stack(np.meshgrid(range(shape[1]), range(shape[0])), axis=-1).reshape(-1, 2)
    inside = [Path(np.concatenate([polygon, polygon[:1]])).contains_points(centers) for polygon in polygons]
    return np.sum(inside, axis=0, dtype=int).reshape(shape) if polygons else np.zeros(shape, int)


def test_single_pixel_is_a_square():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (polygon,) = pixel_outlines(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(1.5, 0.5), (1.5, 1.5), (2.5, 0.5), (2.5, 1.5)]


def test_hole_is_joined_by_a_channel_and_island_is_a_polygon():
    polygons = pixel_outlines(RING)
    assert sorted(map(area, polygons)) == [1, 20]
    np.testing.assert_array_equal(filled(polygons, RING.shape), RING)
    ring = max(polygons, key=area)
    assert ring.tolist().count([0.5, 1.5]) == 2 and ring.tolist().count([1.5, 1.5]) == 2  # the channel, there and back


def test_channel_leads_through_a_hole_on_the_left():
    mask = np.ones((5, 9), bool)
    mask[1:4, 2:4] = mask[1:4, 5:7] = False
    (polygon,) = pixel_outlines(mask)
    assert area(polygon) == mask.sum()
    np.testing.assert_array_equal(filled([polygon], mask.shape), mask)


def test_empty_mask_has_no_outlines():
    assert pixel_outlines(np.zeros((3, 4), bool)) == []


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(arrays(bool, (7, 8)))
def test_any_mask_is_restored_with_its_area(mask):
    polygons = pixel_outlines(mask)
    assert sum(map(area, polygons)) == pytest.approx(mask.sum())
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    assert all((polygon * 2 % 2 == 1).all() for polygon in polygons)
