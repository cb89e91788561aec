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
    assert again.returncode == 0 and "has these settings already, so it was not changed" in again.stdout
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
