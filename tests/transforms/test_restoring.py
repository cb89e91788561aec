"""Labels come back to the scan's voxels: exactly, whatever orientation and spacing the scan has."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segbundle.inference.slabs import ScoreSlabs
from segbundle.inference.sliding import SlidingWindowInferer
from segbundle.transforms import RestoreLabelsd, SaveLabelsd, preprocessing, restoring
from segbundle.transforms.restoring import restore_labels
from tiny import write_nifti

ORIENTATIONS = [
    "".join(codes) for p in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*p)
]  # all 48


def oriented(codes, spacing, angles=(0, 0, 0)):
    """An affine whose axes point where `codes` say, tilted by some angles in radians about z, y and x."""
    to_ras = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (9, 8, 7))
    tilt = nib.eulerangles.euler2mat(*angles)
    affine = nib.affines.from_matvec(tilt, [3, -70, 11]) @ np.linalg.inv(to_ras)
    return affine @ np.diag([*spacing, 1])


def dice(one, other):
    return 2 * np.sum(one * other) / (one.sum() + other.sum())


class CopyingNetwork(torch.nn.Module):
    """Network that is certain of the class in the image: 0, 1/3, 2/3 or 1 stand for the classes 0 to 3."""

    def forward(self, windows):
        return -100 * (3 * windows - torch.arange(4.0).reshape(1, 4, 1, 1, 1)).square()


def copied(path, output_dir, spacing=None):
    """Preprocess a scan of values 0 to 3, copy it in sliding windows, restore and save it, and return the file."""
    item = preprocessing({"method": "window", "lower": 0, "upper": 3}, spacing)({"case": "scan", "image": str(path)})
    inferer = SlidingWindowInferer((6, 5, 4), precision="fp32")
    item["pred"] = inferer.slabs(item["image"][None], CopyingNetwork())
    return nib.load(SaveLabelsd(output_dir)(RestoreLabelsd()(item))["prediction"])


def three(strategy):
    return st.tuples(strategy, strategy, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("codes", ORIENTATIONS)
@settings(max_examples=6)
@given(
    shape=three(st.integers(1, 13)),
    spacing=three(st.floats(0.3, 6)),
    angles=three(st.floats(-0.7, 0.7)),
    seed=st.integers(0, 99),
)
def test_copied_label_map_is_restored_bit_for_bit(tmp_path_factory, codes, shape, spacing, angles, seed):
    """Whatever the orientation, spacing and obliqueness, right- or left-handed, and with windows larger than scans."""
    folder = tmp_path_factory.mktemp("scans")
    voxels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.int16)
    voxels.flat[:2] = [1, 2][: voxels.size]
    scan = nib.load(write_nifti(folder / "scan.nii.gz", voxels, oriented(codes, spacing, angles)))
    written = copied(folder / "scan.nii.gz", folder)
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels)
    np.testing.assert_array_equal(written.affine, scan.affine)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    codes=st.sampled_from(ORIENTATIONS),
    own=three(st.floats(0.6, 2)),
    spacing=three(st.floats(0.6, 2)),
    angles=three(st.floats(-0.5, 0.5)),
    seed=st.integers(0, 99),
)
def test_thick_blocks_are_restored_from_another_spacing(tmp_path_factory, codes, own, spacing, angles, seed):
    """Each block is 6 voxels thick in both grids; labels may differ where a voxel's neighbors in both grids do."""
    folder = tmp_path_factory.mktemp("scans")
    thickness = [int(np.ceil(6 * max(*spacing, size) / size)) for size in own]
    blocks = np.random.default_rng(seed).integers(0, 4, (2, 2, 2))
    blocks[0, 0] = [1, 2]
    voxels = np.kron(blocks, np.ones(thickness, int)).astype(np.int16)
    write_nifti(folder / "scan.nii.gz", voxels, oriented(codes, own, angles))
    restored = np.asarray(copied(folder / "scan.nii.gz", folder, spacing).dataobj)
    reach = [2 * int(np.ceil((max(spacing) + size) / size)) + 1 for size in own]
    inside = ndimage.minimum_filter(voxels, reach, mode="nearest") == ndimage.maximum_filter(
        voxels, reach, mode="nearest"
    )
    assert inside.any()
    np.testing.assert_array_equal(restored[inside], voxels[inside])
    # interpolation makes a rim of 1 and 2 between 0 and 3, but moves the surface between 1 and 2 by half a voxel only
    assert dice(restored >= 2, voxels >= 2) > 0.85


@pytest.mark.parametrize(
    ("shape", "spacing", "codes"),
    [
        ((40, 36, 20), (1, 1, 1), "RAS"),
        ((40, 36, 20), (0.8, 0.8, 2.5), "LPS"),
        ((60, 50, 6), (0.4, 0.4, 6.5), "PIR"),
        ((30, 30, 1), (1, 1, 5), "RAS"),
    ],
)
def test_smooth_organ_survives_round_trip_through_other_spacing(tmp_path, shape, spacing, codes):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    middle = (np.array(shape) - 1) / 2
    radius = 0.35 * min(n * s for n, s in zip(shape, spacing, strict=True) if n > 1)
    organ = np.linalg.norm((grid - middle) * spacing, axis=-1) < radius
    affine = oriented(codes, spacing, (0.05, 0.025, -0.05))
    path = write_nifti(tmp_path / "scan.nii.gz", organ.astype(np.float32), affine)
    window = {"method": "window", "lower": 0, "upper": 1}
    item = preprocessing(window, spacing=[1.3, 1.3, 1.3])({"case": "scan", "image": str(path)})
    inside = item["image"].as_tensor()
    item["pred"] = torch.cat([1 - inside, inside]).clamp(1e-6, 1).log()
    restored = RestoreLabelsd()(item)["pred"][0].numpy()
    assert restored.shape == shape
    assert dice(restored, organ) > 0.93


def by_hand(probabilities, to_grid, shape):
    """Trilinear interpolation of every class, voxel by voxel."""
    result = np.zeros((len(probabilities), *shape))
    limits = np.array(probabilities.shape[1:]) - 1
    for index in np.ndindex(*shape):
        at = np.clip((to_grid @ [*index, 1])[:3], 0, limits)
        low = np.minimum(np.floor(at).astype(int), np.maximum(limits - 1, 0))
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod(np.where(corner, at - low, 1 - (at - low)))
            result[(slice(None), *index)] += weight * probabilities[(slice(None), *np.minimum(low + corner, limits))]
    return result


def assert_most_probable(labels, probabilities):
    """The labels are those of the largest probabilities, but for ties in float32."""
    largest = np.sort(probabilities, axis=0)
    clear = largest[-1] - largest[-2] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels.numpy()[clear], probabilities.argmax(axis=0)[clear])


def smooth_scores(num_classes, seed, shape=(6, 5, 4)):
    """Scores between which classes change from voxel to voxel in one half, and nowhere in the other."""
    scores = np.random.default_rng(seed).normal(size=(num_classes, *shape)) * 2
    scores[0, shape[0] // 2 :] += 20
    return torch.from_numpy(scores).float()


def in_slabs(scores, axis, thickness):
    """Return logits like the inferer: in slabs that begin with the last slice of the previous slab."""
    size = scores.shape[1 + axis]

    def slabs():
        for start in range(0, size, thickness):
            first = max(start - 1, 0)
            yield first, scores.narrow(1 + axis, first, min(start + thickness, size) - first).clone()

    return ScoreSlabs(scores.shape[1:], axis, slabs())


@st.composite
def parallel_grids(draw):
    """A map from a grid of 5 x 4 x 6 voxels to one of 6 x 5 x 4 that permutes, flips, scales and shifts axes."""
    to_grid = np.diag([0.0, 0, 0, 1])
    for k, axis in enumerate(draw(st.permutations([0, 1, 2]))):
        scale, offset = draw(st.sampled_from([0.5, 0.8, 1.0, 1.7])), draw(st.floats(-1, 1) | st.just(0.0))
        flip = draw(st.booleans())
        to_grid[axis, k] = -scale if flip else scale
        to_grid[axis, 3] = offset + ((6, 5, 4)[axis] - 1 if flip else 0)
    return to_grid


@pytest.mark.slow
@settings(max_examples=60)
@given(
    to_grid=parallel_grids(),
    num_classes=st.sampled_from([2, 3, 12]),
    seed=st.integers(0, 99),
    axis=st.integers(0, 2),
    thickness=st.integers(1, 6),
    mostly_mixed=st.sampled_from([0.0, 0.2, 1.0]),
    at_a_time=st.sampled_from([1, 40, 2**26]),
)
def test_labels_equal_interpolating_every_class_voxel_by_voxel(
    to_grid, num_classes, seed, axis, thickness, mostly_mixed, at_a_time
):
    """As a whole or in slabs along any axis, all voxels or only those between labels, in chunks of any size."""
    scores = smooth_scores(num_classes, seed)
    expected = by_hand(scores.double().softmax(dim=0).numpy(), to_grid, (5, 4, 6))
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(restoring, "_MOSTLY_MIXED", mostly_mixed)
        for name in ("_VOXELS", "_VALUES", "_MIXED"):
            patcher.setattr(restoring, name, at_a_time)
        assert_most_probable(restore_labels(scores, to_grid, (5, 4, 6)), expected)
        assert_most_probable(restore_labels(in_slabs(scores, axis, thickness), to_grid, (5, 4, 6)), expected)


def tilted(angle):
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(angle, angle / 3) * 0.8, [1, 0.5, 0.2])


@pytest.mark.slow
@settings(max_examples=40)
@given(
    to_grid=parallel_grids() | st.floats(0.1, 0.5).map(tilted),
    num_classes=st.sampled_from([2, 3, 12]),
    seed=st.integers(0, 99),
    axis=st.integers(0, 2),
    thickness=st.integers(1, 6),
    at_a_time=st.sampled_from([1, 100, 2**26]),
)
def test_saving_probabilities_does_not_change_labels(to_grid, num_classes, seed, axis, thickness, at_a_time):
    scores = smooth_scores(num_classes, seed)
    expected = by_hand(scores.double().softmax(dim=0).numpy(), to_grid, (5, 4, 6))
    with pytest.MonkeyPatch.context() as patcher:
        for name in ("_VOXELS", "_VALUES"):
            patcher.setattr(restoring, name, at_a_time)
        for given_scores in (scores, in_slabs(scores, axis, thickness)):
            filled = np.full((num_classes, 5, 4, 6), 12345, np.uint16)
            labels = restore_labels(given_scores, to_grid, (5, 4, 6), lambda n, filled=filled: filled[:n])
            assert np.abs(filled / 65535 - expected).max() < 1 / 65535 + 1e-4
            assert_most_probable(labels, expected)


@pytest.mark.parametrize(("num_classes", "dtype"), [(2, torch.uint8), (256, torch.uint8), (257, torch.int16)])
def test_indices_are_as_small_as_the_classes_allow(num_classes, dtype):
    scores = torch.zeros(num_classes, 3, 1, 1)
    scores[num_classes - 1, 1] = 1
    for to_grid in (np.eye(4), nib.affines.from_matvec(np.eye(3) * 0.999), tilted(0)):
        labels = restore_labels(scores, to_grid, (2, 1, 1))
        assert labels.dtype is dtype
        assert labels[1].item() == num_classes - 1


def test_long_volumes_are_restored_in_slabs_without_seams():
    scores = torch.rand(3, 50, 4, 4)
    labels = restore_labels(scores, np.eye(4), (50, 4, 4))
    assert torch.equal(labels.long(), scores.argmax(0))


def test_sheared_grids_are_sampled_in_all_directions():
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7, 6, 5))).float()
    to_grid = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1) * 0.9, [1, 0.5, 0.2])
    expected = by_hand(scores.softmax(dim=0).double().numpy(), to_grid, (20, 5, 4))
    for given_scores in (scores, in_slabs(scores, 1, 2)):
        assert_most_probable(restore_labels(given_scores, to_grid, (20, 5, 4)), expected)


@pytest.mark.parametrize("spacing", [None, [1.0, 1.0, 1.0]])
def test_sheared_scan_is_restored(tmp_path, spacing):
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
    assert dice(restored, organ) > 0.95


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


def test_slabs_too_large_for_the_gpu_are_restored_on_the_cpu(monkeypatch):
    scores = smooth_scores(3, 0)
    expected = restore_labels(scores, np.diag([0.7, 0.8, 0.9, 1]), (5, 4, 6))
    restore, on_cpu = restoring._restore_slab, []

    class OnGpu(torch.Tensor):
        is_cpu = False

        def cpu(self):
            on_cpu.append(True)
            return self.as_subclass(torch.Tensor)

    def out_of_memory(start, slab, *rest):
        if not slab.is_cpu:
            raise torch.OutOfMemoryError("CUDA out of memory")
        restore(start, slab, *rest)

    monkeypatch.setattr(restoring, "_restore_slab", out_of_memory)
    labels = restore_labels(scores.as_subclass(OnGpu), np.diag([0.7, 0.8, 0.9, 1]), (5, 4, 6))
    assert torch.equal(labels.as_subclass(torch.Tensor), expected)
    assert on_cpu == [True]
