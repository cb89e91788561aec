"""Commands on a dataset with missing classes and unknown voxels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from commands import TINY, segbundle
from tiny import TINY_CLASSES, write_nifti, write_tiny_dataset

UNKNOWN = 9


def write_partial_dataset(folder: Path, tell: bool) -> Path:
    """Write a dataset in which half of the training cases have only the ball, the others only the cube.

    Voxels at the far ends of the label maps are unknown.
    """
    write_tiny_dataset(folder, num_cases=10, num_test=3)
    description = json.loads((folder / "dataset.json").read_text())
    for number, entry in enumerate(description["training"]):
        path = folder / entry["label"]
        kept = 1 + number % 2
        label = np.asarray(nib.load(path).dataobj)
        label = np.where(label == kept, kept, 0).astype(np.uint8)
        label[-3:] = UNKNOWN
        write_nifti(path, label)
        if tell:
            entry["annotated"] = [TINY_CLASSES[kept]]
    description["labels"][str(UNKNOWN)] = "ignore"
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def dice_after_training(dataset: Path, out: Path) -> dict[str, float]:
    common = ("--config", TINY, "--dataset_dir", dataset)
    done = segbundle("train", *common, "--output_dir", out, "--max_epochs", 100)
    assert done.returncode == 0, done.stdout + done.stderr
    done = segbundle(
        "evaluate", *common, "--ckpt_path", out / "model.pt", "--output_dir", out / "test", "--data_list_key", "test"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    classes = json.loads((out / "test" / "summary.json").read_text())["classes"]
    return {name: row["dice_mean"] for name, row in classes.items()}


def test_classes_are_learned_from_cases_with_one_class_each(tmp_path: Path):
    told = dice_after_training(write_partial_dataset(tmp_path / "told", tell=True), tmp_path / "a")
    assert min(told.values()) > 0.8
    rows = list(csv.DictReader((tmp_path / "a" / "metrics.csv").open()))
    assert {row["status"] for row in rows} >= {"scored", "unannotated"}
    assert all((row["dice"] == "") == (row["status"] in ("unannotated", "true_absent")) for row in rows)


@pytest.mark.parametrize("tell", [True, False])
def test_loss_without_support_for_missing_classes_fails(tmp_path: Path, tell: bool):
    dataset = write_partial_dataset(tmp_path / "data", tell)
    monai_loss = "{'_target_': 'DiceCELoss', 'to_onehot_y': True, 'softmax': True}"
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--loss", monai_loss
    )
    assert done.returncode == 1
    what = "not every class was annotated" if tell else "voxels of unknown class"
    assert what in done.stderr
    assert "Use a loss of segbundle.losses" in done.stderr
    assert "Traceback" not in done.stderr


def test_region_term_can_follow_a_ramp(tmp_path: Path):
    dataset = write_partial_dataset(tmp_path / "data", tell=True)
    task = tmp_path / "ramp.yaml"
    task.write_text("loss#lambda_dice: {_target_: segbundle.losses.LinearRamp, start: 0.0, end: 1.0, until: 0.5}\n")
    done = segbundle(
        "train", "--config", TINY, "--config", task, "--dataset_dir", dataset, "--output_dir", tmp_path / "out",
        "--max_epochs", 2, "--val_interval", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
