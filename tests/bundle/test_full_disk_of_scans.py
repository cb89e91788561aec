"""Full or read-only disk during prediction, evaluation or report: the error is clear, and the run can resume."""

import json
import shutil
import subprocess

from commands import TINY, segbundle
from disks import fill


def assert_refused(done, disk):
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "cannot be written" in done.stderr + done.stdout and "free space" in done.stderr + done.stdout
    assert [path.name for path in disk.rglob("*") if ".partial" in path.name] == []


def test_full_disk_during_prediction(dataset, trained, small_disk):
    words = ["predict", dataset / "imagesTr", "--config", TINY, "--ckpt_path", trained / "model.pt"]
    words += ["--output_dir", small_disk / "out"]
    fill(small_disk, 3 * 4096)
    assert_refused(segbundle(*words), small_disk)
    (small_disk / "filler").unlink()
    done = segbundle(*words, "--resume")
    assert done.returncode == 0, done.stderr
    records = json.loads((small_disk / "out" / "predictions.json").read_text())
    assert [record["status"] for record in records] == ["ok"] * 6


def test_full_disk_during_evaluation(dataset, trained, small_disk):
    words = ["evaluate", "--dataset_dir", dataset, "--config", TINY, "--ckpt_path", trained / "model.pt"]
    words += ["--output_dir", small_disk / "out"]
    fill(small_disk, 12 * 4096)  # label maps fit, the report does not
    assert_refused(segbundle(*words), small_disk)


def test_full_disk_during_report(dataset, trained, small_disk):
    run = shutil.copytree(trained, small_disk / "run", ignore=shutil.ignore_patterns("*.pt", "tensorboard"))
    fill(small_disk, 4096)
    assert_refused(segbundle("report", run), small_disk)
    assert not (run / "report.html").exists()


def test_read_only_disk_during_prediction(dataset, trained, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for words in (
        ["predict", dataset / "imagesTr", "--ckpt_path", trained / "model.pt"],
        ["evaluate", "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt"],
        ["cross-validate", "--dataset_dir", dataset],
    ):
        done = segbundle(*words, "--config", TINY, "--output_dir", small_disk / "out")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "disk/out" in done.stderr and "cannot be written" in done.stderr
