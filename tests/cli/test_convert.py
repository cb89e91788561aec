"""Conversion of scans and label maps between file formats, by the command."""

import gzip
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

import dicoms
from commands import invoke
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry, read_scan
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.file_classes import classes_in_file, table_of
from segbundle.segmentations.formats import write_label_maps

NAMES = ["background", "liver", "kidney_left", "lesion", "absent"]
CODE = {"scheme": "SCT", "value": "52988006", "meaning": "Lesion"}
TABLE = class_table(NAMES, {"liver": "#ff0080"}, {"lesion": CODE})
SHAPE = (13, 11, 7)
TILTED = {"spacing": (0.7, 0.9, 2.5), "step": (0, 0.8, 2.4)}
FORMATS = {"nifti": ".nii.gz", "nrrd": ".seg.nrrd", "dicom_seg": ".dcm", "rtstruct": ".dcm"}


def phantom():
    found = np.zeros(SHAPE, np.uint8, order="F")
    found[1:10, 1:10, 1:6] = 1
    found[3:8, 3:8, 2:5] = 0
    found[10:12, 1:10, 1:4] = 2
    found[0, 0, 0] = found[12, 10, 6] = 3
    return found


@pytest.fixture
def series(tmp_path):
    """Return the folder of a tilted CT series with a rescale slope and intercept."""
    dicoms.write_series(tmp_path / "ct", dicoms.voxels(SHAPE), slopes=[2] * SHAPE[2], intercept=-1024, **TILTED)
    return tmp_path / "ct"


def convert(*words, code=0):
    done = invoke("convert", *words)
    assert done.exit_code == code, done.output + done.stderr
    return done


def convert_to_error(*words):
    return convert(*words, code=1).stderr


def written(series, folder, kind, label_map=None):
    label_map = phantom() if label_map is None else label_map
    return write_label_maps(label_map, series, folder / "source", "ct", [kind], TABLE)[kind]


def test_series_to_nifti_has_its_values_and_geometry(series, tmp_path):
    done = convert(series, tmp_path / "ct.nii.gz")
    assert done.stdout == f"{tmp_path / 'ct.nii.gz'}: scan, 13 x 11 x 7 voxels\n"
    image, source = nib.load(tmp_path / "ct.nii.gz"), read_scan(series)
    np.testing.assert_array_equal(np.asarray(image.dataobj), source.array[0])
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.affine, source.geometry.affine, atol=1e-6)
    converted = read_scan(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(converted.array, source.array)
    assert b"Phantom" not in gzip.decompress((tmp_path / "ct.nii.gz").read_bytes())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"), ([-1, 255], "int16"), ([0, 65535], "uint16"), ([-1, 65535], "int32"),
        ([0.5, 1], "float32"), ([0.1, 1], "float64"), ([np.nan, 1], "float32"), ([1e300, 1], "float64"),
        ([0, 3e9], "uint32"), ([-1, 3e9 + 1], "float64"),
    ],
)  # fmt: skip
def test_smallest_dtype_holds_the_values(tmp_path, values, dtype):
    voxels = np.full((4, 3, 2), values[0], np.float64)
    voxels[0, 0, 1] = values[1]
    nib.save(nib.Nifti1Image(voxels, np.diag([-1, 2, 3, 1])), tmp_path / "a.nii")
    convert(tmp_path / "a.nii", tmp_path / "b.nii.gz")
    image = nib.load(tmp_path / "b.nii.gz")
    assert image.get_data_dtype().name == dtype
    np.testing.assert_array_equal(image.get_fdata(), voxels)


def test_scale_slope_and_text_of_a_nifti_scan(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.diag([1, 1, 2.5, 1]))
    image.header.set_slope_inter(0.5, -3)
    image.header["descrip"] = b"Synthetic^Phantom"
    image.set_qform(image.affine, code=2)
    nib.save(image, tmp_path / "a.nii")
    convert(tmp_path / "a.nii", tmp_path / "b.nii")
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata())
    assert not bytes(after.header["descrip"]).strip(b"\0") and int(after.header["qform_code"]) == 2


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_scan_with_channels(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.arange(48, dtype=np.uint8).reshape(2, 3, 4, 2), isVector=True)
    image.SetSpacing((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    done = convert(tmp_path / f"a{suffix}", tmp_path / "a.nii.gz")
    assert "4 x 3 x 2 voxels in 2 channels" in done.stdout
    first, second = (read_scan(tmp_path / name) for name in (f"a{suffix}", "a.nii.gz"))
    np.testing.assert_array_equal(first.array, second.array)
    assert first.geometry.difference(second.geometry) is None


@pytest.mark.slow
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_label_maps_between_all_formats(series, tmp_path, source, target):
    path, output = written(series, tmp_path, source), tmp_path / f"result{FORMATS[target]}"
    done = convert(path, output, "--output_format", target, "--like", series)
    assert "13 x 11 x 7 voxels, 4 classes: liver, kidney_left, lesion, absent (empty)" in done.stdout
    found = read_labels(output, NAMES, read_geometry(series))
    np.testing.assert_array_equal(found.array[0], phantom())
    assert found.geometry.difference(read_geometry(series)) is None
    described = classes_in_file(output)
    assert [entry.name for entry in described] == NAMES[1:]
    assert [entry.color for entry in described] == [entry.color for entry in TABLE]
    if "nrrd" not in (source, target) or "rtstruct" not in (source, target):
        assert [entry.code.type.value for entry in table_of(described)][2] == CODE["value"]


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
def test_series_beside_the_file_is_found(series, tmp_path, kind):
    path = written(series, tmp_path, kind)
    convert(path, tmp_path / "labels.nii.gz")
    image = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), phantom())
    np.testing.assert_allclose(image.affine, read_geometry(series).affine, atol=1e-6)
    assert [row["name"] for row in json.loads((tmp_path / "labels.json").read_text())] == NAMES[1:]
    convert(tmp_path / "labels.nii.gz", tmp_path / "again.dcm", "--like", series)
    np.testing.assert_array_equal(read_labels(tmp_path / "again.dcm", NAMES, read_geometry(series)).array[0], phantom())


def test_structures_with_other_numbers_get_the_values_1_2_3(series, tmp_path):
    dataset = dcmread(written(series, tmp_path, "rtstruct"))
    for name, key in (("StructureSetROISequence", "ROINumber"), ("ROIContourSequence", "ReferencedROINumber")):
        for item in dataset[name].value:
            setattr(item, key, 1000 * int(item[key].value))
    dataset.save_as(tmp_path / "rs.dcm")
    convert(tmp_path / "rs.dcm", tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj), phantom())


def test_class_names_choose_the_label_values(series, tmp_path):
    names = ["background", "absent", "Lesion", "Kidney Left", "liver"]
    expected = np.array([0, 4, 3, 2])[phantom()]
    for kind in FORMATS:
        path = written(series, tmp_path, kind)
        convert(path, tmp_path / f"{kind}.nii", "--class_names", f"[{', '.join(names)}]", "--like", series)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / f"{kind}.nii").dataobj), expected)
        liver = classes_in_file(tmp_path / f"{kind}.nii")[3]
        assert (liver.name, liver.color) == ("liver", (255, 0, 128))


def test_names_and_colors_of_a_task(tmp_path):
    nib.save(nib.Nifti1Image(phantom().astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    task = tmp_path / "task.yaml"
    task.write_text("class_names: [background, a, b, c]\nclass_colors: {b: '#010203'}\n")
    convert(tmp_path / "a.nii", tmp_path / "a.seg.nrrd", "--config", task)
    assert [(entry.name, entry.color) for entry in classes_in_file(tmp_path / "a.seg.nrrd")][1] == ("b", (1, 2, 3))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.seg.nrrd").array[0], phantom())


def test_other_axes_are_reoriented_exactly(series, tmp_path):
    geometry = read_geometry(series)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    flip[1:3, 3] = SHAPE[1] - 1, SHAPE[2] - 1
    turned = nib.Nifti1Image(phantom()[:, ::-1, ::-1].transpose(2, 0, 1), (geometry.affine @ flip)[:, [2, 0, 1, 3]])
    nib.save(turned, tmp_path / "turned.nii")
    convert(tmp_path / "turned.nii", tmp_path / "labels.nii", "--like", series, "--labels")
    image = nib.load(tmp_path / "labels.nii")
    np.testing.assert_array_equal(np.asarray(image.dataobj), phantom())
    np.testing.assert_allclose(image.affine, geometry.affine, atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_nearest_neighbor_on_another_grid(series, tmp_path, kind):
    """On a grid of half the spacing, each voxel becomes eight."""
    geometry = read_geometry(series)
    fine = geometry.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] -= geometry.affine[:3, :3] @ (0.25, 0.25, 0.25)
    nib.save(nib.Nifti1Image(np.zeros(2 * np.array(SHAPE), np.int16), fine), tmp_path / "fine.nii")
    convert(written(series, tmp_path, kind), tmp_path / "labels.nii.gz", "--like", tmp_path / "fine.nii")
    found = np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj)
    np.testing.assert_array_equal(found, phantom().repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_classes_that_disappear_are_reported(tmp_path):
    nib.save(nib.Nifti1Image(phantom(), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.diag([2, 2, 2, 1])), tmp_path / "b.nii")
    done = convert(tmp_path / "a.nii", tmp_path / "c.nii", "--like", tmp_path / "b.nii", "--labels")
    assert "a.nii: the label values [2] have no voxel on the grid of the scan" in done.output
    far = np.eye(4)
    far[0, 3] = 100
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), far), tmp_path / "b.nii")
    message = convert_to_error(tmp_path / "a.nii", tmp_path / "d.nii", "--like", tmp_path / "b.nii")
    assert "none of its labels lies on the voxels of the scan" in message


def test_foreign_files_and_inputs_are_kept(series, tmp_path):
    (tmp_path / "a.nii").write_text("mine")
    assert "a.nii was not written by segbundle" in convert_to_error(series, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_text() == "mine"
    (tmp_path / "b.json").write_text("mine")
    path = written(series, tmp_path, "rtstruct")
    assert "b.json was not written by segbundle" in convert_to_error(path, tmp_path / "b.nii")
    assert not (tmp_path / "b.nii").exists()
    convert(series, tmp_path / "c.nii")
    convert(series, tmp_path / "c.nii")  # its own file is replaced
    assert "is the input" in convert_to_error(tmp_path / "c.nii", tmp_path / "c.nii")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ct", "a.mha"], "a.mha: its suffix is not that of an output format. Use .nii.gz or .nii for a scan"),
        (["ct", "a.nii", "--output_format", "dicom"], "output_format is 'dicom'; one or several of nifti, nrrd"),
        (["ct", "a.nii", "--output_format", "nifti,nrrd"], "writes one file, so choose one format"),
        (["ct", "a.nii", "--output_format", "rtstruct"], "a.nii: output_format rtstruct needs the suffix .dcm"),
        (["no.nii", "a.nii"], "no.nii: no such file"),
        (
            ["seg.nii", "a.dcm"],
            "seg.nii: dicom_seg refers to the slices of a DICOM series. Pass the series with --like",
        ),
        (["seg.nii", "a.dcm", "--like", "seg.nii"], "seg.nii: is not a DICOM series, so its label map cannot"),
        (["seg.nii", "a.seg.nrrd"], "output_format nrrd needs class_names"),
        (["ct", "a.seg.nrrd"], "ct: is a scan, not a label map, so it cannot be written as nrrd. Write it as .nii.gz"),
        (["ct", "a.dcm"], "ct: is a scan, not a label map, so it cannot be written as dicom_seg"),
        (["seg.nii", "a.seg.nrrd", "--class_names", "liver"], 'must begin with background: "[background, liver]"'),
        (["seg.nii", "a.nii", "--class_names", "[background, liver]"], "contains the label value 2, but its 1 classes"),
        (["ct", "a.nii", "--labels"], "the label map contains the value"),
    ],
)
def test_errors_name_the_file_and_the_fix(series, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(phantom(), np.eye(4)), "seg.nii")
    assert message in convert_to_error(*words)
    assert not (tmp_path / words[1]).exists()


def test_both_commands_of_the_message_about_geometry_work(tmp_path, monkeypatch):
    """The label map lost its affine: copied geometry keeps its voxels; resampled, the voxels are at other places.

    Scan voxels are 2 mm wide and start at 1 mm; the label map claims 1 mm voxels from 0 mm. Scan voxel i, at 1 + 2 i
    mm, gets the label of voxel 1 + 2 i. Labels are in voxels 3 to 6 of 8, so only i = 1 and 2 are labeled.
    """
    monkeypatch.chdir(tmp_path)
    folder, affine = Path("my data"), np.array([[2.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    label_map = np.zeros((8, 4, 3), np.uint8)
    label_map[3:7] = 1
    for name, array, header in (("imagesTr", label_map.astype(np.int16), affine), ("labelsTr", label_map, np.eye(4))):
        (folder / name).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, header), folder / name / "a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1}}))
    message = invoke("check", folder).stderr
    commands = re.findall(r"`segbundle (convert [^`]*)`", message)
    expected = {"--copy_geometry": [3, 4, 5, 6], "--like": [1, 2]}
    assert len(commands) == len(expected)
    for command, (option, labeled) in zip(commands, expected.items(), strict=True):
        words = shlex.split(command)
        assert [words[1], *words[-2:]] == ["my data/labelsTr/a.nii.gz", option, "my data/imagesTr/a.nii.gz"]
        assert "label map, 8 x 4 x 3 voxels" in convert(*words[1:]).stdout
        found = nib.load(words[2])
        np.testing.assert_array_equal(found.affine, affine)
        np.testing.assert_array_equal(np.unique(np.nonzero(np.asarray(found.dataobj))[0]), labeled)


def test_geometry_is_copied_to_the_same_shape_only(series, tmp_path):
    nib.save(nib.Nifti1Image(phantom(), np.eye(4)), tmp_path / "seg.nii")
    nib.save(nib.Nifti1Image(phantom()[1:], np.eye(4)), tmp_path / "small.nii")
    convert(tmp_path / "seg.nii", tmp_path / "a.nii", "--copy_geometry", series)
    found, grid = read_scan(tmp_path / "a.nii"), read_geometry(series)
    np.testing.assert_array_equal(found.array[0], phantom())
    np.testing.assert_allclose(found.geometry.affine, grid.affine, atol=1e-4)
    error = convert_to_error(tmp_path / "small.nii", tmp_path / "b.nii", "--copy_geometry", series)
    assert "has 12 x 11 x 7 voxels, but" in error and "cannot be copied" in error
    error = convert_to_error(tmp_path / "seg.nii", tmp_path / "b.nii", "--copy_geometry", series, "--like", series)
    assert "Choose one." in error
    source = written(series, tmp_path, "dicom_seg")
    assert "its geometry cannot be replaced" in convert_to_error(
        source, tmp_path / "b.nii", "--copy_geometry", series
    )  # fmt: skip
    assert not (tmp_path / "b.nii").exists()


def test_two_segments_with_one_name_are_an_error(series, tmp_path):
    dataset = dcmread(written(series, tmp_path, "dicom_seg"))
    dataset.SegmentSequence[1].SegmentLabel = "liver"
    dataset.save_as(tmp_path / "twice.dcm")
    message = convert_to_error(tmp_path / "twice.dcm", tmp_path / "a.nii")
    assert "twice.dcm: two segments are named 'liver'. Rename the segments" in message


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
@pytest.mark.parametrize("given", ["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"])
def test_algorithm_type_is_kept(series, tmp_path, kind, given):
    source = written(series, tmp_path, "rtstruct")
    dataset = dcmread(source)
    for structure in dataset.StructureSetROISequence:
        structure.ROIGenerationAlgorithm = given
    dataset.save_as(source)
    convert(source, tmp_path / "a.dcm", "--output_format", kind, "--like", series)
    assert {entry.algorithm for entry in classes_in_file(tmp_path / "a.dcm")} == {given}
    convert(tmp_path / "a.dcm", tmp_path / "b.dcm", "--output_format", "dicom_seg", "--like", series)
    assert {entry.algorithm for entry in classes_in_file(tmp_path / "b.dcm")} == {given}


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
def test_unknown_origin_is_neither_manual_nor_automatic(series, tmp_path, kind):
    source = written(series, tmp_path, "nrrd")
    convert(source, tmp_path / "a.dcm", "--output_format", kind, "--like", series)
    found = classes_in_file(tmp_path / "a.dcm")
    assert {entry.algorithm for entry in found} == {"SEMIAUTOMATIC"}
    assert {entry.algorithm_name for entry in found} == {"unknown" if kind == "dicom_seg" else ""}


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
def test_predictions_are_automatic(series, tmp_path, kind):
    found = classes_in_file(written(series, tmp_path, kind))
    assert {entry.algorithm for entry in found} == {"AUTOMATIC"}
