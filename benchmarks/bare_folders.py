"""Three commands, from a folder of scans and label maps to a report, for datasets of different kinds.

    python benchmarks/bare_folders.py --minutes 2 --dataset hippocampus=Task04_Hippocampus --torso ct_torso

The commands are `segbundle plan`, `train` and `evaluate`; the planned task is not edited. The datasets are generated:
phantoms, scans with two channels, thick slices (0.5 x 0.5 x 6 mm), and regions that overlap. `--dataset` adds
datasets, and `--torso` cuts `ct_3mm_crop.nii.gz` and its label map in that folder into a dataset of
41 organs without a `dataset.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from numpy.typing import NDArray

from segbundle.class_values import regions as regions_of
from segbundle.datasets.samples import write_samples

Array = NDArray[np.float32]
_NUM_CASES = 8
_PROGRAM = Path(sys.executable).with_name("segbundle")


def phantoms(folder: Path, torso: Path | None) -> None:
    """Write the phantoms of `segbundle samples`."""
    write_samples(folder, num_training=12, num_test=0)


def two_channels(folder: Path, torso: Path | None) -> None:
    """Write balls of which each channel shows one, in nnU-Net's layout."""
    rng = np.random.default_rng(0)
    labels = {"background": 0, "first": 1, "second": 2}
    for case in range(_NUM_CASES):
        distances = [_distance((48, 44, 40), rng) for _ in range(2)]
        label = np.select([distances[1] < 7, distances[0] < 9], [2, 1]).astype(np.uint8)
        channels = [(label == value).astype(np.float32) for value in (1, 2)]
        _write(folder, case, [_noisy(channel, rng) for channel in channels], label, (1.0, 1.0, 1.2))
    _describe(folder, labels, {"0": "T1", "1": "FLAIR"})


def thick_slices(folder: Path, torso: Path | None) -> None:
    """Write balls in CT values with slices of 6 mm."""
    rng = np.random.default_rng(1)
    for case in range(_NUM_CASES):
        distance = _distance((160, 160, 14), rng, scale=(0.5, 0.5, 6.0))
        label = np.select([distance < 12, distance < 24], [2, 1]).astype(np.uint8)
        scan = np.select([label == 2, label == 1], [120.0, 60.0], -80.0) + rng.normal(0, 30, label.shape)
        _write(folder, case, [scan.astype(np.float32)], label, (0.5, 0.5, 6.0))
    _describe(folder, {"background": 0, "organ": 1, "tumor": 2}, {"0": "CT"})


def regions(folder: Path, torso: Path | None) -> None:
    """Write four regions of balls, of which each contains the next, with two channels."""
    rng = np.random.default_rng(2)
    for case in range(_NUM_CASES):
        distance = _distance((44, 48, 40), rng)
        label = np.select([distance < 4, distance < 7, distance < 10, distance < 14], [4, 1, 3, 2]).astype(np.uint8)
        channels = [np.isin(label, inside).astype(np.float32) + (label == 4) for inside in ([1, 4], [2, 3])]
        _write(folder, case, [_noisy(channel, rng) for channel in channels], label, (1.5, 1.5, 1.5))
    labels = {"background": 0, "whole": [1, 2, 3, 4], "inner": [1, 3, 4], "core": [1, 4], "enhancing": [4]}
    _describe(folder, labels, {"0": "T1", "1": "T2"}, regions_class_order=[2, 3, 1, 4])


def organs(folder: Path, torso: Path | None) -> None:
    """Cut a CT with 41 organs into overlapping boxes, without a `dataset.json`."""
    assert torso is not None
    scan, label = (nib.Nifti1Image.from_filename(torso / f"ct_3mm_crop{end}.nii.gz") for end in ("", "_seg"))
    voxels, values = (np.asarray(image.dataobj) for image in (scan, label))
    for case, (x, y) in enumerate((x, y) for x in (0, 10, 20, 30) for y in (0, 10)):
        box = slice(x, x + 90), slice(y, y + 90)
        _write(
            folder, case, [voxels[box].astype(np.float32)], values[box].astype(np.uint8), (3.0, 3.0, 3.0), channel=""
        )


DATASETS: dict[str, Callable[[Path, Path | None], None]] = {
    "phantoms": phantoms,
    "two channels": two_channels,
    "thick slices": thick_slices,
    "four regions": regions,
}


def _distance(shape: Sequence[int], rng: np.random.Generator, scale: Sequence[float] = (1.0, 1.0, 1.0)) -> Array:
    """Return the distance in mm from a random point near the center of a grid."""
    center = np.array(shape) / 2 + rng.uniform(-0.1, 0.1, 3) * shape
    offsets = np.moveaxis(np.indices(shape), 0, -1) - center
    return np.linalg.norm(offsets * np.array(scale), axis=-1).astype(np.float32)


def _noisy(values: Array, rng: np.random.Generator) -> Array:
    return (100 * values + rng.normal(0, 40, values.shape)).astype(np.float32)


def _write(
    folder: Path,
    case: int,
    channels: Sequence[Array],
    label: NDArray[np.uint8],
    spacing: Sequence[float],
    channel: str = "_{:04d}",
) -> None:
    affine = np.diag([*spacing, 1.0])
    for index, voxels in enumerate(channels):
        path = folder / "imagesTr" / f"case_{case:02d}{channel.format(index)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(voxels, affine).to_filename(path)
    path = folder / "labelsTr" / f"case_{case:02d}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(label, affine).to_filename(path)


def _describe(folder: Path, labels: Mapping[str, object], channels: dict[str, str], **more: object) -> None:
    content = {"channel_names": channels, "labels": labels, "numTraining": _NUM_CASES, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))


def run(dataset: Path, out: Path, minutes: float) -> dict[str, str]:
    """Run the three commands and return a row of the table."""
    started = time.perf_counter()
    task_file = out.with_suffix(".yaml")
    commands = [
        ["plan", dataset, "-o", task_file, "--hours", minutes / 60],
        ["train", "--config", task_file, "--dataset_dir", dataset, "--output_dir", out],
        ["evaluate", "--dataset_dir", dataset, "--fold", "0", "--ckpt_path", out, "--output_dir", out / "evaluation"],
    ]
    for command in commands:
        done = subprocess.run([_PROGRAM, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"segbundle {' '.join(map(str, command))} failed:\n{done.stdout[-1500:]}{done.stderr}")
    task = yaml.safe_load(task_file.read_text())
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    page = (out / "evaluation" / "report.html").stat().st_size
    return {
        "classes": str(len(task["class_names"]) - 1) + (" regions" if regions_of(task.get("classes")) else ""),
        "spacing": ", ".join(f"{size:g}" for size in task["spacing"] or ["as stored"]),
        "patch": "×".join(map(str, task["patch_size"])),
        "batch": str(task["batch_size"]),
        "intensity": task["intensity"]["method"],
        "epochs": str(task["max_epochs"]),
        "mean Dice": f"{summary['mean_dice']:.4f}",
        "report": f"{page / 1e6:.1f} MB",
        "minutes": f"{(time.perf_counter() - started) / 60:.1f}",
    }


def main() -> None:
    """Run the commands for every dataset, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="planned time of a training")
    parser.add_argument("--dataset", action="append", default=[], help="NAME=FOLDER of another dataset")
    parser.add_argument("--torso", type=Path, help="folder with ct_3mm_crop.nii.gz and ct_3mm_crop_seg.nii.gz")
    parser.add_argument("--only", action="append", help="name of a dataset")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        writers = {**DATASETS, **({} if given.torso is None else {"41 organs": organs})}
        folders = dict(one.split("=", 1) for one in given.dataset)
        for number, dataset in enumerate([*writers, *folders]):
            if given.only and dataset not in given.only:
                continue
            folder = Path(folders.get(dataset, root / f"dataset_{number}"))
            if dataset in writers:
                folder.mkdir()
                writers[dataset](folder, given.torso)
            row = run(folder, root / f"run_{number}", given.minutes)
            if number == 0:
                print("| dataset | " + " | ".join(row) + " |\n|" + "---|" * (len(row) + 1))
            print(f"| {dataset} | " + " | ".join(row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
