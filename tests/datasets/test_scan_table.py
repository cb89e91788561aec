"""Table of the scans of a folder, and selection of DICOM series."""

import nibabel as nib
import numpy as np
import pytest

from dicoms import MR, header, voxels, write_series
from segbundle.cli.check import print_check
from segbundle.datasets.finding import find_scans
from segbundle.datasets.scan_table import list_scans, table_lines
from segbundle.errors import DataError


@pytest.fixture
def export(tmp_path):
    thorax = {"SeriesDescription": "Thorax 3 mm", "SeriesNumber": 2, "SeriesDate": "20260131"}
    write_series(tmp_path / "p1" / "CT", voxels(), SeriesInstanceUID="1.1", **thorax)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path / "p1" / "scout", voxels((6, 5, 1)), SeriesInstanceUID="1.2", ImageType=scout)
    for number, name in enumerate(("T1", "T2"), 3):
        tags = {"SeriesDescription": name, "SeriesNumber": number, "kind": MR, "modality": "MR"}
        write_series(tmp_path / "p2", voxels((6, 5, 4)), prefix=name, SeriesInstanceUID=f"1.{number}", **tags)
    report = "1.2.840.10008.5.1.4.1.1.88.33"
    header(tmp_path / "p2" / "report", report, "SR", SeriesInstanceUID="1.9").save_as(tmp_path / "p2" / "report")
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), tmp_path / "other.nii.gz")
    return tmp_path


TABLE = """\
scan      modality  size (voxels)  spacing (mm)  series  date        description  not a volume
other               4 x 3 x 2      1 x 1 x 1
p1_CT     CT        12 x 10 x 8    1 x 1 x 2     2       2026-01-31  Thorax 3 mm
p2_T1     MR        6 x 5 x 4      1 x 1 x 2     3                   T1
p2_T2     MR        6 x 5 x 4      1 x 1 x 2     4                   T2
p1_scout  CT        6 x 5 x 1                                                     a localizer"""


def test_table_of_an_export(export, caplog):
    with caplog.at_level("INFO"):
        assert "\n".join(table_lines(list_scans(export))) == TABLE
    assert "2 files skipped: 1 as a localizer, 1 SR (DICOM)\n" in caplog.text
    assert "not volumes (a localizer): p1_scout" in caplog.text


def test_check_prints_the_table_and_names_damaged_scans(export, capsys):
    assert print_check(export)
    assert capsys.readouterr().out.strip() == TABLE
    (export / "p1" / "CT" / "IM003.dcm").unlink()
    assert not print_check(export)
    out, err = capsys.readouterr()
    assert "p1_CT" not in out
    assert "a slice is missing after IM002.dcm" in err
    assert "1 of 4 scans cannot be used." in err


def test_table_names_the_gaps_of_uneven_series(export, capsys):
    (export / "p1" / "CT" / "IM003.dcm").unlink()
    assert print_check(export, allow_uneven=True)
    out = capsys.readouterr().out.splitlines()
    assert "spacing (mm)  slice gaps (mm)     series" in out[0]
    assert "12 x 10 x 8    1 x 1 x 2     2 to 4 (resampled)  2 " in out[2]


@pytest.mark.parametrize(
    ("series", "cases"),
    [
        ("CT", ["p1_CT"]),
        ("mr", ["p2_T1", "p2_T2"]),
        (["1.3", 2], ["p1_CT", "p2_T1"]),
        (4, ["p2_T2"]),
        ("*thorax*", ["p1_CT"]),
        (["t?", "PT"], ["p2_T1", "p2_T2"]),
        ("T1, *thorax*", ["p1_CT", "p2_T1"]),
        ("PT, 'T2'", ["p2_T2"]),
    ],
)
def test_selected_series(export, series, cases, caplog):
    with caplog.at_level("INFO"):
        assert [entry["case"] for entry in find_scans(export, series=series)] == ["other", *cases]
    files = {"p1_CT": 8, "p2_T1": 4, "p2_T2": 4}
    skipped = sum(files[case] for case in files if case not in cases)
    assert f"{skipped} of series that are not selected" in caplog.text


def test_description_with_a_comma_is_one_word(tmp_path):
    """Text that matches a description as a whole is one word; else each word between commas counts."""
    for number, name in enumerate(("Thorax, 3 mm", "thorax", "3 mm")):
        write_series(tmp_path / str(number), voxels((6, 5, 4)), SeriesInstanceUID=f"1.{number}", SeriesDescription=name)
    for series, cases in (("thorax, 3 mm", "0"), ("*, 3 *", "0"), ("thorax, 3*", "0"), ("3 mm, thorax", "12")):
        assert [entry["case"] for entry in find_scans(tmp_path, series=series)] == list(cases), series
    assert [entry["case"] for entry in find_scans(tmp_path, series=["thorax, 3 mm", "thorax"])] == ["0", "1"]


def test_table_names_single_slices(export, capsys):
    write_series(export / "p2", voxels((6, 5, 1)), prefix="K", SeriesInstanceUID="1.8", SeriesDescription="key")
    for k in range(3):  # one series, a slice per folder
        position = [[0, 0, 2 * k]]
        write_series(export / "p3" / str(k), voxels((6, 5, 1)), SeriesInstanceUID="1.7", positions=position)
    assert print_check(export)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["p2_T2", "p3_CT", "p1_scout", "p2"]
    assert lines[-1].split("  ")[-1] == "a single slice" and "6 x 5 x 3" in lines[-3]


def test_no_selected_series_raises(export):
    with pytest.raises(DataError, match=r"no DICOM series matches series: PT, 17\. List the series with: segbundle ch"):
        find_scans(export / "p2", series=["PT", 17])
