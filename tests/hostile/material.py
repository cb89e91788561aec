"""Files that the cases share: scans with known label maps, a dataset, a model, and finished runs of each command.

The network is a 1x1x1 convolution that labels every voxel above 500, so the correct label map of every scan is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (20, 18, 16)
SPACING = (1.0, 1.25, 1.5)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.25, 0, -40], [0, 0, 1.5, 12], [0, 0, 0, 1]])
TASK = """\
class_names: [background, bright]
spacing: null
intensity: {method: window, lower: 0, upper: 1000}
patch_size: [16, 16, 16]
network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 2, kernel_size: 1}
num_folds: 2
max_epochs: 1
val_interval: 1
batch_size: 1
device: cpu
"""
CASES = ("case_0", "case_1", "case_2", "case_3")


def volume(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Return an asymmetric int16 volume: about 900 in a ball and a corner, about 100 elsewhere."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside = np.linalg.norm(grid - np.array([8, 9, 7]), axis=-1) < 5
    inside[:3, :4, :5] = True
    return (np.where(inside, 900, 100) + rng.integers(-20, 20, shape)).astype(np.int16)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def write_dataset(folder: Path, names: Sequence[str] = CASES) -> Path:
    for seed, name in enumerate(names):
        array = volume(seed)
        write_nifti(folder / "imagesTr" / f"{name}.nii", array)
        write_nifti(folder / "labelsTr" / f"{name}.nii", (array > 500).astype(np.uint8))
    described = {
        "name": "bright",
        "labels": {"0": "background", "1": "bright"},
        "training": [{"image": f"./imagesTr/{n}.nii", "label": f"./labelsTr/{n}.nii"} for n in names],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@dataclass(frozen=True)
class Material:
    """Files that the cases share.

    Attributes:
        folder: folder of all these files.
        trained, evaluated, predicted, validated: output folders of the four commands.
    """

    folder: Path

    def __getattr__(self, name: str) -> Path:
        places = {
            "task": "task.yaml", "checkpoint": "model/threshold.pt", "scan": "scans/good.nii", "other": "more/other.nii",
            "dataset": "dataset", "trained": "trained", "evaluated": "evaluated", "predicted": "predicted",
            "validated": "validated",
        }  # fmt: skip
        if name not in places:
            raise AttributeError(name)
        return self.folder / places[name]


def make_material(folder: Path, run: Callable[[Sequence[object], Path], None]) -> Material:
    """Write the files that cases share.

    Args:
        folder: new folder.
        run: function that runs a segbundle command in a folder, and raises an error if it fails.
    """
    import torch

    material = Material(folder)
    folder.mkdir(parents=True)
    material.task.write_text(TASK)
    write_nifti(material.scan, volume(100))
    write_nifti(material.other, volume(101))
    write_dataset(material.dataset)
    material.checkpoint.parent.mkdir()
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
        network.bias[:] = torch.tensor([0.0, -0.5])
    torch.save(network.state_dict(), material.checkpoint)
    task = ("--config", material.task)
    data = ("--dataset_dir", material.dataset)
    model = ("--ckpt_path", material.checkpoint)
    run(["train", *task, *data, "--output_dir", material.trained, "--max_epochs", 2], folder)
    run(["evaluate", *task, *data, *model, "--output_dir", material.evaluated], folder)
    run(["predict", material.scan, material.other, *task, *model, "--output_dir", material.predicted], folder)
    run(["cross-validate", *task, *data, "--output_dir", material.validated], folder)
    return material
