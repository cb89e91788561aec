"""What is measured of every class, worked out by hand."""

import numpy as np
import pytest

from segbundle.metrics.measures import ClassMeasures, measure_classes


@pytest.mark.parametrize("order", ["C", "F"])
def test_measures_by_hand(order):
    labels = np.zeros((4, 5, 6), np.uint8, order)
    labels[1:3, 1:3, 1:3] = 1  # 8 voxels inside
    labels[1, 3, 4] = 1  # and one that touches none of them with a face
    labels[3, 2, 2] = 2  # one at the edge
    labels[0, 0, 0] = 255  # unknown
    scan = np.full(labels.shape, 7.0, np.float32, order)
    scan[labels == 1] = 100
    scan[1, 3, 4] = 10
    scan[3, 2, 2] = np.nan
    found = measure_classes(scan, labels, 4, voxel_ml=0.5)
    assert found[1:] == [
        ClassMeasures(4.5, False, 2, pytest.approx(90.0)),
        ClassMeasures(0.5, True, 1, None),  # of no voxel the intensity is known
        ClassMeasures(0.0, False, 0, None),
    ]
    assert found[0] == ClassMeasures((120 - 11) * 0.5, True, 0, 7.0)


def test_large_scans_are_measured_in_parts(monkeypatch):
    monkeypatch.setattr("segbundle.metrics.measures._CHUNK", 1)
    labels = np.random.default_rng(0).integers(0, 3, (7, 4, 5)).astype(np.int16)
    found = measure_classes(labels * 10.0, labels, 3, voxel_ml=1.0)
    assert [one.volume_ml for one in found] == [(labels == index).sum() for index in range(3)]
    assert [one.mean_intensity for one in found] == [0, 10, 20]
