"""Whole plans: real steps on tiny datasets, networks that run, and bad wishes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import DynUNet

from segbundle.errors import ConfigError
from segbundle.planning import plan
from segbundle.planning.dry_run import Measurement, footprint_function, measure_steps
from segbundle.planning.network_rules import choose_levels, network_choices
from segbundle.planning.patch_rules import fit_patch
from segbundle.planning.plan import Request, plan_task
from segbundle.sampling.augmentation import Augmentation
from tiny import write_nifti, write_tiny_dataset

CPU = torch.device("cpu")
HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "Task04_Hippocampus"
if not HIPPOCAMPUS.is_dir():
    HIPPOCAMPUS = Path("/work/shared/data/Task04_Hippocampus")


@pytest.fixture
def quick(monkeypatch):
    """Replace the dry run by fixed values."""
    monkeypatch.setattr(plan, "measure_steps", lambda *args: Measurement(0.5, 0.1, 1e6, 3))


def write_one(folder, shape, spacing, count=1, classes=("background", "a")):
    affine = np.diag([*spacing, 1.0])
    for index in range(count):
        image = np.random.default_rng(index).normal(100, 9, shape).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[tuple(slice(side // 3, 2 * side // 3 + 1) for side in shape)] = 1
        write_nifti(folder / "imagesTr" / f"c{index}.nii.gz", image, affine)
        write_nifti(folder / "labelsTr" / f"c{index}.nii.gz", label, affine)
    labels = {name: index for index, name in enumerate(classes)}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_plan_of_a_tiny_dataset(tiny_dataset):
    found = plan_task(tiny_dataset)
    values = found.values
    assert values["class_names"] == ["background", "ball", "cube"] and values["spacing"] == [1.0, 1.0, 1.0]
    assert values["patch_size"] == [20, 20, 16] and values["batch_size"] == 2
    assert values["network_def#strides"] == [1, 2, 2] and values["network_def#filters"] == [16, 32, 64]
    assert "num_folds" not in values and "fold" not in values
    assert values["augmentation"] == {"flip_axes": "auto", "rotation": 20.0, "scaling": 0.25}
    assert all(choice.reason for choice in found.choices) and len(found.notes) == 2 and not found.warnings


def test_thick_slices_get_flat_kernels_and_rotations(tmp_path, quick):
    values = plan_task(write_one(tmp_path, (96, 96, 10), (0.5, 0.5, 6.0), count=2), Request(memory="300MB")).values
    assert values["spacing"] == [0.5, 0.5, 6.0]
    assert values["network_def#kernel_size"][:3] == [[3, 3, 1]] * 3
    assert values["network_def#strides"][1] == [2, 2, 1]
    assert values["augmentation"]["rotation"] == [0.0, 0.0, 20.0]
    assert values["num_folds"] == 2


def test_one_case_is_trained_and_validated(tmp_path, quick):
    found = plan_task(write_one(tmp_path, (20, 20, 20), (1, 1, 1)))
    assert "fold" in found.values and found.values["fold"] is None
    assert any("only one labeled case" in choice.reason for choice in found.choices)


def test_sides_are_not_mirrored(tmp_path, quick):
    folder = write_one(tmp_path, (20, 20, 20), (1, 1, 1), 2, ("background", "left lung", "right lung"))
    found = plan_task(folder)
    (reason,) = [choice.reason for choice in found.choices if choice.key == "augmentation"]
    assert reason == "not mirrored along X: this would exchange left lung and right lung"
    assert found.warnings == [
        "no case contains right lung; a network needs examples of every class. Add such cases, or remove the class."
    ]


def test_classes_without_names_are_not_mirrored(tmp_path, quick):
    folder = write_one(tmp_path, (20, 20, 20), (1, 1, 1), 2)
    (folder / "dataset.json").unlink()
    assert plan_task(folder).values["augmentation"]["flip_axes"] == "auto"  # a single class
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:9], label[11:15] = 1, 2
    write_nifti(folder / "labelsTr" / "c0.nii.gz", label)
    found = plan_task(folder)
    assert found.values["class_names"] == ["background", "label_1", "label_2"]
    assert found.values["augmentation"]["flip_axes"] == []


def test_smallest_budget_of_the_message_works(tiny_dataset, quick):
    with pytest.raises(ConfigError, match=r"--memory 0.001 GB: no plan fits.* Use --memory .*MB or more") as error:
        plan_task(tiny_dataset, Request(memory="1MB"))
    least = str(error.value).split("Use --memory ")[1].split(" or more")[0]
    assert plan_task(tiny_dataset, Request(memory=least)).values["batch_size"] == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(memory="lots"), "--memory 'lots' is not a memory size"),
        (Request(preset="huge"), "--preset huge: no such preset"),
        (Request(hours=0.0), "--hours is 0; a positive number"),
        (Request(hours=math.nan), "--hours is nan"),
        (Request(device="gpu"), "device 'gpu' cannot be used here"),
        (Request(class_names=["background", "a"]), "its labels differ"),
    ],
)
def test_invalid_wishes_raise_before_a_scan_is_read(tiny_dataset, request_, message):
    for path in (tiny_dataset / "imagesTr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        plan_task(tiny_dataset, request_)


def test_steps_that_take_too_much_memory_lead_to_smaller_patches(tmp_path, monkeypatch):
    sizes = []

    def measure(values, *args):
        sizes.append(math.prod(values["patch_size"]))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError
        return Measurement(0.5, 0.1, 7e8 if len(sizes) == 2 else 1e8, 3)

    monkeypatch.setattr(plan, "measure_steps", measure)
    plan_task(write_one(tmp_path, (64, 64, 64), (1, 1, 1), count=2), Request(memory="300MB"))
    assert len(sizes) == 3 and sizes[0] > sizes[1] > sizes[2]


def test_residual_presets_and_hours(tiny_dataset, quick):
    found = plan_task(tiny_dataset, Request(preset="residual", hours=0.5, memory="4GB"))
    assert found.values["network_def#res_block"] is True and found.values["network_def#filters"] == [32, 64, 128]
    assert found.values["steps_per_epoch"] * found.values["max_epochs"] == pytest.approx(1800 / 0.5, rel=0.02)
    assert "as many as --hours allows: about 30.0 min" in next(c for c in found.choices if c.key == "max_epochs").reason


sides = st.tuples(*[st.sampled_from([5, 12, 20, 30])] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 6.0])] * 3)


@settings(max_examples=15)
@given(shape=sides, spacing=spacings, residual=st.booleans(), channels=st.sampled_from([1, 2]))
def test_planned_networks_run_and_fit_the_estimate(shape, spacing, residual, channels):
    """The network of every plan runs forward; its memory is that of the estimate."""

    def values_of(levels):
        choices = network_choices(levels, spacing, channels, 4, 16, residual)
        return {choice.key: choice.value for choice in choices}

    def settings_of(levels):
        return {**values_of(levels), "class_names": ["background", "a"]}

    found = fit_patch(shape, spacing, 2e8, footprint_function(settings_of, channels, CPU), 20)
    assert found.num_bytes <= 2e8
    arguments = {key.partition("#")[2]: value for key, value in values_of(found.levels).items()}
    network = DynUNet(spatial_dims=3, out_channels=2, norm_name="INSTANCE", **arguments)
    patch = torch.zeros(1, channels, *found.patch_size)
    assert network(patch).shape == (1, 2, *found.patch_size)


def test_dry_run_measures_time_and_memory():
    levels, size = choose_levels([32, 32, 32], [1, 1, 1])
    values = {choice.key: choice.value for choice in network_choices(levels, [1, 1, 1], 2, 8, 64, False)}
    values |= {"class_names": ["background", "a"], "patch_size": size, "batch_size": 2}
    state = torch.random.get_rng_state()
    found = measure_steps(values, [40, 20, 32], Augmentation(), CPU)
    assert found.window > 0 and found.step > 0 and found.num_bytes > 0 and found.steps >= 1
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="needs the hippocampus task")
def test_plan_of_the_hippocampus(quick, tmp_path):
    values = plan_task(HIPPOCAMPUS, cache=tmp_path / "cache.json").values
    assert values["patch_size"] == [40, 56, 40] and values["spacing"] == [1.0, 1.0, 1.0]
    assert values["intensity"] == {"method": "zscore"} and values["network_def#strides"] == [1, 2, 2, 2]


def test_plan_is_the_same_again(tmp_path, quick):
    folder = write_tiny_dataset(tmp_path / "tiny", num_cases=3)
    assert plan_task(folder).values == plan_task(folder).values
