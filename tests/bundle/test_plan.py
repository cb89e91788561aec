"""`segbundle plan` as a user types it, on phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from commands import segbundle


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "phantoms"
    done = segbundle("samples", folder, "--num_training", 5, "--num_test", 0)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def planned(phantoms: Path) -> Path:
    path = phantoms.parent / "planned.yaml"
    done = segbundle("plan", phantoms, "-o", path, "--memory", "60MB")
    assert done.returncode == 0, done.stderr
    assert f"next: segbundle train --config {path} --dataset_dir {phantoms}" in done.stdout
    return path


def test_planned_task_trains_unedited(phantoms: Path, planned: Path, tmp_path: Path):
    values = yaml.safe_load(planned.read_text())
    assert values["class_names"] == ["background", "liver", "kidney", "vessel", "lesion"]
    words = ("--config", planned, "--dataset_dir", phantoms, "--output_dir", tmp_path / "out")
    done = segbundle("train", *words, "--max_epochs", 1, "--steps_per_epoch", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert config["patch_size"] == values["patch_size"] and config["steps_per_epoch"] == 2


def test_planning_again_keeps_edits(phantoms: Path, planned: Path):
    again = segbundle("plan", phantoms, "-o", planned, "--memory", "60MB")
    assert again.returncode == 0 and "already has these settings, so it was not changed" in again.stdout
    edited = planned.with_name("edited.yaml")
    edited.write_text(planned.read_text().replace("batch_size: 2", "batch_size: 3"))
    before = edited.read_text()
    done = segbundle("plan", phantoms, "-o", edited, "--memory", "60MB")
    assert done.returncode == 1 and edited.read_text() == before
    assert "-batch_size: 3" in done.stdout and "+batch_size: 2" in done.stdout
    assert f"Error: {edited}: exists, and its settings differ from this plan. Use --overwrite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "task.txt"], "is not a .yaml file"),
        (["-o", "task.yaml", "--memory", "1MB"], "no plan fits"),
        (["-o", "task.yaml", "--preset", "tiny"], "no such preset"),
    ],
)
def test_errors_are_one_line(phantoms: Path, tmp_path: Path, words: list[str], message: str):
    done = segbundle("plan", phantoms, *words, cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "task.yaml").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert message in line


def test_missing_dataset_and_missing_labels(tmp_path: Path, phantoms: Path):
    done = segbundle("plan", tmp_path / "none", "-o", tmp_path / "task.yaml")
    assert done.returncode == 1 and "no such folder" in done.stderr
    (tmp_path / "scans" / "imagesTr").mkdir(parents=True)
    (tmp_path / "scans" / "imagesTr" / "a.nii.gz").symlink_to(phantoms / "imagesTr" / "phantom_000.nii.gz")
    done = segbundle("plan", tmp_path / "scans", "-o", tmp_path / "task.yaml")
    assert done.returncode == 1 and "none of its 1 cases has a label map" in done.stderr


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the working folder and the output of `segbundle train DATASET` with the default output folder."""
    folder = tmp_path_factory.mktemp("work")
    short = ("--max_epochs", 1, "--steps_per_epoch", 1, "--network_def#filters", "[4,8,8,8]")
    done = segbundle("train", phantoms, *short, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


def test_dataset_alone_is_planned_and_trained(phantoms: Path, trained: tuple[Path, str]):
    folder, output = trained
    run = folder / "runs" / "phantoms"
    values = yaml.safe_load((run / "task.yaml").read_text())
    assert values["class_names"] == ["background", "liver", "kidney", "vessel", "lesion"]
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["spacing"] == values["spacing"] and config["max_epochs"] == 1
    assert config["network_def"]["filters"] == [4, 8, 8, 8]
    assert "runs/phantoms/task.yaml: the task of this training" in output
    assert (run / "model.pt").is_file()
    (evaluate,) = [line for line in output.splitlines() if "segbundle evaluate" in line]
    assert f"segbundle evaluate --dataset_dir {phantoms} --fold 0 --ckpt_path runs/phantoms/model.pt" in evaluate
    (predict,) = [line for line in output.splitlines() if "segbundle predict" in line]
    assert "segbundle predict SCANS --ckpt_path runs/phantoms/model.pt" in predict


def test_planned_training_is_resumed_with_its_task(phantoms: Path, trained: tuple[Path, str]):
    folder, _ = trained
    again = segbundle("train", phantoms, "--max_epochs", 2, cwd=folder)
    assert again.returncode == 1 and "already contains a training run (last.pt)" in again.stderr
    before = (folder / "runs" / "phantoms" / "task.yaml").read_bytes()
    short = ("--max_epochs", 2, "--steps_per_epoch", 1, "--network_def#filters", "[4,8,8,8]")
    done = segbundle("train", phantoms, *short, "--resume", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "task: runs/phantoms/task.yaml" in done.stdout
    assert (folder / "runs" / "phantoms" / "task.yaml").read_bytes() == before


def test_edited_task_of_a_run_is_kept(phantoms: Path, tmp_path: Path):
    task = tmp_path / "runs" / "phantoms" / "task.yaml"
    task.parent.mkdir(parents=True)
    task.write_text("max_epochs: 7 # mine\n")
    done = segbundle("train", phantoms, cwd=tmp_path)
    assert done.returncode == 1 and task.read_text() == "max_epochs: 7 # mine\n"
    assert "Error: runs/phantoms/task.yaml: exists, and its settings differ from the plan." in done.stderr


def test_dataset_without_an_option_needs_no_plan_with_a_task(phantoms: Path, planned: Path, tmp_path: Path):
    short = ("--max_epochs", 1, "--steps_per_epoch", 1)
    done = segbundle("train", "--config", planned, phantoms, *short, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "phantoms" / "model.pt").is_file()
    assert not (tmp_path / "runs" / "phantoms" / "task.yaml").exists()


def test_missing_arguments_of_a_training(tmp_path: Path):
    done = segbundle("train", "--max_epochs", 1, cwd=tmp_path)
    assert done.returncode == 1 and "no dataset given. Pass the dataset as `segbundle train DATASET`" in done.stderr
    done = segbundle("train", "--dataset_dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and "--output_dir is missing" in done.stderr
    done = segbundle("train", tmp_path / "none", cwd=tmp_path)
    assert done.returncode == 1 and "no such folder" in done.stderr
    assert list(tmp_path.iterdir()) == []
