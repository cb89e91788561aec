"""Synthetic samples: files, anatomy, and missing classes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from segbundle.datasets.phantoms import CLASS_NAMES, FOREGROUND, NOISE, Phantom, make_phantom
from segbundle.datasets.samples import make_case, write_samples

LIVER, KIDNEY, VESSEL, LESION = (CLASS_NAMES.index(name) for name in FOREGROUND)
NO_ORGANS = 2
NO_VESSEL_ANNOTATION = (1, 6, 13)

Case = tuple[nib.Nifti1Image, nib.Nifti1Image]
"""Image and label map of a case."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default dataset, written once and not changed by tests."""
    return write_samples(tmp_path_factory.mktemp("phantoms")).parent


@pytest.fixture(scope="module")
def dataset(samples: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((samples / "dataset.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def cases(samples: Path, dataset: dict[str, Any]) -> list[Case]:
    """All cases, training before test."""
    read = nib.Nifti1Image.from_filename
    entries = dataset["training"] + dataset["test"]
    return [(read(samples / entry["image"]), read(samples / entry["label"])) for entry in entries]


def label_values(label: nib.Nifti1Image) -> NDArray[Any]:
    return np.asarray(label.dataobj)


def centroid(label: NDArray[Any], affine: NDArray[Any], value: int) -> NDArray[Any]:
    """Return the world coordinates of the centroid of a class in mm."""
    return np.asarray(nib.affines.apply_affine(affine, np.argwhere(label == value).mean(axis=0)))


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def vessel_contrast(image: NDArray[Any], vessel: NDArray[np.bool_]) -> float:
    """Return the contrast of the vessel to its surroundings, relative to the mean brightness."""
    around = ndimage.binary_dilation(vessel, iterations=4) & ~ndimage.binary_dilation(vessel)
    return float(image[vessel].mean() / image[around].mean() - 1)


# Files


@pytest.mark.slow
def test_decathlon_layout(samples: Path, dataset: dict[str, Any]) -> None:
    assert (dataset["numTraining"], dataset["numTest"]) == (len(dataset["training"]), len(dataset["test"]))
    assert (dataset["numTraining"], dataset["numTest"]) == (16, 6)
    assert dataset["tensorImageSize"] == "3D"
    assert dataset["modality"] == {"0": "MRI"}
    assert dataset["licence"] == "CC0-1.0"
    assert dataset["labels"] == {str(value): name for value, name in enumerate(CLASS_NAMES)}
    assert {"name", "description", "reference", "release"} <= set(dataset)
    assert dataset["training"][0] == {
        "image": "./imagesTr/phantom_000.nii.gz",
        "label": "./labelsTr/phantom_000.nii.gz",
    }
    assert dataset["test"][0] == {
        "image": "./imagesTs/phantom_016.nii.gz",
        "label": "./labelsTs/phantom_016.nii.gz",
    }
    listed = {
        entry[kind].removeprefix("./") for entry in dataset["training"] + dataset["test"] for kind in ("image", "label")
    }
    assert {path.relative_to(samples).as_posix() for path in samples.rglob("*.nii.gz")} == listed


def test_dataset_is_small(samples: Path) -> None:
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 3.2e6


def test_image_and_label_share_their_grid(cases: list[Case]) -> None:
    for image, label in cases:
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label_values(label))) <= set(range(len(CLASS_NAMES)))


def test_grids_and_headers_vary(cases: list[Case]) -> None:
    images = [image for image, _ in cases]
    assert len({nib.aff2axcodes(image.affine) for image in images}) >= 5
    spacings = np.array([nib.affines.voxel_sizes(image.affine) for image in images])
    assert 1.5 <= spacings.min() < spacings.max() <= 3.05
    assert (spacings.max(axis=1) / spacings.min(axis=1)).max() > 1.5
    oblique = [np.abs(nib.affines.obliquity(image.affine)).max() > np.deg2rad(1) for image in images]
    assert 1 <= sum(oblique) <= 2
    assert {int(image.header["sform_code"]) for image in images} == {1}
    assert {int(image.header["qform_code"]) for image in images} == {0, 1}
    assert {image.header.get_xyzt_units() for image in images} == {("mm", "sec")}
    proxies: list[Any] = [image.dataobj for image in images]
    assert {(proxy.slope, proxy.inter) for proxy in proxies} == {(1.0, 0.0), (0.5, -50.0)}


def test_qform_equals_sform(cases: list[Case]) -> None:
    for image, label in cases:
        for file in (image, label):
            if file.header["qform_code"]:
                np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=1e-3)


@pytest.mark.parametrize("index", [0, 5])
def test_stored_values_equal_phantom(cases: list[Case], index: int) -> None:
    """Case 5 is stored with a slope and an intercept."""
    phantom = make_case(seed=0, index=index)
    np.testing.assert_allclose(cases[index][0].get_fdata(), phantom.image, atol=0.51)
    np.testing.assert_array_equal(label_values(cases[index][1]), phantom.label)
    np.testing.assert_allclose(cases[index][0].affine, phantom.affine, atol=1e-4)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("once", "again"):
        write_samples(tmp_path / name, seed=7, num_training=2, num_test=1)
    assert checksums(tmp_path / "once") == checksums(tmp_path / "again")


def test_gzip_headers_have_no_time_or_name(samples: Path) -> None:
    for path in samples.rglob("*.nii.gz"):
        header = path.read_bytes()[:10]
        assert header[3] == 0, "gzip flags: no file name"
        assert header[4:8] == b"\0\0\0\0", "gzip time"


def test_first_cases_do_not_depend_on_num_training(samples: Path, tmp_path: Path) -> None:
    write_samples(tmp_path / "few", num_training=6, num_test=0)
    few, many = checksums(tmp_path / "few"), checksums(samples)
    assert len(few) == 13
    assert all(many[name] == few[name] for name in few if name != "dataset.json")


def test_another_seed_gives_other_bodies(samples: Path, tmp_path: Path) -> None:
    write_samples(tmp_path / "other", seed=1, num_training=1, num_test=0)
    name = "labelsTr/phantom_000.nii.gz"
    assert checksums(tmp_path / "other")[name] != checksums(samples)[name]


def test_non_empty_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{tmp_path.name} is not empty: choose a new folder"):
        write_samples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("num_training", "num_test"), [(0, 1), (1, -1)])
def test_invalid_number_of_cases_raises(tmp_path: Path, num_training: int, num_test: int) -> None:
    with pytest.raises(ValueError, match="num_training is"):
        write_samples(tmp_path / "out", num_training=num_training, num_test=num_test)
    assert not (tmp_path / "out").exists()


# Classes


def test_lesion_is_absent_in_a_third_of_cases(cases: list[Case]) -> None:
    absent = [not (label_values(label) == LESION).any() for _, label in cases]
    assert sum(absent[:16]) == 5
    assert sum(absent[16:]) == 2


def test_every_other_class_is_present(cases: list[Case]) -> None:
    for index, (_, label) in enumerate(cases):
        if index != NO_ORGANS:
            present = set(np.unique(label_values(label)))
            assert {LIVER, KIDNEY} <= present
            assert VESSEL in present or index in NO_VESSEL_ANNOTATION


def test_lesion_is_small_and_in_the_liver(cases: list[Case]) -> None:
    for _, label in cases:
        lesion = label_values(label) == LESION
        if lesion.any():
            volume = lesion.sum() * np.prod(nib.affines.voxel_sizes(label.affine))
            assert 600 < volume < 4500, "mm^3"
            assert ndimage.label(lesion)[1] == 1
            rim = ndimage.binary_dilation(lesion) & ~lesion
            assert (label_values(label)[rim] == LIVER).mean() > 0.3


def test_organs_keep_their_physical_size(cases: list[Case]) -> None:
    for value, low, high in ((LIVER, 25, 80), (KIDNEY, 6, 22)):
        for index, (_, label) in enumerate(cases):
            if index != NO_ORGANS:
                voxel = np.prod(nib.affines.voxel_sizes(label.affine)) / 1000
                assert low < (label_values(label) == value).sum() * voxel < high, "ml"


def test_unannotated_vessel_is_only_in_the_image(samples: Path, dataset: dict[str, Any], cases: list[Case]) -> None:
    gaps = [index for index, entry in enumerate(dataset["training"]) if "annotated" in entry]
    assert tuple(gaps) == NO_VESSEL_ANNOTATION
    for index in gaps:
        assert dataset["training"][index]["annotated"] == ["liver", "kidney", "lesion"]
        image, label = cases[index][0].get_fdata(), label_values(cases[index][1])
        complete = make_case(seed=0, index=index, training=False)
        vessel = complete.label == VESSEL
        assert vessel.sum() > 300
        assert not label[vessel].any()
        np.testing.assert_array_equal(label[~vessel], complete.label[~vessel])
        np.testing.assert_allclose(image, complete.image, atol=0.51)
        assert vessel_contrast(image, vessel) > 0.08


def test_test_cases_are_fully_annotated(dataset: dict[str, Any]) -> None:
    assert all(set(entry) == {"image", "label"} for entry in dataset["test"])


def test_one_training_case_has_no_organs(dataset: dict[str, Any], cases: list[Case]) -> None:
    empty = [index for index, (_, label) in enumerate(cases) if not label_values(label).any()]
    assert empty == [NO_ORGANS]
    assert "annotated" not in dataset["training"][NO_ORGANS]
    image = cases[NO_ORGANS][0].get_fdata()
    body = ndimage.gaussian_filter(image, 1) > 3 * NOISE
    assert 0.3 < body.mean() < 0.8


# Anatomy


def test_organs_have_the_same_arrangement_in_every_case(
    cases: list[Case],
) -> None:
    for index, (_, label) in enumerate(cases):
        if index == NO_ORGANS:
            continue
        canonical = nib.as_closest_canonical(label)
        values = label_values(canonical)
        liver, kidneys = (centroid(values, canonical.affine, value) for value in (LIVER, KIDNEY))
        # In RAS+ space, x increases to the right, y to the front and z to the head.
        assert liver[0] > kidneys[0] + 5
        assert liver[1] > kidneys[1] + 5
        assert liver[2] > kidneys[2] + 15


def test_kidneys_are_on_both_sides_of_the_midline() -> None:
    phantom = make_phantom(np.random.default_rng(5))
    parts, count = ndimage.label(phantom.label == KIDNEY)
    assert count == 2
    sides = sorted(centroid(parts, phantom.affine, part)[0] for part in (1, 2))
    vessel = centroid(phantom.label, phantom.affine, VESSEL)[0]
    assert sides[0] + 10 < vessel < sides[1] - 10


def canonical_label(phantom: Phantom) -> NDArray[Any]:
    return label_values(nib.as_closest_canonical(nib.Nifti1Image(phantom.label, phantom.affine)))


@pytest.mark.parametrize("axis_codes", ["LPS", "PIR", "ILP"])
def test_orientation_does_not_change_the_body(axis_codes: str) -> None:
    upright = make_phantom(np.random.default_rng(3), shape=(32, 32, 32))
    turned = make_phantom(np.random.default_rng(3), shape=(32, 32, 32), axis_codes=axis_codes)
    assert "".join(nib.aff2axcodes(turned.affine)) == axis_codes
    assert (turned.label != upright.label).mean() > 0.05
    assert (canonical_label(turned) != canonical_label(upright)).mean() < 1e-3


def test_tilt_does_not_change_the_body() -> None:
    upright = make_phantom(np.random.default_rng(3))
    tilted = make_phantom(np.random.default_rng(3), tilt=8.0)
    assert np.abs(nib.affines.obliquity(tilted.affine)).max() > np.deg2rad(3)
    for value in (LIVER, KIDNEY):
        distance = centroid(upright.label, upright.affine, value) - centroid(tilted.label, tilted.affine, value)
        assert np.linalg.norm(distance) < 1.0, "mm"


def test_brightness_alone_does_not_separate_classes() -> None:
    """A brightness range with most voxels of a class has more voxels of other structures."""
    phantom = make_phantom(np.random.default_rng(0))
    for value in (LIVER, KIDNEY, VESSEL, LESION):
        inside = phantom.label == value
        low, high = np.percentile(phantom.image[inside], (10, 90))
        alike = (phantom.image > low) & (phantom.image < high)
        assert (alike & ~inside).sum() > (alike & inside).sum()


# One phantom


def test_phantom_types() -> None:
    phantom = make_phantom(np.random.default_rng(0), shape=(20, 16, 18))
    assert phantom.image.shape == phantom.label.shape == (20, 16, 18)
    assert (str(phantom.image.dtype), str(phantom.label.dtype)) == ("float32", "uint8")
    assert (str(phantom.affine.dtype), phantom.affine.shape) == ("float64", (4, 4))
    assert phantom.image.min() >= 0
    assert phantom.annotated == FOREGROUND
    assert set(np.unique(phantom.label)) == set(range(len(CLASS_NAMES)))


def test_dropping_a_class_does_not_change_others() -> None:
    whole = make_phantom(np.random.default_rng(0))
    without = make_phantom(np.random.default_rng(0), present=("liver", "kidney", "vessel"))
    lesion = whole.label == LESION
    np.testing.assert_array_equal(without.label[~lesion], whole.label[~lesion])
    far = ~ndimage.binary_dilation(lesion, iterations=5)
    np.testing.assert_allclose(without.image[far], whole.image[far], rtol=1e-4)
    assert whole.image[lesion].mean() > without.image[lesion].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (8, 8)}, "shape is"),
        ({"shape": (8, 0, 8)}, "shape is"),
        ({"axis_codes": "RAP"}, "axis_codes is 'RAP'"),
        ({"axis_codes": "RAX"}, "axis_codes is 'RAX'"),
        ({"axis_codes": "RA"}, "axis_codes is 'RA'"),
        ({"present": ("spleen",)}, "unknown class 'spleen'"),
        ({"annotated": ("background",)}, "unknown class 'background'"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_phantom(np.random.default_rng(0), **arguments)
