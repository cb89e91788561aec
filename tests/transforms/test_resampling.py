"""Resampling to the network's grid equals MONAI's, voxel for voxel, in fewer steps."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

from segbundle.errors import DataError
from segbundle.hardware import memory_usage
from segbundle.transforms import resampling
from segbundle.transforms.resampling import ToGridd, interpolate, resample

ORIENTATIONS = [
    "".join(codes) for p in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*p)
]  # all 48


def oriented(codes, spacing, angles=(0.0, 0.0, 0.0)):
    """An affine whose axes point where `codes` say, rotated by `angles` in radians."""
    to_ras = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (9, 8, 7))
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles), [3, -70, 11]) @ np.linalg.inv(to_ras)
    return affine @ np.diag([*spacing, 1])


def scan(values, affine, contiguous=True):
    """As `LoadScand` gives it; files store their first axis fastest, so in memory it is not contiguous."""
    values = torch.as_tensor(values)
    if not contiguous:
        values = values.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    affine = torch.as_tensor(affine, dtype=torch.float64)
    native = {"original_affine": affine.clone(), "spatial_shape": torch.tensor(values.shape[1:])}
    return MetaTensor(values, meta={**native, "affine": affine, "filename_or_obj": "a.nii"})


def noise(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 100, shape)).float()


def monai_grid(item, spacing, axcodes, mode):
    item = Orientation(axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))(item)
    return item if spacing is None else Spacing(spacing, mode=mode, padding_mode="border")(item)


def assert_as_monai(values, affine, spacing, axcodes="RAS", mode="bilinear", contiguous=True):
    expected = monai_grid(scan(values, affine), spacing, axcodes, mode)
    item = ToGridd("image", spacing, axcodes, mode)({"image": scan(values, affine, contiguous)})["image"]
    assert item.shape == expected.shape
    assert item.dtype == values.dtype
    np.testing.assert_allclose(item.affine.numpy(), expected.affine.numpy(), atol=1e-6)
    np.testing.assert_allclose(item.numpy(), expected.numpy(), rtol=1e-4, atol=1e-2)
    return item


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (1.1, 2.5, 3.0)])
def test_every_orientation(codes, spacing):
    affine = oriented(codes, (1.5, 2, 3), (0.1, 0.05, -0.1))
    assert_as_monai(noise((1, 9, 8, 7)), affine, spacing, contiguous=False)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_every_orientation_of_the_grid(axcodes):
    assert_as_monai(noise((2, 9, 8, 7)), oriented("LPS", (0.8, 0.8, 2)), (1.2, 1.3, 1.4), axcodes)


@settings(max_examples=60, deadline=None)
@given(
    codes=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    own=st.tuples(*[st.floats(0.3, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 6)] * 3),
    shape=st.tuples(st.integers(1, 2), *[st.integers(1, 24)] * 3),
    contiguous=st.booleans(),
)
def test_any_scan(codes, angles, own, spacing, shape, contiguous):
    assert_as_monai(noise(shape), oriented(codes, own, angles), spacing, contiguous=contiguous)


def test_nearly_whole_positions_are_still_interpolated():
    values = torch.tensor([0.0, 1e6]).reshape(1, 2, 1, 1)
    found = resampling.resample(values, [np.array([0.0, 1 - 5e-5]), np.zeros(1), np.zeros(1)])
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1e6 - 50]), rtol=0, atol=0.1)


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(ORIENTATIONS),
    own=st.tuples(*[st.floats(0.3, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 6)] * 3),
    seed=st.integers(0, 99),
)
def test_label_maps_keep_their_values_and_dtype(codes, own, spacing, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (1, 13, 11, 12)).astype(np.uint8))
    affine = oriented(codes, own)
    expected = monai_grid(scan(labels, affine), spacing, "RAS", "nearest")
    item = ToGridd("label", spacing, mode="nearest")({"label": scan(labels, affine)})["label"]
    assert item.dtype == torch.uint8
    assert item.shape == expected.shape
    # a position in the middle of two voxels may fall to either by rounding
    ratios = np.divide.outer(spacing, own).ravel()  # of any axes, since codes permute them
    ties = np.isclose(np.modf(np.arange(40)[:, None] * ratios)[0], 0.5, atol=1e-6).any()
    assert ties or torch.equal(item.as_tensor().float(), expected.as_tensor())


def test_middles_between_voxels():
    values = torch.tensor([0.0, 10, 30]).reshape(1, 3, 1, 1)
    item = ToGridd("image", (0.5, 1, 1))({"image": scan(values, np.eye(4))})["image"]
    assert item.flatten().tolist() == [0, 5, 10, 20, 30]
    assert item.affine.diagonal().tolist() == [0.5, 1, 1, 1]


def test_downsampling_does_not_smooth():
    values = torch.tensor([0.0, 10, 20, 70, 40, 50]).reshape(1, 1, 6, 1)
    item = ToGridd("image", (1, 2.5, 1))({"image": scan(values, np.eye(4))})["image"]
    assert item.flatten().tolist() == [0, 45, 50]


def test_a_flipped_axis_starts_at_its_other_end():
    values = torch.tensor([0.0, 10, 20, 70]).reshape(1, 4, 1, 1)
    item = ToGridd("image", (2, 1, 1))({"image": scan(values, np.diag([-1.0, 1, 1, 1]))})["image"]
    assert item.flatten().tolist() == [70, 10]
    np.testing.assert_allclose(item.affine.numpy(), [[2, 0, 0, -3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("shape", [(1, 8, 9, 1), (1, 1, 9, 8), (3, 1, 1, 1)])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL"])
def test_one_slice_stays_one_slice(shape, codes):
    item = assert_as_monai(noise(shape), oriented(codes, (0.7, 0.8, 5)), (1, 1, 1))
    assert torch.isfinite(item.as_tensor()).all()


def test_long_scans_are_made_in_slabs_without_seams(monkeypatch):
    values, affine = noise((1, 20, 9, 50)), oriented("LPS", (1, 1, 0.7))
    item = ToGridd("image", (1.3, 0.6, 1))({"image": scan(values, affine, contiguous=False)})["image"]
    monkeypatch.setattr(resampling, "_SLAB", 1000)
    at_once = ToGridd("image", (1.3, 0.6, 1))({"image": scan(values, affine)})["image"]
    torch.testing.assert_close(item.as_tensor(), at_once.as_tensor())
    assert item.is_contiguous()


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (1.0004, 1.0, 0.9996)])
def test_a_scan_that_is_on_its_grid_is_not_copied(spacing):
    item = scan(noise((1, 5, 6, 7)), np.eye(4), contiguous=False)
    assert ToGridd("image", spacing)({"image": item})["image"].data_ptr() == item.data_ptr()


def test_permuted_axes_are_not_copied():
    item = scan(noise((1, 5, 6, 7)), oriented("SRA", (1, 2, 3)))
    permuted = ToGridd("image")({"image": item})["image"]
    assert permuted.shape == (1, 6, 7, 5)
    assert permuted.data_ptr() == item.data_ptr()


def test_scan_and_its_geometry_are_unchanged():
    values, affine = noise((1, 5, 6, 7)), oriented("LPS", (1, 2, 3))
    item = scan(values.clone(), affine)
    moved = ToGridd("image", (2, 2, 2))({"image": item, "case": "a"})
    assert torch.equal(item.as_tensor(), values)
    np.testing.assert_array_equal(item.affine.numpy(), affine)
    assert moved["case"] == "a"
    meta = moved["image"].meta
    np.testing.assert_array_equal(meta["original_affine"].numpy(), affine)
    assert meta["spatial_shape"].tolist() == [5, 6, 7]
    assert meta["filename_or_obj"] == "a.nii"
    assert meta["affine"].dtype == torch.float64


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_sheared_scan_is_straightened(spacing, mode):
    affine = np.diag([-1.0, 1.0, 1.5, 1.0])
    affine[1, 2] = 0.3  # a tilted gantry
    values = noise((1, 12, 11, 10)) if mode == "bilinear" else noise((1, 12, 11, 10)).to(torch.uint8)
    item = assert_as_monai(values, affine, spacing, mode=mode)
    np.testing.assert_array_equal(item.meta["original_affine"].numpy(), affine)
    assert item.meta["spatial_shape"].tolist() == [12, 11, 10]


def test_image_and_label_in_one_call():
    image = scan(torch.tensor([0.0, 10, 30]).reshape(1, 3, 1, 1), np.eye(4))
    label = scan(torch.tensor([0, 1, 2], dtype=torch.uint8).reshape(1, 3, 1, 1), np.eye(4))
    moved = ToGridd(("image", "label"), (0.8, 1, 1), mode=("bilinear", "nearest"))({"image": image, "label": label})
    assert moved["image"].flatten().tolist() == pytest.approx([0, 8, 22, 30])
    assert moved["label"].flatten().tolist() == [0, 1, 2, 2]


def test_values_beyond_the_border_are_those_of_the_border():
    values = torch.tensor([1.0, 2, 4]).reshape(1, 3, 1, 1)
    found = resample(values, [np.array([-3, 0.5, 2, 9]), np.zeros(1), np.zeros(1)])
    assert found.flatten().tolist() == [1, 1.5, 4, 4]


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_interpolation_along_any_dimension(dim):
    values = noise((4, 5, 6))
    at = np.array([0, 0.25, 2.5, 3])
    expected = np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), dim, values.numpy())
    np.testing.assert_allclose(interpolate(values, at, dim).numpy(), expected, rtol=1e-5, atol=1e-4)


def test_interpolation_at_whole_positions_only_picks():
    values = torch.tensor([3, 1, 2], dtype=torch.uint8)
    assert interpolate(values, np.array([0.0, 1, 2]), 0) is values
    assert interpolate(values, np.array([2.0, 0, 0, 1]), 0).tolist() == [2, 3, 3, 1]


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((24, 22, 20), (1e-3, 1e-3, 1e-3), "24 x 22 x 20 voxels of 0.001 x 0.001 x 0.001 mm would become 1 voxel"),
        ((24, 22, 20), (1, 1, 4e-3), "voxels of 1 x 1 x 0.004 mm would become 528 voxel"),
        ((24, 22, 20), (100, 100, 100), r"would become 9190196301 voxel\(s\) of 1 x 1 x 1 mm \(2301 x 2101 x 1901\)"),
        ((4, 4, 4), (1, 1, 5000), "would become 240016 voxel"),
    ],
)
def test_implausible_grid_fails_with_its_size(shape, spacing, message):
    item = scan(np.zeros((1, *shape), np.float32), oriented("LPS", spacing))
    with pytest.raises(DataError, match=f"a.nii: its .*{message}"):
        ToGridd("image", [1.0, 1.0, 1.0])({"image": item})


@pytest.mark.parametrize("spacing", [(1e-300, 1, 1), (1, 1, 40)])
def test_implausible_spacing_fails(spacing):
    item = scan(np.zeros((1, 20, 18, 16), np.float32), oriented("RAS", (1, 1, 1)))
    with pytest.raises(DataError, match=r"a\.nii: its 20 x 18 x 16 voxels of 1 x 1 x 1 mm would become"):
        ToGridd("image", spacing)({"image": item})


def test_thin_scans_and_single_slices_are_resampled(monkeypatch):
    for size, thickness in ((1, 0.05), (2, 0.5), (8, 0.3)):
        item = scan(np.zeros((1, 9, 8, size), np.float32), oriented("RAS", (1, 1, thickness)))
        assert ToGridd("image", [1.0, 1.0, 5.0])({"image": item})["image"].shape[3] == 1


def test_grid_that_does_not_fit_into_memory_fails(monkeypatch):
    item = scan(np.zeros((1, 100, 100, 10), np.float32), oriented("RAS", (1, 1, 10)))
    monkeypatch.setattr(memory_usage, "available_memory", lambda: 10**7)
    monkeypatch.setattr(memory_usage, "available_swap", lambda: 0)
    monkeypatch.setattr(memory_usage, "reusable_memory", lambda: 0)
    with pytest.raises(DataError, match=r"199 x 199 x 181 voxels on the network's grid need 0\.0287 GB"):
        ToGridd("image", [0.5, 0.5, 0.5])({"image": item})
