"""Label maps with other stored axes are reoriented exactly, as nibabel and SimpleITK do."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from segbundle.datasets.case_checks import pair_problems
from segbundle.errors import DataError
from segbundle.io.axes import axis_change, reoriented
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_scan
from tiny import write_nifti

ROTATION = nib.eulerangles.euler2mat(0.3, -0.5, 0.7)
GRIDS = {
    "straight": np.diag([0.8, 1.5, 3.0]),
    "isotropic": np.eye(3),
    "oblique": ROTATION @ np.diag([0.8, 0.8, 5.0]),
    "45 degrees": nib.eulerangles.euler2mat(np.pi / 4, 0, np.pi / 4) @ np.diag([1.0, 1.2, 0.4]),
    "sheared": ROTATION @ np.array([[0.7, 0, 0], [0, 0.7, 0.9], [0, 0, 2.5]]),
}
AXIS_ORDERS = [
    np.array(list(zip(order, flips, strict=True)))
    for order in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]
"""All 48 orders and directions of three axes, as orientations of nibabel."""
grids, axis_orders = st.sampled_from(sorted(GRIDS)), st.sampled_from(AXIS_ORDERS)
shapes = st.sampled_from([(4, 5, 6), (5, 5, 5), (4, 4, 6), (7, 1, 3), (1, 1, 4)])


def image_of(grid, shape, origin=(-70.0, 33.0, 250.0)):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    return nib.Nifti1Image(array, nib.affines.from_matvec(GRIDS[grid], origin))


def scan_of(image):
    array = np.array(image.dataobj)
    return Scan(array[None], Geometry(array.shape, image.affine), Path("seg.nii"))


@given(grids, axis_orders, shapes)
def test_all_48_axis_orders_of_nibabel_are_undone(grid, axes, shape):
    image = image_of(grid, shape)
    stored = scan_of(image.as_reoriented(axes))
    found = reoriented(stored, scan_of(image).geometry)
    np.testing.assert_array_equal(found.array[0], np.asarray(image.dataobj))
    assert found.geometry.shape == shape
    np.testing.assert_allclose(found.geometry.corners, scan_of(image).geometry.corners, atol=1e-9)
    assert min(found.array[0].strides) > 0


@given(grids, axis_orders, axis_orders)
def test_any_two_axis_orders_of_one_grid_match(grid, first, second):
    image = image_of(grid, (4, 5, 6))
    one, two = image.as_reoriented(first), image.as_reoriented(second)
    np.testing.assert_array_equal(reoriented(scan_of(one), scan_of(two).geometry).array[0], np.asarray(two.dataobj))


@given(grids, axis_orders, st.sampled_from(range(3)), st.sampled_from([-0.5, 0.5, 1.0]))
def test_shifted_grids_are_not_reoriented(grid, axes, axis, voxels):
    image = image_of(grid, (5, 5, 5))
    shifted = image.affine.copy()
    shifted[:3, 3] += voxels * shifted[:3, axis]
    label, target = scan_of(image.as_reoriented(axes)), Geometry((5, 5, 5), shifted)
    assert axis_change(label.geometry, target) is None
    assert reoriented(label, target) is label
    (message,) = pair_problems(Scan(label.array, target, Path("ct.nii")), label)
    assert "affines that put corner voxels up to" in message
    assert "Look at both in a viewer first" in message


@pytest.mark.parametrize("scaling", [(2, 1, 1), (1, 1, 1.02), (1, 0.5, 1)])
def test_other_spacing_is_not_reoriented(scaling):
    image = image_of("oblique", (6, 6, 6))
    other = Geometry((6, 6, 6), image.affine @ np.diag([*scaling, 1.0]))
    flipped = scan_of(image.as_reoriented(AXIS_ORDERS[7]))
    assert axis_change(flipped.geometry, other) is None


@pytest.mark.parametrize(
    "affine", [np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), np.full((4, 4), np.nan)]
)
def test_invalid_affines_are_not_reoriented(affine):
    good = Geometry((3, 3, 3), np.diag([-1.0, 1, 1, 1]))
    assert axis_change(good, Geometry((3, 3, 3), affine)) is None
    assert axis_change(Geometry((3, 3, 3), affine), good) is None


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAI", "PIR", "SAL", "IPR"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_reoriented_by_simpleitk(tmp_path, orientation, suffix):
    image = image_of("oblique", (6, 7, 8))
    path = write_nifti(tmp_path / "ct.nii.gz", np.asarray(image.dataobj), image.affine)
    stored = tmp_path / f"label{suffix}"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), orientation), str(stored))
    ct = read_scan(path)
    label = read_labels(stored, grid=ct.geometry)
    np.testing.assert_array_equal(label.array[0], np.asarray(image.dataobj))
    assert list(pair_problems(ct, label)) == []
    assert read_labels(stored).array.shape == read_scan(stored).array.shape


@given(st.sampled_from(AXIS_ORDERS))
def test_rounded_qform_is_accepted_after_reorientation(axes):
    """The first voxel of a file stays in place when its rotation is rounded; it may be any corner of the image."""
    shape = (512, 512, 120)
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.002, 0.001, 3.1403) @ np.diag([0.39, 0.39, 0.625]))
    image = Geometry(shape, affine)
    stored = axis_change_of(axes).of_geometry(image)
    header = nib.Nifti1Header()
    header.set_data_shape(stored.shape)
    header.set_qform(stored.affine, 1)
    rounded = Geometry(stored.shape, header.get_qform())
    change = axis_change(rounded, image)
    assert change is not None
    shifted = rounded.affine.copy()
    shifted[:3, 3] += 0.5 * shifted[:3, 0]
    assert axis_change(Geometry(stored.shape, shifted), image) is None


def axis_change_of(axes):
    ct = Geometry((2, 3, 4), np.eye(4))
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)).as_reoriented(axes)
    found = axis_change(ct, Geometry(image.shape, image.affine))
    assert found is not None
    return found


def test_reversed_arrays_get_their_own_advice():
    image = scan_of(image_of("straight", (4, 5, 6)))
    array = image.array[0].transpose(2, 1, 0)[None]
    (message,) = pair_problems(image, Scan(array, Geometry((6, 5, 4), np.eye(4)), Path("seg.nii")))
    assert "Its axes seem to be reversed, as in arrays (z, y, x) of SimpleITK" in message


def test_channels_of_a_case_may_have_other_axes(tmp_path):
    image = image_of("sheared", (4, 5, 6))
    other = image.as_reoriented(AXIS_ORDERS[29])
    paths = [
        write_nifti(tmp_path / f"a_000{number}.nii", np.asarray(one.dataobj), one.affine)
        for number, one in enumerate((image, other))
    ]
    scan = read_scan(paths)
    np.testing.assert_array_equal(scan.array[0], scan.array[1])
    np.testing.assert_allclose(scan.geometry.affine, image.affine, atol=1e-4)
    other.affine[0, 3] += 0.5
    write_nifti(paths[1], np.asarray(other.dataobj), other.affine)
    with pytest.raises(DataError, match="Resample all channels of a case to the same grid"):
        read_scan(paths)
