"""Patches of synthetic volumes with known results."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segbundle.sampling.augmentation import Augmentation, Change
from segbundle.sampling.cropping import cut, draw_start
from segbundle.sampling.degradation import at_low_resolution, blurred, degrade, with_contrast, with_gamma
from segbundle.sampling.loader import PatchLoader

CPU = torch.device("cpu")
QUARTER = math.pi / 2


def case_of(image, label=None, spacing=(1.0, 1.0, 1.0), name="a"):
    """Return a prepared case of an image (X, Y, Z)."""
    label = torch.zeros(image.shape, dtype=torch.uint8) if label is None else label
    indices = [torch.nonzero(label.flatten() == value).flatten().int() for value in range(3)]
    return {
        "image": image[None].half(),
        "label": label[None],
        "indices": indices,
        "annotated": torch.tensor([True, True, False]),
        "spacing": list(spacing),
        "case": name,
    }


def ramp(shape, axis):
    """Return values that increase by 1 per voxel along an axis."""
    view = [1, 1, 1]
    view[axis] = shape[axis]
    return torch.arange(shape[axis], dtype=torch.float32).view(view).expand(shape).clone()


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# Position of patches


def test_classes_are_patch_centers_equally_often():
    label = torch.zeros(30, 30, 30, dtype=torch.uint8)
    label[5:25, 5:25, 5:25] = 1
    label[15, 15, 15] = 2  # one voxel of 27 000
    indices = case_of(label.float(), label)["indices"]
    rng = np.random.default_rng(0)
    hit = sum(draw_start(rng, indices, label.shape, (4, 4, 4)) == (13, 13, 13) for _ in range(300))
    assert 80 < hit < 140  # a third, three standard deviations either way


@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(0, 4)] * 3), st.integers(0, 9))
def test_patches_are_inside_the_volume_and_contain_their_center(patch, more, seed):
    shape = tuple(size + extra for size, extra in zip(patch, more, strict=True))
    place = np.random.default_rng(seed).integers(math.prod(shape))
    start = draw_start(np.random.default_rng(seed), [torch.tensor([]), torch.tensor([place])], shape, patch)
    for first, size, whole, center in zip(start, patch, shape, np.unravel_index(place, shape), strict=True):
        assert 0 <= first <= whole - size
        assert first <= center < first + size


def test_case_without_annotation_gives_patches():
    start = draw_start(np.random.default_rng(0), [torch.tensor([])] * 3, (9, 8, 7), (3, 3, 3))
    assert all(0 <= first <= size - 3 for first, size in zip(start, (9, 8, 7), strict=True))


# Cropping and deformation


def test_patch_without_change_is_a_copy():
    image, label = noise(10, 9, 8), torch.ones(10, 9, 8, dtype=torch.uint8)
    for dtype in (torch.float16, torch.float32):
        case = case_of(image, label)
        case["image"] = case["image"].to(dtype)
        before = case["image"].clone()
        patches = cut(case, (1, 2, 3), (4, 5, 5), Change(), CPU)
        torch.testing.assert_close(patches[0], before[:, 1:5, 2:7, 3:8].float(), rtol=0, atol=0)
        for patch in patches:
            patch.zero_()
        assert torch.equal(case["image"], before) and bool((case["label"] == 1).all())


@pytest.mark.parametrize("flips", [f for n in range(4) for f in itertools.combinations(range(3), n)])
def test_mirroring(flips):
    image = noise(6, 5, 4)
    patch, _ = cut(case_of(image), (0, 0, 0), (6, 5, 4), Change(flips=flips), CPU)
    torch.testing.assert_close(patch[0], image.half().float().flip(flips), rtol=0, atol=0)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_quarter_turn_equals_numpy(axis, sign):
    image = noise(7, 7, 7)
    label = (image * 3).byte()
    angles = tuple(sign * QUARTER if other == axis else 0.0 for other in range(3))
    patch, mask = cut(case_of(image, label), (0, 0, 0), (7, 7, 7), Change(angles=angles), CPU)
    plane = [other for other in range(3) if other != axis]
    torch.testing.assert_close(patch[0], torch.rot90(image, sign, plane), rtol=0, atol=2e-3)
    assert torch.equal(mask[0], torch.rot90(label, sign, plane))


def test_scaling_magnifies_about_the_center():
    patch, _ = cut(case_of(ramp((21, 21, 21), 1)), (5, 5, 5), (11, 11, 11), Change(scale=2.0), CPU)
    torch.testing.assert_close(patch[0], ramp((11, 11, 11), 1) / 2 + 7.5, rtol=0, atol=1e-3)


def test_border_is_repeated_outside_the_volume():
    label = torch.zeros(9, 9, 9, dtype=torch.uint8)
    label[0] = 2
    patch, mask = cut(case_of(ramp((9, 9, 9), 0), label), (0, 0, 0), (9, 9, 9), Change(scale=0.5), CPU)
    expected = (2 * (torch.arange(9.0) - 4) + 4).clamp(0, 8)
    torch.testing.assert_close(patch[0, :, 4, 4], expected, rtol=0, atol=1e-3)
    assert (mask[0, :, 4, 4] == 2).tolist() == (expected < 0.5).tolist()


def test_angles_are_preserved_in_millimeters():
    # voxels of 1 x 2 mm: after a quarter turn, a step along the first axis is half a voxel of the second
    patch, _ = cut(case_of(ramp((9, 9, 9), 1), spacing=(1, 2, 1)), (0, 0, 0), (9, 9, 9), Change((0, 0, QUARTER)), CPU)
    steps = patch[0].diff(dim=0).abs()
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5), rtol=0, atol=1e-3)


def test_single_slice_is_rotated_within_its_plane():
    image = noise(7, 7, 1)
    patch, _ = cut(case_of(image), (0, 0, 0), (7, 7, 1), Change(angles=(0, 0, QUARTER)), CPU)
    torch.testing.assert_close(patch[0], torch.rot90(image, 1, (0, 1)), rtol=0, atol=2e-3)


def test_deformed_labels_stay_labels():
    label = (noise(12, 12, 12, seed=1) * 3).byte()
    _, mask = cut(case_of(noise(12, 12, 12), label), (2, 2, 2), (8, 8, 8), Change((0.3, -0.2, 0.5), 1.1), CPU)
    assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1, 2}


# Intensity augmentation


def test_degrade_without_change_returns_the_image():
    image = noise(2, 4, 4, 4)
    assert degrade(image, Change()) is image
    ones = [1.0, 1.0]
    assert degrade(image, Change(blur=[0, 0], brightness=ones, contrast=ones, zoom=ones, gamma=ones)) is image


def test_input_image_is_not_modified():
    image = noise(1, 8, 8, 8)
    before = image.clone()
    degrade(image, Change(noise=0.1, blur=[0.7], brightness=[1.2], contrast=[0.8], zoom=[0.6], gamma=[1.3]))
    assert torch.equal(image, before)


def test_blur_equals_scipy():
    from scipy.ndimage import gaussian_filter

    image = noise(9, 10, 11)
    expected = gaussian_filter(image.numpy(), 0.8, radius=3, mode="nearest")
    torch.testing.assert_close(blurred(image, 0.8), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_noise_has_drawn_standard_deviation_and_seed():
    image = torch.zeros(1, 40, 40, 40)
    one, same, other = (degrade(image, Change(noise=0.3, noise_seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert abs(float(one.std()) - 0.3) < 0.01


def test_contrast_stays_in_range():
    channel = torch.tensor([0.0, 1.0, 2.0, 9.0]).view(1, 2, 2)
    assert with_contrast(channel, 0.5).flatten().tolist() == [1.5, 2.0, 2.5, 6.0]
    assert with_contrast(channel, 1.5).flatten().tolist() == [0.0, 0.0, 1.5, 9.0]  # -1.5 and 12 were cut off


def test_low_resolution_keeps_constant_images():
    assert torch.equal(at_low_resolution(torch.full((5, 6, 7), 3.0), 0.5), torch.full((5, 6, 7), 3.0))
    stripes = torch.arange(8.0).remainder(2).view(8, 1, 1).expand(8, 8, 8)
    assert float(at_low_resolution(stripes, 0.5).std()) < 0.1 < float(stripes.std())


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_keeps_mean_and_spread_and_order(gamma):
    channel = noise(6, 6, 6)
    changed = with_gamma(channel, gamma)
    torch.testing.assert_close(changed.mean(), channel.mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed.std(), channel.std(), rtol=1e-4, atol=1e-5)
    assert torch.equal(changed.flatten().argsort(), channel.flatten().argsort())
    assert not torch.allclose(changed, channel, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_image_is_unchanged(value):
    image = torch.full((1, 8, 8, 8), value)
    changed = degrade(image, Change(contrast=[1.2], inverted_gamma=[0.7], gamma=[1.4], zoom=[0.5], blur=[1.0]))
    torch.testing.assert_close(changed, image)


# Random parameters


def test_changes_have_the_configured_probabilities():
    rng = np.random.default_rng(0)
    changes = [Augmentation(flip_axes=(0, 2)).draw(rng, 1) for _ in range(2000)]
    expected = {"noise": 0.1, "blur": 0.1, "brightness": 0.15, "contrast": 0.15, "zoom": 0.125, "gamma": 0.3}
    for name, probability in expected.items():
        values = [getattr(change, name) for change in changes]
        share = np.mean([value not in (0, [], [0], [1]) for value in values])
        assert abs(share - probability) < 4 * math.sqrt(probability / 2000), name
    assert abs(np.mean([change.deforms for change in changes]) - 0.36) < 0.05
    assert abs(np.mean([0 in change.flips for change in changes]) - 0.5) < 0.05
    assert not any(1 in change.flips for change in changes)
    assert all(max(map(abs, change.angles)) <= math.radians(20) for change in changes)
    assert all(0.8 <= change.scale <= 1.25 for change in changes)


@pytest.mark.parametrize("wrong", [{"flip_axes": [3]}, {"rotation": [1, 2]}, {"scaling": -0.1}, {"scaling": 1}])
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


# Batches


def cases(count, seed=0):
    return [
        case_of(noise(10, 10, 10, seed=seed + i), (noise(10, 10, 10, seed=50 + i) * 3).byte(), name=f"case {i}")
        for i in range(count)
    ]


def loader(count=5, batch_size=2, **kwargs):
    return PatchLoader(cases(count), (6, 6, 6), batch_size, Augmentation(), **kwargs)


def assert_same_batch(one, two):
    assert one["case"] == two["case"]
    for key in ("image", "label", "annotated"):
        assert torch.equal(one[key], two[key])


def test_a_batch():
    batch = next(iter(loader()))
    assert batch["image"].shape == batch["label"].shape == (2, 1, 6, 6, 6)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)
    assert batch["annotated"].tolist() == [[True, True, False]] * 2


def test_epoch_has_one_patch_per_case_in_full_batches():
    for _ in range(3):
        names = [name for batch in loader() for name in batch["case"]]
        assert len(names) == 6 and set(names[:5]) == {f"case {i}" for i in range(5)} and names[5] == names[0]


@pytest.mark.parametrize("read_ahead", [True, False])
def test_batches_are_reproducible(read_ahead):
    one = loader(read_ahead=read_ahead)
    for epoch in (1, 2):
        for step, batch in enumerate(one):
            assert_same_batch(batch, loader().batch(epoch, step))
    one.set_epoch(2)
    assert_same_batch(next(iter(one)), loader().batch(2, 0))


def test_epochs_and_seeds_differ():
    batches = [loader().batch(1, 0), loader().batch(2, 0), loader(seed=1).batch(1, 0), loader().batch(1, 1)]
    for one, two in itertools.combinations(batches, 2):
        assert not torch.equal(one["image"], two["image"])


def test_two_ranks_match_one_process_with_twice_the_batch_size():
    whole = loader(6, 4)
    parts = [loader(6, 2, rank=rank, world_size=2) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for step in range(len(whole)):
        one, two = (part.batch(1, step) for part in parts)
        together = {key: torch.cat([one[key], two[key]]) for key in ("image", "label", "annotated")}
        assert_same_batch(whole.batch(1, step), {**together, "case": one["case"] + two["case"]})


def test_without_seed_patches_differ_between_processes():
    torch.manual_seed(1)
    one = loader(seed=None).batch(1, 0)
    torch.manual_seed(2)
    assert not torch.equal(one["image"], loader(seed=None).batch(1, 0)["image"])


@pytest.mark.parametrize("read_ahead", [True, False])
def test_errors_are_raised_with_and_without_thread(read_ahead):
    broken = loader(read_ahead=read_ahead)
    del broken.dataset[0]["image"]
    with pytest.raises(KeyError, match="image"):
        list(broken)


def test_cases_are_not_modified():
    one = loader()
    before = [case["image"].clone() for case in one.dataset]
    for _ in range(5):
        list(one)
    assert all(torch.equal(case["image"], old) for case, old in zip(one.dataset, before, strict=True))


def test_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        loader(batch_size=0)


def test_epoch_has_several_patches_of_each_case():
    """The order of the cases repeats; each patch has a position of its own, and with 1 nothing changes."""
    several, one = loader(batch_size=3, patches_per_case=4), loader(batch_size=3)
    count = len(one.dataset)
    assert len(several) == -(-4 * count // 3)
    batches = list(several)
    names = [name for batch in batches for name in batch["case"]][: 4 * count]
    assert Counter(names) == dict.fromkeys(names[:count], 4)
    patches = torch.cat([batch["image"] for batch in batches])[: 4 * count]
    assert len(patches.flatten(1).unique(dim=0)) == 4 * count
    first = torch.cat([batch["image"] for batch in one])[:count]
    assert torch.equal(patches[:count], first)


def names_of(epochs, **kwargs):
    """Return the case of each position of several epochs, over all ranks."""
    world_size = kwargs.get("world_size", 1)
    ranks = [loader(**{**kwargs, "rank": rank}) for rank in range(world_size)]
    return [
        name
        for epoch in range(1, epochs + 1)
        for step in range(len(ranks[0]))
        for rank in ranks
        for name in rank.batch(epoch, step)["case"]
    ]


def test_epoch_of_a_fixed_number_of_steps_continues_the_passes():
    """Every pass has each case once, wherever the epochs begin."""
    count = len(loader().dataset)
    names = names_of(count, batch_size=2, steps_per_epoch=3)
    assert len(names) == 6 * count
    for begin in range(0, len(names), count):
        assert len(set(names[begin : begin + count])) == count
    assert names[:count] != names[count : 2 * count] or names[:count] != names[2 * count : 3 * count]


@pytest.mark.parametrize("steps", [1, 7])
def test_fixed_number_of_steps_is_the_length(steps):
    fixed = loader(batch_size=2, steps_per_epoch=steps)
    assert len(fixed) == len(list(fixed)) == steps


def test_fixed_steps_are_the_same_after_a_resume_and_on_several_ranks():
    whole, resumed = loader(batch_size=2, steps_per_epoch=3), loader(batch_size=2, steps_per_epoch=3)
    epochs = [list(whole) for _ in range(3)]
    resumed.set_epoch(3)
    for one, other in zip(epochs[2], resumed, strict=True):
        assert one["case"] == other["case"] and torch.equal(one["image"], other["image"])
    one = names_of(3, batch_size=4, steps_per_epoch=3)
    assert one == names_of(3, batch_size=2, steps_per_epoch=3, world_size=2)


def test_no_steps_per_epoch_is_refused():
    with pytest.raises(ValueError, match="steps_per_epoch"):
        loader(steps_per_epoch=0)
