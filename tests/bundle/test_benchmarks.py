"""The commands of docs/benchmarks.md on tiny inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands import ROOT
from documents import blocks, commands, run_all, shell
from tiny import write_nifti


@pytest.fixture
def small_ct(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(0, 100, (12, 10, 8)).round().astype(np.int16)
    return write_nifti(tmp_path / "ct_3mm.nii.gz", values, np.diag([3.0, 3.0, 3.0, 1.0]))


def test_commands_of_the_benchmarks(few_test_scans: Path, hippocampus_like: Path, small_ct: Path):
    checkout = few_test_scans
    (checkout / "benchmarks").symlink_to(ROOT / "benchmarks")
    lines = [line for text in blocks(ROOT / "docs" / "benchmarks.md", "bash") for line in commands(text)]
    assert len(lines) >= 1
    lines = [line.replace("/path/to/Task04_Hippocampus", str(hippocampus_like)) for line in lines]
    lines = [line.replace("/path/to/ct_3mm.nii.gz", str(small_ct)) for line in lines]
    first = {line.split()[1]: line for line in reversed(lines)}  # shortened commands of a program are nearly the same
    lines = [line for line in lines if line.startswith("segbundle") or first[line.split()[1]] == line]
    demo = "segbundle train --config configs/phantom.yaml --dataset_dir data_samples --output_dir runs/demo/training"
    run_all([demo, *lines], checkout, forked=True)


def test_fine_tuning(tmp_path: Path):
    tiny = "--minutes 0.01 --scratch 0.01 0.02 --pretraining 0.01 --cases 5 --epoch_seconds 1 --num_workers 0"
    done = shell(f"python {ROOT}/benchmarks/fine_tuning.py {tiny}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n| minutes | from scratch | fine-tuned |\n|---|---|---|\n| 0.01 | 0." in done.stdout
    assert "new: classes liver and lesion, right kidney, left kidney, aorta" in done.stderr


def test_three_commands_from_a_folder(tmp_path: Path):
    done = shell(f"python {ROOT}/benchmarks/bare_folders.py --minutes 0.05 --only 'four regions'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| four regions | 4 regions | 1.5, 1.5, 1.5 | 48×48×40 |" in done.stdout


def test_many_and_long_scans(tmp_path: Path):
    done = shell(f"python {ROOT}/benchmarks/load.py --scans 5 --slices 4", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n| 4 | 1 | " in done.stdout  # slices and million voxels


def test_listing_of_an_export(tmp_path: Path):
    done = shell(f"python {ROOT}/benchmarks/dicom_export.py --files 400 --layouts series archive", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| series | 400 | 2 |" in done.stdout and "| archive | 400 | 2 |" in done.stdout
