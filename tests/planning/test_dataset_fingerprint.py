"""One pass over a dataset: bad cases, names, channels, and the cache."""

import json
import os

import numpy as np
import pytest

from segbundle.errors import DataError
from segbundle.planning import dataset_fingerprint
from segbundle.planning.dataset_fingerprint import measure_dataset
from tiny import TINY_CLASSES, write_description, write_nifti


def write_folders(folder, count=3, values=(1,), channels=1):
    """Write `imagesTr` and `labelsTr` without a description."""
    for index in range(count):
        image = np.random.default_rng(index).normal(100, 10, (8, 8, 8)).astype(np.float32)
        label = np.zeros((8, 8, 8), np.uint8)
        for value in values:
            label[value % 8, 2:6, 2:6] = value
        for channel in range(channels):
            ending = f"_{channel:04d}" if channels > 1 else ""
            write_nifti(folder / "imagesTr" / f"c{index}{ending}.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"c{index}.nii.gz", label)
    return folder


def test_names_and_channels_come_from_the_description(tiny_dataset):
    found = measure_dataset(tiny_dataset)
    assert found.class_names == TINY_CLASSES and found.named
    assert found.shapes.tolist() == [[20, 18, 16]] * 6 and found.num_channels == 1
    assert found.problems == [] and found.subjects == 6
    volumes = found.volumes(2)
    assert volumes == [pytest.approx(6**3 / 1000)] * 6


def test_classes_without_names_are_numbered(tmp_path):
    found = measure_dataset(write_folders(tmp_path, values=(1, 3)))
    assert found.class_names == ["background", "label_1", "label_3"] and not found.named
    assert found.classes == {"label_1": 1, "label_3": 3}
    assert len(found.volumes(1)) == len(found.volumes(2)) == 3 and found.volumes(3) == []


def test_label_maps_of_zeros_raise(tmp_path):
    with pytest.raises(DataError, match=r"all voxels of its 3 label maps are background \(0\)"):
        measure_dataset(write_folders(tmp_path, values=()))


def test_unreadable_case_is_named_and_the_others_are_used(tiny_dataset):
    path = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    (tiny_dataset / "labelsTr" / "case_02.nii.gz").unlink()
    found = measure_dataset(tiny_dataset)
    assert [case.case for case in found.cases] == ["case_00", "case_03", "case_04", "case_05"]
    assert len(found.problems) == 2
    assert any("case_01.nii.gz: cannot be read" in problem for problem in found.problems)
    assert any("case_02.nii.gz: no such file" in problem for problem in found.problems)
    assert dataset_fingerprint.unusable_in_words(found).startswith("2 of 6 labeled cases were left out of the plan. ")


def test_dataset_without_labels_raises(tmp_path):
    write_folders(tmp_path)
    for path in (tmp_path / "labelsTr").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none of its 3 cases has a label map"):
        measure_dataset(tmp_path)


def test_dataset_without_usable_cases_raises(tmp_path):
    write_folders(tmp_path, count=1)
    write_nifti(tmp_path / "imagesTr" / "c0.nii.gz", np.zeros((8, 8, 8), np.int16))
    with pytest.raises(DataError, match=r"none of its 1 cases can be used. .*every voxel of channel 0 is 0"):
        measure_dataset(tmp_path)


def test_cases_with_other_channels_are_left_out(tmp_path):
    write_folders(tmp_path, count=3)
    image = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype(np.float32)
    write_nifti(tmp_path / "imagesTr" / "c1.nii.gz", image)
    found = measure_dataset(tmp_path)
    assert [case.case for case in found.cases] == ["c0", "c2"]
    assert "c1.nii.gz: has 2 channel(s), but 2 of 3 cases have 1." in found.problems[0]


def test_names_that_monai_would_evaluate_raise(tmp_path):
    write_folders(tmp_path)
    write_description(tmp_path, labels={"0": "background", "1": "$print(1)"})
    with pytest.raises(DataError, match="begins with \\$, which MONAI evaluates"):
        measure_dataset(tmp_path)


def test_cache_is_used_until_a_file_changes(tiny_dataset, tmp_path, monkeypatch):
    measured = []
    original = dataset_fingerprint.measure_case
    monkeypatch.setattr(
        dataset_fingerprint, "measure_case", lambda case, *args: measured.append(case.name) or original(case, *args)
    )
    cache = tmp_path / "cache.json"
    first = measure_dataset(tiny_dataset, cache=cache)
    assert len(measured) == 6
    again = measure_dataset(tiny_dataset, cache=cache)
    assert len(measured) == 6 and again.cases == first.cases
    os.utime(tiny_dataset / "labelsTr" / "case_03.nii.gz", ns=(1, 1))
    assert measure_dataset(tiny_dataset, cache=cache).cases == first.cases
    assert measured[6:] == ["case_03"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "another", "cases": {}}', '{"cases": {"a": 1}}'])
def test_damaged_cache_is_measured_again(tiny_dataset, tmp_path, content):
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    found = measure_dataset(tiny_dataset, cache=cache)
    assert len(json.loads(cache.read_text())["cases"]) == len(found.cases) == 6


def test_cache_that_cannot_be_written_is_reported(tiny_dataset, tmp_path, capsys, caplog):
    (tmp_path / "file").touch()
    assert len(measure_dataset(tiny_dataset, cache=tmp_path / "file" / "cache.json").cases) == 6
    assert "cannot be written" in capsys.readouterr().err + caplog.text  # the log level depends on earlier tests
