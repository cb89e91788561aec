"""Commands on real-world datasets: no case is dropped, and folds of the dataset are used."""

import csv
import json
import os
import shutil

import pytest

from commands import TINY, segbundle

SHORT = ("--config", TINY, "--max_epochs", "1", "--val_interval", "1")


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def rewrite(folder, change):
    description = json.loads((folder / "dataset.json").read_text())
    change(description)
    (folder / "dataset.json").write_text(json.dumps(description))


def test_unreadable_scans_fail_and_others_are_predicted(trained, dataset, tmp_path):
    scans = tmp_path / "in #1 $x"
    (scans / "sub").mkdir(parents=True)
    good = dataset / "imagesTs" / "test_00.nii.gz"
    for name in ("a.nii.gz", "sub/line\nbreak.nii.gz", "twice.nii.gz", ".hidden.nii.gz"):
        shutil.copy(good, scans / name)
    (scans / "twice.nii").write_bytes(b"")
    (scans / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    (scans / "sub" / "up").symlink_to("..")
    os.mkfifo(scans / "pipe.nii.gz")
    done = segbundle(
        "predict", scans, "--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    records = {record["case"]: record for record in json.loads((tmp_path / "out" / "predictions.json").read_text())}
    assert {case: record["status"] for case, record in records.items()} == {
        "a": "ok", "line\nbreak": "ok",
        "gone": "failed", "pipe": "failed", "twice.nii": "failed", "twice.nii.gz": "failed",
    }  # fmt: skip
    assert "is a broken link to nowhere.nii.gz" in records["gone"]["error"]
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 2
    assert "2 files skipped: " in done.stdout


def test_fold_keys_define_the_validation_fold(copy, tmp_path):
    def give_folds(description):
        for number, entry in enumerate(description["training"]):
            entry["fold"] = (number + 1) % 3

    rewrite(copy, give_folds)
    out = tmp_path / "out"
    done = segbundle("train", *SHORT, "--dataset_dir", copy, "--output_dir", out, "--fold", "1")
    assert done.returncode == 0, done.stderr
    assert "3 fold(s) from the `fold` keys of dataset.json" in done.stdout
    trained_on = json.loads((out / "task.json").read_text())["training_cases"]
    assert trained_on == ["case_01", "case_02", "case_04", "case_05"]
    done = segbundle(
        "evaluate", *SHORT, "--dataset_dir", copy, "--ckpt_path", out / "model.pt", "--output_dir", out / "evaluation",
        "--fold", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (out / "evaluation" / "metrics.csv").open(newline="", encoding="utf-8-sig") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"case_00", "case_03"}
    done = segbundle("train", *SHORT, "--dataset_dir", copy, "--output_dir", tmp_path / "no", "--num_folds", "2")
    assert done.returncode == 1
    assert "has 3 folds. Use --num_folds 3." in done.stderr


def test_validation_list_is_the_validation_fold(copy, tmp_path):
    def split(description):
        description["validation"] = description["training"][4:]
        del description["training"][4:]

    rewrite(copy, split)
    out = tmp_path / "out"
    done = segbundle("train", *SHORT, "--dataset_dir", copy, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert "training on 4 cases, validating on 2" in done.stdout
    done = segbundle("cross-validate", *SHORT, "--dataset_dir", copy, "--output_dir", tmp_path / "cv")
    assert done.returncode == 1
    assert "Error: the `validation` list of dataset.json defines only fold 0" in done.stderr


def test_unreadable_label_map_stops_training(copy, tmp_path):
    label = copy / "labelsTr" / "case_03.nii.gz"
    label.unlink()
    label.symlink_to("nowhere")
    for layout in ("dataset.json", "folders"):
        if layout == "folders":
            (copy / "dataset.json").unlink()
        done = segbundle("train", *SHORT, "--dataset_dir", copy, "--output_dir", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.strip().endswith("is a broken link to nowhere. Restore the file, or remove the link.")
        done = segbundle("check", copy, "--config", TINY)
        assert done.returncode == 1
        assert "labelsTr/case_03.nii.gz: is a broken link to nowhere" in done.stderr
        assert "1 problem(s); 1 of 8 cases cannot be used." in done.stderr


def test_missing_classes_are_named_before_training(copy, tmp_path):
    words = ("--class_names", "[background, ball, cube, ghost]")
    rewrite(copy, lambda description: description["labels"].update({"3": "ghost"}))
    done = segbundle("train", *SHORT, *words, "--dataset_dir", copy, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    warning = done.stdout.index("no training case contains ghost; a network needs examples of every class")
    assert warning < done.stdout.index("training on 4 cases")
    done = segbundle("check", copy)
    assert done.returncode == 0, done.stderr
    assert "Note: no training case contains ghost" in done.stdout


def test_one_labeled_case_needs_fold_null(copy, tmp_path):
    rewrite(copy, lambda description: description["training"].__delitem__(slice(1, None)))
    done = segbundle("train", *SHORT, "--dataset_dir", copy, "--output_dir", tmp_path / "out")
    assert done.returncode == 1
    assert "the dataset has only one labeled case" in done.stderr
    assert "Use --fold null" in done.stderr
