"""Subsets, merged values and regions in one dataset, with partial labels and unknown voxels, through every command."""

import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from commands import TINY, segbundle
from tiny import tiny_label, write_nifti

LABELS = {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "inner": [5], "ignore": 7}
MEMBERS = {"whole": (1, 2, 3), "core": (2, 3), "inner": (3,)}
TASK = "max_epochs: 30\nval_interval: 10\n"


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """Return a dataset whose ball has a core and an inner core; with a stripe of unknown voxels and a partial case."""
    folder, rng, entries = tmp_path_factory.mktemp("nested"), np.random.default_rng(0), []
    for number in range(6):
        ball = tiny_label(rng) == 1
        center = np.argwhere(ball).mean(axis=0)
        distance = np.linalg.norm(np.moveaxis(np.indices(ball.shape), 0, -1) - center, axis=-1)
        label = np.select([distance < 2.2, distance < 3.6, ball], [5, 2, 1]).astype(np.uint8)
        image = np.select([label == 5, label == 2, label == 1], [150, 100, 50]) + rng.normal(0, 5, ball.shape)
        label[:, :, 0] = 7
        entry = {"image": f"images/{number}.nii.gz", "label": f"labels/{number}.nii.gz"}
        if number == 0:  # only the core was annotated, and everything in it
            label[label == 1] = 0
            entry["annotated"] = ["core", "inner"]
        write_nifti(folder / entry["image"], image.astype(np.float32))
        write_nifti(folder / entry["label"], label)
        entries.append(entry)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "training": entries}))
    return folder


@pytest.fixture(scope="module")
def trained_on_regions(nested, tmp_path_factory):
    out = tmp_path_factory.mktemp("regions")
    plain = {name: value for name, value in LABELS.items() if name not in ("background", "ignore")}
    task = out / "task.yaml"
    task.write_text(f"classes: {json.dumps(plain)}\n{TASK}")
    done = segbundle("train", "--config", TINY, "--config", task, "--dataset_dir", nested, "--output_dir", out / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "run"


def scores_by_hand(nested, folder, case):
    """Return the Dice of each class from the written label maps."""
    stored = np.asarray(nib.load(nested / "labels" / f"{case}.nii.gz").dataobj)
    predicted = np.asarray(nib.load(folder / f"{case}_seg.nii.gz").dataobj)
    known, found = stored != 7, {}
    for name, members in MEMBERS.items():
        ref, pred = np.isin(stored, LABELS[name]) & known, np.isin(predicted, members) & known
        found[name] = 2 * (ref & pred).sum() / (ref.sum() + pred.sum())
    return found


def test_evaluation_scores_the_regions_of_the_written_label_maps(nested, trained_on_regions, tmp_path):
    words = ("--ckpt_path", trained_on_regions / "model.pt", "--dataset_dir", nested, "--fold", "null")
    done = segbundle("evaluate", *words, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["class"] for row in rows] == [*MEMBERS] * 6
    for row in rows:
        if row["status"] == "unannotated":
            assert (row["case"], row["class"]) == ("0", "whole")
            continue
        assert float(row["dice"]) == pytest.approx(
            scores_by_hand(nested, tmp_path, row["case"])[row["class"]], abs=1e-4
        )
    learned = [float(row["dice"]) for row in rows if row["class"] != "inner" and row["dice"]]
    assert min(learned) > 0.6
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('class="plane"') >= 9 and "No slices" not in page


def test_predictions_are_measured_as_regions(nested, trained_on_regions, tmp_path):
    done = segbundle(
        "predict", nested / "images", "--ckpt_path", trained_on_regions, "--output_dir", tmp_path,
        "--save_probabilities", "true", "--test_time_flips", "[0]",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    labels = np.asarray(nib.load(tmp_path / "3_seg.nii.gz").dataobj)
    probabilities = np.asarray(nib.load(tmp_path / "3_prob.nii").dataobj)
    painted = np.zeros(labels.shape, np.uint8)
    for index in (1, 2, 3):
        painted[probabilities[..., index] > 0.5] = index
    assert (painted == labels).mean() > 0.999  # probabilities are rounded
    assert probabilities.sum(axis=-1).max() > 1.2  # regions overlap
    assert segbundle("report", tmp_path).returncode == 0
    volume = {row["class"]: float(row["volume_ml"]) for row in csv.DictReader((tmp_path / "measurements.csv").open())
              if row["case"] == "3"}  # fmt: skip
    for name, members in MEMBERS.items():
        assert volume[name] == pytest.approx(np.isin(labels, members).sum() / 1000, abs=1e-4)


def test_subset_of_the_classes(nested, tmp_path):
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", nested, "--output_dir", tmp_path / "run", "--max_epochs", "2",
        "--val_interval", "2", "--classes", "{inner: 5}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "task.json").read_text())["class_names"] == ["background", "inner"]


def test_monai_runner_trains_on_regions(nested, tmp_path):
    classes = {name: value for name, value in LABELS.items() if name not in ("background", "ignore")}
    task = tmp_path / "task.yaml"
    names = json.dumps(["background", *classes])
    task.write_text(f"classes: {json.dumps(classes)}\nclass_names: {names}\nmax_epochs: 1\nval_interval: 1\n")
    files = f"['bundle/configs/train.yaml', '{TINY}', '{task}']"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files]
    done = subprocess.run(
        [*command, "--dataset_dir", nested, "--output_dir", tmp_path / "run"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "run" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "{inner: 6}"), "classes has the label value 6, but the dataset has"),
        (("--classes", "{inner: nowhere}"), "classes has the label 'nowhere', which is not in the dataset"),
        (("--classes", "[5]"), "classes is [5]; label values by class name"),
        ((), "its `labels` overlap. Add them to the task as classes: {background: 0, whole: [1, 2, 5],"),
    ],
)
def test_bad_classes_are_one_line(nested, tmp_path, words, message):
    done = segbundle("train", "--config", TINY, "--dataset_dir", nested, "--output_dir", tmp_path / "run", *words)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_cross_validation_of_classes(nested, tmp_path):
    done = segbundle(
        "cross-validate", "--config", TINY, "--dataset_dir", nested, "--output_dir", tmp_path, "--num_folds", "2",
        "--max_epochs", "1", "--val_interval", "1", "--classes", "{ball: [whole, core, inner]}",
    )  # fmt: skip
    assert done.returncode == 1 and "has the label 'whole', which has several values" in done.stdout + done.stderr
    done = segbundle(
        "cross-validate", "--config", TINY, "--dataset_dir", nested, "--output_dir", tmp_path, "--num_folds", "2",
        "--max_epochs", "1", "--val_interval", "1", "--classes", "{ball: [1, 2, 5]}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads((tmp_path / "summary.json").read_text())["classes"]) == ["ball"]


def test_model_is_not_used_with_other_regions(nested, trained_on_regions, tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("class_names: [background, whole, core, inner]\nintensity: {method: zscore}\n")
    done = segbundle(
        "predict", nested / "images", "--config", TINY, "--config", task,
        "--ckpt_path", trained_on_regions / "model.pt", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 1 and "was trained with classes {'whole': [1, 2, 5]" in done.stderr, done.stderr


def test_python_measures_whole_regions(nested, trained_on_regions):
    import segbundle as sb

    (found,) = sb.predict(nested / "images" / "2.nii.gz", model=trained_on_regions)
    members = np.isin(found.labels, MEMBERS["core"])
    assert np.array_equal(found.mask("core"), members) and members.any()
    assert found.volumes_ml["core"] == pytest.approx(members.sum() / 1000)
