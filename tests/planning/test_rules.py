"""Rules of a plan as tables: dataset and expected settings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fingerprints import dataset_of
from segbundle.errors import ConfigError
from segbundle.planning.grid_rules import choose_axcodes, choose_spacing, thick_axis
from segbundle.planning.intensity_rules import choose_intensity, modality_of
from segbundle.planning.network_rules import choose_levels
from segbundle.planning.patch_rules import Footprint, fit_patch
from segbundle.planning.presets import PRESETS, choose_preset, memory_budget
from segbundle.planning.schedule_rules import Timing, choose_schedule, count_windows

THICK = [{"shape": (320, 320, size), "spacing": (0.5, 0.5, depth)} for size, depth in ((20, 6.0), (24, 6.0), (40, 3.0))]


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([{}], [1.0, 1.0, 1.0]),
        ([{"spacing": (size, 1.0, 2.0)} for size in (0.7, 0.8, 1.4)], [0.8, 1.0, 2.0]),
        (THICK, [0.5, 0.5, 3.6]),  # the 10th percentile of 3, 6 and 6
        ([{"shape": (50, 50, 30), "spacing": (0.5, 0.5, 6.0)}], [0.5, 0.5, 6.0]),  # too few voxels to be thick slices
        ([{"spacing": (1.9806, 1.79701, 2.06204)}], [1.9806, 1.797, 2.062]),
    ],
)
def test_spacing(cases, expected):
    assert choose_spacing(dataset_of(cases)).value == pytest.approx(expected)


def test_spacing_across_thick_slices_is_at_least_that_in_the_slices():
    cases = [{"shape": (320, 320, 40), "spacing": (1.0, 1.0, size)} for size in (0.5, 5.0, 5.0, 5.0)]
    assert choose_spacing(dataset_of(cases)).value == [1.0, 1.0, pytest.approx(1.85)]
    assert thick_axis([1, 1, 5], [320, 320, 40]) == 2


def test_axcodes_name_the_stored_orientations():
    choice = choose_axcodes(dataset_of([{"orientation": code} for code in ("LPS", "LPS", "RAS")]))
    assert choice.value == "RAS" and "2 in LPS, 1 in RAS" in choice.reason


CT = {"minimum": (-1024.0,), "maximum": (1500.0,)}


@pytest.mark.parametrize(
    ("cases", "channels", "method", "said"),
    [
        ([{}], ["MRI"], {"method": "zscore"}, "MRI (dataset.json)"),
        ([{}], [], {"method": "zscore"}, "are not Hounsfield units"),
        ([CT], [], "ct", "a guess: values from -1024 to 1500 look like Hounsfield units"),
        ([{}], ["CT"], "ct", "CT (dataset.json)"),
        ([{"cropped": 0.3}], ["T1"], {"method": "zscore", "nonzero": True}, "removes 30% of a volume"),
        ([{"cropped": 0.2}], ["T1"], {"method": "zscore"}, "z-score per scan"),
        ([{**CT, "cropped": 0.9}], ["CT"], "ct", "percentiles"),
        ([{"samples": ((),)}], ["CT"], {"method": "zscore"}, "CT"),
    ],
)
def test_intensity(cases, channels, method, said):
    choice = choose_intensity(dataset_of(cases, channel_names=channels))
    assert said in choice.reason
    if method == "ct":
        assert choice.value == {"method": "ct", "lower": 0.5, "upper": 99.5, "mean": 50.0, "std": 29.15}
        assert choice.value["std"] == pytest.approx(np.arange(101).std(), rel=1e-3)
    else:
        assert choice.value == method


def test_two_channels_are_ct_only_if_both_are():
    cases = [{"minimum": (-1000.0, 0.0), "maximum": (1000.0, 30.0), "samples": ((1.0,), (2.0,))}]
    assert not modality_of(dataset_of(cases)).is_ct
    assert not modality_of(dataset_of(cases, channel_names=["CT", "PET"])).is_ct
    assert modality_of(dataset_of(cases, channel_names=["CT", "ct"])).is_ct


@pytest.mark.parametrize(
    ("patch", "spacing", "strides", "kernels", "rounded"),
    [
        # the first two and the thin last axis as nnU-Net 2's get_pool_and_conv_props; the others have its fewest levels
        ([36, 50, 35], [1, 1, 1], ["111", "222", "222", "222"], ["333"] * 4, [40, 56, 40]),
        ([320, 256, 20], [0.625, 0.625, 3.6], ["111", "221", "221", "222", "222", "221", "221"],
         ["331", "331", "333", "333", "333", "333", "333"], [320, 256, 20]),
        ([8, 8, 8], [1, 1, 1], ["111", "222", "222"], ["333"] * 3, [8, 8, 8]),
        ([64, 64, 1], [1, 1, 1], ["111", "221", "221", "221", "221"], ["331"] * 5, [64, 64, 1]),
        ([2, 2, 2], [1, 1, 1], ["111", "111", "111"], ["111"] * 3, [2, 2, 2]),
    ],
)  # fmt: skip
def test_levels(patch, spacing, strides, kernels, rounded):
    levels, size = choose_levels(patch, spacing)
    written = [["".join(map(str, each)) for each in given] for given in (levels.strides, levels.kernels)]
    assert written == [strides, kernels] and size == rounded


sides = st.tuples(*[st.integers(1, 400)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)


@given(shape=sides, spacing=spacings, budget=st.floats(1e7, 1e11), per_voxel=st.floats(10, 1e4), fill=st.booleans())
def test_patches_are_divisible_and_fit(shape, spacing, budget, per_voxel, fill):
    def footprint(levels):
        return Footprint(1e5 * len(levels.strides), per_voxel)

    try:
        plan = fit_patch(shape, spacing, budget, footprint, 20, fill)
    except ConfigError as error:
        least = memory_budget(str(error).split("Use --memory ")[1].split(" or more")[0], PRESETS["small"], None)
        assert least > budget
        assert fit_patch(shape, spacing, least, footprint, 20, fill).batch_size == 1
        return
    assert all(side % step == 0 for side, step in zip(plan.patch_size, plan.levels.divisors, strict=True))
    assert plan.num_bytes == footprint(plan.levels).total(plan.patch_size, plan.batch_size) <= budget
    assert len(plan.levels.kernels) == len(plan.levels.strides) >= 3
    assert all(
        side < full + step for side, full, step in zip(plan.patch_size, shape, plan.levels.divisors, strict=True)
    )


def test_batch_fills_the_memory_up_to_5_percent_of_the_dataset():
    shape, footprint = [36, 50, 35], lambda levels: Footprint(0, 1000)
    assert fit_patch(shape, [1, 1, 1], 1e9, footprint, 260).batch_size == 2
    assert fit_patch(shape, [1, 1, 1], 1e12, footprint, 260, fill_batch=True).batch_size == 9  # as nnU-Net
    assert fit_patch(shape, [1, 1, 1], 4e8, footprint, 260, fill_batch=True).batch_size == 4


@pytest.mark.parametrize(
    ("cases", "hours", "gpu", "expected"),
    [
        (160, None, False, (25, 101, 10)),
        (13, None, False, (7, 103, 10)),
        (160, None, True, (250, 101, 10)),
        (1, None, False, (2, 100, 10)),
        (160, 1.0, False, (70, 100, 10)),
        (160, 0.001, False, (1, 20, 2)),
    ],
)
def test_schedule(cases, hours, gpu, expected):
    assert choose_schedule(cases, Timing(0.5, 10.0), hours, gpu)[:3] == expected


def test_expected_time_is_that_of_steps_and_validations():
    schedule = choose_schedule(160, Timing(0.5, 10.0), 1.0, False)
    assert schedule.seconds == 7000 * 0.5 + 10 * 10 == 3600


def test_windows_overlap_by_half():
    assert count_windows([40, 56, 40], [40, 56, 40]) == 1
    assert count_windows([41, 112, 40], [40, 56, 40]) == 2 * 3


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8e9), ("8", 8e9), ("500 mb", 5e8), ("1.5 GiB", 1.5 * 2**30)])
def test_memory(text, expected):
    assert memory_budget(text, PRESETS["small"], torch.device("cpu")) == expected


@pytest.mark.parametrize("text", ["", "many", "-1GB", "0", "8TBB"])
def test_invalid_memory_raises(text):
    with pytest.raises(ConfigError, match=r"is not a memory size. Use a number with a unit, such as 8GB"):
        memory_budget(text, PRESETS["small"], torch.device("cpu"))


def test_presets():
    assert choose_preset(None, torch.device("cuda"))[0] == "medium"
    with pytest.raises(ConfigError, match="--preset smal: no such preset: did you mean 'small'"):
        choose_preset("smal", torch.device("cpu"))
