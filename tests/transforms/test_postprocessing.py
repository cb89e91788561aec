"""Processing of a scan's logits after the network: options, cleaning, and files of probabilities."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from segbundle.errors import ConfigError
from segbundle.inference.sliding import SlidingWindowInferer
from segbundle.io.probabilities import ProbabilityFile
from segbundle.io.scans import read_geometry
from segbundle.transforms import LargestComponentd, postprocessing, preprocessing
from tiny import write_nifti

CLASSES = ["background", "liver", "spleen", "kidney"]
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([-0.7, 1.3, 3.1]), [9, -70, 11])


def preprocessed(path, spacing=None):
    """A scan on the network's grid, and scores of four classes for it."""
    item = preprocessing({"method": "zscore"}, spacing)({"case": "patient", "image": str(path)})
    generator = torch.Generator().manual_seed(0)
    item["pred"] = torch.randn((4, *item["image"].shape[1:]), generator=generator) * 3
    return item


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    return write_nifti(tmp_path / "scan.nii.gz", voxels, OBLIQUE)


# --- options ----------------------------------------------------------------------------------------------------------


def test_by_default_only_labels_are_restored(scan, tmp_path):
    item = postprocessing(CLASSES, output_dir=tmp_path / "out")(preprocessed(scan))
    assert item["pred"].shape == (1, 9, 8, 7)
    assert item["pred"].dtype is torch.uint8
    np.testing.assert_allclose(item["pred"].affine.numpy(), nib.load(scan).affine)
    assert "probabilities" not in item
    assert not (tmp_path / "out").exists()


def parts_of(labels):
    from scipy import ndimage

    return {index: ndimage.label(labels == index)[1] for index in range(1, 4)}


@pytest.mark.parametrize(("option", "single"), [(True, {1, 2, 3}), (["spleen"], {2}), (["kidney", "liver"], {1, 3})])
def test_largest_component_is_for_all_classes_or_those_named(scan, option, single):
    before = parts_of(postprocessing()(preprocessed(scan))["pred"][0].numpy())
    after = parts_of(postprocessing(CLASSES, largest_component=option)(preprocessed(scan))["pred"][0].numpy())
    assert min(before.values()) > 1
    assert after == {index: 1 if index in single else before[index] for index in before}


def test_unknown_class_fails_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown class 'livr': did you mean 'liver'"):
        postprocessing(CLASSES, largest_component=["spleen", "livr"])


def test_background_is_not_a_component():
    with pytest.raises(ConfigError, match="unknown class 'background'"):
        postprocessing(CLASSES, largest_component=["background"])


def test_largest_component_needs_the_classes_names():
    with pytest.raises(ConfigError, match="needs class_names"):
        postprocessing(largest_component=True)


def test_probabilities_need_a_folder():
    with pytest.raises(ConfigError, match="needs an output_dir"):
        postprocessing(CLASSES, save_probabilities=True)


# --- the largest component --------------------------------------------------------------------------------------------


def cleaned(rows, classes):
    """The largest components of a map of one slice, given by rows."""
    labels = torch.tensor(rows, dtype=torch.uint8)[None, :, :, None]
    affine = torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))
    pred = MetaTensor(labels.clone(), affine=affine)
    result = LargestComponentd(classes)({"pred": pred})["pred"]
    assert torch.equal(result.affine, affine)
    assert result.dtype is torch.uint8
    assert torch.equal(pred.as_tensor(), labels)  # the input stays as it is
    return result[0, :, :, 0].tolist()


def test_smaller_parts_become_background():
    assert cleaned([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], [1]) == [[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_classes_that_touch_are_parts_of_their_own():
    """Together, the two classes on the left would be larger than the part on the right."""
    rows = [[1, 2, 0, 1], [1, 2, 0, 1], [2, 1, 0, 1]]
    assert cleaned(rows, [1, 2]) == [[0, 2, 0, 1], [0, 2, 0, 1], [0, 0, 0, 1]]


def test_class_within_the_box_of_another_class_is_kept():
    rows = [[1, 1, 1], [1, 2, 0], [0, 0, 1]]
    assert cleaned(rows, [1]) == [[1, 1, 1], [1, 2, 0], [0, 0, 0]]


def test_corners_do_not_connect():
    assert cleaned([[1, 1, 0], [0, 0, 1], [0, 0, 0]], [1]) == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_of_parts_of_one_size_the_first_is_kept():
    assert cleaned([[0, 1, 0], [0, 0, 0], [1, 0, 1]], [1]) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("absent", [1, 2, 5])
def test_absent_classes_change_nothing(absent):
    rows = [[3, 0, 3], [0, 0, 0]]
    assert cleaned(rows, [absent]) == rows


def test_only_the_classes_named_are_cleaned():
    rows = [[1, 0, 1], [2, 0, 2]]
    assert cleaned(rows, [2]) == [[1, 0, 1], [2, 0, 0]]


def test_parts_connect_from_slice_to_slice():
    labels = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    labels[0, 0, 0, :] = 1
    labels[0, 2, 2, :2] = 1
    kept = LargestComponentd([1])({"pred": MetaTensor(labels)})["pred"]
    assert kept.sum() == 3
    assert kept[0, 0, 0].tolist() == [1, 1, 1]


# --- files of probabilities -------------------------------------------------------------------------------------------


def test_probability_file_has_scaled_integers_on_the_scan_grid(scan, tmp_path):
    path = tmp_path / "out" / "patient_prob.nii"
    with ProbabilityFile(path, scan) as file:
        array = file.array(2)
        assert array.shape == (2, 9, 8, 7)
        assert array.dtype == np.uint16
        array[0] = 65535
        array[1, 2, 3, 4] = 13107  # a fifth
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    written = nib.load(path)
    assert written.shape == (9, 8, 7, 2)
    assert written.get_data_dtype() == np.uint16
    assert written.dataobj.slope == pytest.approx(1 / 65535)
    assert written.dataobj.inter == 0
    values = written.get_fdata()
    np.testing.assert_allclose(values[..., 0], 1, atol=1e-6)
    assert values[2, 3, 4, 1] == pytest.approx(0.2)
    assert np.count_nonzero(values[..., 1]) == 1


def test_a_probability_file_keeps_the_scans_geometry_bit_for_bit(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), None)
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(np.diag([-0.7, 1.3, 3.1, 1]), code=2)  # another than the sform
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, tmp_path / "scan.nii.gz")
    with ProbabilityFile(tmp_path / "prob.nii", tmp_path / "scan.nii.gz") as file:
        file.array(3)
    scan, written = (nib.load(tmp_path / name).header for name in ("scan.nii.gz", "prob.nii"))
    for axis in "xyz":
        assert written[f"srow_{axis}"].tobytes() == scan[f"srow_{axis}"].tobytes()
        assert written[f"qoffset_{axis}"] == scan[f"qoffset_{axis}"]
    assert [written[f"quatern_{name}"] for name in "bcd"] == [scan[f"quatern_{name}"] for name in "bcd"]
    for name in ("sform_code", "qform_code", "xyzt_units"):
        assert written[name] == scan[name]
    assert written["pixdim"][:4].tobytes() == scan["pixdim"][:4].tobytes()
    assert written["dim"][:5].tolist() == [4, 5, 4, 3, 3]


def test_nothing_is_left_behind_if_the_block_raises(scan, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(RuntimeError, match="no memory"), ProbabilityFile(folder / "prob.nii", scan) as file:
        file.array(2)[0] = 1
        raise RuntimeError("no memory")
    assert not list(folder.iterdir())


def test_an_old_file_survives_a_failure(scan, tmp_path):
    (tmp_path / "prob.nii").write_text("old")
    with pytest.raises(RuntimeError), ProbabilityFile(tmp_path / "prob.nii", scan) as file:
        file.array(2)
        raise RuntimeError
    assert (tmp_path / "prob.nii").read_text() == "old"


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_formats_than_nifti_give_their_geometry_too(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32))
    image.SetSpacing((0.8, 1.2, 2.5))
    image.SetOrigin((10, -20, 30))
    image.SetDirection(nib.eulerangles.euler2mat(0.2, 0.1, -0.3).reshape(-1).tolist())
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path))
    item = postprocessing(save_probabilities=True, output_dir=tmp_path)(preprocessed(path))
    written = nib.load(item["probabilities"])
    assert written.shape == (7, 6, 5, 4)
    np.testing.assert_allclose(written.affine, read_geometry(path).affine, atol=1e-5)
    assert written.header["sform_code"] == written.header["qform_code"] == 1
    np.testing.assert_array_equal(written.get_fdata().argmax(-1), item["pred"][0].numpy())


@pytest.mark.parametrize("spacing", [None, [1.0, 1.0, 2.0]])
@pytest.mark.parametrize("shear", [0, 0.3])
def test_probabilities_sum_to_one_and_the_largest_is_the_label(tmp_path, spacing, shear):
    affine = OBLIQUE.copy()
    affine[:3, 2] += shear * affine[:3, 1]
    voxels = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    path = write_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    without = postprocessing()(preprocessed(path, spacing))["pred"]
    item = postprocessing(save_probabilities=True, output_dir=tmp_path / "out")(preprocessed(path, spacing))
    assert item["probabilities"] == str(tmp_path / "out" / "patient_prob.nii")
    values = nib.load(item["probabilities"]).get_fdata()
    assert values.shape == (9, 8, 7, 4)
    np.testing.assert_allclose(values.sum(-1), 1, atol=4 / 65535)
    ordered = np.sort(values, axis=-1)
    clear = ordered[..., -1] - ordered[..., -2] > 1e-4
    assert clear.mean() > 0.9
    for labels in (item["pred"], without):
        np.testing.assert_array_equal(labels[0].numpy()[clear], values.argmax(-1)[clear])


def test_probabilities_come_from_sliding_windows_slab_by_slab(scan, tmp_path):
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    items = [preprocessed(scan, [1.0, 1.0, 1.0]) for _ in range(2)]
    inferer = SlidingWindowInferer((4, 4, 4), precision="fp32")
    items[0]["pred"] = inferer.slabs(items[0]["image"][None], network)
    items[1]["pred"] = inferer(items[1]["image"][None], network)[0]
    written = [
        postprocessing(save_probabilities=True, output_dir=tmp_path / str(index))(item)["probabilities"]
        for index, item in enumerate(items)
    ]
    slabs, whole = (nib.load(path).get_fdata() for path in written)
    np.testing.assert_allclose(slabs, whole, atol=2 / 65535)
