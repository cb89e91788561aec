"""Label maps stored as floating point: values near integers are rounded, other values raise."""

import nibabel as nib
import numpy as np
import pytest

from segbundle.datasets.case_checks import pair_problems
from segbundle.datasets.cases import Case
from segbundle.datasets.dataset_check import examine_case
from segbundle.datasets.label_values import DatasetLabels
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_scan
from segbundle.transforms.before_network import LoadScand
from tiny import write_nifti

CLASSES = ["background", "ball", "cube"]


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)


def write_scaled(path, labels, dtype, slope):
    image = nib.Nifti1Image((labels / slope).round().astype(dtype), np.eye(4))
    image.header.set_slope_inter(slope, 0)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(("dtype", "slope"), [(np.uint8, 2 / 255), (np.int16, 2 / 32766), (np.uint16, 1 / 3)])
def test_scaled_labels_are_integers(tmp_path, labels, dtype, slope):
    path = write_scaled(tmp_path / "a.nii", labels, dtype, slope)
    if dtype == np.uint8:
        labels = np.where(labels == 1, 0, labels)  # 127.5 is not stored
        path = write_scaled(tmp_path / "a.nii", labels, dtype, slope)
    found = read_labels(path).array
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found[0], labels)


@pytest.mark.parametrize("factor", [0.9999999, 1.0000001, 0.9996, 1.0004])
def test_values_near_integers_are_rounded(tmp_path, labels, factor):
    path = write_nifti(tmp_path / "a.nii", (labels * np.float32(factor)).astype(np.float32))
    image = write_nifti(tmp_path / "i.nii", labels.astype(np.float32))
    loaded = LoadScand(CLASSES, 1, label=True)({"image": str(image), "label": str(path)})
    np.testing.assert_array_equal(loaded["label"].numpy()[0], labels)
    problems, values = examine_case(Case("a", (image,), path), DatasetLabels(CLASSES), 1)
    assert (problems, values) == ([], {0, 1, 2})


@pytest.mark.parametrize("spoilt", [0.5, 0.99, 1.002, np.nan, np.inf, 3e9])
def test_non_integer_labels_raise(tmp_path, labels, spoilt):
    array = labels.astype(np.float32)
    array[2, 3, 4] = spoilt
    image, path = write_nifti(tmp_path / "i.nii", labels), write_nifti(tmp_path / "a.nii", array)
    problems, _ = examine_case(Case("a", (image,), path), DatasetLabels(CLASSES), 1)
    assert len(problems) == 1
    assert (
        "a.nii: label values must be integers" in problems[0] or "contains label value(s) [3000000000]" in problems[0]
    )


def test_geometry_mismatch_message_advises_both_fixes(tmp_path, labels):
    """For equal shapes, the header may be wrong, and resampling would empty the label map."""
    image = read_scan(write_nifti(tmp_path / "i.nii", labels, np.diag([-0.8, -0.8, 2.5, 1])))
    lost = read_scan(write_nifti(tmp_path / "lost.nii", labels))
    (message,) = pair_problems(image, lost)
    assert "Look at both in a viewer first" in message
    words = f"{tmp_path / 'lost.nii'} aligned/lost.nii.gz {{}} {tmp_path / 'i.nii'}`"
    assert f"copy the image's geometry to it: `segbundle convert {words.format('--copy_geometry')}." in message
    assert (
        f"Otherwise, resample the label map onto the image's grid: `segbundle convert {words.format('--like')}"
        in message
    )
    smaller = read_scan(write_nifti(tmp_path / "smaller.nii", labels[1:], np.diag([-0.8, -0.8, 2.5, 1])))
    (message,) = pair_problems(image, smaller)
    assert "shape (5, 6, 7) against (4, 6, 7)" in message
    assert "--copy_geometry" not in message and words.format("--like").replace("lost", "smaller") in message
