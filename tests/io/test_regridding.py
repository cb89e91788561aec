"""Label maps on the grid of another scan."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from segbundle.io.geometry import Geometry, Scan
from segbundle.io.regridding import nearest_labels


def test_nearest_labels_are_those_of_scipy():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 5, (9, 8, 7)).astype(np.int16)
    angle = 0.3
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0.1, 1]])
    affine, target = np.eye(4), np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned @ np.diag([1.1, 0.9, 2.0]), (3, -2, 1)
    target[:3, :3], target[:3, 3] = np.diag([0.7, 0.8, 0.9]), (2, 0, 1)
    grid = Geometry((12, 11, 14), target)
    found = nearest_labels(Scan(source[None], Geometry(source.shape, affine), Path("seg.nii")), grid)
    matrix = np.linalg.inv(affine) @ target
    expected = ndimage.affine_transform(
        source, matrix[:3, :3], matrix[:3, 3], grid.shape, order=0, mode="grid-constant", cval=0
    )
    assert found.array.dtype == np.int16 and found.geometry.difference(grid) is None
    np.testing.assert_array_equal(found.array[0], expected)


def test_voxels_halfway_between_two_neighbors_are_all_assigned_alike():
    source = np.arange(1, 9, dtype=np.uint8).reshape(8, 1, 1)
    target = np.eye(4)
    target[0, 3] = 0.5
    found = nearest_labels(
        Scan(source[None], Geometry((8, 1, 1), np.eye(4)), Path("seg.nii")), Geometry((7, 1, 1), target)
    )
    assert found.array.ravel().tolist() == [2, 3, 4, 5, 6, 7, 8]
