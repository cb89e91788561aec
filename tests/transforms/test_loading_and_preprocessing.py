import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, NormalizeIntensityd

import dicoms
from segbundle.datasets.datalist import labeled_data
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.errors import ConfigError, DataError
from segbundle.io.scans import read_geometry, write_segmentation
from segbundle.transforms import LoadScand, preprocessing
from segbundle.transforms.before_network import intensity_transform, network_transforms
from segbundle.transforms.preparing import PrepareCase
from tiny import TINY_CLASSES, write_nifti


def test_loading_gives_tensors_with_geometry(tiny_dataset):
    item = LoadScand(TINY_CLASSES, 1, label=True)(labeled_data(tiny_dataset, TINY_CLASSES)[0])
    image, label = item["image"], item["label"]
    assert image.shape == label.shape == (1, 20, 18, 16)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    assert item["annotated"].tolist() == [True, True, True]
    torch.testing.assert_close(image.affine, torch.eye(4, dtype=torch.float64))
    assert image.meta["filename_or_obj"].endswith("case_00.nii.gz")
    assert set(label.unique().tolist()) == {0, 1, 2}


def test_invalid_case_fails_with_all_problems(tmp_path):
    image = np.full((4, 4, 4), np.nan, np.float32)
    entry = {
        "case": "a",
        "image": str(write_nifti(tmp_path / "image.nii", image)),
        "label": str(write_nifti(tmp_path / "label.nii", np.full((4, 4, 4), 5, np.uint8))),
    }
    with pytest.raises(DataError) as error:
        LoadScand(TINY_CLASSES, 2, label=True)(entry)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("axes", [[[0, -1], [1, -1], [2, 1]], [[2, 1], [0, -1], [1, 1]]])
def test_label_map_with_other_axes_is_reoriented(tiny_dataset, axes):
    entry = labeled_data(tiny_dataset, TINY_CLASSES)[0]
    expected = LoadScand(TINY_CLASSES, 1, label=True)(entry)["label"]
    stored = nib.load(entry["label"]).as_reoriented(axes)
    nib.save(stored, entry["label"])
    label = LoadScand(TINY_CLASSES, 1, label=True)(entry)["label"]
    assert torch.equal(label.as_tensor(), expected.as_tensor())
    assert torch.equal(label.affine, expected.affine)
    problems = [message for _, found in DatasetCheck(tiny_dataset, TINY_CLASSES) for message in found]
    assert not problems
    moved = stored.affine.copy()
    moved[:3, 3] += 0.5
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), moved), entry["label"])
    with pytest.raises(DataError, match="differ in geometry"):
        LoadScand(TINY_CLASSES, 1, label=True)(entry)


def test_orientation_and_spacing(tmp_path):
    # stored PIR at 2 mm: axis 0 runs to posterior, 1 to inferior, 2 to the right
    affine = np.array([[0, 0, 2, 0], [-2, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]], float)
    array = np.zeros((8, 6, 4), np.float32)
    array[0, 5, 3] = 1  # anterior, inferior, right: in RAS (3, 7, 0)
    path = write_nifti(tmp_path / "a.nii.gz", array, affine)
    same = preprocessing({"method": "window", "lower": 0, "upper": 1})({"case": "a", "image": str(path)})["image"]
    assert same.shape == (1, 4, 8, 6)
    assert torch.nonzero(same.as_tensor()[0]).tolist() == [[3, 7, 0]]
    assert nib.aff2axcodes(same.affine.numpy()) == ("R", "A", "S")
    fine = preprocessing({"method": "zscore"}, spacing=[1, 1, 1])({"case": "a", "image": str(path)})["image"]
    assert fine.shape[1:] == (7, 15, 11)
    np.testing.assert_allclose(np.linalg.norm(fine.affine.numpy()[:3, :3], axis=0), 1)


@pytest.mark.parametrize("spacing", [[1, 1], [1, 1, 0], [1, 1, 1, 1]])
def test_wrong_spacing_is_refused(spacing):
    with pytest.raises(ConfigError, match="three positive sizes in mm"):
        preprocessing({"method": "zscore"}, spacing=spacing)


def normalized(intensity, values):
    image = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
    return torch.as_tensor(intensity_transform(intensity)({"image": image})["image"]).flatten()


def test_zscore():
    result = normalized({"method": "zscore"}, [1, 2, 3, 4])
    assert result.mean() == pytest.approx(0, abs=1e-6)
    assert result.std(unbiased=False) == pytest.approx(1)


def scan_values(*outliers, shape=(20, 22, 24), order="F", channels=1):
    """A scan of values from 0 to 1000 whose first voxels are outliers, as memory of a file's order."""
    rng = np.random.default_rng(0)
    values = rng.normal(500, 100, (channels, *shape)).clip(0, 1000).astype(np.float32)
    values[-1].reshape(-1)[: len(outliers)] = outliers
    return torch.from_numpy(np.asarray(values, order=order))


def prepared(values, **more):
    """What both a prediction and a training do after loading a scan."""
    item = {"case": "scan_1", "image": MetaTensor(values.clone(), affine=torch.eye(4)), **more}
    return Compose(network_transforms(["image"], {"method": "zscore"}, None))(item)["image"].as_tensor()


@pytest.mark.parametrize(
    "outliers", [[65535.0], [-32768.0], [1e30], [3e38] * 6, [-32768.0, 65535.0], [20000.0] * 32, [-32768.0] * 400]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_outliers_do_not_affect_the_zscore(caplog, outliers, order):
    clean, spoiled = (prepared(scan_values(*some, order=order)) for some in ([], outliers))
    others = (0, *np.unravel_index(range(len(outliers), 20 * 22 * 24), (20, 22, 24)))
    assert (clean[others] - spoiled[others]).abs().mean() < 0.2  # not 0: they are clipped, and still count
    assert spoiled.isfinite().all()
    (message,) = caplog.messages
    assert message.startswith("scan_1: ") and f"{len(outliers)} of 10560 voxels" in message
    assert all(f"{value:g}" in message for value in set(outliers))


@pytest.mark.parametrize("share", [0.001, 0.003, 0.0045])
@pytest.mark.parametrize(
    ("lowest", "highest"), [(20000, 20000), (4095, 4095), (30000, 60000), (1e30, 1e30), (-9999, -9999)]
)
def test_many_outliers_beyond_a_gap_do_not_decide_the_zscore(caplog, share, lowest, highest):
    shape = (40, 44, 24)
    hot = np.linspace(lowest, highest, int(share * 40 * 44 * 24))
    clean, spoiled = (prepared(scan_values(*some, shape=shape)) for some in ([], hot))
    others = (0, *np.unravel_index(range(len(hot), 40 * 44 * 24), shape))
    # clipped to 3 ranges of about 8 deviations, they are 12 off: the variance grows by at most 0.0045 * 12**2 = 0.65
    assert 0.75 < (spoiled[others].std() / clean[others].std()).item() < 1
    assert f"{len(hot)} of 42240 voxels are outliers" in caplog.text


def test_broken_slice_does_not_affect_the_zscore(caplog):
    clean = scan_values(shape=(20, 22, 240))
    broken = clean.clone()
    broken[..., 100] = 32000.0  # 440 of 105600 voxels: 0.42 %
    ratio = prepared(broken)[..., :100].std() / prepared(clean)[..., :100].std()
    assert 0.75 < ratio.item() < 1
    assert "440 of 105600 voxels are outliers" in caplog.text


def test_one_outlier_in_a_scan_of_few_voxels(caplog):
    clean, spoiled = (prepared(scan_values(*some, shape=(9, 9, 9))) for some in ([], [65535.0]))
    assert (clean - spoiled)[0].flatten()[1:].abs().mean() < 0.2
    assert "1 of 729 voxels are outliers" in caplog.text


def test_long_tail_without_a_gap_is_unchanged(caplog):
    values = torch.from_numpy(np.random.default_rng(0).exponential(1, (1, 40, 44, 24)).astype(np.float32))
    values[0, 0, :, :10] = torch.linspace(10, 40, 440).reshape(44, 10)  # 1 %, as bright organs in PET
    theirs = NormalizeIntensityd("image", channel_wise=True)({"image": values.clone()})["image"]
    assert torch.equal(prepared(values), theirs)
    assert caplog.messages == []


@pytest.mark.parametrize("outliers", [[], [1000.0] * 40, [3000.0], [-2000.0] * 5])
@pytest.mark.parametrize("channels", [1, 2])
def test_ordinary_scans_are_normalized_as_monai_does(caplog, outliers, channels):
    values = scan_values(*outliers, channels=channels)
    theirs = NormalizeIntensityd("image", channel_wise=True)({"image": values.clone()})["image"]
    assert torch.equal(prepared(values), theirs)
    assert caplog.messages == []


def test_outliers_are_looked_for_channel_by_channel(caplog):
    values = scan_values(1e30, channels=2)
    result = prepared(values)
    assert torch.equal(result[:1], prepared(values[:1]))
    assert result.isfinite().all() and len(caplog.messages) == 1


def test_outliers_are_clipped_before_a_finer_grid_spreads_them(caplog):
    item = {"case": "a", "image": MetaTensor(scan_values(1e30), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))}
    finer = Compose(network_transforms(["image"], {"method": "zscore"}, [1, 1, 1]))(item)["image"]
    assert finer.shape == (1, 39, 43, 47) and finer.abs().max() < 30
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("value", [0.0, 1.0, -1234.567, 65535.0, 1e30])
def test_constant_channels_give_no_nan(caplog, value):
    values = torch.cat([torch.full((1, 20, 22, 24), value), scan_values()])
    result = prepared(values)
    assert result.isfinite().all() and result[0].unique().numel() == 1
    assert caplog.messages == []


def test_nearly_constant_scan_is_unchanged(caplog):
    values = torch.zeros(1, 20, 22, 24)
    values[0, 5, 5, 5:9] = 1
    assert prepared(values).max() > 50
    assert caplog.messages == []


def test_window_clips_then_scales_to_0_1():
    result = normalized({"method": "window", "lower": -100, "upper": 300}, [-1000, -100, 100, 300, 900])
    assert result.tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_ct_clips_then_standardises():
    result = normalized({"method": "ct", "lower": -100, "upper": 300, "mean": 50, "std": 25}, [-1000, 50, 100, 900])
    assert result.tolist() == pytest.approx([-6, 0, 2, 10], abs=1e-5)


@pytest.mark.parametrize(
    ("intensity", "message"),
    [
        ({"method": "zscor"}, "unknown method 'zscor': did you mean 'zscore'"),
        ({"method": "window", "lower": 0}, r"takes the keys \['lower', 'upper'\], got \['lower'\]"),
        ({"method": "window", "lower": 5, "upper": 5}, "lower < upper"),
        ({"method": "ct", "lower": 0, "upper": 5, "mean": 1, "std": 0}, "std > 0"),
        ({}, "unknown method None"),
    ],
)
def test_wrong_intensity_is_refused(intensity, message):
    with pytest.raises(ConfigError, match=message):
        intensity_transform(intensity)


def test_ignore_label_becomes_ignore_index(tmp_path):
    entry = {
        "case": "a",
        "image": str(write_nifti(tmp_path / "image.nii", np.zeros((2, 1, 3), np.float32))),
        "label": str(write_nifti(tmp_path / "label.nii", np.array([0, 1, 2, 3, 3, 0], np.int16).reshape(2, 1, 3))),
        "ignore_label": 3,
    }
    item = LoadScand(TINY_CLASSES, 1, label=True)(entry)
    assert item["label"].as_tensor().flatten().tolist() == [0, 1, 2, 255, 255, 0]
    assert item["label"].dtype == torch.uint8
    assert "ignore_label" not in item


def test_zscore_of_nonzero_voxels_by_hand():
    """Channel 0 has mean 3 and standard deviation 1 without its zeros; channel 1 is constant, channel 2 empty."""
    image = torch.tensor([[0.0, 2.0, 0.0, 4.0], [0.0, 7.0, 7.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).reshape(3, 2, 2, 1)
    done = intensity_transform({"method": "zscore", "nonzero": True})({"image": image})["image"]
    expected = [[0.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert done.reshape(3, 4).tolist() == expected


@pytest.mark.parametrize("outside", [0.1, 0.9])
def test_zscore_of_nonzero_voxels_is_that_of_monai(outside):
    generator = torch.Generator().manual_seed(0)
    values = 300 + 70 * torch.randn(2, 12, 11, 10, generator=generator)
    values *= torch.rand(2, 12, 11, 10, generator=generator) > outside
    theirs = NormalizeIntensityd("image", nonzero=True, channel_wise=True)({"image": values.clone()})["image"]
    ours = intensity_transform({"method": "zscore", "nonzero": True})({"image": values})["image"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_nonzero_is_an_option_of_zscore_only():
    with pytest.raises(ConfigError, match="nonzero is an option of method 'zscore', not of 'window'"):
        intensity_transform({"method": "window", "lower": 0, "upper": 1, "nonzero": True})
    assert not intensity_transform({"method": "zscore", "nonzero": False}).nonzero


def test_uneven_series_as_a_training_case(tmp_path):
    volume = np.broadcast_to(np.arange(6, dtype=np.int16) * 10, (8, 9, 6)).copy()
    positions = [(0, 0, z) for z in (0, 2, 4, 8, 10, 12)]
    dicoms.write_series(tmp_path / "imagesTr" / "a", volume, positions=positions, spacing=(1, 1, 2))
    label = np.zeros((8, 9, 7), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    (tmp_path / "labelsTr").mkdir()
    grid = read_geometry(tmp_path / "imagesTr" / "a", allow_uneven=True)
    write_segmentation(label, grid, tmp_path / "labelsTr" / "a.nii.gz")
    names = ["background", "liver"]
    ((_, problems),) = DatasetCheck(tmp_path, names)
    assert "--allow_uneven true" in problems[0]
    assert [found for _, found in DatasetCheck(tmp_path, names, allow_uneven=True)] == [[]]
    (entry,) = labeled_data(tmp_path, names)
    settings = {"class_names": names, "patch_size": [8, 8, 8], "intensity": {"method": "zscore"}, "allow_uneven": True}
    prepared = PrepareCase(settings=settings)(entry)
    assert prepared["label"].sum() == label.sum()
    image = preprocessing(settings=settings)({"image": entry["image"]})
    assert image["resampled_slices"] == [2.0, 4.0, 2.0]
    with pytest.raises(DataError, match="--allow_uneven true"):
        PrepareCase(settings={**settings, "allow_uneven": False})(entry)
