"""DICOM series with missing slices or a variable spacing, resampled to an even spacing."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicoms import AXIAL, ORIGIN, lps_affine, write_enhanced, write_series
from segbundle.errors import DataError
from segbundle.io.dicom import volume_slices
from segbundle.io.geometry import Geometry
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry, read_scan
from segbundle.io.stacks import Slice
from segbundle.io.uneven_slices import even_grid, labels_on_grid, labels_on_slices

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
OBLIQUE = (0.6, 0.8, 0, -0.8 * 0.96, 0.6 * 0.96, 0.28)
TILT = math.radians(15)
HEIGHTS = {
    "missing slice": ([0, 2, 4, 6, 10, 12, 14], 2, [0, 2, 4, 6, 8, 10, 12, 14]),
    "two missing": ([0, 1, 2, 5, 6], 1, [0, 1, 2, 3, 4, 5, 6]),
    "thin, then thick": ([0, 1, 2, 5, 8], 1, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    "thick, then thin": ([0, 4, 8, 10, 12, 14], 2, [0, 2, 4, 6, 8, 10, 12, 14]),
    "no multiples": ([0, 2, 5, 7, 10, 15], 3, [0, 3, 6, 9, 12, 15]),
    "beyond the grid": ([0, 2.5, 5, 7.5, 11], 2.5, [0, 2.5, 5, 7.5, 10]),
}
"""Positions of slices along the normal in mm, spacing of the grid, and positions of its slices, worked out by hand."""


def ramp(heights, shape=(5, 4)):
    """Return a volume whose values are 30 times the position, which interpolation must reproduce exactly."""
    values = np.rint(30 * np.asarray(heights, float)).astype(np.int16)
    return np.broadcast_to(values, (*shape, len(values))).copy()


def positions(heights, iop=AXIAL, along=None):
    normal = np.cross(iop[:3], iop[3:])
    along = normal if along is None else np.array(along)
    return [np.array(ORIGIN) + height * along for height in heights]


@pytest.mark.parametrize("name", HEIGHTS)
def test_ramp_is_exact_on_the_even_grid(tmp_path, name):
    heights, spacing, expected = HEIGHTS[name]
    write_series(tmp_path / "s", ramp(heights), positions=positions(heights), spacing=(0.7, 0.9, 1))
    with pytest.raises(DataError, match=r"mm apart.* with --allow_uneven true\.$"):
        read_scan(tmp_path / "s")
    scan = read_scan(tmp_path / "s", allow_uneven=True)
    np.testing.assert_array_equal(scan.array[0], ramp(expected))
    np.testing.assert_allclose(scan.geometry.affine, LPS_TO_RAS @ lps_affine((0.7, 0.9, spacing)), atol=1e-9)
    assert read_geometry(tmp_path / "s", allow_uneven=True).source_slices == scan.geometry.source_slices
    np.testing.assert_allclose(np.array(scan.geometry.source_slices) * spacing, heights)


def test_voxels_between_slices_are_weighted_by_distance(tmp_path):
    heights, values = [0, 2, 4, 9], [0, 10, 20, 120]
    volume = np.broadcast_to(np.array(values, np.int16), (5, 4, 4)).copy()
    write_series(tmp_path / "s", volume, positions=positions(heights))
    scan = read_scan(tmp_path / "s", allow_uneven=True)
    np.testing.assert_array_equal(scan.array[0, 0, 0], [0, 10, 20, 60, 100])  # 20 + 2/5 of 100, 20 + 4/5 of 100


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("iop", [AXIAL, OBLIQUE, (1, 0, 0, 0, 0, -1)], ids=["axial", "oblique", "coronal"])
def test_order_and_orientation(tmp_path, iop, reverse):
    heights = np.array([0, 2, 4, 6, 10, 12, 14.0])
    stored = heights[::-1] if reverse else heights
    write_series(tmp_path / "s", ramp(stored), positions=positions(stored, iop), iop=iop, spacing=(0.7, 0.9, 1))
    scan = read_scan(tmp_path / "s", allow_uneven=True)
    np.testing.assert_array_equal(scan.array[0], ramp(range(0, 15, 2)))
    expected = LPS_TO_RAS @ lps_affine((0.7, 0.9, 2), iop=iop)
    np.testing.assert_allclose(scan.geometry.affine, expected, atol=1e-6)
    assert [file.name for file, _ in volume_slices(tmp_path / "s")] == [
        f"IM{k:03d}.dcm" for k in (range(6, -1, -1) if reverse else range(7))
    ]


def test_tilted_series_stays_on_its_line(tmp_path):
    iop, heights = (1, 0, 0, 0, math.cos(TILT), -math.sin(TILT)), [0, 2, 4, 6, 10, 12]
    write_series(tmp_path / "s", ramp(heights), positions=positions(heights, along=(0, 0, 1)), iop=iop)
    scan = read_scan(tmp_path / "s", allow_uneven=True)
    np.testing.assert_array_equal(scan.array[0], ramp(range(0, 13, 2)))
    expected = LPS_TO_RAS @ lps_affine((1, 1, 2), iop=iop, step=(0, 0, 2))
    np.testing.assert_allclose(scan.geometry.affine, expected, atol=1e-6)
    assert scan.geometry.is_sheared


def test_rounded_positions_of_missing_slices_are_recovered(tmp_path):
    heights = [1.25 * k for k in range(40) if k not in (7, 20, 21)]
    where = [(0, 0, f"{height:.1f}") for height in heights]
    write_series(tmp_path / "s", ramp(range(37)), positions=where)
    scan = read_scan(tmp_path / "s", allow_uneven=True)
    assert scan.geometry.shape[2] == 40 and scan.geometry.spacing[2] == pytest.approx(1.25, abs=2e-3)
    assert set(scan.geometry.source_slices) == set(range(40)) - {7, 20, 21}
    np.testing.assert_array_equal(scan.array[0, 0, 0, :7], 30 * np.arange(7))


def test_frames_of_a_multi_frame_file(tmp_path):
    heights, stored = [0, 2, 4, 8], ramp([0, 2, 4, 8])
    path = write_enhanced(tmp_path / "s" / "ct.dcm", stored, positions(heights), [1.0] * 4)
    scan = read_scan(path, allow_uneven=True)
    np.testing.assert_array_equal(scan.array[0, 0, 0], [-10, 50, 110, 170, 230])


@pytest.mark.parametrize(
    ("where", "thickness", "message"),
    [
        ([(0, 0, 0), (0, 0, 2), (3, 0, 4), (0, 0, 8)], 2, "mm away from a straight line"),
        ([(0, 0, 0), (0, 0, 2), (0, 0, 2), (0, 0, 6)], 2, "duplicate slice"),
        ([(0, 0, k) for k in (0, 1, 2, 3, 400)], 1, "so 5 slices would become 401 slices with an even spacing"),
        ([(0, 0, 2 * k) for k in range(5)], [2, 2, 2, 5, 5], "mixes slices of 2 and 5 mm"),
    ],
)
def test_other_problems_keep_their_reason(tmp_path, where, thickness, message):
    write_series(tmp_path / "s", ramp(range(len(where))), positions=where, thickness=thickness)
    with pytest.raises(DataError, match=message):
        read_scan(tmp_path / "s", allow_uneven=True)
    with pytest.raises(DataError) as found:
        read_scan(tmp_path / "s")
    assert "allow_uneven" not in str(found.value)


def test_thickness_may_change_with_the_spacing(tmp_path):
    heights = [0, 5, 10, 15, 25, 35]
    write_series(tmp_path / "s", ramp(heights), positions=positions(heights), thickness=[5, 5, 5, 5, 10, 10])
    with pytest.raises(DataError, match=r"mixes slices of 5 and 10 mm .*--allow_uneven true"):
        read_scan(tmp_path / "s")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "s", allow_uneven=True).array[0, 0, 0], ramp(range(0, 36, 5))[0, 0]
    )


def test_even_series_is_not_changed(tmp_path, caplog):
    write_series(tmp_path / "s", ramp(range(5)))
    scan, allowed = read_scan(tmp_path / "s", None), read_scan(tmp_path / "s", None, allow_uneven=True)
    np.testing.assert_array_equal(scan.array, allowed.array)
    assert allowed.array.dtype == scan.array.dtype and allowed.geometry.source_slices is None and not caplog.text


def test_warning_names_gaps_once_per_series(tmp_path, caplog):
    heights = [0, 2, 4, 8]
    write_series(tmp_path / "s", ramp(heights), positions=positions(heights))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_scan(tmp_path / "s", allow_uneven=True)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path / 's'}: its slices are 2 to 4 mm apart; they are resampled to 5 slices with a spacing of 2 mm "
        "(allow_uneven)"
    )


@pytest.mark.parametrize(("dtype", "kept"), [(None, "float32"), (np.float64, "float64"), (np.int16, "int16")])
def test_dtype_of_the_result(tmp_path, dtype, kept):
    volume = np.broadcast_to(np.array([0, 1, 2, 5], np.int16), (5, 4, 4)).copy()
    write_series(tmp_path / "s", volume, positions=positions([0, 2, 4, 8]))
    array = read_scan(tmp_path / "s", dtype, allow_uneven=True).array
    assert array.dtype == kept
    np.testing.assert_array_equal(array[0, 0, 0], [0, 1, 2, 4 if kept == "int16" else 3.5, 5])


def test_label_maps_of_images_take_the_nearest_slice(tmp_path):
    volume = np.broadcast_to(np.array([1, 1, 3, 3, 7], np.uint8), (5, 4, 5)).copy()
    write_series(tmp_path / "s", volume, positions=positions([0, 2, 4, 5, 9]))
    grid = read_geometry(tmp_path / "s", allow_uneven=True)
    for label in (read_labels(tmp_path / "s", grid=grid), read_labels(tmp_path / "s", allow_uneven=True)):
        assert label.array.dtype == np.uint8
        np.testing.assert_array_equal(label.array[0, 0, 0], [1, 1, 3, 3, 7])  # at 0, 2, 4, 6 and 8 mm


@st.composite
def series(draw):
    """Draw increasing positions in hundredths of a millimeter, and an orientation."""
    gaps = draw(st.lists(st.integers(50, 500), min_size=2, max_size=12))
    iop = draw(st.sampled_from([AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1)]))
    tilt = draw(st.sampled_from([0.0, 0.2, -0.5]))
    return np.concatenate([[0], np.cumsum(gaps)]) / 100, iop, tilt


@settings(max_examples=200, deadline=None)
@given(series())
def test_grid_of_random_positions(drawn):
    heights, iop, tilt = drawn
    row, column = np.array(iop[:3], float), np.array(iop[3:], float)
    along = np.cross(row, column) + tilt * column
    origin = np.array(ORIGIN) + 0.01  # so that positions are known to be rounded to 0.01 mm
    where = [origin + height * along for height in heights]
    grid = even_grid([Slice(f"{k}", 0, tuple(p), tuple(iop), (1.0, 1.0)) for k, p in enumerate(where)][::-1])
    assert grid.order == list(range(len(heights)))[::-1]
    spacing = np.linalg.norm(grid.affine[:3, 2]) / np.linalg.norm(along)
    assert np.abs(np.diff(heights) - spacing).min() <= 0.0101  # a distance of the series
    first, last = grid.affine[:3, 3], grid.affine[:3, 3] + (grid.count - 1) * grid.affine[:3, 2]
    np.testing.assert_allclose(first, where[0], atol=0.01)
    end = heights[0] + (grid.count - 1) * spacing
    np.testing.assert_allclose(last, origin + end * along, atol=0.01)
    assert heights[-1] - spacing < end + 0.01 and end <= heights[-1] + 0.01
    placed = grid.affine[:3, 3] + np.array(grid.source_slices)[:, None] * grid.affine[:3, 2]
    np.testing.assert_allclose(placed, where, atol=0.01)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_labels_of_source_slices_on_the_grid_survive(gaps):
    source = np.concatenate([[0], np.cumsum(gaps)])
    geometry = Geometry((1, 1, int(source[-1]) + 1), np.eye(4), source_slices=tuple(map(float, source)))
    labels = np.arange(len(source)).reshape(1, 1, -1)
    np.testing.assert_array_equal(labels_on_slices(labels_on_grid(labels, geometry), geometry), labels)
