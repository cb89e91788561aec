"""Cross-validation: each case is scored once, by the model that held it out."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from commands import invoke, segbundle
from tiny import write_tiny_dataset

TASK = Path(__file__).parent / "tiny.yaml"


def cross_validate(dataset, out, *options):
    return segbundle(
        "cross-validate", "--config", TASK, "--dataset_dir", dataset, "--output_dir", out, "--num_folds", "2",
        "--max_epochs", "4", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cv")
    dataset = write_tiny_dataset(folder / "tiny", num_cases=4, num_test=1)
    result = cross_validate(dataset, folder / "out")
    assert result.returncode == 0, result.stderr
    return dataset, folder / "out"


def test_each_case_is_scored_by_the_model_that_held_it_out(done):
    _, out = done
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert sorted(row["case"] for row in rows) == sorted(f"case_{i:02d}" for i in range(4) for _ in range(2))
    for fold in range(2):
        held_out = {row["case"] for row in csv.DictReader((out / f"fold_{fold}/evaluation/metrics.csv").open())}
        trained_on = set(json.loads((out / f"fold_{fold}/task.json").read_text())["training_cases"])
        assert held_out and trained_on and not held_out & trained_on
    assert json.loads((out / "summary.json").read_text())["cases"] == 4
    assert not (out / "cache").exists()
    made_by = json.loads((out / "run.json").read_text())
    assert "fold" not in made_by["config"]
    assert len(set(made_by["data_fingerprint"].split(", "))) == 2
    text = (out / "report.html").read_text(encoding="utf-8")
    shown = text.count(
        "</strong>: case_"
    )  # worst, median and best of two classes, and the case with the largest distance
    assert shown in (6, 7) and text.count('<svg class="slice"') == 3 * shown  # in three planes
    assert "The epoch of each fold&#39;s model was selected by its Dice on the cases of that fold." in text
    assert "fold 0" in text and "fold 1" in text  # the curves of both trainings


def test_folds_are_printed_and_written(done):
    _, out = done
    splits = json.loads((out / "splits_final.json").read_text())
    assert [len(fold["val"]) for fold in splits] == [2, 2]
    assert sorted(splits[0]["val"] + splits[1]["val"]) == [f"case_{index:02d}" for index in range(4)]
    for fold in range(2):
        assert json.loads((out / f"fold_{fold}/splits_final.json").read_text()) == splits
        scored = {row["case"] for row in csv.DictReader((out / f"fold_{fold}/evaluation/metrics.csv").open())}
        assert scored == set(splits[fold]["val"])


def test_one_fold_for_each_site(tmp_path):
    dataset = write_tiny_dataset(tmp_path / "tiny", num_cases=4, num_test=1)
    content = json.loads((dataset / "dataset.json").read_text())
    for entry, site in zip(content["training"], ["Ulm", "Bern", "Ulm", "Ulm"], strict=True):
        entry["site"] = site
    (dataset / "dataset.json").write_text(json.dumps(content))
    words = ["--config", TASK, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--max_epochs", 2]
    result = segbundle("cross-validate", *words, "--num_folds", "groups", "--groups", "site")
    assert result.returncode == 0, result.stderr
    assert "fold 0: 3 training, 1 validation" in result.stdout + result.stderr
    held_out = [fold["val"] for fold in json.loads((tmp_path / "out/splits_final.json").read_text())]
    assert held_out == [["case_01"], ["case_00", "case_02", "case_03"]]
    assert json.loads((tmp_path / "out/summary.json").read_text())["cases"] == 4


def test_finished_folds_are_not_repeated(done):
    dataset, out = done
    before = {path: path.stat().st_mtime_ns for path in out.glob("fold_*/model.pt")}
    (out / "fold_1/evaluation/summary.json").unlink()
    (out / "fold_0/evaluation/run.json").unlink()  # as an earlier version left it
    result = cross_validate(dataset, out)
    assert result.returncode == 0, result.stderr
    assert "training is already complete" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("name", ["run.json", "summary.json", "predictions.json"])
@pytest.mark.parametrize(
    "make",
    [Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name), os.mkfifo],
    ids=["folder", "broken link", "link to itself", "named pipe"],
)
def test_folders_links_and_pipes_in_place_of_files_are_named(done, tmp_path, name, make):
    dataset, out = done
    copied = shutil.copytree(out, tmp_path / "copied")
    path = copied / "fold_0" / "evaluation" / name
    path.unlink(missing_ok=True)
    make(path)
    words = ["--config", TASK, "--dataset_dir", dataset, "--output_dir", copied, "--num_folds", 2, "--max_epochs", 4]
    result = invoke("cross-validate", *words)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path.parent}: {name} was not written by segbundle") and "move existing" in line
    assert os.path.lexists(path) and not path.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_folds", "3"], "num_folds 2, but num_folds is now 3"),
        (["--optimizer#lr", "0.1"], "but optimizer#lr is now 0.1"),
        (["--nsd_tolerance_mm", "5"], "nsd_tolerance_mm 1.0, but nsd_tolerance_mm is now 5"),
    ],
)
def test_folds_of_another_task_are_rejected(done, options, message):
    dataset, out = done
    before = (out / "summary.json").read_bytes()
    result = cross_validate(dataset, out, *options)
    assert result.returncode == 1 and message in result.stderr
    assert (out / "summary.json").read_bytes() == before


def test_unfinished_cross_validation_is_used_with_a_warning(done, tmp_path):
    dataset, out = done
    for fold in ("fold_0", "fold_0_backup"):
        (tmp_path / "cv" / fold).mkdir(parents=True)
        (tmp_path / "cv" / fold / "model.pt").write_bytes((out / "fold_0/model.pt").read_bytes())
    scan = dataset / "imagesTs" / "test_00.nii.gz"
    result = segbundle(
        "predict", scan, "--config", TASK, "--ckpt_path", tmp_path / "cv", "--output_dir", tmp_path / "p"
    )
    assert result.returncode == 0, result.stderr
    assert "the cross-validation is not finished. Number of models used: 1." in result.stdout + result.stderr


def test_folds_form_an_ensemble(done, tmp_path):
    dataset, out = done
    result = segbundle(
        "predict", dataset / "imagesTs", "--config", TASK, "--ckpt_path", out, "--output_dir", tmp_path
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert all(f"fold_{fold}/model.pt" in result.stdout for fold in range(2))
    assert (tmp_path / "test_00_seg.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--fold", "1"], "fold"), (["--num_folds", "1"], "num_folds is 1; a whole number from 2, or groups, is needed")],
)
def test_invalid_settings_fail(options, message, done, tmp_path):
    result = cross_validate(done[0], tmp_path / "x", *options)
    assert result.returncode == 1 and message in result.stderr
