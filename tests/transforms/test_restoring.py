"""Labels come back to the scan's voxels: exactly, whatever orientation and spacing the scan has."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segbundle.transforms import RestoreLabelsd, SaveLabelsd, preprocessing
from segbundle.transforms.restoring import restore_labels
from tiny import write_nifti

ORIENTATIONS = [
    "".join(codes) for p in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*p)
]  # all 48


def oriented(codes, spacing, angle=0.0):
    """An affine whose axes point where `codes` say, tilted by `angle` radians about an odd axis."""
    to_ras = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (9, 8, 7))
    tilt = nib.eulerangles.euler2mat(angle, angle / 2, -angle)
    affine = nib.affines.from_matvec(tilt, [3, -70, 11]) @ np.linalg.inv(to_ras)
    return affine @ np.diag([*spacing, 1])


def as_scores(labels, num_classes):
    """Confident scores for a label map (1, X, Y, Z)."""
    onehot = torch.nn.functional.one_hot(labels[0].long(), num_classes)
    return onehot.movedim(-1, 0).float() * 20


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_comes_back_exactly(tmp_path, codes):
    voxels = np.random.default_rng(0).integers(0, 4, (9, 8, 7)).astype(np.int16)
    path = write_nifti(tmp_path / "scan.nii.gz", voxels, oriented(codes, (1.5, 2, 3), angle=0.1))
    item = preprocessing({"method": "window", "lower": 0, "upper": 1})({"case": "scan", "image": str(path)})
    on_grid = preprocessing({"method": "window", "lower": 0, "upper": 3})({"case": "scan", "image": str(path)})
    item["pred"] = as_scores(torch.round(on_grid["image"].as_tensor() * 3), 4)
    restored = RestoreLabelsd()(item)["pred"]
    assert restored.shape == (1, 9, 8, 7)
    np.testing.assert_array_equal(restored[0].numpy(), voxels)
    np.testing.assert_allclose(restored.affine.numpy(), nib.load(path).affine)


@pytest.mark.parametrize(
    ("shape", "spacing", "codes"),
    [
        ((40, 36, 20), (1, 1, 1), "RAS"),
        ((40, 36, 20), (0.8, 0.8, 2.5), "LPS"),
        ((60, 50, 6), (0.4, 0.4, 6.5), "PIR"),
        ((30, 30, 1), (1, 1, 5), "RAS"),
    ],
)
def test_a_smooth_organ_survives_the_round_trip_through_another_spacing(tmp_path, shape, spacing, codes):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    middle = (np.array(shape) - 1) / 2
    radius = 0.35 * min(n * s for n, s in zip(shape, spacing, strict=True) if n > 1)
    organ = np.linalg.norm((grid - middle) * spacing, axis=-1) < radius
    affine = oriented(codes, spacing, angle=0.05)
    path = write_nifti(tmp_path / "scan.nii.gz", organ.astype(np.float32), affine)
    window = {"method": "window", "lower": 0, "upper": 1}
    item = preprocessing(window, spacing=[1.3, 1.3, 1.3])({"case": "scan", "image": str(path)})
    inside = item["image"].as_tensor()
    item["pred"] = torch.cat([1 - inside, inside]).clamp(1e-6, 1).log()
    restored = RestoreLabelsd()(item)["pred"][0].numpy()
    assert restored.shape == shape
    dice = 2 * np.sum(restored * organ) / (restored.sum() + organ.sum())
    assert dice > 0.93


def by_hand(probabilities, to_grid, shape):
    """Trilinear interpolation of every class, voxel by voxel, then the largest."""
    result = np.zeros(shape, int)
    limits = np.array(probabilities.shape[1:]) - 1
    for index in np.ndindex(*shape):
        at = np.clip((to_grid @ [*index, 1])[:3], 0, limits)
        low = np.minimum(np.floor(at).astype(int), np.maximum(limits - 1, 0))
        values = 0
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod(np.where(corner, at - low, 1 - (at - low)))
            values = values + weight * probabilities[(slice(None), *np.minimum(low + corner, limits))]
        result[index] = values.argmax()
    return result


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    scale=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.7])] * 3),
    offset=st.tuples(*[st.floats(-1, 1)] * 3),
    seed=st.integers(0, 99),
)
def test_equals_interpolating_every_class_voxel_by_voxel(axes, flips, scale, offset, seed):
    shape = (5, 4, 6)
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 6, 5, 4))).float()
    probabilities = scores.softmax(dim=0)
    to_grid = np.eye(4)
    to_grid[:3, :3] = 0
    for k, axis in enumerate(axes):
        to_grid[axis, k] = -scale[k] if flips[k] else scale[k]
        to_grid[axis, 3] = offset[axis] + (probabilities.shape[1 + axis] - 1 if flips[k] else 0)
    labels = restore_labels(scores, to_grid, shape).numpy()
    expected = by_hand(probabilities.double().numpy(), to_grid, shape)
    assert np.mean(labels != expected) <= 0.01  # ties of float32


def test_long_volumes_are_restored_in_slabs_without_seams():
    scores = torch.rand(3, 50, 4, 4)
    labels = restore_labels(scores, np.eye(4), (50, 4, 4))
    assert torch.equal(labels.long(), scores.argmax(0))


def test_grids_that_are_not_parallel_are_sampled_in_all_directions():
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7, 6, 5))).float()
    to_grid = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1) * 0.9, [1, 0.5, 0.2])
    labels = restore_labels(scores, to_grid, (20, 5, 4)).numpy()
    expected = by_hand(scores.softmax(dim=0).double().numpy(), to_grid, (20, 5, 4))
    assert np.mean(labels != expected) <= 0.01


@pytest.mark.parametrize("spacing", [None, [1.0, 1.0, 1.0]])
def test_a_sheared_scan_comes_back(tmp_path, spacing):
    """A CT with a tilted gantry has axes that are not at right angles."""
    grid = np.stack(np.meshgrid(*map(np.arange, (30, 32, 20)), indexing="ij"), axis=-1)
    organ = np.linalg.norm((grid - [15, 15, 10]) * [1, 1, 1.5], axis=-1) < 9
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    affine[1, 2] = 0.3
    path = write_nifti(tmp_path / "scan.nii.gz", organ.astype(np.float32), affine)
    window = {"method": "window", "lower": 0, "upper": 1}
    item = preprocessing(window, spacing=spacing)({"case": "scan", "image": str(path)})
    inside = item["image"].as_tensor()
    item["pred"] = torch.cat([1 - inside, inside]).clamp(1e-6, 1).log()
    restored = RestoreLabelsd()(item)["pred"][0].numpy()
    assert restored.shape == organ.shape
    assert 2 * np.sum(restored * organ) / (restored.sum() + organ.sum()) > 0.95


def test_without_a_case_the_file_is_named_after_the_scan(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", np.ones((3, 3, 3), np.int16))
    item = preprocessing({"method": "zscore"})({"image": str(path)})
    item["pred"] = torch.rand(2, 3, 3, 3)
    assert SaveLabelsd(tmp_path)(RestoreLabelsd()(item))["prediction"] == str(tmp_path / "scan_seg.nii.gz")


def test_saving_writes_a_file_named_after_the_case(tmp_path):
    voxels = np.arange(24).reshape(2, 3, 4).astype(np.int16)
    path = write_nifti(tmp_path / "scan.nii.gz", voxels, oriented("LPS", (1, 2, 3)))
    item = preprocessing({"method": "zscore"})({"case": "scan", "image": str(path)})
    item["pred"] = torch.rand(3, *item["image"].shape[1:])
    saved = SaveLabelsd(tmp_path / "out")(RestoreLabelsd()(item))
    assert saved["prediction"] == str(tmp_path / "out" / "scan_seg.nii.gz")
    written = nib.load(saved["prediction"])
    np.testing.assert_array_equal(np.asarray(written.dataobj), saved["pred"][0].numpy())
