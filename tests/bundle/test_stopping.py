"""Commands that are stopped by a signal: one line, exit code 128 plus the signal number, and a resumable run."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import TINY, segbundle

SEGBUNDLE = str(Path(sys.executable).parent / "segbundle")


def stopped(number, after, *words):
    """Send a signal when a line of the output contains some words, and return exit code and messages."""
    command = [SEGBUNDLE, *map(str, words)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore the signal
    )
    for line in process.stdout:
        if after in line:
            break
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_training_can_be_resumed(number, dataset, trained, tmp_path):
    out = tmp_path / "out"
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out]
    code, messages = stopped(number, "epoch", *words)
    assert code == 128 + number
    assert messages == "Stopped. Run the same command with --resume to continue after the last finished epoch.\n"
    assert [path.name for path in out.iterdir() if ".partial" in path.name] == []
    done = segbundle(*words, "--resume")
    assert done.returncode == 0, done.stderr
    weights, uninterrupted = (torch.load(folder / "model.pt", weights_only=True) for folder in (out, trained))
    assert all(torch.equal(weights[name], uninterrupted[name]) for name in uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_can_be_stopped_during_start(number, dataset, tmp_path):
    code = (
        "import os, segbundle.cli.app, segbundle.workflow.bundle_runs as bundle_runs\n"
        f"bundle_runs.fast_imports = lambda: os.kill(os.getpid(), {number:d})\n"
        "segbundle.cli.app.main()"
    )
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 128 + number
    assert done.stderr.startswith("Stopped.") and done.stderr.count("\n") == 1


def test_stopped_cross_validation_prints_how_to_continue(dataset, tmp_path):
    words = ["cross-validate", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out"]
    code, messages = stopped(signal.SIGTERM, "epoch", *words)
    assert code == 128 + signal.SIGTERM
    assert messages.splitlines()[-1] == "Stopped. Run the same command to continue."
