from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import dcmread

import dicoms
from segbundle.errors import ConfigError, DataError
from segbundle.io.dicom_folders import list_series
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry
from segbundle.segmentations import formats
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import (
    check_output_format,
    output_formats,
    write_label_maps,
    write_possible_label_maps,
)
from tiny import write_nifti

LABELS = np.ones((4, 3, 2), np.uint8)


@pytest.mark.parametrize("value", ["", "dicom", "nifti,nifti", [], ["nifti", "seg"]])
def test_unknown_formats_are_refused(value):
    with pytest.raises(ConfigError, match="one or several of nifti, nrrd, dicom_seg, rtstruct"):
        output_formats(value)


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package highdicom.*pip install 'segbundle\[dicom\]'"):
        check_output_format(SimpleNamespace(data=[]), "dicom_seg")
    check_output_format(SimpleNamespace(data=[]), "rtstruct")


def test_only_scans_of_dicom_pass(tmp_path):
    dicoms.write_series(tmp_path / "ct", dicoms.voxels((4, 3, 2)))
    other = str(write_nifti(tmp_path / "b.nii.gz", LABELS))
    entries = [{"image": str(tmp_path / "ct")}, {"image": [other, other]}, {"image": "c", "error": "no such file"}]
    dataset = SimpleNamespace(data=entries)
    check_output_format(dataset, "nifti,nrrd")
    assert dataset.data == entries
    check_output_format(dataset, "rtstruct")
    assert "error" not in dataset.data[0] and dataset.data[2]["error"] == "no such file"
    assert dataset.data[1]["error"].startswith(f"{other}: is not a DICOM series")
    with pytest.raises(DataError, match=r"b\.nii\.gz: is not a DICOM series"):
        check_output_format(SimpleNamespace(data=entries[1:]), "rtstruct")
    some = SimpleNamespace(data=entries)
    check_output_format(some, "nifti,rtstruct")
    assert some.data == entries  # NIfTI can be written


def test_names_are_needed_by_other_programs(tmp_path):
    scan = write_nifti(tmp_path / "ct.nii", LABELS)
    with pytest.raises(ConfigError, match="output_format nrrd needs class_names"):
        write_label_maps(LABELS, scan, tmp_path, "ct", ["nrrd"])


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_series_without_uids_is_refused(tmp_path, name):
    def edit(dataset, index):
        if index:
            del dataset.SOPInstanceUID

    dicoms.write_series(tmp_path / "ct", dicoms.voxels((4, 3, 2)), edit=edit)
    with pytest.raises(DataError, match="has no SOPInstanceUID"):
        write_label_maps(LABELS, tmp_path / "ct", tmp_path, "ct", [name], class_table(["background", "liver"]))


def test_formats_that_can_be_written_are_written(tmp_path, monkeypatch):
    def edit(dataset, index):
        del dataset.SeriesInstanceUID

    scan = dicoms.write_series(tmp_path / "ct", dicoms.voxels((4, 3, 2)), edit=edit)[0].parent
    table = class_table(["background", "liver"])
    every = ["nifti", "nrrd", "dicom_seg", "rtstruct"]
    written, failed = write_possible_label_maps(LABELS, scan, tmp_path, "ct", every, table)
    assert sorted(map(str, tmp_path.glob("ct*.*"))) == sorted([*written.values(), str(tmp_path / "ct_seg.json")])
    assert list(written) == ["nifti", "nrrd"] and list(failed) == ["dicom_seg", "rtstruct"]
    assert all("has no SeriesInstanceUID" in reason for reason in failed.values())
    with pytest.raises(DataError, match="has no SeriesInstanceUID"):
        write_possible_label_maps(LABELS, scan, tmp_path, "ct", every[2:], table)
    other = write_nifti(tmp_path / "b.nii.gz", LABELS)
    assert (
        "is not a DICOM series" in write_possible_label_maps(LABELS, other, tmp_path, "b", every, table)[1]["rtstruct"]
    )


def test_equal_uids_are_refused_without_quoting_them(tmp_path, caplog):
    def edit(dataset, index):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"

    dicoms.write_series(tmp_path / "ct", dicoms.voxels((4, 3, 2)), edit=edit)
    table, every = class_table(["background", "liver"]), ["nifti", "nrrd", "dicom_seg", "rtstruct"]
    written, failed = write_possible_label_maps(LABELS, tmp_path / "ct", tmp_path, "ct", every, table)
    assert list(written) == ["nifti", "nrrd"]
    for reason in (failed["dicom_seg"], failed["rtstruct"]):
        assert "several of its files have the same SOPInstanceUID" in reason and "1.2.3.99" not in reason
    assert "1.2.3.99" not in caplog.text


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_empty_label_map_is_written(tmp_path, name):
    from segbundle.io.label_maps import read_labels

    dicoms.write_series(tmp_path / "ct", dicoms.voxels((4, 3, 2)))
    table = class_table(["background", "liver"])
    written = write_label_maps(0 * LABELS, tmp_path / "ct", tmp_path, "ct", [name], table)
    assert not read_labels(written[name]).array.any()


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_volumes_at_the_same_positions_in_one_file(tmp_path, name):
    """Frames of the other volume have the same positions."""
    pytest.importorskip("highdicom")
    values, positions = dicoms.voxels((12, 10, 8)), [(0, 0, 2 * (k // 2)) for k in range(8)]
    dicoms.write_enhanced(tmp_path / "a.dcm", values, positions, [1] * 8)
    labels = np.zeros((12, 10, 4), np.uint8, order="F")
    labels[3:9, 4:9, 1:3] = 1
    for number, series in enumerate(list_series(tmp_path)):
        table = class_table(["background", "liver"])
        path = write_label_maps(labels, series.path, tmp_path / f"out{number}", "x", [name], table)[name]
        found = read_labels(path, ["background", "liver"], read_geometry(series.path)).array[0]
        np.testing.assert_array_equal(found, labels)
        if name == "dicom_seg":
            frames = dcmread(path).PerFrameFunctionalGroupsSequence
            references = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames]
            assert [int(one.ReferencedFrameNumber) for one in references] == [3 + number, 5 + number]
