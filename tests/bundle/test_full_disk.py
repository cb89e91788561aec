"""Training on a full or read-only disk: the error is clear, and the previous checkpoint is kept."""

import subprocess

import torch

from commands import TINY, segbundle
from disks import fill


def train(dataset, out, epochs, *options):
    words = ["--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs", epochs]
    return segbundle("train", *words, "--val_interval", 2, *options)


def assert_kept(out, before):
    assert (out / "last.pt").read_bytes() == before
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 2
    assert [path.name for path in out.iterdir() if ".partial" in path.name] == []


def test_full_disk_during_training(dataset, small_disk):
    out = small_disk / "run"
    done = train(dataset, out, 2)
    assert done.returncode == 0, done.stderr
    before = (out / "last.pt").read_bytes()
    fill(small_disk, len(before) // 2)
    done = train(dataset, out, 4, "--resume", "true")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "last.pt: cannot be written" in done.stderr and "check the free space" in done.stderr.replace(
        "the folder and ", ""
    )
    assert_kept(out, before)
    (small_disk / "filler").unlink()
    done = train(dataset, out, 4, "--resume", "true")
    assert done.returncode == 0, done.stderr
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 4


def test_full_disk_with_prepared_cases(dataset, small_disk, tmp_path):
    fill(small_disk, 2**14)
    done = train(dataset, tmp_path / "out", 2, "--cache_dir", small_disk / "cache")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(small_disk / "cache") in done.stderr and "free some space" in done.stderr


def test_read_only_disk(dataset, small_disk):
    out = small_disk / "run"
    assert train(dataset, out, 2).returncode == 0
    before = (out / "last.pt").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = train(dataset, out, 4, "--resume", "true")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{out}: cannot be written" in done.stderr
    assert_kept(out, before)
