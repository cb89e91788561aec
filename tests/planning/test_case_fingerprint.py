"""Fingerprints of tiny volumes, worked by hand."""

import nibabel as nib
import numpy as np
import pytest

from segbundle.datasets.case import Case
from segbundle.errors import DataError
from segbundle.planning.case_fingerprint import measure_case
from tiny import write_nifti

NAMES = ["background", "a", "b"]


def case_of(folder, image, label, affine=None, name="x"):
    paths = [write_nifti(folder / f"{name}_{channel}.nii", each, affine) for channel, each in enumerate(image)]
    return Case(name, tuple(paths), write_nifti(folder / f"{name}_seg.nii", label, affine))


def test_values_of_a_tiny_case(tmp_path):
    image, label = np.zeros((4, 3, 2), np.int16), np.zeros((4, 3, 2), np.uint8)
    image[1:3, 1, 0] = (10, 30)
    label[1:3, 1, 0] = (1, 2)
    label[0, 0, 1] = 2
    found = measure_case(case_of(tmp_path, [image], label, np.diag([2.0, 1.0, 5.0, 1.0])), NAMES)
    assert (found.shape, found.spacing, found.orientation, found.dtype) == ((4, 3, 2), (2, 1, 5), "RAS", "int16")
    assert (found.nonzero, found.cropped) == (2 / 24, 1 - 2 / 24)
    assert (found.minimum, found.maximum) == ((0,), (30,))
    assert sorted(found.samples[0]) == [0, 10, 30]
    assert found.voxels == {0: 21, 1: 1, 2: 2} and found.voxel_ml == 0.01


def test_axes_are_in_the_order_of_ras(tmp_path):
    image = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    affine = np.array([[0, 0, 5.0, 0], [-2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    found = measure_case(case_of(tmp_path, [image], (image > 20).astype(np.uint8), affine), NAMES)
    assert (found.orientation, found.shape, found.spacing) == ("PSR", (2, 4, 3), (5, 2, 1))


def test_channels_are_sampled_at_the_same_voxels(tmp_path):
    image = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    found = measure_case(case_of(tmp_path, [image, image + 1], np.ones((20, 20, 20), np.uint8)), NAMES)
    assert found.channels == 2 and len(found.samples[0]) == 1000
    assert [value + 1 for value in found.samples[0]] == list(found.samples[1])
    assert found == measure_case(case_of(tmp_path, [image, image + 1], np.ones((20, 20, 20), np.uint8)), NAMES)


def test_unknown_voxels_are_not_sampled(tmp_path):
    image = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    label = np.full((2, 2, 2), 9, np.uint8)
    label[0, 0, 1] = 1
    assert measure_case(case_of(tmp_path, [image], label), NAMES, ignore_label=9).samples == ((1.0,),)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((2, 2, 2)), np.ones((2, 2, 2)), "x_0.nii: every voxel of channel 0 is 0; replace the file"),
        (np.full((2, 2, 2), np.nan), np.ones((2, 2, 2)), "x_0.nii: contains 8 NaN or Inf voxel"),
        (np.eye(8).reshape(4, 4, 4), np.full((4, 4, 4), 7), r"x_seg.nii: contains label value\(s\) \[7\], but the 3"),
        (np.eye(8).reshape(4, 4, 4), np.ones((4, 4, 2)), "Resample the label map"),
    ],
)
def test_unusable_cases_are_named_with_a_fix(tmp_path, image, label, message):
    with pytest.raises(DataError, match=message):
        measure_case(case_of(tmp_path, [image.astype(np.float32)], label.astype(np.uint8)), NAMES)


def test_case_with_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        measure_case(Case("a", (tmp_path / "a.nii",), tmp_path / "b.nii"), NAMES)


def test_spacing_is_that_of_the_header(tmp_path):
    image = nib.Nifti1Image(np.arange(8.0).reshape(2, 2, 2), np.diag([0.7, 0.7, 3.3, 1]))
    nib.save(image, tmp_path / "a.nii")
    found = measure_case(Case("a", (tmp_path / "a.nii",), write_nifti(
        tmp_path / "s.nii", np.ones((2, 2, 2), np.uint8), np.diag([0.7, 0.7, 3.3, 1]))), NAMES)  # fmt: skip
    assert found.spacing == (0.7, 0.7, 3.3)
