"""Checks report all problems of all cases."""

import json
import os

import numpy as np

from segbundle.datasets import dataset_check
from segbundle.datasets.case_checks import image_problems
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.io.scans import read_scan
from tiny import TINY_CLASSES, write_nifti

GOOD = np.zeros((4, 4, 4), np.uint8)
GOOD[0, 0, 0] = 1


def problems(folder, **kwargs):
    check = DatasetCheck(folder, TINY_CLASSES, **kwargs)
    return check.problems + [message for _, found in check for message in found]


def write_case(folder, name, image=None, label=None, **label_kwargs):
    write_nifti(folder / "imagesTr" / f"{name}.nii.gz", np.ones((4, 4, 4), np.float32) if image is None else image)
    write_nifti(folder / "labelsTr" / f"{name}.nii.gz", GOOD if label is None else label, **label_kwargs)


def test_valid_dataset_has_no_problems(tiny_dataset):
    assert problems(tiny_dataset) == []


def test_many_unknown_label_values_are_shortened(tmp_path):
    write_case(tmp_path, "a", label=np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
    (message,) = problems(tmp_path)
    assert "contains label value(s) [3, 4, 5, 6, 7 and 56 more], but the 3 class_names" in message


def test_every_kind_of_problem_is_reported(tmp_path):
    shifted = np.eye(4)
    shifted[0, 3] = 3
    nan = np.ones((4, 4, 4), np.float32)
    nan[1, 1, 1], nan[2, 2, 2] = np.nan, np.inf
    write_case(tmp_path, "a_good")
    write_case(tmp_path, "b_nan", image=nan)
    write_case(tmp_path, "c_value", label=GOOD * 7)
    write_case(tmp_path, "d_float", label=GOOD.astype(np.float32) * 0.5)
    write_case(tmp_path, "e_shape", label=GOOD[1:])
    write_case(tmp_path, "f_affine", affine=shifted)
    write_case(tmp_path, "g_channels", image=np.ones((4, 4, 4, 2), np.float32))
    write_case(tmp_path, "h_truncated")
    broken = tmp_path / "imagesTr" / "h_truncated.nii.gz"
    broken.write_bytes(broken.read_bytes()[:60])
    write_case(tmp_path, "i_label_channels", label=np.zeros((4, 4, 4, 2), np.uint8))
    write_case(tmp_path, "j_negative", label=-GOOD.astype(np.int16))
    found = problems(tmp_path)
    expected = [
        ("b_nan.nii.gz: contains 2 NaN or Inf voxel(s)", "replace"),
        ("c_value.nii.gz: contains label value(s) [7]", "add the class, correct the label map"),
        ("d_float.nii.gz: label values must be integers, found [0.5]", "nearest neighbor"),
        ("e_shape.nii.gz: the label map and its image e_shape.nii.gz differ in geometry: shape", "Resample"),
        ("f_affine.nii.gz: the label map and its image f_affine.nii.gz differ in geometry: affines", "3 mm apart"),
        ("g_channels.nii.gz: has 2 channel(s), but the network takes 1", "network_def#in_channels"),
        ("h_truncated.nii.gz: cannot be read", "truncated"),
        ("i_label_channels.nii.gz: has 2 channels", "Merge them into one channel of class indices"),
        ("j_negative.nii.gz: contains label value(s) [-1]", "class_names"),
    ]
    assert len(found) == len(expected), found
    for message, (what, fix) in zip(found, expected, strict=True):
        assert what in message
        assert fix in message


def test_all_problems_of_one_case_are_reported(tmp_path):
    write_case(tmp_path, "a", image=np.full((4, 4, 5), np.nan, np.float32), label=GOOD * 9)
    found = problems(tmp_path, num_channels=3)
    assert len(found) == 4


def test_missing_file(tmp_path):
    write_case(tmp_path, "a")
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b")]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    found = problems(tmp_path)
    assert len(found) == 2
    assert all("b.nii.gz: no such file" in message for message in found)


def test_labeled_class_that_is_not_annotated(tmp_path):
    write_case(tmp_path, "a")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "annotated": ["cube"]}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    (message,) = problems(tmp_path)
    assert "contains class 'ball' (1), but the `annotated` list of the case does not" in message


def test_dataset_and_case_problems_are_both_reported(tmp_path):
    write_case(tmp_path, "a", label=GOOD * 9)
    write_case(tmp_path, "c")
    (tmp_path / "imagesTr" / "c.nii").write_bytes(b"")
    for name in ("b", "d"):
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", GOOD)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cube", "2": "ball"}}))
    found = "\n".join(problems(tmp_path))
    for part in (
        "its labels differ",
        "two cases are named 'c'",
        "a.nii.gz: contains label value(s) [9]",
        "b.nii.gz: no such file",
        "d.nii.gz: no such file",
    ):
        assert part in found


def test_test_and_unlabeled_cases_are_opened(tmp_path):
    write_case(tmp_path, "a")
    for path in ("imagesTr/unlabeled.nii.gz", "imagesTs/test.nii.gz"):
        write_nifti(tmp_path / path, np.full((3, 3, 3), np.nan, np.float32))
    found = problems(tmp_path)
    assert len(found) == 2
    assert all("contains 27 NaN" in message for message in found)


def test_finite_values_with_overflowing_sum(tmp_path):
    image = read_scan(write_nifti(tmp_path / "a.nii", np.full((3, 3, 3), 3e38, np.float32)))
    assert list(image_problems(image, 1)) == []
    image.array[0, 0, 0, :2] = np.inf, -np.inf
    assert "contains 2 NaN or Inf" in next(image_problems(image, 1))


def test_ignore_label(tmp_path):
    write_case(tmp_path, "a", label=np.where(GOOD == 1, 1, 9).astype(np.uint8))
    (message,) = problems(tmp_path)
    assert "or name the value `ignore` in dataset.json if it marks unknown voxels" in message
    labels = {"0": "background", "1": "ball", "2": "cube", "9": "ignore"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert problems(tmp_path) == []
    write_case(tmp_path, "b", label=np.full((4, 4, 4), 9, np.uint8))
    (message,) = problems(tmp_path)
    assert "b.nii.gz: every voxel is marked as unknown (ignore, 9)" in message


def test_class_tallies(tmp_path):
    for name, label in (("a", GOOD), ("b", GOOD * 2), ("c", np.where(GOOD == 1, 9, 0).astype(np.uint8))):
        write_case(tmp_path, name, label=label)
    write_case(tmp_path, "d_bad", label=GOOD * 7)
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b", "c", "d_bad")]
    entries[2]["annotated"] = ["cube"]
    labels = {"0": "background", "1": "ball", "2": "cube", "9": "ignore"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    check = DatasetCheck(tmp_path, TINY_CLASSES)
    assert [bool(found) for _, found in check] == [False, False, False, True]
    counts = {name: (t.labeled, t.absent, t.unannotated) for name, t in check.tallies.items()}
    assert counts == {"ball": (1, 1, 1), "cube": (1, 2, 0)}
    assert check.partly_unknown == 1


class TestCheckContinuesAfterErrors:
    def test_unexpected_error_is_a_case_problem(self, tmp_path, monkeypatch):
        for name in ("a", "b", "c"):
            write_case(tmp_path, name)
        read = dataset_check.read_scan

        def failing(path, *args):
            if "imagesTr/b" in str(path):
                raise MemoryError("cannot allocate\n  4 TB")
            return read(path, *args)

        monkeypatch.setattr(dataset_check, "read_scan", failing)
        assert problems(tmp_path) == [
            "case b: cannot be checked (MemoryError: cannot allocate 4 TB). Repair its files, or remove the case."
        ]

    def test_broken_links_and_pipes_are_not_opened(self, tmp_path):
        write_case(tmp_path, "a")
        for name in ("b", "c"):
            write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", GOOD)
        (tmp_path / "labelsTr" / "b.nii.gz").symlink_to("nowhere")
        os.mkfifo(tmp_path / "labelsTr" / "c.nii.gz")
        first, second = problems(tmp_path)
        assert "labelsTr/b.nii.gz: is a broken link to nowhere" in first
        assert "labelsTr/c.nii.gz: is a named pipe" in second

    def test_invalid_dataset_json_falls_back_to_folders(self, tmp_path):
        write_case(tmp_path, "a", label=GOOD * 9)
        (tmp_path / "dataset.json").write_text('{"labels": [')
        found = problems(tmp_path)
        assert "dataset.json: is not valid JSON" in found[0]
        assert "a.nii.gz: contains label value(s) [9]" in found[1]
        assert len(found) == 2

    def test_invalid_entry_does_not_affect_others(self, tmp_path):
        write_case(tmp_path, "a", label=GOOD * 9)
        entries = [7, {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}, {"image": 8}]
        (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
        found = problems(tmp_path)
        assert [message.partition(": ")[2][:20] for message in found] == [
            "training[0] is 7; it",
            "training[2].image is",
            "contains label value",
        ]

    def test_incomplete_fold_keys(self, tmp_path):
        for name in ("a", "b"):
            write_case(tmp_path, name)
        entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b")]
        entries[0]["fold"] = 0
        (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
        (message,) = problems(tmp_path)
        assert "1 of 2 labeled cases have no `fold` (b)" in message

    def test_validation_list_is_opened(self, tmp_path):
        for name, label in (("a", GOOD), ("b", GOOD * 9)):
            write_case(tmp_path, name, label=label)
        lists = {
            key: [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"}]
            for key, n in (("training", "a"), ("validation", "b"))
        }
        (tmp_path / "dataset.json").write_text(json.dumps(lists))
        (message,) = problems(tmp_path)
        assert "b.nii.gz: contains label value(s) [9]" in message


def test_notes_name_missing_classes_and_label_maps(tmp_path):
    for name in ("a", "b"):
        write_case(tmp_path, name)
    write_nifti(tmp_path / "imagesTr" / "c.nii.gz", GOOD)
    (tmp_path / "dataset.json").write_text(json.dumps({"numTraining": 4}))
    check = DatasetCheck(tmp_path, TINY_CLASSES)
    assert not check.problems + [message for _, found in check for message in found]
    assert check.notes == [
        f"{tmp_path}: 1 of 3 cases have no label map and are not used: c",
        "dataset.json has numTraining 4, but 3 cases were found.",
        "no training case contains cube; a network needs examples of every class.",
    ]
