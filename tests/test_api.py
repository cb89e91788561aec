"""`import segbundle`: the interface for Python code."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import segbundle as sb
from commands import TINY, segbundle
from dicoms import write_series
from segbundle.errors import CheckpointError, ConfigError, DataError, OutputError
from segbundle.io.label_maps import read_labels
from tiny import write_tiny_dataset

pytestmark = pytest.mark.e2e
TASK = {
    "class_names": ["background", "ball", "cube"], "spacing": None, "patch_size": [16, 16, 16], "num_folds": 3,
    "max_epochs": 60, "val_interval": 30, "batch_size": 1, "network_def#kernel_size": [3, 3, 3],
    "network_def#strides": [1, 2, 2], "network_def#upsample_kernel_size": [2, 2], "network_def#filters": [4, 8, 8],
    "optimizer#lr": 0.02, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("api") / "tiny", num_cases=6, num_test=2)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    model = sb.train(dataset, folder, **TASK)
    assert model.class_names == TASK["class_names"]
    return folder


@pytest.fixture(scope="module")
def model(run):
    return sb.load_model(run, device="cpu")


def scans(dataset):
    return sorted((dataset / "imagesTs").glob("*.nii*"))


def test_names_are_listed_and_exist():
    assert {"predict", "evaluate", "train", "load_model", "read_scan", "DiceCELoss", "per_class_dice"} <= set(dir(sb))
    assert all(hasattr(sb, name) for name in sb.__all__)


def test_import_is_lazy():
    loaded = "import segbundle, sys; print([n for n in ('torch', 'monai', 'nibabel') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_label_maps_equal_those_of_the_command(model, run, dataset, tmp_path):
    words = ["--config", TINY, "--output_dir", tmp_path, "--ckpt_path", run / "model.pt", "--device", "cpu"]
    done = segbundle("predict", dataset / "imagesTs", *words)
    assert done.returncode == 0, done.stderr
    for path in scans(dataset):
        found = model.predict(path)
        expected = nib.load(tmp_path / f"{found.name}_seg.nii.gz")
        assert np.array_equal(found.labels, np.asarray(expected.dataobj)) and found.labels.any()
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


def test_images_in_memory_give_the_same_labels(model, dataset):
    path = scans(dataset)[0]
    expected = model.predict(path)
    image = nib.load(path)
    given = {
        "nibabel": image,
        "array": (np.asarray(image.dataobj), image.affine),
        "channels": (np.asarray(image.dataobj)[None], image.affine),
        "SimpleITK": sitk.ReadImage(str(path)),
        "scan": sb.read_scan(path),
    }
    for name, scan in given.items():
        found = model.predict(scan)
        assert np.array_equal(found.labels, expected.labels), name
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


def test_label_map_knows_classes_and_volumes(model, dataset, tmp_path):
    found = model.predict(scans(dataset)[0])
    voxel_ml = abs(np.linalg.det(found.affine[:3, :3])) / 1000
    assert found.volumes_ml["ball"] == pytest.approx((found.labels == 1).sum() * voxel_ml)
    assert found.mask("cube").sum() == (found.labels == 2).sum()
    written = nib.load(found.save(tmp_path / "seg.nii.gz"))
    assert np.array_equal(np.asarray(written.dataobj), found.labels)


def test_files_are_written_and_never_replaced(model, dataset, tmp_path):
    array = (np.asarray(nib.load(scans(dataset)[0]).dataobj), np.eye(4))
    sb.predict([*scans(dataset), array], model, output_dir=tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0002_seg.json", "0002_seg.nii.gz", "test_00_seg.json", "test_00_seg.nii.gz", "test_01_seg.json",
        "test_01_seg.nii.gz",
    ]  # fmt: skip
    with pytest.raises(OutputError, match="exists"):
        sb.predict(scans(dataset), model, output_dir=tmp_path / "out", progress=False)


def test_scans_of_one_name_are_refused_before_the_first(model, dataset, tmp_path):
    path = scans(dataset)[0]
    with pytest.raises(OutputError, match="two scans have this name"):
        sb.predict([path, str(path)], model, output_dir=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def series(dataset, tmp_path_factory):
    """Return a folder with a CT series of the first scan and an MR series, and a NIfTI file."""
    folder = tmp_path_factory.mktemp("api") / "export"
    array = np.asarray(nib.load(scans(dataset)[0]).dataobj).astype(np.int16)
    write_series(folder / "p1" / "a", array, Modality="CT", SeriesDescription="thorax")
    write_series(folder / "p1" / "b", array, Modality="MR", SeriesDescription="head")
    return folder


def test_formats_and_series_equal_those_of_the_command(model, run, dataset, series, tmp_path):
    formats = "nifti,nrrd,dicom_seg,rtstruct"
    found = sb.predict(
        [series, scans(dataset)[1]], model, output_dir=tmp_path / "nifti", series="CT", progress=False
    )  # fmt: skip
    assert [label_map.name for label_map in found] == ["p1_a", "test_01"]
    sb.predict(series, model, output_dir=tmp_path / "a", output_format=formats, series=["*thorax*"], progress=False)
    words = ["--ckpt_path", run / "model.pt", "--config", TINY, "--output_dir", tmp_path / "b", "--series", "CT"]
    done = segbundle("predict", series, *words, "--output_format", formats, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    names = ["p1_a.seg.nrrd", "p1_a_rtstruct.dcm", "p1_a_seg.dcm", "p1_a_seg.json", "p1_a_seg.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "b" / name).is_file()
        if name.endswith((".nrrd", ".json", ".nii.gz")):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"output_format": "png"}, ConfigError, "one or several of nifti, nrrd"),
        ({"output_format": ["nifti", "rtstruct"]}, DataError, "is not a DICOM series"),
        ({"output_format": "nrrd", "output_dir": None}, ConfigError, "needs an output_dir"),
    ],
)
def test_formats_are_checked_before_the_first_scan(model, dataset, tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        sb.predict(scans(dataset)[0], model, **{"output_dir": tmp_path / "out", "progress": False, **given})
    assert not (tmp_path / "out").exists()


def test_one_impossible_format_does_not_cost_the_others(model, dataset, series, tmp_path, caplog):
    """The NIfTI file and the image in memory have no DICOM slices, so only the series gets an RTSTRUCT."""
    file, array = scans(dataset)[0], np.zeros((16, 16, 16), np.float32)
    given = [series / "p1" / "a", file, (array, np.eye(4))]
    words = {"output_dir": tmp_path / "out", "progress": False}
    found = sb.predict(given, model, output_format=["rtstruct", "nifti"], **words)
    assert [dict(one.failed_formats) for one in found[:1]] == [{}]
    for one, name, shown in zip(found[1:], ("test_00", "0002"), (file, "image in memory"), strict=True):
        assert list(one.failed_formats) == ["rtstruct"]
        reason = one.failed_formats["rtstruct"]
        assert reason.startswith(f"{shown}: is not a DICOM series")
        assert f"{name}: rtstruct was not written: {reason}" in caplog.text
    names = ["0002_seg.json", "0002_seg.nii.gz", "a_rtstruct.dcm", "a_seg.json", "a_seg.nii.gz", "test_00_seg.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "test_00_seg.nii.gz"]
    with pytest.raises(DataError, match="is not a DICOM series"):
        sb.predict(given, model, output_format="rtstruct", output_dir=tmp_path / "dicom", progress=False)
    assert not (tmp_path / "dicom").exists()


def test_volume_of_a_series_gets_formats_of_dicom(model, tmp_path):
    array = np.random.default_rng(0).integers(0, 900, (16, 16, 16)).astype(np.int16)
    for number, part in enumerate((array[:, :, :8], array[:, :, 8:])):
        positions = [(0, 0, k) for k in range(8 * number, 8 * number + 8)]
        write_series(tmp_path / "in" / str(number), part, positions=positions, SeriesInstanceUID="1.2.7")
    (found,) = sb.predict(
        tmp_path / "in", model, series="CT", output_format="dicom_seg", output_dir=tmp_path / "out", progress=False
    )
    assert found.labels.shape == array.shape and found.source.suffix == ".volume"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{found.name}_seg.dcm"]


def test_series_that_does_not_exist_is_an_error(model, series):
    with pytest.raises(DataError, match="no DICOM series matches series: PT"):
        sb.predict(series, model, series="PT", progress=False)


def test_evaluation_returns_the_summary(run, dataset, tmp_path):
    summary = sb.evaluate(dataset, run, output_dir=tmp_path / "scores", data_list_key="training", fold=0)
    assert summary["mean_dice"] == json.loads((tmp_path / "scores" / "summary.json").read_text())["mean_dice"] > 0.5
    assert (tmp_path / "scores" / "report.html").is_file()


def test_settings_change_the_model(run):
    assert sb.load_model(run / "model.pt", overlap=0.25, device="cpu")._inferer.overlap == 0.25
    with pytest.raises(ConfigError, match="overlap is 2"):
        sb.load_model(run, overlap=2.0)
    with pytest.raises(ConfigError, match="overlaps"):
        sb.load_model(run, overlaps=0.5)


def test_code_in_a_run_folder_is_refused(run, tmp_path):
    for name in ("model.pt", "run.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    content = json.loads((tmp_path / "run.json").read_text())
    content["config"]["spacing"] = "$print('RAN')"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"run\.json.*trust"):
        sb.load_model(tmp_path)


def test_errors_name_the_file(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        sb.load_model(tmp_path / "nowhere.pt")
    with pytest.raises(DataError, match=r"nowhere\.nii"):
        model.predict(tmp_path / "nowhere.nii")
    with pytest.raises(DataError, match="shape"):
        model.predict((np.zeros((4, 4)), np.eye(4)))


def test_unknown_class_of_a_label_map_is_named():
    label_map = sb.LabelMap(np.ones((2, 2, 2), np.uint8), np.eye(4), ["background", "liver"], "ct", None)
    with pytest.raises(ConfigError, match=r"unknown class 'livr': did you mean 'liver'"):
        label_map.mask("livr")
    assert label_map.mask("liver").all()


def test_label_map_of_an_image_in_memory_is_written_atomically(tmp_path):
    label_map = sb.LabelMap(np.ones((2, 2, 2), np.uint8), np.eye(4), ["background", "liver"], "ct", None)
    path = label_map.save(tmp_path / "new" / "ct_seg.nii.gz")
    assert [item.name for item in path.parent.iterdir()] == ["ct_seg.nii.gz"]
    assert nib.load(path).get_fdata().sum() == 8
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"ct_seg\.nii\.gz: cannot be written"):
        label_map.save(tmp_path / "file" / "ct_seg.nii.gz")


def test_label_maps_are_saved_with_names(tmp_path):
    """NIfTI with a table of labels, and the segments of 3D Slicer."""
    labels = np.zeros((5, 4, 3), np.uint8)
    labels[1:3, 1, 1] = 2
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    names = ["background", "liver", "spleen"]
    for source in (tmp_path / "ct.nii.gz", None):
        label_map = sb.LabelMap(labels, np.eye(4), names, "ct", source)
        written = nib.load(label_map.save(tmp_path / "a.nii.gz"))
        assert b"spleen" in bytes(written.header.extensions[0].content)
        np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    path = sb.LabelMap(labels, np.eye(4), names, "ct", tmp_path / "ct.nii.gz").save(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(read_labels(path, ["background", "spleen", "liver"]).array[0], labels // 2)
    for name, said in (("a.txt", "has no suffix of a label map"), ("b.dcm", "image in memory: is not a DICOM series")):
        with pytest.raises((ConfigError, DataError), match=said):
            label_map.save(tmp_path / name)


def test_options_of_a_loaded_model_are_refused(model):
    with pytest.raises(ConfigError, match=r"overlap: the model is loaded already\. Pass these options to load_model"):
        sb.predict([], model, overlap=0.25)


def test_untrusted_task_names_the_argument_that_trusts_it(tmp_path):
    (tmp_path / "task.yaml").write_text("spacing: $print(1)")
    with pytest.raises(ConfigError, match=r"If you trust the author, pass trust=True to run it\."):
        sb.load_model(task=tmp_path / "task.yaml")
