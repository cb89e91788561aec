"""Names and contents of scan files, and the files of a scan."""

import pytest

from dicoms import voxels, write_series
from segbundle.io.scan_files import (
    files_of,
    holds_dicom,
    is_dicom_file,
    is_dicom_folder,
    is_scan_file,
    is_uid,
    label_stem,
    may_be_slice,
    missing_header,
    stem,
)

MARK = bytes(128) + b"DICM"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_supported_suffixes(tmp_path, suffix):
    for ending in (suffix, suffix.upper()):
        assert is_scan_file(tmp_path / f"case.01{ending}")
        assert not is_scan_file(tmp_path / f".case{ending}")
        assert stem(f"a/case.01{ending}") == "case.01"
    assert not is_scan_file(tmp_path / f"case{suffix}.txt")
    assert stem(f"case{suffix}.txt") == f"case{suffix}.txt"


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


@pytest.mark.parametrize("suffix", [".mgh", ".mgz", ".MGH"])
def test_freesurfer_volumes_are_scans(tmp_path, suffix):
    assert is_scan_file(tmp_path / f"brain{suffix}") and stem(f"brain{suffix}") == "brain"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("a.seg.nrrd", "a"),
        ("a.SEG.NRRD", "a"),
        ("a.seg.nhdr", "a"),
        ("seg.nrrd", "seg"),
        ("a.seg.nii.gz", "a.seg"),
        ("a_seg.nrrd", "a_seg"),
    ],
)
def test_label_maps_of_slicer_are_named_like_their_case(name, case):
    assert label_stem(f"labelsTr/{name}") == case


@pytest.mark.parametrize(
    ("name", "expected"),
    [("IM0001", True), ("a.dcm", True), ("A.DCM", True), ("a.ima", True), ("a.DICOM", True),
     ("1.2.840.113", True), ("a.7", True), ("notes.txt", False),
     ("a.x7", False), ("a.7x", False)],
)  # fmt: skip
def test_names_of_slices(name, expected):
    assert may_be_slice(name) is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 1", True),  # explicit VR
        (b"\x02\x00\x10\x00UI\x14\x00" + bytes(8), True),
        (b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 1", True),  # implicit VR: a length of 10
        (b"\x08\x00\x05\x00\x00\x01\x00\x00" + bytes(8), True),  # a length of 256
        (b"\x08\x00\x05\x00\x01\x01\x00\x00" + bytes(8), False),  # a length of 257
        (b"\x08\x00\x05\x00cs\x0a\x0b" + bytes(8), False),
        (b"\x08\x00\x05\x00C1\x0a\x0b" + bytes(8), False),
        (b"\x08\x00\x05\x00\x00C\x00\x01" + bytes(8), False),
        (b"\x09\x00\x05\x00CS\x0a\x00ISO_IR 1", False),
        (b"\x08\x00\x05\x01CS\x0a\x00ISO_IR 1", False),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR ", False),  # 15 bytes
        (b"\x08\x00\x05\x00C1\x00\x00ISO_IR 1", False),  # one letter, and a length far above 256
        (b"\x08\x00\x05\x00SH1\x00" + bytes(8), True),  # the length does not belong to the letters
        (b"\x08\x00\x05\x00\x10\x00\x00\x01" + bytes(8), False),  # a length of 2^24 + 16
        (b"", False),
    ],
)
def test_files_without_prefix_begin_with_elements(tmp_path, head, expected):
    (tmp_path / "IM1").write_bytes(head)
    assert holds_dicom(tmp_path / "IM1") is expected


def test_header_of_voxels_is_missing_or_there(tmp_path):
    assert missing_header(tmp_path / "a.img") == tmp_path / "a.hdr"
    assert missing_header(tmp_path / "A.IMG") == tmp_path / "A.HDR"
    assert missing_header(tmp_path / "a.img.gz") == tmp_path / "a.hdr.gz"
    assert missing_header(tmp_path / "a.nii") is None
    (tmp_path / "a.hdr").touch()
    assert missing_header(tmp_path / "a.img") is None


def test_numbered_voxel_files_in_a_missing_folder(tmp_path):
    (tmp_path / "a.mhd").write_text("ElementDataFile = gone/slice%03d.raw 1 40 1")
    assert files_of(tmp_path / "a.mhd") == [tmp_path / "a.mhd"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("1.2.840.113619", True), ("MR.1.2.840.113619.2", True), ("1.2.3", False), ("mr.1.2.840.1", False),
     ("M.1.2.840.1", False), ("1.2.840.a", False), ("a1.2.840.1", False)],
)  # fmt: skip
def test_names_that_are_uids(name, expected):
    assert is_uid(name) is expected


def test_hidden_files_are_no_part_of_a_folder(tmp_path):
    (tmp_path / ".1.dcm").write_bytes(MARK)
    assert is_dicom_folder(tmp_path) is False and files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("header", "voxels"), [("a.hdr", "a.img"), ("A.HDR", "A.IMG"), ("a.hdr.gz", "a.img.gz"), ("A.HDR.GZ", "A.IMG.GZ")]
)
def test_voxels_beside_a_header(tmp_path, header, voxels):
    for name in (header, voxels):
        (tmp_path / name).touch()
    assert files_of(tmp_path / header) == [tmp_path / header, tmp_path / voxels]
    assert files_of(tmp_path / voxels) == [tmp_path / voxels]


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("ElementDataFile = LOCAL", []),
        ("ElementDataFile = local", []),
        ("NDims = 3\nElementDataFile = LIST\na.raw\nElementDataFile = b.raw", ["a.raw"]),
        ("ElementDataFile = a.raw\nElementDataFile = LIST\nb.raw", ["a.raw"]),
    ],
)
def test_names_in_a_metaimage_header(tmp_path, lines, files):
    for name in ("a.raw", "b.raw", "LOCAL", "local"):
        (tmp_path / name).touch()
    (tmp_path / "scan.mhd").write_text(lines)
    found = files_of(tmp_path / "scan.mhd")
    assert [path.name for path in found if path.name != "LIST"] == ["scan.mhd", *files]


def test_dicom_file_means_its_series(tmp_path):
    write_series(tmp_path, voxels())
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1 and sorted(files_of(files[1])) == files
