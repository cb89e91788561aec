"""Several imports into one dataset: cases of earlier imports and other exports are kept."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from commands import invoke
from exports import labels, write_case, write_segments
from segbundle.datasets import dicom_import
from segbundle.datasets.dicom_import import import_dataset
from segbundle.errors import OutputError
from segbundle.files.pseudonyms import SALT


def write_patient(folder, uid, label_map, names, **more):
    """Write a series with an RTSTRUCT."""
    write_segments(write_case(folder, uid, **more), "rs", label_map, names)


@pytest.fixture
def exported(tmp_path):
    """Return two exports of one and two patients, and the folder of a dataset with the cases of the first."""
    write_patient(tmp_path / "A" / "p1", "1.2.1", labels(1), ["liver"], PatientID="1")
    write_patient(tmp_path / "A" / "p2", "1.2.2", labels(0, 1), ["liver"], PatientID="2", seed=2)
    write_patient(tmp_path / "B" / "p1", "1.2.3", labels(1, 2), ["aorta", "liver"], PatientID="3", seed=3)
    import_dataset(tmp_path / "A", tmp_path / "out")
    return tmp_path / "A", tmp_path / "B", tmp_path / "out"


def contents(out):
    """Return (status, reason) by case in import.csv, after comparing it with dataset.json and the files."""
    with (out / "import.csv").open(newline="") as file:
        rows = {row["case"]: (row["status"], row["reason"]) for row in csv.DictReader(file) if row["classes"]}
    entries = json.loads((out / "dataset.json").read_text())["training"]
    listed = [entry[kind] for entry in entries for kind in ("image", "label")]
    files = [f"./{path.relative_to(out)}" for path in out.rglob("*.nii.gz")]
    assert sorted(listed) == sorted(files)
    assert sorted(rows) == sorted(entry["image"].split("/")[-1].removesuffix(".nii.gz") for entry in entries)
    return rows


def class_voxels(out):
    """Return the number of voxels of each class by case."""
    names = json.loads((out / "dataset.json").read_text())["labels"]
    return {
        path.name.removesuffix(".nii.gz"): {
            names[str(value)]: count
            for value, count in zip(*map(np.ndarray.tolist, np.unique(nib.load(path).dataobj, return_counts=True)),
                                    strict=True) if value
        }
        for path in (out / "labelsTr").iterdir()
    }  # fmt: skip


def test_cases_of_another_export_are_kept_with_their_labels(exported):
    first, second, out = exported
    before, voxels = set(contents(out)), class_voxels(out)
    done = invoke("import", second, out)
    assert done.exit_code == 0, done.output
    assert "2 cases of earlier imports kept: 2 of other exports, 0 of this one." in done.stdout
    assert f"{out}: 3 training cases, 0 unlabeled, 0 left out. Classes: background, liver, aorta." in done.stdout
    rows = contents(out)
    assert {case: rows[case] for case in before} == dict.fromkeys(before, ("training", "kept from another export"))
    assert {case: class_voxels(out)[case] for case in before} == voxels
    assert class_voxels(out)[next(iter(rows.keys() - before))] == {"aorta": 280, "liver": 280}
    import_dataset(first, out)
    assert sorted(contents(out).values()) == [
        ("training", ""),
        ("training", ""),
        ("training", "kept from another export"),
    ]
    assert {case: class_voxels(out)[case] for case in before} == voxels


def test_missing_and_unreadable_cases_are_kept_until_removed(exported):
    first, _, out = exported
    shutil.rmtree(first / "p2")
    header = dcmread(first / "p1" / "ct" / "IM003.dcm")
    del header.PixelData
    header.save_as(first / "p1" / "ct" / "IM003.dcm")
    done = invoke("import", first, out)
    assert done.exit_code == 1 and "2 cases of earlier imports kept: 0 of other exports, 2 of this one." in done.stdout
    assert sorted(contents(out).values()) == [
        ("training", "kept from an earlier import"),
        ("training", "kept from an earlier import: series cannot be read"),
    ]
    done = invoke("import", first, out, "--remove_missing")
    assert "1 cases of earlier imports removed." in done.stdout
    assert list(contents(out).values()) == [("training", "kept from an earlier import: series cannot be read")]


def test_narrowed_selection_and_lost_segmentation_keep_cases(exported):
    first, _, out = exported
    result = import_dataset(first, out, series=["1.2.1"], unlabeled=True)
    assert sorted(row.kept for row in result.rows) == ["", "an earlier import"]
    shutil.rmtree(first / "p1" / "rs")
    import_dataset(first, out, unlabeled=True)
    assert sorted(contents(out).values()) == [
        ("training", ""), ("training", "kept from an earlier import: no segmentation")
    ]  # fmt: skip
    result = import_dataset(first, out, unlabeled=True, remove_missing=True)
    assert sorted(row.status for row in result.rows) == ["training", "unlabeled"]


def test_copies_and_a_moved_export_change_nothing(exported):
    first, _, out = exported
    shutil.copytree(first / "p1", first / "copy")
    for _ in range(2):
        import_dataset(first, out)
        assert list(contents(out).values()) == [("training", "")] * 2
    moved = first.rename(first.with_name("moved"))
    assert not any(row.kept for row in import_dataset(moved, out).rows)


def test_other_case_names_rename_cases(exported):
    first, _, out = exported
    import_dataset(first, out, case_names="path")
    assert sorted(contents(out)) == ["p1_ct", "p2_ct"]


def test_case_of_another_series_is_not_replaced(exported, tmp_path):
    first, second, _ = exported
    out = tmp_path / "by_path"
    import_dataset(first, out, case_names="path")
    voxels = class_voxels(out)
    done = invoke("import", second, out, "--case_names", "path")
    assert done.exit_code == 1 and "the dataset has a case of this name from another series" in done.stderr
    assert class_voxels(out) == voxels and sorted(contents(out)) == ["p1_ct", "p2_ct"]


def test_classes_of_a_series_are_not_lost_to_another_export(exported, tmp_path):
    out = exported[-1]
    before = class_voxels(out)
    write_patient(tmp_path / "C" / "p1", "1.2.1", labels(0, 0, 1), ["kidney"], PatientID="1")
    done = invoke("import", tmp_path / "C", out)
    assert done.exit_code == 1 and "has no segment of liver, which the case from another export has" in done.stderr
    assert class_voxels(out) == before
    write_patient(tmp_path / "D" / "p1", "1.2.1", labels(1, 0, 2), ["liver", "kidney"], PatientID="1")
    done = invoke("import", tmp_path / "D", out)
    assert done.exit_code == 0 and "1 cases of other exports replaced by the same series" in done.stdout
    assert {"liver": 280, "kidney": 280} in class_voxels(out).values()


def test_chosen_classes_must_fit_kept_cases(exported):
    _, second, out = exported
    before = class_voxels(out)
    with pytest.raises(OutputError, match=r"2 cases of earlier imports .* Begin with \[background, liver\], or choose"):
        import_dataset(second, out, class_names=["background", "aorta", "liver"])
    assert class_voxels(out) == before
    import_dataset(second, out, class_names=["background", "liver", "aorta"])
    assert len(contents(out)) == 3


def test_cases_of_a_stopped_import_are_kept(exported, monkeypatch):
    first, second, out = exported
    write_patient(second / "p2", "1.2.4", labels(1), ["aorta"], PatientID="4", seed=4)
    write, calls = dicom_import.write_segmentation, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(dicom_import, "write_segmentation", stop)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(second, out)
    monkeypatch.setattr(dicom_import, "write_segmentation", write)
    import_dataset(first, out)
    (image,) = {path.name for path in (out / "imagesTr").iterdir()} - {f"{case}.nii.gz" for case in class_voxels(out)}
    (out / "imagesTr" / image).unlink()  # of the case that was not complete
    assert sorted(contents(out).values()) == [
        ("training", ""), ("training", ""), ("training", "kept from another export")
    ]  # fmt: skip
    import_dataset(second, out)
    assert len(contents(out)) == 4


def test_deleted_salt_is_an_error(exported):
    _, second, out = exported
    (out / SALT).unlink()
    with pytest.raises(OutputError, match=r"its salt was deleted or replaced"):
        import_dataset(second, out)
