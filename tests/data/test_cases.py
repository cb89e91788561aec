"""Which scans there are, from every layout a dataset may have."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbundle.data import find_scans, fold_names, labelled_data, load_cases, read_scan
from segbundle.data.description import described_labels
from segbundle.errors import ConfigError, DataError
from tiny import TINY_CLASSES, write_nifti, write_tiny_dataset

VOXELS = np.zeros((2, 2, 2), np.uint8)


def touch(folder, *names):
    for name in names:
        write_nifti(folder / name, VOXELS)


def describe(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_decathlon(tiny_dataset):
    cases = load_cases(tiny_dataset)
    assert [case.name for case in cases] == [f"case_{i:02d}" for i in range(6)]
    assert cases[0].label == tiny_dataset / "labelsTr" / "case_00.nii.gz"
    assert cases[0].annotated is None
    assert described_labels(tiny_dataset).class_names == TINY_CLASSES


def test_plain_folders(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    cases = load_cases(tmp_path)
    assert [(c.name, c.image[0].name, c.label.name) for c in cases] == [
        ("a", "a.nii.gz", "a.nii.gz"),
        ("b", "b.nii.gz", "b.nii.gz"),
    ]


def test_nnunet_raw(tmp_path):
    describe(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "liver": 1}, file_ending=".mha")
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    (case,) = load_cases(tmp_path)
    assert case.name == "a"
    assert [path.name for path in case.image] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert described_labels(tmp_path).class_names == ["background", "liver"]
    (item,) = labelled_data(tmp_path, ["background", "liver"])
    assert len(item["image"]) == 2


def test_four_digits_in_a_name_are_not_a_channel_when_the_label_has_them_too(tmp_path):
    touch(tmp_path, "imagesTr/scan_0001.nii.gz", "labelsTr/scan_0001.nii.gz")
    assert load_cases(tmp_path)[0].name == "scan_0001"


def test_annotated_becomes_a_mask(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "annotated": ["cube"]}
    describe(tmp_path, training=[entry])
    assert labelled_data(tmp_path, TINY_CLASSES)[0]["annotated"] == [True, False, True]


def test_a_class_that_does_not_exist_in_annotated_is_named_with_its_case(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "annotated": ["cub"]}
    describe(tmp_path, training=[entry])
    with pytest.raises(DataError, match=r"case a: .*'cub': did you mean 'cube'"):
        labelled_data(tmp_path, TINY_CLASSES)


def test_class_names_that_contradict_the_dataset_are_refused(tiny_dataset):
    with pytest.raises(DataError, match=r"dataset\.json: its labels are .*'ball'.* class_names"):
        labelled_data(tiny_dataset, ["background", "cube", "ball"])
    assert len(labelled_data(tiny_dataset, ["Background", "Ball", "Cube"])) == 6


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"background": 0, "whole": [1, 2]}, "regions"), ({"0": "background", "2": "liver"}, "without a gap")],
)
def test_labels_that_are_no_class_indices_are_refused(tmp_path, labels, message):
    describe(tmp_path, labels=labels)
    with pytest.raises(DataError, match=message):
        described_labels(tmp_path)


def test_missing_folder_empty_dataset_and_broken_json(tmp_path):
    with pytest.raises(DataError, match="no such folder; set dataset_dir"):
        load_cases(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no case under 'training'"):
        load_cases(tmp_path)
    describe(tmp_path, training=[])
    with pytest.raises(DataError, match="has no case under 'training'"):
        load_cases(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read as JSON"):
        load_cases(tmp_path)


def test_unlabelled_cases_cannot_be_trained_on(tmp_path):
    describe(tmp_path, training=["imagesTr/a.nii.gz"])
    with pytest.raises(DataError, match="no case under 'training' has a label map"):
        labelled_data(tmp_path, TINY_CLASSES)


def test_a_name_that_is_no_text_is_told(tmp_path):
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.nii.gz")).touch()
    with pytest.raises(DataError, match=r"gr\\udcf6\\udcdfe\.nii\.gz: its name is not in UTF-8; rename it\."):
        find_scans(tmp_path)


def test_two_cases_with_one_name(tmp_path):
    describe(tmp_path, training=[{"image": "x/a.nii.gz", "label": "l.nii"}, {"image": "y/a.nii.gz", "label": "m.nii"}])
    with pytest.raises(DataError, match=r"two cases are named 'a'.*x/a\.nii\.gz.*y/a\.nii\.gz"):
        load_cases(tmp_path)
    touch(tmp_path, "x/a.nii.gz", "y/a.nii.gz", "z/imagesTr/a.nii.gz", "z/imagesTr/a.nii", "z/labelsTr/a.nii.gz")
    with pytest.raises(DataError, match="two cases are named 'a'"):
        load_cases(tmp_path / "z")
    with pytest.raises(DataError, match="two cases are named 'a'"):
        find_scans([tmp_path / "x", tmp_path / "y"])


def test_a_label_without_image_is_a_case_whose_image_is_missing(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/b.nii.gz")
    a, b = load_cases(tmp_path)
    assert (a.name, a.label) == ("a", None)
    assert b.image == (tmp_path / "imagesTr" / "b.nii.gz",)
    assert not b.image[0].exists()


def test_a_missing_channel_keeps_its_place(tmp_path):
    touch(tmp_path, "imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz", "labelsTr/a.nii.gz")
    (case,) = load_cases(tmp_path)
    assert [path.name for path in case.image] == ["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"]
    with pytest.raises(DataError, match=r"a_0000\.nii\.gz: no such file"):
        read_scan(case.image)


def test_unlabelled_nnunet_test_cases(tmp_path):
    describe(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "liver": 1}, file_ending=".mha")
    touch(tmp_path, "imagesTs/b_0000.nii.gz", "imagesTs/b_0001.nii.gz")
    (case,) = load_cases(tmp_path, "test")
    assert (case.name, len(case.image)) == ("b", 2)


def test_a_misspelt_list_is_not_replaced_by_another(tiny_dataset, tmp_path):
    with pytest.raises(ConfigError, match="no list 'tests': did you mean 'test'"):
        load_cases(tiny_dataset, "tests")
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(ConfigError, match="no list 'trainin': did you mean 'training'"):
        load_cases(tmp_path, "trainin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": None}, "has no case under 'training'"),
        ({"training": [{"image": "a.nii", "annotated": "ball"}]}, "`annotated` must be a list"),
        ({"training": [{"label": "a.nii"}]}, "has no `image`"),
    ],
)
def test_malformed_entries(tmp_path, content, message):
    describe(tmp_path, **content)
    with pytest.raises(DataError, match=message):
        load_cases(tmp_path)


def test_folds_hold_every_case_out_once(tiny_dataset):
    def names(section, fold):
        return [e["case"] for e in labelled_data(tiny_dataset, TINY_CLASSES, section, fold, num_folds=3, split_seed=1)]

    held_out = [name for fold in range(3) for name in names("validation", fold)]
    assert sorted(held_out) == [f"case_{i:02d}" for i in range(6)]
    for fold in range(3):
        assert set(names("training", fold)).isdisjoint(names("validation", fold))
        assert len(names("training", fold)) == 4
    assert names("training", None) == names("all", 0) == sorted(held_out)


@given(st.sets(st.text(min_size=1, max_size=3), min_size=5, max_size=30), st.integers(2, 5), st.integers(0, 9))
def test_folds_are_a_partition_of_almost_equal_parts(names, num_folds, seed):
    folds = [fold_names(names, fold, num_folds, seed) for fold in range(num_folds)]
    assert set().union(*folds) == names
    assert sum(map(len, folds)) == len(names)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@pytest.mark.parametrize(("fold", "num_folds"), [(5, 5), (-1, 5), (0, 1), (0, 7)])
def test_impossible_folds(tiny_dataset, fold, num_folds):
    with pytest.raises(ConfigError, match="fold"):
        labelled_data(tiny_dataset, TINY_CLASSES, "validation", fold, num_folds)


class TestFindScans:
    def names(self, *args, **kwargs):
        return [entry["case"] for entry in find_scans(*args, **kwargs)]

    def test_file_folder_tree_and_list(self, tmp_path):
        touch(tmp_path, "a.nii.gz", "deep/er/b.nii", "deep/c.nii.gz", ".hidden.nii.gz")
        (tmp_path / "notes.txt").write_text("no scan")
        assert self.names(tmp_path / "a.nii.gz") == ["a"]
        assert self.names(str(tmp_path)) == ["a", "b", "c"]
        assert self.names([tmp_path / "a.nii.gz", tmp_path / "deep"]) == ["a", "b", "c"]

    def test_the_test_list_of_a_dataset(self, tmp_path):
        assert self.names(write_tiny_dataset(tmp_path / "d", 2, 2)) == ["test_00", "test_01"]
        assert self.names(write_tiny_dataset(tmp_path / "e", 2, 0)) == ["case_00", "case_01"]

    def test_channels(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
        assert self.names(tmp_path, num_channels=2) == ["a", "b"]
        assert len(self.names(tmp_path, num_channels=1)) == 4

    def test_an_incomplete_case_leaves_the_others_alone(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
        a, b = find_scans(tmp_path, num_channels=2)
        assert [Path(path).name for path in a["image"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
        assert [Path(path).name for path in b["image"]] == ["b_0000.nii.gz", "b_0001.nii.gz"]
        assert not Path(b["image"][1]).exists()

    def test_one_channel_with_nnunets_ending(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
        assert self.names(tmp_path) == ["a", "b"]

    def test_the_same_channel_twice(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "a_0000.nii", "a_0001.nii.gz")
        with pytest.raises(DataError, match=r"a_0000\.nii and .*a_0000\.nii\.gz: are the same channel"):
            find_scans(tmp_path, num_channels=2)

    def test_label_maps_written_beside_their_scans_are_no_scans(self, tmp_path):
        touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_seg.nii.gz")
        assert self.names(tmp_path) == ["a", "b_seg"]
        (tmp_path / "predictions.json").write_text("[]")
        assert self.names(tmp_path) == ["a"]

    def test_a_single_dicom_slice_is_no_scan(self, tmp_path):
        (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM")
        with pytest.raises(DataError, match=r"1\.dcm: is one slice of a DICOM series; name its folder"):
            find_scans(tmp_path / "1.dcm")

    def test_dicom_folders_are_named_after_their_way(self, tmp_path):
        for folder in ("p1/CT", "p2/CT", "flat"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "1.dcm").write_bytes(bytes(128) + b"DICM")
        (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        assert self.names(tmp_path) == ["flat", "p1_CT", "p2_CT"]
        assert self.names(tmp_path / "p1" / "CT") == ["CT"]

    def test_files_of_one_name_are_named_after_their_way(self, tmp_path):
        touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/mr.nii.gz", "ct.nii.gz", "p3/t_0000.nii", "p4/t_0000.nii")
        assert self.names(tmp_path) == ["ct", "mr", "p1_ct", "p2_ct", "p3_t", "p4_t"]
        assert self.names(tmp_path / "p1") == ["ct"]

    def test_names_that_stay_the_same(self, tmp_path):
        touch(tmp_path, "ct.nii.gz", "ct.nii")
        with pytest.raises(DataError, match="two cases are named 'ct'"):
            find_scans(tmp_path)

    def test_no_scan(self, tmp_path):
        with pytest.raises(DataError, match="holds no scan"):
            find_scans(tmp_path)
        with pytest.raises(DataError, match="no such file or folder"):
            find_scans(tmp_path / "x")


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "ball", "2": "cube", "255": "ignore"},
        {"background": 0, "ball": 1, "cube": 2, "ignore": 3},
    ],
)
def test_a_label_called_ignore_is_no_class(tmp_path, labels):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    describe(tmp_path, labels=labels)
    value = 3 if "ignore" in labels else 255
    assert described_labels(tmp_path) == (TINY_CLASSES, value)
    assert labelled_data(tmp_path, TINY_CLASSES)[0]["ignore_label"] == value


def test_without_one_there_is_none(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert "ignore_label" not in labelled_data(tmp_path, TINY_CLASSES)[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annoted": ["cube"]}, "has 'annoted': did you mean 'annotated'"),
        ({"annotated": [1]}, "must be a list of class"),
    ],
)
def test_what_was_annotated_is_not_passed_over(tmp_path, entry, message):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    describe(tmp_path, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", **entry}])
    with pytest.raises(DataError, match=message):
        labelled_data(tmp_path, TINY_CLASSES)


def test_scans_are_found_in_a_dataset_whose_labels_cannot_be_trained_on(tmp_path):
    touch(tmp_path, "imagesTs/a.nii.gz")
    describe(tmp_path, labels={"background": 0, "whole": [1, 2]}, test=["imagesTs/a.nii.gz"])
    assert [scan["case"] for scan in find_scans(tmp_path)] == ["a"]
