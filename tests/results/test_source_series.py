"""DICOM series in the records of scans."""

import json

import pytest

from dicom_files import write_series
from segbundle.inference.scan_records import ScanRecords
from segbundle.results.source_series import series_by_case, series_columns, series_fields

TEXTS = {"SeriesDescription": "thorax", "SeriesDate": "20260131"}


@pytest.fixture
def scan(tmp_path):
    write_series(tmp_path / "ct", uid="1.2.3", **TEXTS)
    return str(tmp_path / "ct")


def fields(paths, *arguments):
    found = series_fields({(name, path): path for name, path in paths.items()}, *arguments)
    return {name: entry["series"] for (name, _), entry in found.items()}


def test_only_modality_and_pseudonym_by_default(scan):
    assert set(fields({"a": scan})["a"]) == {"modality", "pseudonym"}
    kept = fields({"a": scan}, True)["a"]
    assert {name: kept[name] for name in ("uid", "date", "description")} == {
        "uid": "1.2.3", "date": "20260131", "description": "thorax",
    }  # fmt: skip


def test_pseudonym_is_that_of_the_series(tmp_path):
    paths = {name: str(tmp_path / name) for name in "abc"}
    for name, uid in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.4")):
        write_series(tmp_path / name, uid=uid)
    found = {name: entry["pseudonym"] for name, entry in fields(paths).items()}
    assert found["a"] == found["b"] != found["c"]
    earlier = {("b", paths["b"]): {"series": {"pseudonym": "0123456789ab"}}}
    again = fields(paths, False, earlier)
    assert again["a"]["pseudonym"] == again["b"]["pseudonym"] == "0123456789ab" != again["c"]["pseudonym"]


def test_other_scans_and_unreadable_paths_have_no_series(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    assert fields({name: str(tmp_path / name) for name in ("a.nii.gz", "empty", "b.dcm", "missing", "a\0b")}) == {}


def test_identifiers_of_other_scans_are_removed_when_resuming(scan, tmp_path):
    (tmp_path / "out").mkdir()
    series = {"modality": "MR", "pseudonym": "5be1", "uid": "1.9", "date": "", "description": "knee"}
    record = {"case": "other", "image": "other", "status": "ok", "series": series}
    (tmp_path / "out" / "predictions.json").write_text(json.dumps([record]))
    for keep, expected in ((True, series), (False, {"modality": "MR", "pseudonym": "5be1"})):
        records = ScanRecords(tmp_path / "out", resume=True, keep_identifiers=keep)
        records.remaining([{"case": "ct", "image": scan}])
        assert series_by_case(json.loads(records.path.read_text())) == {"other": expected}


def test_columns_are_those_of_any_scan():
    assert series_columns({}) == {}
    mixed = {"a": {"modality": "CT", "pseudonym": "1"}, "b": {"modality": "CT", "pseudonym": "2", "uid": "1.2"}}
    assert list(series_columns(mixed)) == ["modality", "series", "series_uid"]
