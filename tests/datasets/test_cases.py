"""Cases of a dataset in each supported layout."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from dicoms import add_pixels, header, voxels, write_series
from segbundle.datasets.case import Case
from segbundle.datasets.cases import load_cases, refuse_cases
from segbundle.datasets.datalist import labeled_data
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.datasets.finding import find_scans
from segbundle.datasets.folds import fold_names
from segbundle.datasets.label_names import described_labels
from segbundle.errors import ConfigError, DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_scan
from tiny import TINY_CLASSES, write_description, write_empty_scans

VOXELS = np.zeros((2, 2, 2), np.uint8)


def test_decathlon(tiny_dataset):
    cases = load_cases(tiny_dataset)
    assert [case.name for case in cases] == [f"case_{i:02d}" for i in range(6)]
    assert cases[0].label == tiny_dataset / "labelsTr" / "case_00.nii.gz"
    assert cases[0].annotated is None
    assert described_labels(tiny_dataset).class_names == TINY_CLASSES


def test_plain_folders(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    cases = load_cases(tmp_path)
    assert [(c.name, c.image[0].name, c.label.name) for c in cases] == [
        ("a", "a.nii.gz", "a.nii.gz"),
        ("b", "b.nii.gz", "b.nii.gz"),
    ]


def test_nnunet_raw(tmp_path):
    write_description(
        tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "liver": 1}, file_ending=".mha"
    )
    write_empty_scans(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    (case,) = load_cases(tmp_path)
    assert case.name == "a"
    assert [path.name for path in case.image] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert described_labels(tmp_path).class_names == ["background", "liver"]
    (item,) = labeled_data(tmp_path, ["background", "liver"])
    assert len(item["image"]) == 2


def test_four_digits_in_label_names_are_not_channels(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/scan_0001.nii.gz", "labelsTr/scan_0001.nii.gz")
    assert load_cases(tmp_path)[0].name == "scan_0001"


def test_annotated_becomes_a_mask(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "annotated": ["cube"]}
    write_description(tmp_path, training=[entry])
    assert labeled_data(tmp_path, TINY_CLASSES)[0]["annotated"] == [True, False, True]


def test_unknown_class_in_annotated_names_the_case(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "annotated": ["cub"]}
    write_description(tmp_path, training=[entry])
    with pytest.raises(DataError, match=r"case a: .*'cub': did you mean 'cube'"):
        labeled_data(tmp_path, TINY_CLASSES)


def test_contradictory_class_names_raise(tiny_dataset):
    with pytest.raises(DataError, match=r"other label values of 2 classes \(ball is 1, not 2, cube is 2, not 1\)"):
        labeled_data(tiny_dataset, ["background", "cube", "ball"])
    with pytest.raises(
        DataError, match=r"class_names: 1 only in the dataset \(cube\), 1 only in class_names \(cuba\)\."
    ):
        labeled_data(tiny_dataset, ["background", "ball", "cuba"])
    names = ["background", "ball", "cube", *(f"rib_{number}" for number in range(115))]
    with pytest.raises(DataError, match=r": 115 only in class_names \(rib_0, .*, rib_4 and 110 more\)\. Correct"):
        labeled_data(tiny_dataset, names)
    assert len(labeled_data(tiny_dataset, ["Background", "Ball", "Cube"])) == 6


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2], "core": [2, 1]}, "whole and core have the same label values"),
        ({"background": 0, "whole": [1, 1]}, "whole contains a label value twice"),
        ({"background": 0, "whole": [0, 1]}, "whole contains the value 0, which belongs to the background"),
        ({"background": 0, "whole": []}, r"labels\.whole is \[\]"),
        ({"background": 0, "whole": [1, 2], "ignore": 2}, "gives `ignore` the value 2 of a class"),
        ({"background": 0, "liver": 1, "ignore": [3, 4]}, "gives `ignore` several values"),
    ],
)
def test_invalid_labels_raise(tmp_path, labels, message):
    write_description(tmp_path, labels=labels)
    with pytest.raises(DataError, match=message):
        described_labels(tmp_path)


@pytest.mark.parametrize(("count", "lines"), [(3, 3), (4, 2)])
def test_few_problems_are_listed_and_many_are_counted(count, lines):
    bad = [Case(f"c{n:02d}", (Path("a.nii"),), problems=(f"c{n:02d}.nii: no such file.",)) for n in range(count)]
    with pytest.raises(DataError) as caught:
        refuse_cases([*bad, Case("good", (Path("a.nii"),))])
    found = str(caught.value).splitlines()
    assert len(found) == lines and found[0] == "c00.nii: no such file."
    assert lines == 3 or found[1].startswith("4 of 5 cases cannot be used: c00, c01, c02, c03. ")


@pytest.mark.parametrize(("count", "end"), [(25, "c24. "), (26, "c24 and 1 more. ")])
def test_names_of_25_cases_are_shown(count, end):
    bad = [Case(f"c{n:02d}", (Path("a.nii"),), problems=("gone",)) for n in range(count)]
    with pytest.raises(DataError, match=end):
        refuse_cases(bad)


@pytest.mark.parametrize(
    ("value", "is_logged"),
    [([{"image": "a.nii"}], True), ([], False), ({"image": "a.nii"}, False), (["image"], False), ([{"x": 1}], False),
     ([{"x": 1}, {"image": "a.nii"}], False)],
)  # fmt: skip
def test_only_lists_of_images_are_logged_as_unused(tmp_path, caplog, value, is_logged):
    write_empty_scans(tmp_path, "a.nii", "b.nii")
    write_description(tmp_path, training=[{"image": "a.nii", "label": "b.nii"}], **{f"other_{is_logged}": value})
    load_cases(tmp_path)
    assert ("is not used; supported lists" in caplog.text) is is_logged


def test_missing_folder_empty_dataset_and_invalid_json(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; set dataset_dir"):
        load_cases(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: is a file, not a folder; set dataset_dir"):
        load_cases(tmp_path / "file")
    (tmp_path / "file").unlink()
    with pytest.raises(DataError, match="has no case under 'training'"):
        load_cases(tmp_path)
    write_description(tmp_path, training=[])
    with pytest.raises(DataError, match="has no case under 'training'"):
        load_cases(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: is not valid JSON"):
        load_cases(tmp_path)


def test_dataset_without_label_maps_raises(tmp_path):
    write_description(tmp_path, training=["imagesTr/a.nii.gz"])
    with pytest.raises(DataError, match="no case under 'training' has a label map"):
        labeled_data(tmp_path, TINY_CLASSES)


def test_non_utf8_name_raises(tmp_path):
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.nii.gz")).touch()
    with pytest.raises(DataError, match=r"gr\\udcf6\\udcdfe\.nii\.gz: its name is not in UTF-8; rename it\."):
        find_scans(tmp_path)


def test_duplicate_names_raise(tmp_path):
    write_description(
        tmp_path, training=[{"image": "x/a.nii.gz", "label": "l.nii"}, {"image": "x/a.nii", "label": "m.nii"}]
    )
    with pytest.raises(DataError, match=r"two cases are named 'a'.*x/a\.nii\.gz.*x/a\.nii"):
        load_cases(tmp_path)
    write_empty_scans(
        tmp_path, "x/a.nii.gz", "y/a.nii.gz", "z/imagesTr/a.nii.gz", "z/imagesTr/a.nii", "z/labelsTr/a.nii.gz"
    )
    with pytest.raises(DataError, match="two cases are named 'a'"):
        load_cases(tmp_path / "z")
    assert [scan["case"] for scan in find_scans([tmp_path / "x", tmp_path / "y"])] == ["x_a", "y_a"]


def test_equal_names_in_a_list_are_told_apart_by_folders(tmp_path):
    """KiTS names every image `imaging.nii.gz`, in a folder per case."""
    lists = {
        key: [{"image": f"{folder}/imaging.nii.gz", "label": f"{folder}/segmentation.nii.gz"} for folder in folders]
        for key, folders in {"training": ["t/c1", "t/c2"], "validation": ["v/c1", "./d/v/c3"], "test": ["t/c1"]}.items()
    }
    lists["training"].append({"image": "other.nii.gz"})
    write_description(tmp_path, **lists)
    names = {key: [case.name for case in load_cases(tmp_path, key)] for key in lists}
    assert names == {
        "training": ["other", "t_c1_imaging", "t_c2_imaging"],
        "validation": ["v_c1_imaging", "v_c3_imaging"],
        "test": ["imaging"],
    }


def test_label_map_without_image_is_a_case(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/b.nii.gz")
    a, b = load_cases(tmp_path)
    assert (a.name, a.label) == ("a", None)
    assert b.image == (tmp_path / "imagesTr" / "b.nii.gz",)
    assert not b.image[0].exists()


def test_missing_channel_keeps_its_place(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz", "labelsTr/a.nii.gz")
    (case,) = load_cases(tmp_path)
    assert [path.name for path in case.image] == ["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"]
    with pytest.raises(DataError, match=r"a_0000\.nii\.gz: no such file"):
        read_scan(case.image)


def test_unlabeled_nnunet_test_cases(tmp_path):
    write_description(
        tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "liver": 1}, file_ending=".mha"
    )
    write_empty_scans(tmp_path, "imagesTs/b_0000.nii.gz", "imagesTs/b_0001.nii.gz")
    (case,) = load_cases(tmp_path, "test")
    assert (case.name, len(case.image)) == ("b", 2)


def test_misspelled_list_raises(tiny_dataset, tmp_path):
    with pytest.raises(ConfigError, match="no list 'tests': did you mean 'test'"):
        load_cases(tiny_dataset, "tests")
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(ConfigError, match="no list 'trainin': did you mean 'training'"):
        load_cases(tmp_path, "trainin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": None}, "has no case under 'training'"),
        (
            {"training": [{"image": "a.nii", "annotated": "ball"}]},
            r"training\[0\]\.annotated is 'ball': input should be a valid list",
        ),
        ({"training": [{"label": "a.nii"}]}, "has no `image`"),
    ],
)
def test_invalid_entries_raise(tmp_path, content, message):
    write_description(tmp_path, **content)
    with pytest.raises(DataError, match=message):
        load_cases(tmp_path)


def test_every_case_is_held_out_once(tiny_dataset):
    def names(section, fold):
        return [e["case"] for e in labeled_data(tiny_dataset, TINY_CLASSES, section, fold, num_folds=3, split_seed=1)]

    held_out = [name for fold in range(3) for name in names("validation", fold)]
    assert sorted(held_out) == [f"case_{i:02d}" for i in range(6)]
    for fold in range(3):
        assert set(names("training", fold)).isdisjoint(names("validation", fold))
        assert len(names("training", fold)) == 4
    assert names("training", None) == names("all", 0) == sorted(held_out)


@given(st.sets(st.text(min_size=1, max_size=3), min_size=5, max_size=30), st.integers(2, 5), st.integers(0, 9))
def test_folds_are_a_balanced_partition(names, num_folds, seed):
    folds = [fold_names(names, fold, num_folds, seed) for fold in range(num_folds)]
    assert set().union(*folds) == names
    assert sum(map(len, folds)) == len(names)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@pytest.mark.parametrize(("fold", "num_folds"), [(5, 5), (-1, 5), (0, 1), (0, 7)])
def test_invalid_folds_raise(tiny_dataset, fold, num_folds):
    with pytest.raises(ConfigError, match="fold"):
        labeled_data(tiny_dataset, TINY_CLASSES, "validation", fold, num_folds)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "ball", "2": "cube", "255": "ignore"},
        {"background": 0, "ball": 1, "cube": 2, "ignore": 3},
    ],
)
def test_ignore_label_is_not_a_class(tmp_path, labels):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    write_description(tmp_path, labels=labels)
    value = 3 if "ignore" in labels else 255
    assert described_labels(tmp_path)[:2] == (TINY_CLASSES, value)
    assert labeled_data(tmp_path, TINY_CLASSES)[0]["ignore_label"] == value


def test_label_values_with_a_gap_are_those_of_the_classes(tmp_path):
    write_description(tmp_path, labels={"4": "cube", "0": "background", "2": "ball"})
    assert described_labels(tmp_path) == (TINY_CLASSES, None, False, {"background": 0, "ball": 2, "cube": 4})
    write_description(tmp_path, labels={"1": "ball", "2": "cube"})
    assert described_labels(tmp_path) == (TINY_CLASSES, None, False, None)


def test_dataset_without_ignore_label(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert "ignore_label" not in labeled_data(tmp_path, TINY_CLASSES)[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annoted": ["cube"]}, "has the unknown key 'annoted': did you mean 'annotated'"),
        ({"annotated": [1]}, r"training\[0\]\.annotated\[0\] is 1: input should be a valid string"),
    ],
)
def test_misspelled_annotated_raises(tmp_path, entry, message):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    write_description(tmp_path, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", **entry}])
    with pytest.raises(DataError, match=message):
        labeled_data(tmp_path, TINY_CLASSES)


class TestFilesSharedByCases:
    def write(self, folder, **changes):
        """Cases a and b; `changes` replaces paths of case b."""
        write_empty_scans(folder, *(f"{kind}Tr/{name}.nii.gz" for kind in ("images", "labels") for name in "ab"))
        entries = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "ab"]
        write_description(folder, training=[entries[0], {**entries[1], **changes}])
        return folder

    @pytest.mark.parametrize("path", ["labelsTr/a.nii.gz", "./imagesTr/../labelsTr/a.nii.gz", "link.nii.gz"])
    def test_shared_label_map_raises(self, tmp_path, path):
        (tmp_path / "link.nii.gz").symlink_to("labelsTr/a.nii.gz")
        self.write(tmp_path, label=path)
        with pytest.raises(DataError, match=r"cases 'a' and 'b' have the same label map: .*a\.nii\.gz"):
            labeled_data(tmp_path, TINY_CLASSES)
        assert "have the same label map" in "".join(DatasetCheck(tmp_path, TINY_CLASSES).problems)

    def test_shared_image_raises(self, tmp_path):
        (tmp_path / "c.nii.gz").symlink_to("imagesTr/a.nii.gz")
        self.write(tmp_path, image="c.nii.gz")
        with pytest.raises(DataError, match="cases 'a' and 'c' have the same image"):
            labeled_data(tmp_path, TINY_CLASSES)

    def test_label_map_shared_between_lists_raises(self, tmp_path):
        self.write(tmp_path)
        entries = json.loads((tmp_path / "dataset.json").read_text())["training"]
        write_description(tmp_path, training=entries[:1], validation=[{**entries[1], "label": entries[0]["label"]}])
        with pytest.raises(DataError, match="have the same label map"):
            labeled_data(tmp_path, TINY_CLASSES)


def test_missing_image_without_label_raises(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    write_description(tmp_path, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}, "nowhere.nii"])
    with pytest.raises(DataError, match=r"nowhere\.nii: no such file"):
        labeled_data(tmp_path, TINY_CLASSES)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_folder_instead_of_file_raises(tmp_path, kind):
    write_empty_scans(tmp_path, *(f"{part}Tr/{name}.nii" for part in ("images", "labels") for name in "ab"))
    path = tmp_path / f"{kind}Tr" / "b.nii"
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_text("moved")
    with pytest.raises(DataError, match=rf"{kind}Tr/b\.nii: is a folder without a scan, not a file"):
        labeled_data(tmp_path, TINY_CLASSES)
    (path / "notes.txt").unlink()
    write_empty_scans(tmp_path, f"{kind}Tr/b.nii/b.nii")  # some programs unpack archives like this
    assert [case["case"] for case in labeled_data(tmp_path, TINY_CLASSES)] == ["a", "b"]


class TestDatasetLayouts:
    def test_nnunet_v1_list(self, tmp_path):
        write_empty_scans(tmp_path, *(f"imagesTr/a_{n:04d}.nii.gz" for n in range(2)), "labelsTr/a.nii.gz")
        entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
        write_description(tmp_path, modality={"0": "FLAIR", "1": "T1"}, training=[entry])
        (case,) = load_cases(tmp_path)
        assert (case.name, [path.name for path in case.image]) == ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])
        (tmp_path / "imagesTr" / "a_0001.nii.gz").unlink()
        with pytest.raises(DataError, match=r"a_0001\.nii\.gz: no such file"):
            labeled_data(tmp_path, TINY_CLASSES)

    def test_nnunet_paths_with_environment_variables(self, tmp_path, monkeypatch):
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        write_empty_scans(tmp_path / "raw", "a.nii.gz", "l.nii.gz")
        mapping = {"x1": {"images": ["$nnUNet_raw/a.nii.gz"], "label": "${nnUNet_raw}/l.nii.gz"}}
        write_description(tmp_path / "d", dataset=mapping)
        (case,) = load_cases(tmp_path / "d")
        assert case.image == (tmp_path / "raw" / "a.nii.gz",)
        assert case.label == tmp_path / "raw" / "l.nii.gz"

    def test_nnunet_file_ending_selects_files(self, tmp_path, caplog):
        caplog.set_level("INFO")
        names = ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/a_0000.nii", "labelsTr/a.nii")
        write_empty_scans(tmp_path, *names)
        with pytest.raises(DataError, match="two cases are named 'a'"):
            labeled_data(tmp_path, TINY_CLASSES)
        write_description(tmp_path, channel_names={"0": "CT"}, file_ending=".nii.gz")
        (case,) = load_cases(tmp_path)
        assert (case.name, case.image[0].name, case.label.name) == ("a", "a_0000.nii.gz", "a.nii.gz")
        assert "1 file skipped: 1 without the file_ending .nii.gz" in caplog.text

    def test_nnunet_case_named_like_a_channel(self, tmp_path):
        write_empty_scans(tmp_path, *(f"imagesTr/{n}_0000.nii.gz" for n in ("a", "a_0000")))
        write_empty_scans(tmp_path, *(f"labelsTr/{n}.nii.gz" for n in ("a", "a_0000")))
        write_description(tmp_path, channel_names={"0": "CT"}, file_ending=".nii.gz")
        found = {case.name: (case.image[0].name, case.label.name) for case in load_cases(tmp_path)}
        assert found == {
            "a": ("a_0000.nii.gz", "a.nii.gz"),
            "a_0000": ("a_0000_0000.nii.gz", "a_0000.nii.gz"),
        }

    def test_nnunet_two_dimensional_images_are_named(self, tmp_path):
        write_description(tmp_path, channel_names={"0": "R"}, file_ending=".png")
        (tmp_path / "imagesTr").mkdir()
        (tmp_path / "imagesTr" / "a_0000.png").touch()
        with pytest.raises(DataError, match=r"Its file_ending is \.png, but segbundle reads 3D scans \(\.nii\.gz, "):
            load_cases(tmp_path)

    def test_nnunet_v2_mapping(self, tmp_path):
        write_empty_scans(tmp_path, "elsewhere/scan.nii.gz", "elsewhere/drawn.nii.gz")
        mapping = {"x1": {"images": ["elsewhere/scan.nii.gz"], "label": "elsewhere/drawn.nii.gz"}}
        write_description(tmp_path, channel_names={"0": "CT"}, dataset=mapping)
        (item,) = labeled_data(tmp_path, TINY_CLASSES)
        assert item["case"] == "x1"
        assert item["label"] == str(tmp_path / "elsewhere" / "drawn.nii.gz")
        write_description(tmp_path, dataset=mapping, training=["a.nii.gz"])
        with pytest.raises(DataError, match="has both `training` and `dataset`"):
            load_cases(tmp_path)

    @pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "", "a\0b"])
    def test_invalid_case_names_raise(self, tmp_path, name):
        write_empty_scans(tmp_path, "i.nii.gz", "l.nii.gz")
        write_description(tmp_path, dataset={name: {"images": ["i.nii.gz"], "label": "l.nii.gz"}})
        with pytest.raises(DataError, match="cannot be a case name, because it is not a valid file name"):
            labeled_data(tmp_path, TINY_CLASSES)

    def test_byte_order_mark_and_windows_separators(self, tmp_path):
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
        entry = {"image": ".\\imagesTr\\a.nii.gz", "label": "labelsTr\\a.nii.gz"}
        (tmp_path / "dataset.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"training": [entry]}).encode())
        (item,) = labeled_data(tmp_path, TINY_CLASSES)
        assert (item["case"], item["image"]) == ("a", str(tmp_path / "imagesTr" / "a.nii.gz"))

    def test_slicer_segmentations_are_paired(self, tmp_path):
        for name in ("imagesTr/a.nrrd", "labelsTr/a.seg.nrrd", "imagesTr/b.nrrd", "labelsTr/b.nrrd"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
        a, b = load_cases(tmp_path)
        assert (a.name, a.image[0].name, a.label.name) == ("a", "a.nrrd", "a.seg.nrrd")
        assert (b.name, b.label.name) == ("b", "b.nrrd")
        assert read_scan(a.label, dtype=None).array.shape == (1, 2, 2, 2)

    def test_patient_folders(self, tmp_path):
        write_empty_scans(tmp_path, *(f"{kind}Tr/{p}/ct.nii.gz" for kind in ("images", "labels") for p in ("p1", "p2")))
        cases = load_cases(tmp_path)
        assert [case.name for case in cases] == ["p1_ct", "p2_ct"]
        assert all(case.image[0].parent.name == case.label.parent.name for case in cases)

    @pytest.mark.parametrize("key", ["trainings", "lables", "validaton"])
    def test_misspelled_keys_raise(self, tmp_path, key):
        write_description(tmp_path, **{key: []})
        with pytest.raises(DataError, match=f"unknown key '{key}': did you mean"):
            load_cases(tmp_path)

    def test_unused_lists_are_logged(self, tmp_path, caplog):
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz")
        write_description(tmp_path, holdout=[{"image": "b.nii.gz"}])
        load_cases(tmp_path)
        assert "list 'holdout' is not used; supported lists are training, validation" in caplog.text


class TestUnusableFilesAreReported:
    def test_broken_links_to_labels(self, tmp_path):
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTr/c.nii.gz", "labelsTr/a.nii.gz")
        (tmp_path / "labelsTr" / "b.nii.gz").symlink_to("nowhere")
        os.mkfifo(tmp_path / "labelsTr" / "c.nii.gz")
        with pytest.raises(DataError) as caught:
            labeled_data(tmp_path, TINY_CLASSES)
        first, second = str(caught.value).splitlines()
        assert "labelsTr/b.nii.gz: is a broken link to nowhere" in first
        assert "labelsTr/c.nii.gz: is a named pipe" in second

    def test_broken_links_to_folders(self, tmp_path):
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz")
        (tmp_path / "labelsTr" / "more").symlink_to("nowhere")
        with pytest.raises(DataError, match="labelsTr/more: is a broken link to nowhere"):
            labeled_data(tmp_path, TINY_CLASSES)
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "imagesTr").symlink_to("imagesTr")
        (case,) = load_cases(tmp_path / "d")
        assert "imagesTr: is a symbolic link that forms a loop" in case.problems[0]

    def test_all_cases_with_missing_files_are_named(self, tmp_path):
        names = ["a", *(f"gone_{n:02d}" for n in range(12))]
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz", *(f"labelsTr/{n}.nii.gz" for n in names))
        write_description(
            tmp_path, training=[{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names]
        )
        with pytest.raises(DataError) as caught:
            labeled_data(tmp_path, TINY_CLASSES, "training", fold=0)
        first, second = str(caught.value).splitlines()
        assert "gone_00.nii.gz: no such file" in first
        assert second.startswith("12 of 13 cases cannot be used: gone_00, gone_01, ")
        assert "gone_11. `segbundle check` prints every problem." in second

    def test_unlabeled_cases_are_logged(self, tmp_path, caplog):
        write_empty_scans(tmp_path, *(f"imagesTr/{n}.nii.gz" for n in "abc"), *(f"labelsTr/{n}.nii.gz" for n in "ab"))
        assert len(labeled_data(tmp_path, TINY_CLASSES)) == 2
        assert f"{tmp_path}: 1 of 3 cases have no label map and are not used: c" in caplog.text

    def test_label_maps_may_be_dicom_series(self, tmp_path):
        write_series(tmp_path / "imagesTr" / "a", voxels())
        write_series(tmp_path / "labelsTr" / "a", (voxels() > 0).astype(np.int16))
        (case,) = load_cases(tmp_path)
        assert case.label == tmp_path / "labelsTr" / "a"
        np.testing.assert_array_equal(read_labels(case.label).array[0], voxels() > 0)
        ((_, problems),) = DatasetCheck(tmp_path, ["background", "a"])
        assert not problems

    def test_dicom_folders_that_are_no_label_map_are_named(self, tmp_path):
        write_series(tmp_path / "imagesTr" / "a", voxels())
        (tmp_path / "labelsTr" / "a").mkdir(parents=True)
        segmentation = header(tmp_path / "labelsTr" / "a" / "seg.dcm", modality="SEG")
        add_pixels(segmentation, np.zeros((2, 3), np.uint8))
        segmentation.save_as(tmp_path / "labelsTr" / "a" / "seg.dcm")
        ((_, problems),) = DatasetCheck(tmp_path, ["background", "a"])
        assert f"{tmp_path / 'labelsTr' / 'a'}: contains no DICOM series that is a volume" in problems[0]

    def test_cases_that_are_not_listed_are_named(self, tmp_path, caplog):
        write_empty_scans(tmp_path, *(f"{kind}Tr/{n}.nii.gz" for kind in ("images", "labels") for n in "abcd"))
        write_empty_scans(tmp_path, "imagesTr/unlabeled.nii.gz", "imagesTr/e_0000.nii.gz", "labelsTr/e.nii.gz")
        listed = {n: {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "abcd"}
        write_description(tmp_path, training=[listed["a"]], validation=[listed["b"]])
        words = f"{tmp_path / 'dataset.json'}: does not list 3 cases of imagesTr and labelsTr, "
        words += "which will not be used: c, d, e"
        labeled_data(tmp_path, TINY_CLASSES)
        assert words in caplog.text
        assert words in DatasetCheck(tmp_path, TINY_CLASSES).notes
        write_description(tmp_path, training=list(listed.values())[:3], test=[listed["d"], "./imagesTr/e_0000.nii.gz"])
        assert not any("does not list" in note for note in DatasetCheck(tmp_path, TINY_CLASSES).notes)

    def test_paths_elsewhere_are_allowed(self, tmp_path):
        write_empty_scans(tmp_path, "other/a.nii.gz", "other/l.nii.gz")
        entry = {"image": str(tmp_path / "other" / "a.nii.gz"), "label": "../other/l.nii.gz"}
        write_description(tmp_path / "d", training=[entry])
        assert labeled_data(tmp_path / "d", TINY_CLASSES)[0]["case"] == "a"

    @pytest.mark.slow
    def test_pairing_of_five_thousand_cases(self, tmp_path):
        for kind in ("imagesTr", "labelsTr"):
            (tmp_path / kind).mkdir()
            for number in range(5000):
                (tmp_path / kind / f"{number}.nii.gz").touch()
        cases = load_cases(tmp_path)
        assert len(cases) == 5000
        assert all(case.image[0].name == case.label.name for case in cases)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": ["background", 7]}, r"`labels` is \['background', 7\]; it must give each class"),
        ({"labels": ["ball", "cube"]}, "`labels` begins with 'ball'; a list of names must begin with background"),
        ({"labels": 3}, "`labels` is 3; it must give each class one integer"),
        ({"labels": {"background": 0, "ball": 1.5}}, r"labels\.ball is 1\.5"),
        ({"labels": {"background": 0, "ball": True}}, r"labels\.ball is True"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "`labels` gives the value 1 to 'a', 'b'"),
        ({"labels": {"0": "background", "1": ["ball"]}}, r"labels\.1 is \['ball'\]; it must be the name of a class"),
        ({"labels": {"0": "liver", "1": "background"}}, "`labels` gives the background the value 1; it must be 0"),
        ({"training": "imagesTr"}, "training is 'imagesTr': input should be a valid list"),
        ({"training": {"image": "a"}}, "training is {'image': 'a'}: input should be a valid list"),
        ({"training": [7]}, r"training\[0\] is 7"),
        ({"training": [{"image": 7}]}, r"training\[0\]\.image is 7: input should be a valid list"),
        ({"training": [{"image": ["a", 7]}]}, r"training\[0\]\.image\[1\] is 7: input should be a valid string"),
        ({"training": [{"image": "a", "label": ["l", 1]}]}, r"training\[0\]\.label is \['l', 1\]"),
        ({"training": [{"image": "a", "label": ["l", "m"]}]}, r"training\[0\]\.label lists 2 files, but a case needs"),
        ({"dataroot": "nowhere", "training": [{"image": "a"}]}, "dataroot is .*nowhere, but this is not a folder"),
        (
            {"training": [{"image": "a", "lable": "l"}]},
            r"training\[0\] has the unknown key 'lable': did you mean 'label'",
        ),
        ({"training": [{"image": "a", "fold": "0"}]}, r"training\[0\]\.fold is '0'"),
        ({"dataset": {"x": {"images": [1], "label": "l"}}}, r"dataset\.x\.images\[0\] is 1"),
        ({"dataset": {"x": {"images": ["a"]}}}, r"dataset\.x\.label is missing"),
        ({"channel_names": 2}, "channel_names is 2: input should be a valid list"),
        ({"num_folds": "3"}, "num_folds is '3': input should be a valid integer"),
    ],
)
def test_wrong_types_raise_with_place_and_value(tmp_path, content, message):
    write_description(tmp_path, **content)
    with pytest.raises(DataError, match=r"dataset\.json: " + message):
        labeled_data(tmp_path, TINY_CLASSES)


def test_nan_in_json_raises(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": NaN}}')
    with pytest.raises(DataError, match="it contains NaN, but JSON does not allow it"):
        load_cases(tmp_path)


def test_channel_name_may_be_a_string(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    write_description(tmp_path, modality="CT")
    assert len(load_cases(tmp_path)[0].image) == 1
