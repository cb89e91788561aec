import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from segbundle.errors import DataError
from segbundle.io.scans import read_scan
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.seg_nrrd import write_seg_nrrd

NAMES = ["background", "kidney_left", "kidney_cyst_right", "my | class ~ ^ \\ n"]
TABLE = class_table(NAMES, {"kidney_left": "#ff0080"})
SHEARED = np.array([[0.9, 0.1, 0, -10], [0, 0.8, 0.2, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])


@pytest.fixture
def written(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (5, 4, 3)).astype(np.uint8)
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.int16), SHEARED), tmp_path / "ct.nii")
    write_seg_nrrd(labels, tmp_path / "ct.nii", tmp_path / "ct.seg.nrrd", TABLE)
    return tmp_path / "ct.seg.nrrd", labels


def test_slicerio_reads_voxels_names_colors_and_codes(written):
    path, labels = written
    found = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(found["voxels"], labels)
    np.testing.assert_allclose(found["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ SHEARED)
    assert [segment["name"] for segment in found["segments"]] == [*NAMES[1:3], "my | class ~ ^ \\\\ n"]
    assert [segment["labelValue"] for segment in found["segments"]] == [1, 2, 3]
    assert found["segments"][0]["color"] == [1.0, 0.0, 0.501961]
    kidney, cyst, own = (segment["terminology"] for segment in found["segments"])
    assert kidney["type"] == ["SCT", "64033007", "Kidney"] and kidney["typeModifier"] == ["SCT", "7771000", "Left"]
    assert cyst["anatomicRegion"][1] == "64033007" and cyst["anatomicRegionModifier"][2] == "Right"
    assert own["type"][0] == "99SEGBUNDLE"
    assert found["masterRepresentation"] == "Binary labelmap"


def test_pynrrd_and_simpleitk_read_the_same_voxels(written):
    path, labels = written
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(array, labels)
    assert header["space"] == "left-posterior-superior" and header["encoding"] == "gzip"
    assert header["Segment2_LabelValue"] == "3" and header["Segment0_Extent"] == "0 4 0 3 0 2"
    nib.save(nib.Nifti1Image(labels, np.diag([1.0, 2.0, 3.0, 1.0])), path.parent / "straight.nii")
    straight = path.parent / "straight.seg.nrrd"
    write_seg_nrrd(labels, path.parent / "straight.nii", straight, TABLE)
    image = sitk.ReadImage(str(straight))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, labels)
    assert image.GetMetaData("Segment2_Name") == NAMES[3]


def test_our_reader_finds_the_grid_of_the_scan(written):
    path, labels = written
    scan = read_scan(path, None)
    np.testing.assert_array_equal(scan.array[0], labels)
    np.testing.assert_allclose(scan.geometry.affine, SHEARED)


def test_other_shape_is_refused(written):
    path, labels = written
    with pytest.raises(DataError, match="but its label map has"):
        write_seg_nrrd(labels[1:], path.parent / "ct.nii", path, TABLE)
