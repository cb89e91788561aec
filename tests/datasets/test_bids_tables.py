"""Names of label values in `dseg.tsv`, and images in `Sources` of BIDS derivatives."""

import json

import numpy as np
import pytest

from segbundle.cli.check import print_check
from segbundle.cli.convert import convert
from segbundle.datasets.cases import load_cases
from segbundle.datasets.datalist import labeled_data
from segbundle.datasets.label_names import described_labels
from segbundle.errors import DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.label_tables import find_label_table
from segbundle.segmentations.file_classes import classes_in_file
from tiny import write_empty_scans, write_nifti

TABLE = (
    "index\tname\tabbreviation\tcolor\tmapping\n0\tUnknown\tn/a\t#000000\t0\n"
    "17\tLeft-Hippocampus\tLH\t#dcd814\t1\n53\tlesion\tn/a\tn/a\tn/a\n"
)
IMAGE, LABEL = "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/m/sub-01/anat/sub-01_dseg.nii.gz"
CLASSES = ["background", "lesion", "left hippocampus"]


@pytest.fixture
def data(tmp_path):
    """Return a BIDS dataset with one case whose label map has the values 0, 17 and 53."""
    root = tmp_path / "data"
    for name in (IMAGE, LABEL):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text("{}")
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[0], labels[1] = 17, 53
    write_nifti(root / LABEL, labels)
    write_nifti(root / IMAGE, labels.astype(np.float32))
    return root


def table(folder, text=TABLE, name="dseg.tsv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "folder", [".", "derivatives", "derivatives/m", "derivatives/m/sub-01", "derivatives/m/sub-01/anat"]
)
def test_table_is_found_in_every_folder_above(data, folder):
    path = table(data / folder)
    table(data.parent, "index\tname\n1\tother\n")
    assert find_label_table(data / LABEL).samefile(path)
    assert described_labels(data).class_names == ["background", "Left-Hippocampus", "lesion"]


def test_nearest_table_with_most_entities_applies(data):
    table(data)
    anat = (data / LABEL).parent
    table(anat, name="dseg.tsv")
    best = table(anat, name="sub-01_dseg.tsv")
    table(anat, name="sub-02_dseg.tsv")
    table(anat, name="desc-other_dseg.tsv")
    assert find_label_table(data / LABEL) == best
    assert find_label_table(data / IMAGE) is None


def test_values_are_matched_with_the_classes_by_name(data):
    table(data)
    found = read_labels(data / LABEL, CLASSES).array
    assert (found[0, 0] == 2).all() and (found[0, 1] == 1).all() and not found[0, 2:].any()
    assert labeled_data(data, CLASSES)[0]["annotated"] == [True, True, True]
    assert set(np.unique(read_labels(data / LABEL).array)) == {0, 17, 53}


def test_check_takes_the_classes_of_the_table(data, capsys):
    table(data)
    assert print_check(data, [])
    assert "Classes: background, Left-Hippocampus, lesion." in capsys.readouterr().out


def test_conversion_keeps_names_and_colors(data, tmp_path):
    table(data)
    written = convert(data / LABEL, tmp_path / "a.seg.nrrd")
    assert "2 classes: Left-Hippocampus, lesion" in written
    assert classes_in_file(tmp_path / "a.seg.nrrd")[0].color == (0xDC, 0xD8, 0x14)
    assert set(np.unique(read_labels(tmp_path / "a.seg.nrrd").array)) == {0, 1, 2}


def test_ignored_voxels_keep_their_value(data):
    table(data, "index\tname\n17\tlesion\n53\tignore\n")
    assert described_labels(data).ignore_label == 53
    assert set(np.unique(read_labels(data / LABEL, ["background", "lesion"]).array)) == {0, 1, 53}
    table(data, "index\tname\n17\tlesion\n1\tignore\n")
    with pytest.raises(DataError, match=r"dseg.tsv: `ignore` has the index 1, which is the label value of a class"):
        read_labels(data / LABEL, ["background", "lesion"])


def test_explicit_labels_take_precedence(data, tmp_path):
    table(data)
    path = tmp_path / "choice.json"
    path.write_text(json.dumps({"dataroot": "data", "labels": {"background": 0, "a": 1}, "bids": {}}))
    assert described_labels(path).class_names == ["background", "a"]
    assert set(np.unique(read_labels(data / LABEL, ["background", "a"]).array)) == {0, 17, 53}


def test_classes_that_no_table_names_are_refused(data):
    table(data)
    with pytest.raises(DataError, match=r"its dseg.tsv names the classes .* but not 'spleen' of the task"):
        labeled_data(data, ["background", "lesion", "spleen"])
    with pytest.raises(DataError, match=r"label value 17, named 'Left-Hippocampus' in .*dseg.tsv"):
        read_labels(data / LABEL, ["background", "lesion"])
    table(data, "index\tname\n53\tlesion\n")
    with pytest.raises(DataError, match=r"label value 17, without a name in .*dseg.tsv"):
        read_labels(data / LABEL, ["background", "lesion"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no columns"),
        (b"index,name\n1,a\n", "has no columns"),
        (b"index\tname\n1\tM\xfcller\n", "is not UTF-8 text"),
        (b"index\tname\n1.5\ta\n", "row 2 has the index '1.5'"),
        (b"index\tname\n1\tn/a\n", "row 2 has the index '1' and the name 'n/a'"),
        (b"index\tname\n1\ta\n1\tb\n", "has the index 1 twice"),
        (b"name\tindex\na\n", "row 2 has the index ''"),
    ],
)
def test_malformed_tables_are_refused_by_name(data, content, message):
    (data / "dseg.tsv").write_bytes(content)
    with pytest.raises(DataError, match=rf"data/dseg\.tsv: {message}"):
        described_labels(data)


class TestSources:
    @pytest.fixture
    def two(self, tmp_path):
        """Return a dataset whose label map fits two images."""
        label = "derivatives/m/sub-01/anat/sub-01_dseg.nii.gz"
        write_empty_scans(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz", label)
        return tmp_path, (tmp_path / label).with_name("sub-01_dseg.json")

    @pytest.mark.parametrize(
        "sources",
        [
            ["bids::sub-01/anat/sub-01_FLAIR.nii.gz"],
            ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz", "bids::other.txt"],
            "anat/sub-01_FLAIR.nii.gz",
            ["../../sub-01/anat/sub-01_FLAIR.nii.gz"],
        ],
    )
    def test_image_is_the_source_of_the_label_map(self, two, sources):
        root, file = two
        with pytest.raises(DataError, match="fits 2 images"):
            load_cases(root)
        file.write_text(json.dumps({"Sources": sources}))
        (case,) = [case for case in load_cases(root) if case.label]
        assert case.image[0].name == "sub-01_FLAIR.nii.gz"

    @pytest.mark.parametrize(
        "text", ["{", "[1]", '{"Sources": 7}', '{"Sources": ["bids::sub-01/anat/none.nii"]}', "\udcff"]
    )
    def test_other_content_leaves_the_choice_to_the_user(self, two, text):
        root, file = two
        file.write_text(text, errors="surrogateescape")
        with pytest.raises(DataError, match="fits 2 images"):
            load_cases(root)
