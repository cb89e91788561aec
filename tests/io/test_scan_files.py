"""Names and contents of scan files, and the files of a scan."""

import pytest

from segbundle.io.scan_files import files_of, is_dicom_file, is_dicom_folder, is_nifti, is_scan_file, stem

MARK = bytes(128) + b"DICM"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_supported_suffixes(tmp_path, suffix):
    for ending in (suffix, suffix.upper()):
        assert is_scan_file(tmp_path / f"case.01{ending}")
        assert not is_scan_file(tmp_path / f".case{ending}")
        assert stem(f"a/case.01{ending}") == "case.01"
    assert not is_scan_file(tmp_path / f"case{suffix}.txt")
    assert stem(f"case{suffix}.txt") == f"case{suffix}.txt"
    assert is_nifti(tmp_path / f"a{suffix}") == (suffix in (".nii", ".nii.gz"))


def test_stem_of_header_voxel_pairs():
    assert {stem(f"a/x{ending}") for ending in (".hdr", ".img", ".HDR", ".IMG", ".img.gz")} == {"x"}


def test_dicom_prefix(tmp_path):
    path = tmp_path / "a"
    for content, expected in [(MARK, True), (MARK + b"more", True), (MARK[1:], False), (MARK[:-1], False)]:
        path.write_bytes(content)
        assert is_dicom_file(path) is expected
    path.write_bytes(bytes(128) + b"DICOM")
    assert is_dicom_file(path) is False
    assert is_dicom_file(tmp_path / "missing") is False


def test_dicom_folder_directly_contains_an_image(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(MARK)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.dcm").write_bytes(MARK)
    assert is_dicom_folder(tmp_path) is False
    assert is_dicom_folder(tmp_path / "notes.txt") is False
    assert is_dicom_folder(tmp_path / "missing") is False
    assert is_dicom_folder(tmp_path / "folder") is True


@pytest.mark.parametrize(
    ("header", "files"),
    [
        ("ElementDataFile = a.raw", ["a.raw"]),
        ("ElementDataFile = missing.raw", []),
        ("ElementDataFile =", []),
        ("NDims = 3\nelementdatafile=a.raw", ["a.raw"]),
        ("ElementDataFile = LIST\na.raw\n\nb.raw", ["a.raw", "b.raw"]),
        ("NDims = 3\nElementDataFile = list\nb.raw", ["b.raw"]),
        ("ElementDataFile = b%d.raw 1 2 1", ["b.raw", "b2.raw"]),
        ("NDims = 3", []),
    ],
)
def test_voxel_files_of_metaimage_header(tmp_path, header, files):
    for name in ("a.raw", "b.raw", "b2.raw", "c.raw"):
        (tmp_path / name).touch()
    path = tmp_path / "scan.MHD"
    path.write_text(header)
    assert files_of(path) == [path, *(tmp_path / name for name in files)]
    assert files_of(str(path)) == files_of(path)


def test_voxel_files_of_nrrd_header(tmp_path):
    (tmp_path / "a.raw").touch()
    for line in ("data file: a.raw", "datafile:a.raw", "DATA FILE : a.raw"):
        path = tmp_path / "scan.nhdr"
        path.write_text(f"NRRD0004\n{line}\n")
        assert files_of(path) == [path, tmp_path / "a.raw"]


def test_file_without_separate_header(tmp_path):
    path = tmp_path / "scan.txt"
    path.write_text("ElementDataFile = a.raw")
    (tmp_path / "a.raw").touch()
    (tmp_path / "folder").mkdir()
    assert files_of(path) == [path]
    assert files_of(tmp_path / "missing.mhd") == [tmp_path / "missing.mhd"]
    assert files_of(tmp_path) == [tmp_path / "a.raw", path]
