import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset

from segbundle.datasets.datalist import labeled_data
from segbundle.errors import ConfigError
from segbundle.transforms import training_transforms
from segbundle.transforms.monai_augmentation import balanced_patches, random_transforms
from tiny import TINY_CLASSES, write_nifti


def transforms(**kwargs):
    return training_transforms(TINY_CLASSES, (12, 12, 12), {"method": "zscore"}, **kwargs)


def test_patches_have_the_asked_for_size_and_type(tiny_dataset):
    (patch,) = transforms()(labeled_data(tiny_dataset, TINY_CLASSES)[0])
    assert set(patch) == {"image", "label", "annotated", "case"}
    assert patch["image"].shape == patch["label"].shape == (1, 12, 12, 12)
    assert {type(patch[key]) for key in ("image", "label", "annotated")} == {torch.Tensor}
    assert set(patch["label"].unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("shape", [(30, 3, 8), (5, 5, 5), (12, 12, 1), (40, 13, 12)])
def test_scans_smaller_than_a_patch_are_padded(tmp_path, shape):
    image = write_nifti(tmp_path / "i.nii", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    label = write_nifti(tmp_path / "l.nii", np.ones(shape, np.uint8))
    entry = {"case": "a", "image": str(image), "label": str(label), "annotated": [True] * 3}
    (patch,) = transforms()(entry)
    assert patch["image"].shape == (1, 12, 12, 12)


@pytest.mark.parametrize("value", [0, 2])
def test_case_with_a_single_class_gives_patches(tmp_path, value):
    image = write_nifti(tmp_path / "i.nii", np.zeros((20, 20, 20), np.float32))
    label = write_nifti(tmp_path / "l.nii", np.full((20, 20, 20), value, np.uint8))
    entry = {"case": "a", "image": str(image), "label": str(label), "annotated": [True] * 3}
    for seed in range(5):
        (patch,) = transforms().set_random_state(seed)(entry)
        assert patch["label"][0, 6, 6, 6] == value


def test_classes_are_patch_centers_equally_often():
    label = torch.zeros(1, 30, 30, 30)
    label[0, 5:25, 5:25, 5:25] = 1
    label[0, 15, 15, 15] = 2  # one voxel of 27 000
    indices = [torch.nonzero(label.flatten() == c).flatten() for c in range(3)]
    crop = balanced_patches(TINY_CLASSES, (4, 4, 4)).set_random_state(0)
    seen = sum(
        2 in crop({"image": label, "label": label, "label_cls_indices": indices})[0]["label"] for _ in range(300)
    )
    assert 80 < seen < 140  # a third, three standard deviations either way; by volume it would be about 0.7


def test_augmentation_leaves_cached_cases_alone(tiny_dataset):
    dataset = CacheDataset(
        labeled_data(tiny_dataset, TINY_CLASSES), transforms(), copy_cache=False, progress=False, num_workers=1
    )
    before = copy.deepcopy(dataset._cache)
    for _ in range(10):
        for index in range(len(dataset)):
            dataset[index]
    for old, new in zip(before, dataset._cache, strict=True):
        assert old.keys() == new.keys()
        torch.testing.assert_close(old["image"], new["image"], rtol=0, atol=0)
        torch.testing.assert_close(old["label"], new["label"], rtol=0, atol=0)


def test_patches_depend_on_the_seed_only(tiny_dataset):
    entry = labeled_data(tiny_dataset, TINY_CLASSES)[0]
    one, two, three = (transforms().set_random_state(seed)(entry)[0]["image"] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_image_and_label_stay_together(tiny_dataset):
    """Voxels of the cube are brightest before and after; deformation moves both or neither.

    Where a patch's border leaves a sliver of a class, blurring mixes it with its neighbors. Such voxels are excluded.
    """
    entry = labeled_data(tiny_dataset, TINY_CLASSES)[1]
    for seed in range(8):
        (patch,) = transforms(augmentation={"rotation": 30}).set_random_state(seed)(entry)
        image, label = patch["image"], patch["label"]
        means = [float(image[label == value].mean()) for value in label.unique() if (label == value).sum() > 50]
        assert len(means) >= 2
        assert means == sorted(means), f"seed {seed}: brightness per class is {means}"


def test_misspelled_setting_is_named():
    with pytest.raises(ConfigError, match="augmentation: unknown setting 'rotaton': did you mean 'rotation'"):
        transforms(augmentation={"rotaton": 3})


def test_the_bundles_augmentation_is_the_default():

    config = ConfigParser.load_config_file(Path(__file__).parents[2] / "bundle" / "configs" / "train.yaml")
    defaults = {name: p.default for name, p in inspect.signature(random_transforms).parameters.items()}
    assert {name: [*v] if isinstance(v, tuple) else v for name, v in defaults.items()} == config["augmentation"]


def test_unknown_voxels_stay_unknown_and_are_no_patch_centres(tmp_path):
    image = write_nifti(tmp_path / "i.nii", np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32))
    label = np.full((24, 24, 24), 7, np.uint8)
    label[10:14, 10:14, 10:14] = 0
    label[12, 12, 12] = 2
    path = write_nifti(tmp_path / "l.nii", label)
    entry = {"case": "a", "image": str(image), "label": str(path), "annotated": [True] * 3, "ignore_label": 7}
    seen = set()
    for seed in range(40):
        (patch,) = transforms().set_random_state(seed)(dict(entry))
        seen |= set(patch["label"].unique().tolist())
        assert (patch["label"] < 3).any()  # something is known in each patch
    assert seen == {0, 2, 255}


@pytest.mark.slow
@pytest.mark.parametrize("patch", [12, 32])
def test_unknown_voxels_get_no_label(tmp_path, patch):
    image = write_nifti(tmp_path / "i.nii", np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32))
    label = np.full((24, 24, 24), 7, np.uint8)
    label[8:16, 8:16, 8:16] = 2  # no background voxel at all
    path = write_nifti(tmp_path / "l.nii", label)
    entry = {"case": "a", "image": str(image), "label": str(path), "annotated": [True] * 3, "ignore_label": 7}
    cut = training_transforms(TINY_CLASSES, (patch,) * 3, {"method": "zscore"})
    for seed in range(30):
        (item,) = cut.set_random_state(seed)(dict(entry))
        assert set(item["label"].unique().tolist()) <= {2, 255}


def test_small_scan_without_unknown_voxels_pads_with_background(tmp_path):
    image = write_nifti(tmp_path / "i.nii", np.ones((6, 6, 6), np.float32))
    label = write_nifti(tmp_path / "l.nii", np.ones((6, 6, 6), np.uint8))
    entry = {"case": "a", "image": str(image), "label": str(label), "annotated": [True] * 3}
    (item,) = transforms(augmentation={"rotation": 0.0, "scaling": 0.0})(entry)
    assert set(item["label"].unique().tolist()) == {0, 1}
