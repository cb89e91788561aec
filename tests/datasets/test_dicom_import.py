"""Datasets from DICOM exports: cases, classes, what is left out, and continued imports."""

import csv
import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

import dicoms
import exports
from commands import TINY, invoke, segbundle
from exports import labels, write_case, write_segments
from segbundle.cli.import_dataset import print_import
from segbundle.datasets import dicom_import
from segbundle.datasets.datalist import dataset_folds
from segbundle.datasets.dicom_import import import_dataset
from segbundle.errors import DataError, OutputError
from segbundle.files.pseudonyms import PSEUDONYM, SALT
from segbundle.io.dicom_folders import list_series
from segbundle.io.label_maps import referenced_volume
from segbundle.io.scans import read_geometry, read_scan
from segbundle.masking import show_names
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps
from tiny import TINY_CLASSES


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return exports.write_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def imported(export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "dataset"
    return folder, import_dataset(export, folder)


def rows_of(result):
    return {row.place: row for row in result.rows}


def contents(folder):
    """Return the bytes of all files but the record of their dates and the lock."""
    skipped = (".segbundle-files.jsonl", ".lock", SALT)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in skipped]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def copy_salt(source, folder):
    """Copy the salt of a dataset, so that patients have the same pseudonyms."""
    folder.mkdir()
    shutil.copy(source / SALT, folder)


@pytest.mark.slow
def test_reasons_of_a_mixed_export(imported):
    _, result = imported
    found = {place: (row.status, row.error and row.error.reason) for place, row in rows_of(result).items()}
    assert found == {
        "Doe_John/ct": ("training", None),
        "Doe_John/scout/IM000.dcm": ("left out", "not a volume: a localizer"),
        "p2/ct": ("training", None),
        "p3/ct": ("training", None),
        "p4/ct": ("left out", "series cannot be read"),
        "p5/ct": ("left out", "two segments named Liver"),
        "p6/ct": ("left out", "no segmentation"),
        "p7/ct": ("left out", "overlap of body and liver"),
        "p8/ct": ("left out", "no segmentation"),
        "p8/rs/rs_rtstruct.dcm": ("left out", "segmentation without its series"),
    }
    assert len(result.problems) == 4
    assert "body and liver overlap in 280 voxels" in str(rows_of(result)["p7/ct"].error)
    assert "IM005" in str(rows_of(result)["p4/ct"].error) or "slice" in str(rows_of(result)["p4/ct"].error)


def test_voxels_are_those_of_the_series_and_its_segments(export, imported):
    folder, result = imported
    assert result.class_names == ["background", "body", "empty", "Left Kidney", "lesion", "liver"]
    expected = {"Doe_John/ct": labels(5, 4), "p2/ct": labels(5, 4), "p3/ct": labels(5, 0, 3)}
    for place, label_map in expected.items():
        case = rows_of(result)[place].case
        image, label = (nib.load(folder / f"{kind}Tr" / f"{case}.nii.gz") for kind in ("images", "labels"))
        source = read_scan(export / place, None)
        np.testing.assert_array_equal(np.asarray(image.dataobj), source.array[0])
        np.testing.assert_allclose(image.affine, source.geometry.affine, atol=1e-5)
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_array_equal(np.asarray(label.dataobj), label_map)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)


def test_absent_and_unannotated_classes_are_kept_apart(imported):
    folder, result = imported
    description = json.loads((folder / "dataset.json").read_text())
    annotated = {Path(entry["image"]).name: entry["annotated"] for entry in description["training"]}
    names = {place: f"{row.case}.nii.gz" for place, row in rows_of(result).items()}
    assert annotated == {
        names["Doe_John/ct"]: ["empty", "lesion", "liver"],  # the empty segment is absent, not unannotated
        names["p2/ct"]: ["lesion", "liver"],
        names["p3/ct"]: ["Left Kidney", "liver"],
    }
    assert description["modality"] == {"0": "CT, MR"} and description["numTraining"] == 3


def test_no_file_contains_the_patient_or_the_folders(export, imported):
    folder, result = imported
    assert {row.case for row in result.rows} == {
        row.case for row in result.rows if len(row.case) == len("case_01234567")
    }
    for name, content in contents(folder).items():
        if name.endswith(".gz"):
            content = gzip.decompress(content)
        for text in (b"Doe", b"Synthetic", b"Phantom", str(export).encode()):
            assert text not in content and text not in name.encode(), name
    with (folder / "import.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == sorted(row["case"] for row in rows)
    assert {row["size (voxels)"] for row in rows if row["status"] == "training"} == {"20 x 18 x 12"}


def test_pseudonyms_leave_no_trace_of_the_folders(tmp_path, capsys):
    export = exports.write_export(tmp_path / "Ahornsen_export")
    for path in list(export.iterdir()):
        path.rename(export / f"Wiebkelinde_{path.name}")
    (export / "Wiebkelinde_p2" / "Ahornsen.dcm").write_bytes(bytes(128) + b"DICM" + b"broken")
    out = tmp_path / "dataset"
    for _ in range(2):
        print_import(export, out, case_names="pseudonym")
        streams = "".join(capsys.readouterr())
        assert "Ahornsen" not in streams and "Wiebkelinde" not in streams and "place" not in streams
    names = {path.name.removesuffix(".nii.gz") for path in (out / "imagesTr").iterdir()}
    assert len(names) == 3 and all(PSEUDONYM.fullmatch(name) for name in names)
    for name, content in contents(out).items():
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert not {b"Ahornsen", b"Wiebkelinde"} & {word for word in (b"Ahornsen", b"Wiebkelinde") if word in content}
    show_names()


def test_second_import_writes_no_case_again(export, imported, monkeypatch):
    folder, _ = imported
    before = contents(folder)
    monkeypatch.setattr(dicom_import, "write_scan", lambda *_: pytest.fail("written again"))
    import_dataset(export, folder)
    assert contents(folder) == before


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_stopped_import_continues_with_the_same_files(export, imported, tmp_path, monkeypatch, stop_at):
    write, calls = dicom_import.write_segmentation, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(dicom_import, "write_segmentation", stop)
    folder = tmp_path / "dataset"
    copy_salt(imported[0], folder)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(export, folder)
    assert not (folder / "dataset.json").exists()
    monkeypatch.setattr(
        dicom_import, "write_segmentation", lambda *arguments: (calls.append(arguments), write(*arguments))
    )
    import_dataset(export, folder)
    assert contents(folder) == contents(imported[0])
    assert len(calls) == 3 + 1  # the stopped case is written again, finished ones are not


KILL = """
import os, signal, sys
from pathlib import Path
from segbundle.datasets.datalist import dataset_folds
from segbundle.datasets.dicom_import import import_dataset

fsync, calls = os.fsync, []


def kill(file):
    calls.append(file)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)


os.fsync = kill
import_dataset(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", [6, 11])
def test_killed_import_continues_and_leaves_no_partial_file(export, imported, tmp_path, when):
    folder = tmp_path / "dataset"
    copy_salt(imported[0], folder)
    done = subprocess.run([sys.executable, "-c", KILL, export, folder, str(when)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path for path in folder.rglob(".partial-*") if path.stat().st_size]
    import_dataset(export, folder)
    assert contents(folder) == contents(imported[0])


def test_changed_segmentation_is_imported_again(tmp_path):
    series = write_case(tmp_path / "export" / "a", "1.5")
    write_segments(series, "rs", labels(1), ["liver"])
    (row,) = import_dataset(tmp_path / "export", tmp_path / "out").rows
    path = tmp_path / "out" / "labelsTr" / f"{row.case}.nii.gz"
    write_segments(series, "rs", labels(0, 1), ["liver"])
    import_dataset(tmp_path / "export", tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), labels(0, 1))


def test_structure_without_contours_is_not_annotated(tmp_path, caplog):
    series = write_case(tmp_path / "export" / "p1", "1.2.1")
    write_segments(series, "rs", labels(1, 2, 0), ["liver", "lesion", "template"])
    other = write_case(tmp_path / "export" / "p2", "1.2.2")
    write_segments(other, "rs", labels(0), ["template"])
    with caplog.at_level("INFO", "segbundle"):
        result = import_dataset(tmp_path / "export", tmp_path / "out")
    assert list(result.class_names) == ["background", "lesion", "liver"] and not result.problems
    assert "rs_rtstruct.dcm: 1 structures have no contours and count as not annotated: template" in caplog.text
    assert rows_of(result)["p2/ct"].error.reason == "no contours"


def test_chosen_classes_in_their_order(export, tmp_path):
    names = ["background", "Liver", "left_kidney"]
    result = import_dataset(export, tmp_path / "out", class_names=names)
    found = rows_of(result)
    assert result.class_names == names
    assert dict(result.not_chosen) == {"lesion": 1, "Lesion": 1, "body": 1, "empty": 1}
    assert found["p7/ct"].status == "training"  # without the body, nothing overlaps
    label = nib.load(tmp_path / "out" / "labelsTr" / f"{found['p3/ct'].case}.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj), labels(1, 0, 2))
    result = import_dataset(export, tmp_path / "out", class_names=["background", "lesion"])
    reasons = {row.error.reason for row in result.rows if row.place in ("p3/ct", "p7/ct")}
    assert reasons == {"no segment of a chosen class"}
    training = {f"{row.case}.nii.gz" for row in result.rows if row.status == "training"}
    assert {path.name for path in (tmp_path / "out" / "imagesTr").iterdir()} == training


def test_unlabeled_volumes_and_selected_series(export, tmp_path):
    result = import_dataset(export, tmp_path / "out", series=["CT"], unlabeled=True, case_names="path")
    found = {row.case: row.status for row in result.rows if row.error is None}
    assert found == {"Doe_John_ct": "training", "p3_ct": "training", "p6_ct": "unlabeled", "p8_ct": "unlabeled"}
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["test"] == ["./imagesTs/p6_ct.nii.gz", "./imagesTs/p8_ct.nii.gz"]
    np.testing.assert_array_equal(read_scan(tmp_path / "out" / "imagesTs" / "p6_ct.nii.gz").array,
                                  read_scan(export / "p6" / "ct").array)  # fmt: skip


def test_other_grid_and_damaged_segmentation_are_left_out(tmp_path):
    shifted = write_case(tmp_path / "export" / "a", "1.6")
    path = write_segments(shifted, "seg", labels(1), ["liver"], "dicom_seg")
    dataset = dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 0.4
    dataset.save_as(path)
    cut = write_case(tmp_path / "export" / "b", "1.7")
    path = write_segments(cut, "seg", labels(1), ["liver"], "dicom_seg")
    path.write_bytes(path.read_bytes()[:-100])
    found = rows_of(import_dataset(tmp_path / "export", tmp_path / "out"))
    assert found["a/ct"].error.reason == "geometry mismatch"
    assert "its voxels are not those of the scan" in str(found["a/ct"].error)
    assert found["b/ct"].error.reason == "segmentation cannot be read"
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_copies_of_series_and_segmentations_are_used_once(tmp_path):
    series = write_case(tmp_path / "export" / "a", "1.8")
    write_segments(series, "rs", labels(1), ["liver"])
    shutil.copytree(tmp_path / "export" / "a", tmp_path / "export" / "b")
    found = rows_of(import_dataset(tmp_path / "export", tmp_path / "out"))
    assert (found["a/ct"].status, found["b/ct"].error.reason) == ("training", "copy of another series")
    assert str(found["b/ct"].error) == "copy of a/ct" and not found["b/ct"].error.is_problem


def test_single_slices_beside_volumes_are_left_out(tmp_path):
    write_segments(write_case(tmp_path / "export" / "a", "1.8"), "rs", labels(1), ["liver"])
    dicoms.write_series(tmp_path / "export" / "a" / "ct", dicoms.voxels((6, 5, 1)), prefix="K", SeriesInstanceUID="1.9")
    found = rows_of(import_dataset(tmp_path / "export", tmp_path / "out"))
    error = found["a/ct/K000.dcm"].error
    assert (found["a/ct/IM000.dcm"].status, error.reason, error.is_problem) == (
        "training",
        "not a volume: a single slice",
        False,
    )


def test_damaged_file_of_another_series_is_no_problem(tmp_path):
    series = write_case(tmp_path / "export" / "a", "1.8")
    write_segments(series, "rs", labels(1), ["liver"])
    other = dicoms.write_series(series, dicoms.voxels((6, 5, 4)), prefix="K", SeriesInstanceUID="1.9")
    dataset = dcmread(other[1])
    del dataset.PixelData
    dataset.save_as(other[1])
    found = rows_of(import_dataset(tmp_path / "export", tmp_path / "out"))
    assert found["a/ct/IM000.dcm"].status == "training"
    assert found["a/ct/K000.dcm"].error.reason == "series cannot be read"


def write_time_points(folder, uid):
    """Write a series with three volumes, and return their paths."""
    for number in range(3):
        dicoms.write_series(
            folder / "ct", dicoms.voxels(exports.SHAPE, number), spacing=(0.9, 0.8, 2.5), SeriesInstanceUID=uid,
            prefix=f"t{number}_", instances=range(100 * number + 1, 100 * number + 13),
        )  # fmt: skip
    return [series.path for series in list_series(folder / "ct")]


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
def test_segmentation_of_one_volume_of_a_series(tmp_path, kind):
    paths = write_time_points(tmp_path / "export" / "a", "1.9")
    table = class_table(["background", "liver"])
    written = Path(write_label_maps(labels(1), paths[1], tmp_path / "export" / "a", "x", [kind], table)[kind])
    found = import_dataset(tmp_path / "export", tmp_path / "out").rows
    assert sorted((row.status, row.error and row.error.reason) for row in found) == [
        ("left out", "no segmentation"), ("left out", "no segmentation"), ("training", None),
    ]  # fmt: skip
    (image,) = (tmp_path / "out" / "imagesTr").iterdir()
    np.testing.assert_array_equal(read_scan(image).array, read_scan(paths[1]).array)
    assert referenced_volume(written) == paths[1]
    dataset = dcmread(written)
    change_references(dataset, lambda dataset, element: setattr(element, "value", f"{element.value}.7"))
    dataset.save_as(written)
    reasons = {row.error.reason for row in import_dataset(tmp_path / "export", tmp_path / "out").rows}
    assert reasons == {"no segmentation", "segmentation without its volume"}
    change_references(dataset, lambda dataset, element: dataset.pop(element.tag))
    dataset.save_as(written)
    found = import_dataset(tmp_path / "export", tmp_path / "out").rows
    assert {row.error.reason for row in found} == {"segmentation of an unknown volume"}


def change_references(dataset, change):
    def visit(dataset, element):
        if element.keyword == "ReferencedSOPInstanceUID":
            change(dataset, element)

    dataset.walk(visit)


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
@pytest.mark.parametrize("lost", ["damaged", "missing"])
def test_segmentation_of_a_lost_volume_stays_alone(tmp_path, kind, lost):
    positions = [(0, 0, 2.0 * k) for k in range(12)]
    for name in ("t1", "t2"):
        path = tmp_path / "export" / name / "scan.dcm"
        dicoms.write_enhanced(path, dicoms.voxels(exports.SHAPE, int(name[1])), positions, [1] * 12)
    folder = tmp_path / "export" / "labels"
    table = class_table(["background", "liver"])
    first = tmp_path / "export" / "t1"
    written = Path(write_label_maps(labels(1), first, folder, "x", [kind], table)[kind])
    assert referenced_volume(written) == first
    if lost == "missing":
        shutil.rmtree(first)
    else:
        (first / "zero.dcm").touch()
    assert referenced_volume(written) is None
    result = import_dataset(tmp_path / "export", tmp_path / "out")
    reasons = {row.place: row.error.reason for row in result.rows}
    assert reasons.pop("t2") == "no segmentation"
    assert list(reasons.values()) == [
        "series cannot be read" if lost == "damaged" else "segmentation without its volume"
    ]
    assert len(result.problems) == 1 and not (tmp_path / "out" / "dataset.json").exists()


def test_series_of_a_patient_are_never_divided(tmp_path):
    for number in range(8):
        series = write_case(tmp_path / "export" / f"s{number}", f"1.4.{number}", seed=number,
                            PatientID=f"Zappel{number // 2}")  # fmt: skip
        write_segments(series, "rs", labels(1, 2), TINY_CLASSES[1:])
    rows = import_dataset(tmp_path / "export", tmp_path / "out").rows
    content = (tmp_path / "out" / "dataset.json").read_text()
    assert "Zappel" not in content and len({row.patient for row in rows}) == 4
    patient = {row.case: row.place[1:2] for row in rows}
    for seed in range(5):
        for training, held_out in dataset_folds(tmp_path / "out", TINY_CLASSES, num_folds=4, split_seed=seed).folds:
            assert not {int(patient[n]) // 2 for n in training} & {int(patient[n]) // 2 for n in held_out}
    import_dataset(tmp_path / "export", tmp_path / "out")
    assert (tmp_path / "out" / "dataset.json").read_text() == content


def test_foreign_files_are_kept(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text("{}")
    with pytest.raises(OutputError, match=r"dataset.json was not written by segbundle"):
        import_dataset(export, tmp_path / "out")


def test_folder_without_dicom_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"contains no DICOM files. Pass the folder of a DICOM export"):
        import_dataset(tmp_path, tmp_path / "out")


def test_command_prints_the_table_and_the_dataset_passes_the_check(export, tmp_path):
    out = tmp_path / "out"
    done = invoke("import", export, out, "--unlabeled")
    assert done.exit_code == 1  # because of damaged and ambiguous cases
    assert f"{out}: 3 training cases, 2 unlabeled, 5 left out. Classes: background, body, empty," in done.stdout
    assert "Classes without a segment in any training case: body. Choose classes with --class_names." in done.stdout
    assert "Warning: 3 training cases have segments of an algorithm (AUTOMATIC)" in done.stderr
    assert "two segments are named liver and Liver. Remove or rename one" in done.stderr
    line = next(line for line in done.stdout.splitlines() if "Doe_John/ct" in line)
    assert line.split()[:2] == [read_case(out, "Doe_John", export), "training"] and "20 x 18 x 12" in line
    checked = invoke("check", out)
    assert checked.exit_code == 0, checked.output
    assert "5 cases (2 without a label map), no problem found" in checked.output
    done = invoke("import", export, out, "--class_names", "liver")
    assert done.exit_code == 1 and 'it must begin with background: "[background, liver]"' in done.stderr
    done = invoke("import", export, tmp_path / "none", "--series", "US")
    assert done.exit_code == 1 and "no volume was imported" in done.stderr


def read_case(out, folder, export):
    """Return the name of the case whose grid and voxels are those of a series."""
    expected = read_scan(export / folder / "ct").array
    names = [path for path in (out / "imagesTr").iterdir() if np.array_equal(read_scan(path).array, expected)]
    return names[0].name.removesuffix(".nii.gz")


@pytest.mark.e2e
def test_training_on_an_imported_dataset(tmp_path):
    for number in range(4):
        series = write_case(tmp_path / "export" / f"p{number}", f"1.2.{number}", seed=number)
        write_segments(series, "rs", labels(1, 2), ["ball", "cube"])
    done = segbundle("import", tmp_path / "export", tmp_path / "dataset")
    assert done.returncode == 0, done.stdout + done.stderr
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", tmp_path / "dataset", "--output_dir", tmp_path / "run"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "model.pt").is_file()
    assert read_geometry(next((tmp_path / "dataset" / "imagesTr").iterdir())).shape == exports.SHAPE


def test_volumes_of_one_series_have_separate_names(tmp_path):
    for echo, prefix in ((10, "A"), (90, "B")):
        dicoms.write_series(
            tmp_path / "export" / "mr", dicoms.voxels(), prefix=prefix, kind=dicoms.MR, modality="MR", EchoTime=echo
        )
    result = import_dataset(tmp_path / "export", tmp_path / "out", unlabeled=True)
    assert [row.status for row in result.rows] == ["unlabeled", "unlabeled"]
    assert len({row.case for row in result.rows}) == 2


def test_uneven_series_becomes_a_case_on_an_even_grid(tmp_path):
    positions = [(0, 0, 2.5 * k) for k in range(13) if k != 5]
    series = write_case(tmp_path / "export" / "a", "1.11", positions=positions)
    write_segments(series, "seg", labels(1, shape=(20, 18, 13)), ["liver"], "dicom_seg")
    refused = invoke("import", tmp_path / "export", tmp_path / "out")
    assert refused.exit_code == 1 and "--allow_uneven true" in refused.stderr
    done = invoke("import", tmp_path / "export", tmp_path / "out", "--allow_uneven", "true")
    assert done.exit_code == 0, done.output
    (case,) = json.loads((tmp_path / "out" / "dataset.json").read_text())["training"]
    label, image = (nib.load(tmp_path / "out" / case[name]) for name in ("label", "image"))
    expected = labels(1, shape=(20, 18, 13))[:, :, [0, 1, 2, 3, 4, 4, *range(6, 13)]]
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected)
    assert image.header.get_zooms()[2] == pytest.approx(2.5) and image.shape == label.shape
