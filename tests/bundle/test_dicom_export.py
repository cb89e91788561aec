"""Prediction of the export of a PACS: 30 series in nested folders, of which 20 are CT or MR volumes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.uid import generate_uid

from commands import segbundle
from dicoms import MR, add_pixels, header, voxels, write_enhanced, write_series

pytestmark = pytest.mark.e2e

TASK = """\
class_names: [background, bright]
spacing: null
axcodes: null
intensity: {method: window, lower: -1000, upper: 1000}
patch_size: [16, 16, 16]
network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 2, kernel_size: 1}
precision: fp32
device: cpu
"""
OBJECTS = ("RTSTRUCT", "SR", "SEG", "KO", "PR")


def write_export(folder: Path) -> dict[str, np.ndarray]:
    """Write the series, and return the voxels of each CT and MR volume by case."""
    expected = {}
    for number in range(10):
        volume, study = voxels((9, 8, 6), seed=number), folder / f"patient{number % 5}" / f"study{number}"
        series = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 2, "SeriesDescription": "thorax"}
        write_series(study / "SE000002", volume, **series)
        expected[f"patient{number % 5}_study{number}_SE000002"] = volume
    for number in range(6):
        volume = voxels((9, 8, 6), seed=10 + number)
        tags = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": f"t1.{number}", "kind": MR, "modality": "MR"}
        write_series(folder / "mixed", volume, prefix=f"{number}.", **tags)
        expected[f"mixed_t1.{number}"] = volume
    both = voxels((9, 8, 12), seed=20)
    positions = [(-10, -20, 2 * (k % 6)) for k in range(12)]
    echo = {"edit": lambda dataset, index: setattr(dataset, "EchoTime", 90 if index >= 6 else 10)}
    tags = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "echoes", "kind": MR, "modality": "MR"}
    write_series(folder / "deep" / "er" / "echoes", both, positions=positions, **echo, **tags)
    expected |= {
        f"deep_er_echoes_echoes_TE{time}": both[:, :, part] for time, part in ((10, slice(6)), (90, slice(6, 12)))
    }
    scattered = voxels((9, 8, 6), seed=21)
    tags = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "archive"}
    for index, path in enumerate(write_series(folder / "archive", scattered, **tags)):
        (folder / "archive" / f"{index:02x}").mkdir()
        path.rename(folder / "archive" / f"{index:02x}" / "image")
    expected["archive_archive"] = scattered
    enhanced = voxels((9, 8, 6), seed=22)
    write_enhanced(folder / "enhanced" / "mf.dcm", enhanced, [(-10, -20, 2 * k) for k in range(6)], [1] * 6)
    expected["enhanced"] = enhanced - 10
    write_others(folder)
    return expected


def write_others(folder: Path) -> None:
    """Write ten series that are neither CT nor MR volumes."""
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    for number in range(2):
        write_series(folder / f"scout{number}", voxels((9, 8, 1)), SeriesInstanceUID=generate_uid(), **scout)
    for modality in OBJECTS:
        path = folder / "mixed" / f"{modality}1"
        dataset = header(path, "1.2.840.10008.5.1.4.1.1.88.33", modality, SeriesInstanceUID=generate_uid())
        dataset.save_as(path)
    for number in range(2):  # secondary captures without a position
        path = folder / "captures" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        dataset = header(path, "1.2.840.10008.5.1.4.1.1.7", "OT", SeriesInstanceUID=generate_uid())
        add_pixels(dataset, np.zeros((8, 9), np.int16))
        dataset.save_as(path)
    write_series(folder / "pet", voxels((9, 8, 6)), SeriesInstanceUID=generate_uid(), modality="PT")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    expected = write_export(folder / "EXPORT")
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():  # the second logit is larger above 100
        network.weight[:] = torch.tensor([0.0, 2000.0]).reshape(2, 1, 1, 1, 1)
        network.bias[:] = torch.tensor([0.0, -1100.5])
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "task.yaml").write_text(TASK)
    return folder, expected


def command(folder, out):
    return [
        "predict", folder / "EXPORT", "--config", folder / "task.yaml", "--ckpt_path", folder / "model.pt",
        "--output_dir", out, "--series", '["CT", "MR"]',
    ]  # fmt: skip


def check_results(out, expected):
    records = json.loads((out / "predictions.json").read_text())
    assert sorted(record["case"] for record in records) == sorted(expected)
    assert {record["status"] for record in records} == {"ok"}
    for record in records:
        labels = np.asarray(nib.load(record["prediction"]).dataobj)
        np.testing.assert_array_equal(labels, expected[record["case"]] > 100)


def test_label_maps_for_ct_and_mr_volumes_only(export, tmp_path):
    folder, expected = export
    done = segbundle(*command(folder, tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    check_results(tmp_path / "out", expected)
    assert "15 files skipped: 6 of series that are not selected" in done.stdout
    assert "2 as a localizer" in done.stdout and "1 RTSTRUCT (DICOM)" in done.stdout
    assert "not volumes (a localizer): scout0, scout1" in done.stdout
    table = segbundle("check", folder / "EXPORT")
    lines = table.stdout.splitlines()
    header_line = next(index for index, line in enumerate(lines) if line.startswith("scan "))
    reason = lines[header_line].index("not a volume")
    volumes, others = [], []
    for line in lines[header_line + 1 :]:
        (others if line[reason:] else volumes).append(line.split()[0])
    assert sorted(volumes) == sorted([*expected, "pet"])
    assert {"scout0", "scout1"} <= set(others)


def test_killed_and_resumed(export, tmp_path):
    folder, expected = export
    out = tmp_path / "out"
    words = [Path(sys.executable).parent / "segbundle", *command(folder, out)]
    with subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list(out.glob("*_seg.nii.gz"))) < 5:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finished = len(list(out.glob("*_seg.nii.gz")))
    assert finished >= 5
    done = segbundle(*command(folder, out), "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 20 scans are done" in done.stdout + done.stderr
    check_results(out, expected)
