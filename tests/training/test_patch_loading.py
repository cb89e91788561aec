"""Warnings before a training: missing classes, and mirroring that exchanges classes."""

import numpy as np
import pytest

from segbundle.datasets.datalist import labeled_data
from segbundle.errors import ConfigError
from segbundle.sampling.augmentation import Change
from segbundle.training.caching import CachedCases, PreparedCases
from segbundle.training.patch_loading import monai_loader, patch_loader, warn_about_missing_classes
from segbundle.transforms import PrepareCase, preprocessing
from segbundle.workflow.flips import warn_about_flips
from tiny import write_nifti

CLASSES = ["background", "left", "right", "ghost"]


@pytest.fixture
def folder(tmp_path):
    """Dataset with two cases: one with the first class, the other with the second."""
    for index in (1, 2):
        label = np.zeros((8, 8, 8), np.uint8)
        label[2:4, 2:4, 2:4] = index
        write_nifti(tmp_path / "imagesTr" / f"{index}.nii.gz", label.astype(np.float32))
        write_nifti(tmp_path / "labelsTr" / f"{index}.nii.gz", label)
    return tmp_path


def prepared(folder):
    return PreparedCases(labeled_data(folder, CLASSES), PrepareCase(CLASSES, (8, 8, 8), {"method": "zscore"}))


def cached(folder, keep):
    data = [entry for entry in labeled_data(folder, CLASSES) if entry["case"] in keep]
    return CachedCases(data, preprocessing({"method": "zscore"}, class_names=CLASSES, label=True))


def test_missing_classes_warn_once(folder, caplog):
    warn_about_missing_classes(CLASSES, prepared(folder), cached(folder, "1"))
    assert [record.getMessage() for record in caplog.records if "contains" in record.getMessage()] == [
        "no training case contains ghost; a network needs examples of every class. Add such cases, or hold out another "
        "fold with --fold.",
        "no validation case contains right, so the best epoch is selected without it. To validate all classes, hold "
        "out another fold with --fold.",
    ]


def test_present_classes_do_not_warn(folder, caplog):
    warn_about_missing_classes(CLASSES[:3], prepared(folder), cached(folder, "12"))
    assert "contains" not in caplog.text


def test_loader_does_not_mirror_left_and_right(folder, caplog):
    cases = prepared(folder)
    assert patch_loader(cases, (8, 8, 8), 1).augmentation.flip_axes == [0]
    assert patch_loader(cases, (8, 8, 8), 1, class_names=CLASSES).augmentation.flip_axes == []
    assert (
        "augmentation#flip_axes: images are not mirrored along axis 0, to avoid exchanging left / right" in caplog.text
    )
    chosen = patch_loader(cases, (8, 8, 8), 1, {"flip_axes": [0]}, class_names=CLASSES)
    assert chosen.augmentation.flip_axes == [0]
    assert "augmentation#flip_axes [0]: mirroring exchanges classes" in caplog.text


def test_null_turns_augmentation_off(folder):
    changes = patch_loader(prepared(folder), (8, 8, 8), 1, settings={"augmentation": None}).augmentation
    assert all(changes.draw(np.random.default_rng(seed), channels=1) == Change() for seed in range(20))


def test_test_time_flips_without_training_flips_warn(caplog):
    warn_about_flips([0], {"flip_axes": "auto"}, ["background", "liver"], "RAS")
    assert caplog.text == ""
    warn_about_flips([0], {"flip_axes": "auto"}, CLASSES, "RAS")
    assert "the training did not mirror images along axis 0" in caplog.text
    assert "test_time_flips [0]: mirroring exchanges classes" in caplog.text


def test_steps_per_epoch_set_the_length_of_an_epoch(folder):
    assert len(patch_loader(prepared(folder), (8, 8, 8), 1, settings={"steps_per_epoch": 7})) == 7
    with pytest.raises(ConfigError, match="patches_per_case is 2 and steps_per_epoch is 7, but both set"):
        patch_loader(prepared(folder), (8, 8, 8), 1, steps_per_epoch=7, patches_per_case=2)
    with pytest.raises(ConfigError, match="an epoch of MONAI's data loader is one pass"):
        monai_loader([0, 1, 2], 1, steps_per_epoch=7)
