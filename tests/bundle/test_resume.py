"""A run that was stopped goes on as if it had not been; a finished one is not overwritten."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from commands import TINY, segbundle

EPOCHS = ["--max_epochs", "90", "--val_interval", "7"]


def command(dataset, out):
    return ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, *EPOCHS]


def start_and_kill(dataset, out, after_epoch):
    """Kill a training without warning once it has finished an epoch."""
    words = [Path(sys.executable).parent / "segbundle", *command(dataset, out)]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (out / "last.pt").exists() and torch.load(out / "last.pt", weights_only=True)["epoch"] >= after_epoch:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return torch.load(out / "last.pt", weights_only=True)["epoch"]


def test_a_killed_run_that_is_resumed_ends_with_the_weights_of_an_undisturbed_one(dataset, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    done = segbundle(*command(dataset, undisturbed))
    assert done.returncode == 0, done.stdout + done.stderr
    epoch = start_and_kill(dataset, killed, after_epoch=9)
    assert 9 <= epoch < 90
    done = segbundle(*command(dataset, killed))
    assert done.returncode == 1
    assert "already holds a training run" in done.stderr
    done = segbundle(*command(dataset, killed), "--resume", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from" in done.stdout
    one, two = (torch.load(out / "last.pt", weights_only=True) for out in (undisturbed, killed))
    assert two["epoch"] == 90
    assert all(torch.equal(value, two["network"][name]) for name, value in one["network"].items())
    assert (one["best_metric"], one["best_metric_epoch"]) == (two["best_metric"], two["best_metric_epoch"])
    for name in ("metrics.csv", "summary.json"):
        assert (undisturbed / name).read_bytes() == (killed / name).read_bytes()


def test_resuming_a_finished_run_says_so_and_changes_nothing(trained, dataset):
    before = (trained / "last.pt").read_bytes(), (trained / "model.pt").read_bytes()
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", trained, "--resume", "true"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing left to train" in done.stdout
    assert before == ((trained / "last.pt").read_bytes(), (trained / "model.pt").read_bytes())
