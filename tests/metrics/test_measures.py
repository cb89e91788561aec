"""Measures of every class, computed by hand."""

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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [0, -1])
def test_a_class_touches_any_of_six_faces(axis, place):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[2, 2, 2] = 1
    assert [one.touches_edge for one in measure_classes(labels, labels, 2, 1.0)] == [True, False]
    at_edge: list[int] = [2, 2, 2]
    at_edge[axis] = place
    labels[tuple(at_edge)] = 1
    assert measure_classes(labels, labels, 2, 1.0)[1].touches_edge is True


@pytest.fixture
def counted(monkeypatch):
    """Numbers of voxels that were counted at a time."""
    sizes = []
    bincount = np.bincount

    def spy(values, *args, **kwargs):
        sizes.append(len(values))
        return bincount(values, *args, **kwargs)

    monkeypatch.setattr(np, "bincount", spy)
    return sizes


@pytest.mark.parametrize(("chunk", "slices"), [(1, 1), (40, 2), (59, 2), (1000, 5)])
def test_voxels_are_counted_in_chunks(monkeypatch, counted, chunk, slices):
    monkeypatch.setattr("segbundle.metrics.measures._CHUNK", chunk)
    labels = np.ones((5, 4, 5), np.uint8)
    (_, found) = measure_classes(labels, labels, 2, 1.0)
    assert (found.volume_ml, found.mean_intensity) == (100, 1)
    assert max(counted) == 20 * slices


def test_axes_are_read_in_the_order_of_memory(monkeypatch, counted):
    """Slices of the slowest axis are contiguous: of 2 x 3 x 4 voxels in Fortran order, those of the last."""
    monkeypatch.setattr("segbundle.metrics.measures._CHUNK", 1)
    for order, size in (("F", 2 * 3), ("C", 3 * 4)):
        counted.clear()
        measure_classes(np.ones((2, 3, 4), np.uint8, order), np.ones((2, 3, 4), np.uint8, order), 2, 1.0)
        assert set(counted) == {size}


def test_a_few_million_voxels_are_counted_at_a_time(counted):
    labels = np.zeros((5, 2**11, 2**9), np.uint8)
    (found,) = measure_classes(labels, labels, 1, 1.0)
    assert found.volume_ml == 5 * 2**20
    assert sorted(set(counted)) == [2**20, 2**22]
