"""Small volumes for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

TINY_CLASSES = ["background", "ball", "cube"]


def write_nifti(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray | None = None,
    slope: float = 1.0,
    inter: float = 0.0,
) -> Path:
    """Write an array as NIfTI. With a slope, the array contains the stored values before scaling."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    if (slope, inter) != (1.0, 0.0):
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


def write_empty_scans(folder: Path, *names: str) -> None:
    """Write files of 2x2x2 zeros, valid as scans and as label maps."""
    for name in names:
        write_nifti(folder / name, np.zeros((2, 2, 2), np.uint8))


def write_description(folder: Path, **content: Any) -> None:
    """Write a `dataset.json`."""
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def tiny_label(rng: np.random.Generator, shape: Sequence[int] = (20, 18, 16)) -> np.ndarray:
    """Return a label map with a ball and a cube that a network learns in a few steps."""
    center = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    label = (np.linalg.norm(grid - center, axis=-1) < 5).astype(np.uint8)
    label[1:7, 1:7, 1:7] = 2
    return label


def write_tiny_case(folder: Path, name: str, rng: np.random.Generator, section: str = "Tr", **kwargs: Any) -> None:
    """Write a case of 20x18x16 voxels whose image is its label map plus noise."""
    label = tiny_label(rng)
    image = (label * 50 + rng.normal(0, 5, label.shape)).astype(np.float32)
    write_nifti(folder / f"images{section}" / f"{name}.nii.gz", image, **kwargs)
    write_nifti(folder / f"labels{section}" / f"{name}.nii.gz", label, **kwargs)


def write_tiny_dataset(folder: Path, num_cases: int = 6, num_test: int = 0, seed: int = 0) -> Path:
    """Write a dataset in the Decathlon layout that a network learns quickly."""
    rng = np.random.default_rng(seed)
    names = [f"case_{index:02d}" for index in range(num_cases)]
    tests = [f"test_{index:02d}" for index in range(num_test)]
    for name in names:
        write_tiny_case(folder, name, rng)
    for name in tests:
        write_tiny_case(folder, name, rng, "Ts")
    description = {
        "name": "tiny",
        "labels": {str(index): name for index, name in enumerate(TINY_CLASSES)},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [{"image": f"./imagesTs/{n}.nii.gz", "label": f"./labelsTs/{n}.nii.gz"} for n in tests],
    }
    write_description(folder, **description)
    return folder
