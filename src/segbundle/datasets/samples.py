"""Write a sample dataset of phantoms, without patient data and downloads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segbundle.datasets.phantoms import CLASS_NAMES, FOREGROUND, Phantom, make_phantom, world_axes

# The lengths of the lists have no common factor with each other or with the period of three of the missing lesions.
# So no orientation occurs with only one spacing, or only with healthy livers.
_ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "RSA", "ILP", "RPI")
_RAS_SHAPES = ((50, 42, 46), (57, 47, 34), (40, 50, 48), (58, 48, 32), (46, 38, 56))
_NO_ORGANS = 2
_NO_VESSEL_ANNOTATION = (1, 6, 13)


@dataclass(frozen=True)
class Recipe:
    """Properties of a sample case that do not depend on the seed.

    Attributes:
        shape: number of voxels along the three stored axes.
        axis_codes: directions of the stored axes, one letter each of R/L, A/P and S/I, such as `RAS` or `PIR`.
        tilt: rotation of the grid about the world axis (1, 1, 1), in degrees.
        present: names of the foreground classes in the body.
        annotated: names of the foreground classes in the label map.
        slope: scale slope in the header of the image; the intensity of a stored value v is v * slope + inter.
        inter: scale intercept in the header of the image.
        with_qform: whether the file has a qform in addition to the sform.

    Example:
        >>> recipe(1).axis_codes, recipe(2).present
        ('LPS', ())
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

    Images are int16 and label maps uint8, both (X, Y, Z), with a spacing of about 1.5 to 3 mm. The same seed gives the
    same bytes, and the first training cases do not depend on the number of cases. Test cases are fully annotated. For a
    training case that is not fully annotated, `dataset.json` has a list `annotated` of its annotated classes.

    Args:
        output_dir: folder to write, which must be empty or must not exist.
        seed: integer of at least 0 (default 0). Another seed gives other bodies, but the same orientations and the same
            absent or unannotated classes.
        num_training: number of training cases, at least 1 (default 16).
        num_test: number of test cases (default 6), numbered after the training cases.

    Returns:
        path of `dataset.json`

    Raises:
        FileExistsError: `output_dir` is a file, or a folder that is not empty.
        ValueError: a number of cases is too small, or `seed` is negative.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_samples(folder, num_training=1, num_test=0)
        ...     len(json.loads(path.read_text())["training"])
        1
    """
    if num_training < 1 or num_test < 0:
        raise ValueError(f"num_training is {num_training} and num_test {num_test}; they must be at least 1 and 0.")
    folder = _empty_folder(Path(output_dir))
    numbers = range(num_training + num_test)
    training = [_write_case(folder, seed, n, training=True) for n in numbers[:num_training]]
    test = [_write_case(folder, seed, n, training=False) for n in numbers[num_training:]]
    path = folder / "dataset.json"
    text = json.dumps(_description(training, test), indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def recipe(index: int, training: bool = True) -> Recipe:
    """Return the properties of a sample case that do not depend on the seed.

    Args:
        index: number of the case, from 0.
        training: whether the case is a training case (default True); test cases have all organs and annotations.

    Example:
        >>> recipe(0).shape, recipe(5).slope
        ((50, 42, 46), 0.5)
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
    """Return the phantom of a sample case, before `write_samples` rounds its values to integers.

    Args:
        seed: see `write_samples`.
        index: number of the case, from 0.
        training: whether the case is a training case (default True); a test case with the same number is fully
            annotated.

    Example:
        >>> make_case(seed=0, index=0).image.shape
        (50, 42, 46)
    """
    case_recipe = recipe(index, training)
    return make_phantom(
        np.random.default_rng([seed, index]),
        case_recipe.shape,
        case_recipe.axis_codes,
        case_recipe.tilt,
        case_recipe.present,
        case_recipe.annotated,
    )


def _empty_folder(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose a new folder for the samples, or remove its content.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_case(folder: Path, seed: int, index: int, training: bool) -> dict[str, Any]:
    """Write the image and the label map of a case, and return its entry in `dataset.json`."""
    phantom, case_recipe = make_case(seed, index, training), recipe(index, training)
    split, name = "Tr" if training else "Ts", f"phantom_{index:03d}.nii.gz"
    stored = np.rint((phantom.image - case_recipe.inter) / case_recipe.slope).astype(np.int16)
    image = _nifti(stored, phantom.affine, case_recipe.with_qform)
    # nibabel stores the numbers unchanged, and applies slope and intercept when the file is read.
    image.header.set_slope_inter(case_recipe.slope, case_recipe.inter)
    label = _nifti(phantom.label, phantom.affine, case_recipe.with_qform)
    entry: dict[str, Any] = {}
    for kind, file in (("image", image), ("label", label)):
        entry[kind] = f"./{kind}s{split}/{name}"
        path = folder / entry[kind]
        path.parent.mkdir(exist_ok=True)
        # nibabel does not write time and file name to the gzip header, so equal content gives equal bytes.
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
