"""Prediction of a folder with damaged scans: uninterrupted, resumed, and with further options."""

import gzip
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from commands import TINY, segbundle
from tiny import write_tiny_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder tree with twenty scans, two of them corrupt."""
    root = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for index in range(20):
        write_tiny_case(root / f"ward {index % 3}", f"scan_{index:02d}", rng)
    scans = sorted(root.rglob("images*/*.nii.gz"))
    for image in scans:
        image.rename(image.parent.parent / image.name)
    for label in root.rglob("labels*"):
        for path in label.iterdir():
            path.unlink()
        label.rmdir()
    truncated, nonsense = (next(root.rglob(f"scan_{index:02d}.nii.gz")) for index in (7, 13))
    truncated.write_bytes(truncated.read_bytes()[:2000])
    nonsense.write_text("no scan")
    return root


def predict(folder, trained, out, *words):
    return [
        "predict", folder, "--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", out, *words,
    ]  # fmt: skip


def results(out):
    """Return the uncompressed bytes of the label maps, and the records without values that vary between runs."""
    masks = {path.name: gzip.decompress(path.read_bytes()) for path in out.glob("*_seg.nii.gz")}
    records = json.loads((out / "predictions.json").read_text())
    kept = ("case", "image", "status", "error", "settings")
    return masks, [{key: record[key] for key in kept} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(folder, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    done = segbundle(*predict(folder, trained, out))
    assert done.returncode == 1
    assert "2 of 20 scans failed (scan_07, scan_13); see " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return out


def test_corrupt_scans_are_recorded_and_others_predicted(uninterrupted, folder):
    masks, records = results(uninterrupted)
    assert len(masks) == 18
    # 18 label maps with tables of classes, predictions.json, run.json, training_cases.csv, the record of files, a lock
    assert len(list(uninterrupted.iterdir())) == 41
    failed = {record["case"]: record for record in records if record["status"] == "failed"}
    assert set(failed) == {"scan_07", "scan_13"}
    for case, record in failed.items():
        assert f"{case}.nii.gz: cannot be read (" in record["error"]
    for name in masks:
        scan = nib.load(next(folder.rglob(name.replace("_seg", ""))))
        np.testing.assert_array_equal(nib.load(uninterrupted / name).affine, scan.affine)


@pytest.mark.parametrize("after", [1, 9, 16])
def test_killed_and_resumed_prediction_equals_uninterrupted(folder, trained, uninterrupted, tmp_path, after):
    out = tmp_path / "out"
    words = [Path(sys.executable).parent / "segbundle", *predict(folder, trained, out)]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, deadline = out / "predictions.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):  # before the first scan and after the last
            if journal.read_bytes().count(b"\n") >= after:
                break
    process.send_signal(signal.SIGKILL)
    process.wait()
    done_before = {path.name: path.stat().st_mtime_ns for path in out.glob("scan_*_seg.nii.gz")}  # no partial file
    assert after - 2 <= len(done_before) < 18  # two records may be failures
    done = segbundle(*predict(folder, trained, out, "--resume"))
    assert done.returncode == 1
    assert "2 of 20 scans failed" in done.stderr
    assert "of 20 scans are done" in done.stdout
    assert results(out) == results(uninterrupted)
    assert len(list(out.iterdir())) == 41  # with a lock, but without a partial file
    recorded = [name for name, written in done_before.items() if (out / name).stat().st_mtime_ns == written]
    assert len(recorded) >= after - 2


def test_flips_components_and_probabilities(folder, trained, tmp_path):
    scan = next(folder.rglob("scan_00.nii.gz"))
    options = ["--test_time_flips", "[0,1,2]", "--largest_component", "true", "--save_probabilities", "true"]
    done = segbundle(*predict(scan, trained, tmp_path, *options, "--window_size", "auto", "--skip_air", "true"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", ".segbundle-files.jsonl",
        "scan_00_seg.nii.gz", "scan_00_seg.json", "scan_00_prob.nii", "predictions.json", "run.json",
        "training_cases.csv",
    }  # fmt: skip
    image = nib.load(tmp_path / "scan_00_prob.nii")
    assert image.shape == (20, 18, 16, 3)
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    probabilities = image.get_fdata()
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-4)
    labels = np.asarray(nib.load(tmp_path / "scan_00_seg.nii.gz").dataobj)
    kept = labels > 0
    assert kept.any()
    np.testing.assert_array_equal(labels[kept], probabilities.argmax(axis=-1)[kept])


def test_two_checkpoints_form_an_ensemble(folder, trained, tmp_path):
    scan = next(folder.rglob("scan_00.nii.gz"))
    same = tmp_path / "same.pt"
    same.write_bytes((trained / "model.pt").read_bytes())
    one = segbundle(*predict(scan, trained, tmp_path / "one"))
    two = segbundle(*predict(scan, trained, tmp_path / "two", "--ckpt_path", same))
    assert (one.returncode, two.returncode) == (0, 0), two.stdout + two.stderr
    assert results(tmp_path / "one")[0] == results(tmp_path / "two")[0]
    settings = [results(tmp_path / name)[1][0]["settings"] for name in ("one", "two")]
    assert settings[0] != settings[1]


def test_wrong_values_are_named(folder, trained, tmp_path):
    for words, message in (
        (["--largest_component", "['bal']"], "unknown class 'bal': did you mean 'ball'?"),
        (["--backend", "fast"], "backend is 'fast'"),
        (["--window_size", "huge"], "window_size"),
        (["--test_time_flips", "[3]"], "test_time_flips is [3]; a list of axes, for instance [0], is needed"),
    ):
        done = segbundle(*predict(folder, trained, tmp_path / "out", *words))
        assert done.returncode == 1, words
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_prediction_without_weights_fails(folder, tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("ckpt_path: null\n")
    done = segbundle("predict", folder, "--config", TINY, "--config", task, "--output_dir", tmp_path / "out")
    assert done.returncode == 1
    assert "ckpt_path is None: a prediction needs the weights of a trained network" in done.stderr


def test_changed_component_arguments_count_as_new_settings(folder, trained, tmp_path):
    scan = next(folder.rglob("scan_00.nii.gz"))
    assert segbundle(*predict(scan, trained, tmp_path)).returncode == 0
    done = segbundle(*predict(scan, trained, tmp_path, "--resume", "--sw_batch_size", "2"))
    assert "resuming: 1 of 1 scans are done" in done.stdout, done.stdout + done.stderr
    done = segbundle(*predict(scan, trained, tmp_path, "--resume", "--inferer#overlap", "0.75"))
    assert "1 scan(s) had other settings" in done.stdout, done.stdout + done.stderr
