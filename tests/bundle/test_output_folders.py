"""Foreign files in an output folder survive every command, byte for byte."""

import json
import os
import shlex

import pytest

from commands import TINY, segbundle
from tiny import write_tiny_dataset


def content(folder):
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done, *words):
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in (*words, "Choose another --output_dir")), done.stderr


@pytest.fixture
def predict(trained, dataset):
    task = ["--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir"]
    return lambda out, *more: segbundle("predict", dataset / "imagesTs", *task, out, *more)


def test_foreign_label_maps_are_named_before_the_run(predict, tmp_path):
    for name in ("test_00_seg.nii.gz", "summary.json", "report.html", "notes.txt"):
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    done = predict(tmp_path)
    refused(done, "test_00_seg.nii.gz, summary.json, report.html were not written by segbundle")
    assert "done in" not in done.stdout
    assert {name: held for name, held in content(tmp_path).items() if name != ".lock"} == before


def test_corrected_label_map_is_kept_and_does_not_block(predict, tmp_path):
    assert predict(tmp_path).returncode == 0
    corrected = tmp_path / "test_00_seg.nii.gz"
    corrected.write_bytes(corrected.read_bytes() + b"corrected")
    before = content(tmp_path)
    refused(predict(tmp_path), "test_00_seg.nii.gz was not written by segbundle, or has changed since")
    assert content(tmp_path) == before
    (tmp_path / "test_01_seg.nii.gz").unlink()
    done = predict(tmp_path, "--resume")
    assert done.returncode == 0 and "1 of 2 scans are done" in done.stdout
    assert corrected.read_bytes().endswith(b"corrected")
    corrected.unlink()
    assert predict(tmp_path).returncode == 0


def test_links_out_of_the_folder_are_not_followed(predict, tmp_path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("mine")
    out.mkdir()
    (out / "test_00_seg.nii.gz").symlink_to(mine)
    (out / ".lock").symlink_to(mine)
    assert predict(out).returncode == 1
    (out / ".lock").unlink()
    refused(predict(out), "test_00_seg.nii.gz was not written")
    assert mine.read_text() == "mine" and (out / "test_00_seg.nii.gz").is_symlink()


def test_training_keeps_foreign_files(dataset, tmp_path):
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--max_epochs", 1, "--output_dir", tmp_path]
    for name in ("task.json", "metrics.csv"):
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    refused(segbundle(*words), "task.json, metrics.csv were not written")
    assert {name: held for name, held in content(tmp_path).items() if name != ".lock"} == before
    for name in before:
        (tmp_path / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    refused(segbundle(*words), "tensorboard is not a folder but a link")


def test_cache_folder_of_the_user_is_kept(tmp_path):
    dataset, out = write_tiny_dataset(tmp_path / "tiny", num_cases=4), tmp_path / "out"
    (out / "cache").mkdir(parents=True)
    own = f"{'0123456789abcdef' * 2}.pt"  # named like a prepared case
    (out / "cache" / own).write_text("mine")
    words = ["cross-validate", "--config", TINY, "--dataset_dir", dataset, "--output_dir", "out"]
    words += ["--num_folds", 2, "--max_epochs", 1]
    done = segbundle(*words, cwd=tmp_path)
    assert done.returncode == 1 and "out/cache: was not written by segbundle" in done.stderr
    assert not (out / "fold_0").exists() and content(out / "cache") == {own: b"mine"}
    (out / "cache").rename(tmp_path / "cache")
    (out / "fold_1" / "evaluation").mkdir(parents=True)
    (out / "fold_1" / "evaluation" / "summary.csv").write_text("mine")
    done = segbundle(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fold 1 of 2: " in done.stdout and "next: segbundle predict SCANS --ckpt_path " in done.stdout
    assert not (out / "cache").exists()
    assert (out / "fold_1" / "evaluation" / "summary.csv").read_text() == "mine"


def test_foreign_pages_and_measurements_are_kept(predict, trained, tmp_path):
    assert predict(tmp_path / "out").returncode == 0
    for name in ("report.html", "measurements.csv", "comparison.html"):
        (tmp_path / "out" / name).write_text("mine")
    before = content(tmp_path / "out")
    refused(segbundle("report", tmp_path / "out"), "report.html was not written by segbundle")
    refused(segbundle("report", tmp_path / "out", "--output", tmp_path / "out" / "a.html"), "measurements.csv was not")
    refused(segbundle("report", trained, trained.parent / "out", "--output", tmp_path / "out" / "comparison.html"), "")
    assert content(tmp_path / "out") == before
    for _ in range(2):
        done = segbundle("report", trained, "--output", tmp_path / "page.html")
        assert done.returncode == 0, done.stderr


def test_files_of_an_earlier_version_are_recognized(predict, tmp_path):
    assert predict(tmp_path).returncode == 0
    (tmp_path / ".segbundle-files.jsonl").unlink()
    records = json.loads((tmp_path / "predictions.json").read_text())
    (tmp_path / "predictions.json").write_text(json.dumps([{**one, "settings": "0123456789ab"} for one in records]))
    done = predict(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert "2 scan(s) had other settings or weights; these scans are processed again" in done.stdout
    (tmp_path / ".segbundle-files.jsonl").unlink()
    late = (tmp_path / "run.json").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "test_01_seg.nii.gz", ns=(late, late))
    refused(predict(tmp_path), "test_01_seg.nii.gz was not written by segbundle, or has changed since")


def test_commands_print_results_and_next_command(predict, trained, dataset, tmp_path):
    done = predict(tmp_path / "out")
    assert "[1/2] test_00: done in " in done.stdout
    assert "2 of 2 scans done, 0 failed, in " in done.stdout and f"label maps: {tmp_path / 'out'}" in done.stdout
    told = (trained / "stdout.txt").read_text()
    assert "epoch 1/60  " in told and told.count("  loss ") == 60
    assert f"model: {trained / 'model.pt'}, mean Dice " in told and "peak memory " in told
    assert "inference.yaml" in told and f"--dataset_dir SCANS --ckpt_path {trained / 'model.pt'}" in told
    out = tmp_path / "a run"
    words = ["--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs", 1, "--overlap", "0.25"]
    done = segbundle("train", *words, "--network_def#filters", "[2, 4, 4]")
    (evaluate, predict_scans) = (line.partition("next: ")[2] for line in done.stdout.splitlines() if "next: " in line)
    assert evaluate == (
        f"segbundle evaluate --dataset_dir {dataset} --fold 0 "
        f"--ckpt_path '{out}/model.pt' --output_dir '{out}/evaluation'"
    )
    assert predict_scans == f"segbundle predict SCANS --ckpt_path '{out}/model.pt' --output_dir '{out}/predictions'"
    assert segbundle(*shlex.split(evaluate)[1:]).returncode == 0  # with the settings of the training
    trained_with, used = (
        json.loads((folder / "run.json").read_text())["config"] for folder in (out, out / "evaluation")
    )
    assert trained_with["overlap"] == used["overlap"] == 0.25
    assert trained_with["network_def"] == used["network_def"] and used["network_def"]["filters"] == [2, 4, 4]


def test_foreign_or_changed_records_are_not_replaced(predict, tmp_path):
    assert predict(tmp_path).returncode == 0
    records = json.loads((tmp_path / "predictions.json").read_text())
    mine = tmp_path / "predictions.jsonl"
    mine.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    before = content(tmp_path)
    refused(predict(tmp_path), "predictions.jsonl was not written by segbundle")
    assert content(tmp_path) == before
    mine.unlink()
    (tmp_path / "predictions.json").write_text(json.dumps([record | {"my_note": "good"} for record in records]))
    refused(predict(tmp_path), "predictions.json was not written by segbundle, or has changed since")
