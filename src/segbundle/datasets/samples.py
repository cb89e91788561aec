"""A dataset of phantoms in files: sample data that needs no patient and no download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segbundle.datasets.phantoms import CLASS_NAMES, FOREGROUND, Phantom, make_phantom, world_axes

# The lists have lengths without a common factor with each other or with the period of three of the missing
# lesions: no orientation goes with one spacing only, or only with healthy livers.
_ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "RSA", "ILP", "RPI")
_RAS_SHAPES = ((50, 42, 46), (57, 47, 34), (40, 50, 48), (58, 48, 32), (46, 38, 56))
_NO_ORGANS = 2
_NO_VESSEL_ANNOTATION = (1, 6, 13)


@dataclass(frozen=True)
class Recipe:
    """What is decided about a case by its number alone.

    Attributes:
        shape: voxels along the three stored axes.
        axis_codes: where the stored axes point to, such as "RAS" or "PIR".
        tilt: rotation of the grid against the world axes, in degrees.
        present: foreground classes that the body has.
        annotated: foreground classes that the label map tells about.
        slope, inter: stored numbers n mean n * slope + inter.
        with_qform: whether the file has a qform beside the sform.
    """

    shape: tuple[int, ...]
    axis_codes: str
    tilt: float
    present: tuple[str, ...]
    annotated: tuple[str, ...]
    slope: float
    inter: float
    with_qform: bool


def write_samples(output_dir: str | Path, seed: int = 0, num_training: int = 16, num_test: int = 6) -> Path:
    """Write a dataset of phantoms in the layout of the Medical Segmentation Decathlon.

    Images are int16 and labels uint8, both (X, Y, Z), with a spacing of about 1.5 to 3 mm. The same seed
    gives the same bytes; the first training cases do not depend on how many follow. Test cases are annotated
    in full; a training case that is not has a list `annotated` of the classes that are.

    Args:
        output_dir: folder to write; it may exist if it is empty.
        seed: whole number from 0 up; another seed gives other bodies with the same orientations and gaps.
        num_training: number of training cases, at least 1.
        num_test: number of test cases, which are numbered after the training cases.

    Returns:
        Path of `dataset.json`.

    Raises:
        FileExistsError: `output_dir` is a file, or a folder that is not empty.
        ValueError: a number of cases that is too small.
    """
    if num_training < 1 or num_test < 0:
        raise ValueError(f"num_training is {num_training} and num_test {num_test}: they need to be at least 1 and 0.")
    folder = _empty_folder(Path(output_dir))
    numbers = range(num_training + num_test)
    training = [_write_case(folder, seed, n, training=True) for n in numbers[:num_training]]
    test = [_write_case(folder, seed, n, training=False) for n in numbers[num_training:]]
    path = folder / "dataset.json"
    text = json.dumps(_description(training, test), indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def recipe(index: int, training: bool = True) -> Recipe:
    """The fixed choices for a case: its grid, how it is stored, and which classes it has and tells about.

    Args:
        index: number of the case, from 0 up.
        training: whether it is a training case; a test case always has organs and all of its annotations.
    """
    axis_codes = _ORIENTATIONS[index % len(_ORIENTATIONS)]
    ras_shape = _RAS_SHAPES[index % len(_RAS_SHAPES)]
    absent = {"lesion"} if index % 3 == 2 else set()
    if training and index == _NO_ORGANS:
        absent = set(FOREGROUND)
    hidden = {"vessel"} if training and index in _NO_VESSEL_ANNOTATION else set()
    scaled = index % 6 == 5
    return Recipe(
        shape=tuple(ras_shape[axis] for axis, _ in world_axes(axis_codes)),
        axis_codes=axis_codes,
        tilt=6.0 if index % 14 == 4 else 0.0,
        present=tuple(name for name in FOREGROUND if name not in absent),
        annotated=tuple(name for name in FOREGROUND if name not in hidden),
        slope=0.5 if scaled else 1.0,
        inter=-50.0 if scaled else 0.0,
        with_qform=index % 8 != 3,
    )


def make_case(seed: int, index: int, training: bool = True) -> Phantom:
    """The phantom that `write_samples` stores as a case, before its rounding to whole numbers.

    Args:
        seed: as for `write_samples`.
        index: number of the case, from 0 up.
        training: whether it is a training case; the same number as a test case is annotated in full.
    """
    choices = recipe(index, training)
    return make_phantom(
        np.random.default_rng([seed, index]),
        choices.shape,
        choices.axis_codes,
        choices.tilt,
        choices.present,
        choices.annotated,
    )


def _empty_folder(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose a new folder for the samples, or remove what is in it.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_case(folder: Path, seed: int, index: int, training: bool) -> dict[str, Any]:
    """Write the image and the label map of a case; the result is its entry in `dataset.json`."""
    phantom, choices = make_case(seed, index, training), recipe(index, training)
    split, name = "Tr" if training else "Ts", f"phantom_{index:03d}.nii.gz"
    stored = np.rint((phantom.image - choices.inter) / choices.slope).astype(np.int16)
    image = _nifti(stored, phantom.affine, choices.with_qform)
    # nibabel then stores the numbers as they are, and applies slope and intercept on reading.
    image.header.set_slope_inter(choices.slope, choices.inter)
    label = _nifti(phantom.label, phantom.affine, choices.with_qform)
    entry: dict[str, Any] = {}
    for kind, file in (("image", image), ("label", label)):
        entry[kind] = f"./{kind}s{split}/{name}"
        path = folder / entry[kind]
        path.parent.mkdir(exist_ok=True)
        # nibabel leaves the time and the file name out of the gzip header: equal content, equal bytes.
        file.to_filename(path)
    if phantom.annotated != FOREGROUND:
        entry["annotated"] = list(phantom.annotated)
    return entry


def _nifti(array: NDArray[Any], affine: NDArray[np.float64], with_qform: bool) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine if with_qform else None, code=int(with_qform))
    image.header.set_xyzt_units("mm", "sec")
    return image


def _description(training: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "phantoms",
        "description": "Synthetic torsos with liver, kidneys, vessel and lesion, for tests and demos",
        "reference": "Generated by segbundle.datasets.phantoms",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(CLASS_NAMES)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
