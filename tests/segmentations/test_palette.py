"""Default colors of classes."""

import numpy as np
import pytest

from segbundle.segmentations.palette import COLORS, ERROR_COLORS, lab_of_rgb, palette


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((0, 0, 255), (32.30, 79.19, -107.86))],
)
def test_lab_of_known_colors(rgb, lab):
    """Published values of sRGB under D65 (Lindbloom)."""
    np.testing.assert_allclose(lab_of_rgb(np.array(rgb)), lab, atol=0.05)


@pytest.mark.parametrize(("count", "least"), [(7, 26), (41, 25), (117, 15)])
def test_colors_are_far_apart(count, least):
    lab = lab_of_rgb(np.array([*palette(count), *ERROR_COLORS]))
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distances[np.triu_indices(len(lab), 1)].min() > least


def test_longer_palette_begins_with_the_shorter():
    assert palette(3) == COLORS[:3]
    assert palette(117)[:41] == palette(41)
    assert palette(41)[:7] == COLORS


def test_every_color_differs_from_gray():
    colors = np.array(palette(255))
    assert (colors.max(axis=1) - colors.min(axis=1)).min() > 30
