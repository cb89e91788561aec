"""Single label maps in the viewer, with the names and colors that their files contain."""

import gzip
import json
import shutil
import threading
import urllib.request

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import dicoms
from segbundle.errors import ConfigError, DataError, OutputError
from segbundle.files.atomic import write_json
from segbundle.io.geometry import Geometry
from segbundle.io.scans import read_geometry, read_scan
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps
from segbundle.segmentations.named_labels import TaskClasses
from segbundle.viewer import make_server
from segbundle.viewer.label_files import is_label_file, read_label_file
from tiny import write_nifti

NAMES = ["background", "liver", "kidney left", "cyst"]
COLORS = {"liver": "#aa3311", "cyst": [255, 0, 128]}
SHOWN = {"liver": [170, 51, 17], "kidney left": [86, 180, 233], "cyst": [255, 0, 128]}
"""The kidney has the second color of the palette."""
FORMATS = ["nifti", "nrrd", "dicom_seg", "rtstruct"]
SCAN = dicoms.voxels((12, 10, 8))
LABELS = np.zeros(SCAN.shape, np.uint8)
LABELS[1:5, 2:6, 1:4], LABELS[6:11, 2:8, 2:6], LABELS[7:9, 3:5, 3:5] = 1, 2, 3


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Return a folder with a DICOM series `ct`, and its label maps in all formats in `out`."""
    folder = tmp_path_factory.mktemp("export")
    dicoms.write_series(folder / "ct", SCAN)
    (folder / "out").mkdir()
    table = class_table(NAMES, COLORS)
    written = write_label_maps(np.asfortranarray(LABELS), folder / "ct", folder / "out", "ct", FORMATS, table)
    record = {"case": "ct", "status": "ok", "image": str(folder / "ct"), "prediction": written["nifti"]}
    write_json(folder / "out" / "predictions.json", [{**record, "outputs": written}])
    return folder


def written(export, output_format):
    records = json.loads((export / "out" / "predictions.json").read_text("utf-8"))
    return records[0]["outputs"][output_format]


def volume(content):
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_is_served_over_its_scan(export, output_format):
    server = make_server(written(export, output_format))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with urllib.request.urlopen(f"{address}/cases.json") as answer:
        page = json.load(answer)
    assert {each["name"]: each["color"] for each in page["classes"]} == SHOWN
    assert page["cases"][0]["volumes"] == ["scan", "prediction"] and page["cases"][0]["problem"] is None
    assert page["report"] is False
    shown = {}
    for name in page["cases"][0]["volumes"]:
        with urllib.request.urlopen(f"{address}/volumes/0/{name}.nii.gz") as answer:
            shown[name] = volume(answer.read())
    np.testing.assert_array_equal(np.asarray(shown["prediction"].dataobj), LABELS)
    np.testing.assert_array_equal(np.asarray(shown["scan"].dataobj), read_scan(export / "ct").array[0])
    for each in shown.values():
        np.testing.assert_allclose(each.affine, read_geometry(export / "ct").affine)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{address}/report.html")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("output_format", FORMATS)
def test_scan_is_that_of_the_record_the_reference_or_given(export, tmp_path, output_format):
    recorded = read_label_file(written(export, output_format)).case.files["scan"]
    assert recorded == str(export / "ct")
    (folder := tmp_path / "moved" / "labels").mkdir(parents=True)  # folders beside it are searched for the series
    alone = shutil.copy(written(export, output_format), folder)
    if output_format == "rtstruct":
        with pytest.raises(DataError, match="Give the scan with --scan"):
            read_label_file(alone)
    else:
        assert "scan" not in read_label_file(alone).case.files
    given = read_label_file(alone, export / "ct")
    assert given.case.files["scan"] == str(export / "ct")
    np.testing.assert_array_equal(np.asarray(volume(given.content).dataobj), LABELS)
    shutil.copytree(export / "ct", folder / "series")
    found = read_label_file(alone).case.files.get("scan")
    assert found == (str(folder / "series") if output_format in ("dicom_seg", "rtstruct") else None)


def test_classes_of_a_task_come_first(export):
    classes = TaskClasses(["background", "cyst", "kidney_left", "liver", "spleen"], {"cyst": "#000102"})
    label = read_label_file(written(export, "dicom_seg"), classes=classes)
    colors = {entry.name: entry.color for entry in label.table}
    assert colors["cyst"] == (0, 1, 2) and colors["liver"] == (170, 51, 17)
    expected = np.array([0, 3, 2, 1])[LABELS]
    np.testing.assert_array_equal(np.asarray(volume(label.content).dataobj), expected)


def test_values_without_names_are_numbered(tmp_path):
    path = write_nifti(tmp_path / "labels.nii.gz", LABELS.astype(np.int16) * 100)
    label = read_label_file(path)
    assert [(entry.name, entry.hex_color) for entry in label.table] == [
        ("label 100", "#e69f00"), ("label 200", "#56b4e9"), ("label 300", "#009e73"),
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(volume(label.content).dataobj), LABELS)


def test_label_map_on_a_coarser_grid_is_placed_on_the_scan(tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", np.zeros((8, 8, 8), np.float32), np.eye(4))
    coarse = np.zeros((4, 4, 4), np.uint8)
    coarse[1] = 1  # 2 mm: voxel 1 extends from 1.5 to 3.5 mm if voxel 0 begins at -0.5
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 0.5
    found = np.asarray(
        volume(read_label_file(write_nifti(tmp_path / "a.nii.gz", coarse, affine), scan).content).dataobj
    )
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [2, 3]


def test_what_is_no_label_map_is_refused(export, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        make_server(tmp_path / "nowhere.dcm")
    with pytest.raises(DataError, match="is a DICOM image, not a label map"):
        make_server(next((export / "ct").iterdir()))
    many = write_nifti(tmp_path / "many.nii.gz", np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    with pytest.raises(DataError, match="999 different values"):
        make_server(many)
    with pytest.raises(DataError, match="not integers"):
        make_server(write_nifti(tmp_path / "scan.nii.gz", np.full((4, 4, 4), 0.5, np.float32)))


def test_options_of_runs_and_files_are_not_mixed(export):
    with pytest.raises(ConfigError, match="dataset_dir does not apply"):
        make_server(written(export, "nrrd"), dataset_dir=export)
    with pytest.raises(ConfigError, match="Omit --scan and --config"):
        make_server(export / "out", scan=export / "ct")


def test_folder_with_only_a_segmentation_is_a_label_map(export, tmp_path):
    (tmp_path / "series").mkdir()
    shutil.copy(written(export, "dicom_seg"), tmp_path / "series" / "1.dcm")
    assert is_label_file(tmp_path / "series") and not is_label_file(export / "out")
    assert [entry.name for entry in read_label_file(tmp_path / "series", export / "ct").table] == NAMES[1:]


def test_label_map_of_another_program_without_records(tmp_path):
    image = sitk.GetImageFromArray(LABELS.T)
    sitk.WriteImage(image, str(tmp_path / "labels.mha"))
    (tmp_path / "predictions.json").write_text("not of segbundle")
    label = read_label_file(tmp_path / "labels.mha")
    assert [entry.name for entry in label.table] == ["label 1", "label 2", "label 3"]
    assert (
        Geometry(LABELS.shape, volume(label.content).affine).difference(read_geometry(tmp_path / "labels.mha")) is None
    )
