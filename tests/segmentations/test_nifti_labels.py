import gzip
import json
import struct
import xml.etree.ElementTree as ElementTree

import nibabel as nib
import numpy as np
import pytest

from segbundle.io.scans import read_scan, write_segmentation
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.nifti_labels import label_extensions, write_nifti_labels

TABLE = class_table(["background", "liver", "a & <b> ]]> ü"], {"liver": "#ff0080"})
SHEARED = np.array([[0.9, 0.1, 0, -10], [0, 0.8, 0.2, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])


@pytest.fixture
def labels():
    return np.asfortranarray(np.random.default_rng(0).integers(0, 3, (5, 4, 3)).astype(np.uint8))


def load_as_total_segmentator(path):
    """Read names like `load_multilabel_nifti` of TotalSegmentator: the content of the first extension."""
    root = ElementTree.fromstring(nib.load(path).header.extensions[0].get_content())
    return {int(label.get("Key")): label.text for label in root.findall("VolumeInformation/LabelTable/Label")}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_extension_changes_no_voxel_and_no_geometry(tmp_path, labels, suffix, kind):
    scan = tmp_path / f"ct{suffix}"
    nib.save(kind(np.zeros(labels.shape, np.int16), SHEARED), scan)
    write_segmentation(labels, scan, tmp_path / f"plain{suffix}")
    write_nifti_labels(labels, scan, tmp_path / f"named{suffix}", TABLE)
    plain, named = (nib.load(tmp_path / f"{name}{suffix}") for name in ("plain", "named"))
    np.testing.assert_array_equal(np.asarray(named.dataobj), labels)
    assert plain.header.binaryblock == named.header.binaryblock  # nibabel sets vox_offset to 0 in both
    np.testing.assert_array_equal(read_scan(tmp_path / f"named{suffix}", None).array[0], labels)


def test_table_is_stored_for_total_segmentator_and_workbench(tmp_path, labels):
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.int16), np.eye(4)), tmp_path / "ct.nii")
    write_nifti_labels(labels, tmp_path / "ct.nii", tmp_path / "ct_seg.nii.gz", TABLE)
    content = gzip.decompress((tmp_path / "ct_seg.nii.gz").read_bytes())
    assert content[348:352] == b"\x01\0\0\0"
    size, code = struct.unpack("<ii", content[352:360])
    assert code == 0 and size % 16 == 0 and struct.unpack("<f", content[108:112])[0] == 352 + 2 * size
    assert struct.unpack("<ii", content[352 + size : 360 + size]) == (size, 30)
    assert content[360 : 352 + size] == content[360 + size : 352 + 2 * size]


def test_names_colors_and_label_values_are_read_back(tmp_path, labels):
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.int16), np.eye(4)), tmp_path / "ct.nii")
    write_nifti_labels(labels, tmp_path / "ct.nii", tmp_path / "ct_seg.nii.gz", TABLE)
    assert load_as_total_segmentator(tmp_path / "ct_seg.nii.gz") == {1: "liver", 2: "a & <b> ]]> ü"}
    root = ElementTree.fromstring(nib.load(tmp_path / "ct_seg.nii.gz").header.extensions[0].get_content())
    first = root.find("VolumeInformation/LabelTable/Label")
    assert [round(float(first.get(key)) * 255) for key in ("Red", "Green", "Blue", "Alpha")] == [255, 0, 128, 255]
    assert root.find("VolumeInformation/VolumeType").text == "Label"
    assert json.loads((tmp_path / "ct_seg.json").read_text("utf-8"))[0] == {
        "label": 1, "name": "liver", "color": "#ff0080",
        "code": {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
    }  # fmt: skip


def test_same_labels_give_the_same_bytes(tmp_path, labels):
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.int16), np.eye(4)), tmp_path / "ct.nii")
    for name in ("a_seg.nii.gz", "b_seg.nii.gz"):
        write_nifti_labels(labels, tmp_path / "ct.nii", tmp_path / name, TABLE)
    assert (tmp_path / "a_seg.nii.gz").read_bytes() == (tmp_path / "b_seg.nii.gz").read_bytes()


def test_control_characters_are_left_out():
    table = class_table(["background", "li\x01ver"])
    assert ElementTree.fromstring(label_extensions(table)[0].get_content()).find(".//Label").text == "liver"
