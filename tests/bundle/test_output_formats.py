"""Predictions in the formats of other programs, by the real command."""

import json

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import slicerio
from pydicom import dcmread

import dicoms
from commands import TINY, segbundle
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry
from tiny import TINY_CLASSES, tiny_label, write_nifti

pytestmark = pytest.mark.e2e
FILES = {"nifti": "ct_seg.nii.gz", "nrrd": "ct.seg.nrrd", "dicom_seg": "ct_seg.dcm", "rtstruct": "ct_rtstruct.dcm"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a folder with a DICOM series and a NIfTI file of the same image."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    image = (tiny_label(rng) * 50 + rng.normal(0, 5, (20, 18, 16))).round().astype(np.int16)

    def edit(dataset, index):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Synthetic^Phäntom"

    dicoms.write_series(folder / "ct", image, spacing=(1, 1, 1), edit=edit)
    write_nifti(folder / "other.nii.gz", image)
    return folder


def predict(trained, out, *words):
    return segbundle(
        "predict", *words, "--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", out
    )  # fmt: skip


def test_all_formats_of_a_series(scans, trained, tmp_path):
    options = ["--output_format", "nifti,dicom_seg,rtstruct,nrrd", "--class_colors", '{ball: "#ff0080"}']
    done = predict(trained, tmp_path / "out", scans / "ct", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["outputs"] == {name: str(tmp_path / "out" / file) for name, file in FILES.items()}
    assert record["prediction"] == record["outputs"]["nifti"]
    expected = np.asarray(nib.load(record["prediction"]).dataobj)
    assert set(np.unique(expected)) == {0, 1, 2}
    grid = read_geometry(scans / "ct")
    for path in record["outputs"].values():
        np.testing.assert_array_equal(read_labels(path, TINY_CLASSES, grid).array[0], expected)
    segmentation = hd.seg.segread(record["outputs"]["dicom_seg"])
    uids = [dcmread(file).SOPInstanceUID for file in sorted((scans / "ct").iterdir())]
    found = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found.T, expected)
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == TINY_CLASSES[1:]
    structures = dcmread(record["outputs"]["rtstruct"])
    assert {str(segmentation.PatientName), str(structures.PatientName)} == {"Synthetic^Phäntom"}
    assert list(structures.ROIContourSequence[0].ROIDisplayColor) == [255, 0, 128]
    slicer = slicerio.read_segmentation(record["outputs"]["nrrd"])
    assert slicer["segments"][0]["color"] == [1.0, 0.0, 0.501961]
    table = json.loads((tmp_path / "out" / "ct_seg.json").read_text())
    assert [(row["name"], row["color"]) for row in table] == [("ball", "#ff0080"), ("cube", "#56b4e9")]
    page = segbundle("report", tmp_path / "out")
    assert page.returncode == 0, page.stderr
    assert ".k0{--color:rgb(255,0,128)}" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_other_formats_replace_those_of_an_earlier_run(scans, trained, tmp_path):
    out = tmp_path / "out"
    assert predict(trained, out, scans / "ct", "--output_format", "nrrd").returncode == 0
    assert (out / "ct.seg.nrrd").is_file() and not (out / "ct_seg.nii.gz").exists()
    assert segbundle("report", out).returncode == 0  # the report reads the label map in any format
    assert "ct</" in (out / "report.html").read_text(encoding="utf-8")
    done = predict(trained, out, scans / "ct", "--resume", "--output_format", "[nifti]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 scan(s) had other settings" in done.stdout
    assert (out / "ct_seg.nii.gz").is_file() and not (out / "ct.seg.nrrd").exists()


def test_format_of_dicom_is_refused_for_other_scans(scans, trained, tmp_path):
    done = predict(trained, tmp_path / "a", scans / "other.nii.gz", "--output_format", "dicom_seg")
    assert done.returncode == 1
    assert "other.nii.gz: is not a DICOM series, so its label map cannot be written as dicom_seg" in done.stderr
    assert not (tmp_path / "a" / "predictions.json").exists()
    done = predict(trained, tmp_path / "b", scans, "--output_format", "dicom_seg,rtstruct")
    assert done.returncode == 1 and "1 of 2 scans failed (other)" in done.stderr
    assert (tmp_path / "b" / "ct_seg.dcm").is_file()
    assert "as dicom_seg or rtstruct" in (tmp_path / "b" / "predictions.json").read_text()


def test_one_impossible_format_does_not_cost_the_others(scans, trained, tmp_path):
    done = predict(trained, tmp_path / "out", scans, "--output_format", "nifti,nrrd,rtstruct")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 2 scans lack an output format" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("other: rtstruct was not written: ") and "is not a DICOM series" in last
    _, other = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert other["status"] == "ok" and list(other["outputs"]) == ["nifti", "nrrd"]
    assert list(other["failed_formats"]) == ["rtstruct"] and (tmp_path / "out" / "other.seg.nrrd").is_file()
    done = predict(trained, tmp_path / "out", scans, "--output_format", "nifti,nrrd,rtstruct", "--resume")
    assert done.returncode == 1 and "1 of 2 scans are done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--output_format", "dicom"], "output_format is 'dicom'; one or several of nifti, nrrd, dicom_seg, rtstruct"),
        (["--class_colors", "{bal: '#000000'}"], "class_colors: unknown class 'bal': did you mean 'ball'?"),
        (["--class_codes", "{ball: {value: 1}}"], "class_codes: the code of 'ball' is {'value': 1}. Give scheme,"),
    ],
)
def test_wrong_value_is_named(scans, trained, tmp_path, option, message):
    done = predict(trained, tmp_path / "out", scans / "other.nii.gz", *option)
    assert done.returncode == 1 and message in done.stderr, done.stderr


def test_uneven_series_is_resampled_and_recorded(scans, trained, tmp_path):
    series = tmp_path / "ct"
    series.mkdir()
    for k, file in enumerate(sorted((scans / "ct").iterdir())):
        if k not in (6, 11):
            (series / file.name).symlink_to(file)
    refused = predict(trained, tmp_path / "out", series)
    assert "2 slices are missing after IM005.dcm" in refused.stdout
    assert refused.returncode and "--allow_uneven true" in refused.stdout
    options = ["--allow_uneven", "true", "--output_format", "nifti,dicom_seg", "--resume", "true"]
    done = predict(trained, tmp_path / "out", series, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    message = f"{series}: its slices are 1 to 2 mm apart; they are resampled to 16 slices with a spacing of 1 mm"
    assert (done.stdout + done.stderr).count(message) == 1
    (record,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["resampled_slices"] == {"smallest_gap_mm": 1.0, "largest_gap_mm": 2.0, "spacing_mm": 1.0}
    labels = np.asarray(nib.load(record["outputs"]["nifti"]).dataobj)
    assert labels.shape == (20, 18, 16) and set(np.unique(labels)) == {0, 1, 2}
    uids = [dcmread(file).SOPInstanceUID for file in sorted(series.iterdir())]
    found = hd.seg.segread(record["outputs"]["dicom_seg"]).get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found.T, np.delete(labels, (6, 11), axis=2))
    page = segbundle("report", tmp_path / "out")
    assert page.returncode == 0 and (tmp_path / "out" / "report.html").is_file(), page.stdout + page.stderr
