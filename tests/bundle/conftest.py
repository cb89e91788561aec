"""Dataset, training and folders that the tests of this folder share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest

from commands import ROOT, monai_bundle_really
from tiny import write_tiny_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", num_cases=6, num_test=2)


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a training that ran in an unrelated working directory."""
    out = tmp_path_factory.mktemp("trained") / "out"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = monai_bundle_really("train", "--dataset_dir", dataset, "--output_dir", out, cwd=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(elsewhere.iterdir()) == []
    (out / "stdout.txt").write_text(done.stdout)
    return out


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that looks like a clone, so that commands do not write into the real one."""
    for name in ("bundle", "configs", "data_samples", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def hippocampus_like(tmp_path: Path) -> Path:
    """Return a tiny dataset with the class names of the bundle's default task."""
    dataset = write_tiny_dataset(tmp_path / "hippocampus_like", num_cases=5)
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "Anterior", "2": "Posterior"}
    (dataset / "dataset.json").write_text(json.dumps(description))
    return dataset


@pytest.fixture
def few_test_scans(checkout: Path) -> Path:
    """Return `checkout` with the middle of two test scans, because the bundle's model is slow without bfloat16."""
    samples = checkout / "data_samples"
    samples.unlink()
    samples.mkdir()
    description = json.loads((ROOT / "data_samples" / "dataset.json").read_text())
    description["test"] = description["test"][:2]
    description["numTest"] = 2
    (samples / "dataset.json").write_text(json.dumps(description))
    for name in ("imagesTr", "labelsTr"):
        (samples / name).symlink_to(ROOT / "data_samples" / name)
    for entry in description["test"]:
        for path in entry.values():
            (samples / path).parent.mkdir(exist_ok=True)
            image = nib.load(ROOT / "data_samples" / path)
            nib.save(image.slicer[12:-12, 12:-12, 12:-12], samples / path)
    return checkout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a separate file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount file systems")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
