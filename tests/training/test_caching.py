"""Cached cases: in memory, in the output folder, or in a folder for several runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segbundle.datasets.datalist import labeled_data
from segbundle.errors import DataError, OutputError
from segbundle.files.atomic import write_json
from segbundle.results.structures import Structure
from segbundle.training import caching
from segbundle.training.caching import CachedCases, PreparedCases
from segbundle.transforms import PrepareCase
from tiny import TINY_CLASSES, write_nifti


class Counting(PrepareCase):
    """Preparation that counts its calls."""

    def __init__(self, **kwargs):
        super().__init__(TINY_CLASSES, (8, 8, 8), **{"intensity": {"method": "zscore"}, **kwargs})
        self.calls = 0

    def __call__(self, data):
        self.calls += 1
        return super().__call__(data)


def data_of(dataset_dir):
    return labeled_data(dataset_dir, TINY_CLASSES)


def assert_same_cases(cases, others):
    assert len(cases) == len(others)
    for first, second in ((cases[index], others[index]) for index in range(len(cases))):
        assert first.keys() == second.keys()
        assert (first["case"], first["spacing"]) == (second["case"], second["spacing"])
        for key in ("image", "label", "annotated"):
            assert torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype
        assert first["measures"] == second["measures"]
        for voxels, other in zip(first["indices"], second["indices"], strict=True):
            assert torch.equal(voxels, other)


def test_prepared_case(tiny_dataset):
    case = Counting(spacing=(2, 1, 1))(data_of(tiny_dataset)[0])
    assert case["image"].shape == case["label"].shape == (1, 10, 18, 16)
    assert (case["image"].dtype, case["label"].dtype) == (torch.float16, torch.uint8)
    assert case["spacing"] == [2, 1, 1] and case["case"] == "case_00"
    flat = case["label"].flatten()
    for value, voxels in enumerate(case["indices"]):
        assert torch.equal(voxels, torch.nonzero(flat == value).flatten().int())


def test_structures_are_measured_in_the_original_label_map(tmp_path):
    folder = tmp_path / "data"
    label = np.zeros((6, 6, 5), np.uint8)
    label[2:4, 2:4, 2:4] = 1  # 8 voxels of 6 mm³, inside
    label[5, 1:4, 1] = 2  # 3 voxels at the edge
    label[0, 0, 0] = 7  # unknown
    affine = np.diag([2.0, -1.0, 3.0, 1.0])
    for case in ("a", "b"):
        write_nifti(folder / "imagesTr" / f"{case}.nii.gz", np.arange(180, dtype=np.float32).reshape(6, 6, 5), affine)
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", label, affine)
    listed = [
        {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz", **more}
        for case, more in (("a", {}), ("b", {"annotated": [TINY_CLASSES[2]]}))
    ]
    write_json(
        folder / "dataset.json",
        {"labels": {"0": "background", "1": TINY_CLASSES[1], "2": TINY_CLASSES[2], "7": "ignore"}, "training": listed},
    )
    label[label == 1] = 0
    write_nifti(folder / "labelsTr" / "b.nii.gz", label, affine)
    found = PreparedCases(data_of(folder), Counting(spacing=(1, 1, 1))).structures()
    assert found == [
        Structure("a", TINY_CLASSES[1], pytest.approx(0.048), False, 1, pytest.approx(90.0)),
        Structure("a", TINY_CLASSES[2], pytest.approx(0.018), True, 1, pytest.approx(161.0)),
        Structure("b", TINY_CLASSES[2], pytest.approx(0.018), True, 1, pytest.approx(161.0)),
    ]


def test_cases_in_files_and_in_memory_are_equal(tiny_dataset, tmp_path):
    data, transform = data_of(tiny_dataset), Counting()
    assert_same_cases(PreparedCases(data, transform), PreparedCases(data, transform, tmp_path / "cache"))


def test_second_run_reuses_prepared_cases(tiny_dataset, tmp_path):
    data = data_of(tiny_dataset)
    first, again = Counting(), Counting()
    PreparedCases(data[:4], first, tmp_path)
    PreparedCases(data, again, tmp_path)
    assert (first.calls, again.calls) == (4, len(data) - 4)


@pytest.mark.parametrize(
    "change", [{"spacing": (2, 2, 2)}, {"axcodes": "LPS"}, {"intensity": {"method": "window", "lower": 0, "upper": 9}}]
)
def test_other_settings_do_not_reuse_files(change, tiny_dataset, tmp_path):
    data, changed = data_of(tiny_dataset), Counting(**change)
    PreparedCases(data, Counting(), tmp_path)
    cached = PreparedCases(data, changed, tmp_path)
    assert changed.calls == len(data)
    assert_same_cases(cached, PreparedCases(data, Counting(**change)))


def test_changed_content_with_same_date_is_prepared_again(tiny_dataset, tmp_path):
    data = data_of(tiny_dataset)
    PreparedCases(data, Counting(), tmp_path)
    path, other = (Path(entry["label"]) for entry in data[:2])
    before = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = Counting()
    cached = PreparedCases(data, again, tmp_path)
    assert again.calls == 1
    assert_same_cases(cached, PreparedCases(data, Counting()))


def test_cache_key_includes_voxel_file_of_a_header(tiny_dataset, tmp_path):
    data = data_of(tiny_dataset)[:1]
    header = tmp_path / "case.mhd"
    sitk.WriteImage(sitk.ReadImage(data[0]["image"]), str(header))
    data = [{**data[0], "image": str(header)}]
    PreparedCases(data, Counting(), tmp_path / "cache")
    raw = header.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:-4] + b"\0\0\x80\x3f")
    again = Counting()
    PreparedCases(data, again, tmp_path / "cache")
    assert again.calls == 1


def test_cache_key_includes_annotated_classes(tiny_dataset, tmp_path):
    data = data_of(tiny_dataset)[:1]
    PreparedCases(data, Counting(), tmp_path)
    (label,) = [data[0]["label"]]
    partly = [{**data[0], "annotated": [True, True, True], "ignore_label": 2, "label": label}]
    again = Counting()
    case = PreparedCases(partly, again, tmp_path)[0]
    assert again.calls == 1 and 255 in case["label"]


@pytest.mark.parametrize("kept", [0, 20, 2000])
def test_damaged_file_is_prepared_again(kept, tiny_dataset, tmp_path, caplog):
    data = data_of(tiny_dataset)[:1]
    PreparedCases(data, Counting(), tmp_path)
    (file,) = tmp_path.glob("*.pt")
    file.write_bytes(file.read_bytes()[:kept])
    again = Counting()
    assert_same_cases(PreparedCases(data, again, tmp_path), PreparedCases(data, Counting()))
    assert again.calls == 1 and str(file) in caplog.text


def test_cases_that_do_not_fit_into_memory_are_written(tiny_dataset, tmp_path, monkeypatch):
    data = data_of(tiny_dataset)
    size = caching._size(Counting()(data[0]))
    monkeypatch.setattr(caching, "free_memory", lambda device: 2 * 3.5 * size)
    cases = PreparedCases(data, Counting(), output_dir=tmp_path)
    assert len(list((tmp_path / "cache").glob("*.pt"))) == len(data) - 3
    assert_same_cases(cases, PreparedCases(data, Counting(), tmp_path / "elsewhere"))
    again = Counting()  # resumed
    assert_same_cases(cases, PreparedCases(data, again, output_dir=tmp_path))
    assert again.calls == 3


def test_error_names_the_invalid_case(tiny_dataset, tmp_path):
    data = data_of(tiny_dataset)
    Path(data[2]["image"]).write_bytes(b"nothing")
    for cache_dir in (None, tmp_path):
        with pytest.raises(DataError, match="case_02"):
            PreparedCases(data, Counting(), cache_dir)


def test_error_names_the_unwritable_folder(tiny_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        PreparedCases(data_of(tiny_dataset), Counting(), tmp_path / "file" / "cache")


def test_monai_cache_is_limited_by_memory(tiny_dataset, monkeypatch):
    data, transform = data_of(tiny_dataset), Counting()
    size = caching._size(transform(data[0]))
    monkeypatch.setattr(caching, "free_memory", lambda device: 2 * 3.5 * size)
    transform.calls = 0
    cases = CachedCases(data, transform, num_workers=1)
    assert cases.cache_num == len(cases._cache) == 4
    assert_same_cases(cases, PreparedCases(data, Counting()))
