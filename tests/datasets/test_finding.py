"""Search of files and folders for scans."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_files import write_series
from dicoms import voxels, write_enhanced
from segbundle.datasets.datalist import labeled_data
from segbundle.datasets.finding import find_scans
from segbundle.datasets.folders import list_tree
from segbundle.errors import ConfigError, DataError
from segbundle.io.dicom_folders import _scattered
from segbundle.io.scan_files import files_of
from segbundle.io.scans import read_scan
from tiny import write_description, write_empty_scans, write_tiny_dataset


def found(*args, **kwargs):
    """Return the error of each case; empty for readable scans."""
    return {entry["case"]: entry.get("error", "") for entry in find_scans(*args, **kwargs)}


class TestFindScans:
    def names(self, *args, **kwargs):
        return [entry["case"] for entry in find_scans(*args, **kwargs)]

    def test_file_folder_tree_and_list(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz", "deep/er/b.nii", "deep/c.nii.gz", ".hidden.nii.gz")
        (tmp_path / "notes.txt").write_text("no scan")
        assert self.names(tmp_path / "a.nii.gz") == ["a"]
        assert self.names(str(tmp_path)) == ["a", "b", "c"]
        assert self.names([tmp_path / "a.nii.gz", tmp_path / "deep"]) == ["a", "b", "c"]

    def test_test_list_of_dataset(self, tmp_path):
        assert self.names(write_tiny_dataset(tmp_path / "d", 2, 2)) == ["test_00", "test_01"]
        assert self.names(write_tiny_dataset(tmp_path / "e", 2, 0)) == ["case_00", "case_01"]

    def test_channels(self, tmp_path):
        write_empty_scans(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
        assert self.names(tmp_path, num_channels=2) == ["a", "b"]
        assert len(self.names(tmp_path, num_channels=1)) == 4

    def test_incomplete_case_does_not_affect_others(self, tmp_path):
        write_empty_scans(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
        a, b = find_scans(tmp_path, num_channels=2)
        assert [Path(path).name for path in a["image"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
        assert [Path(path).name for path in b["image"]] == ["b_0000.nii.gz", "b_0001.nii.gz"]
        assert not Path(b["image"][1]).exists()

    def test_single_channel_with_nnunet_suffix(self, tmp_path):
        write_empty_scans(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
        assert self.names(tmp_path) == ["a", "b"]

    def test_duplicate_channel(self, tmp_path):
        write_empty_scans(tmp_path, "a_0000.nii.gz", "a_0000.nii", "a_0001.nii.gz")
        with pytest.raises(DataError, match=r"a_0000\.nii and .*a_0000\.nii\.gz are the same channel"):
            find_scans(tmp_path, num_channels=2)

    def test_results_of_inference_are_skipped(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_seg.nii.gz")
        assert self.names(tmp_path) == ["a", "b_seg"]
        (tmp_path / "predictions.json").write_text("[]")
        assert self.names(tmp_path) == ["a"]

    def test_dicom_file_identifies_its_series(self, tmp_path):
        slices = write_series(tmp_path / "CT")
        (entry,) = find_scans(slices)
        assert entry == {"case": "CT", "image": str(tmp_path / "CT")}
        (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM")
        with pytest.raises(DataError, match=r"1\.dcm: is a DICOM file without an image"):
            find_scans(tmp_path / "1.dcm")

    def test_dicom_folders_are_named_after_their_paths(self, tmp_path):
        for folder in ("p1/CT", "p2/CT", "flat"):
            write_series(tmp_path / folder)
        (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        assert self.names(tmp_path) == ["flat", "p1_CT", "p2_CT"]
        assert self.names(tmp_path / "p1" / "CT") == ["CT"]

    def test_duplicate_names_are_extended_by_paths(self, tmp_path):
        write_empty_scans(
            tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/mr.nii.gz", "ct.nii.gz", "p3/t_0000.nii", "p4/t_0000.nii"
        )
        assert self.names(tmp_path) == ["ct", "mr", "p1_ct", "p2_ct", "p3_t", "p4_t"]
        assert self.names(tmp_path / "p1") == ["ct"]

    def test_names_that_cannot_be_made_unique(self, tmp_path):
        write_empty_scans(tmp_path, "ct.nii.gz", "ct.nii")
        with pytest.raises(DataError, match="two cases are named 'ct'"):
            find_scans(tmp_path)

    def test_folder_without_scans_raises(self, tmp_path):
        with pytest.raises(DataError, match="contains no scan"):
            find_scans(tmp_path)
        with pytest.raises(DataError, match="no such file or folder"):
            find_scans(tmp_path / "x")


def test_unusable_labels_do_not_prevent_inference(tmp_path):
    write_empty_scans(tmp_path, "imagesTs/a.nii.gz")
    write_description(tmp_path, labels={"background": 0, "whole": [1, 2]}, test=["imagesTs/a.nii.gz"])
    assert [scan["case"] for scan in find_scans(tmp_path)] == ["a"]


class TestUnreadablePaths:
    def test_broken_links_and_pipes_fail_alone(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz")
        (tmp_path / "gone.nii.gz").symlink_to("nowhere.nii.gz")
        (tmp_path / "loop.nrrd").symlink_to("loop.nrrd")
        os.mkfifo(tmp_path / "pipe.nii")
        scans = found(tmp_path)
        assert list(scans) == ["a", "gone", "loop", "pipe"]
        assert scans["a"] == ""
        assert "gone.nii.gz: is a broken link to nowhere.nii.gz. Restore the file" in scans["gone"]
        assert "loop.nrrd: is a symbolic link that forms a loop" in scans["loop"]
        assert "pipe.nii: is a named pipe, not a file" in scans["pipe"]

    def test_broken_link_to_folder_fails(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz")
        (tmp_path / "patient_9").symlink_to("/nowhere/patient_9")
        assert "patient_9: is a broken link to /nowhere/patient_9" in found(tmp_path)["patient_9"]

    @pytest.mark.parametrize("name", ["patient.1", "2024.05.01"])
    def test_broken_link_to_folder_with_dot_fails(self, tmp_path, name):
        write_series(tmp_path / "good")
        (tmp_path / name).symlink_to(f"/nowhere/{name}")
        scans = found(tmp_path)
        assert scans["good"] == ""
        assert f"{name}: is a broken link to /nowhere/{name}" in scans[name]

    def test_skipped_files_are_logged(self, tmp_path, caplog):
        write_empty_scans(tmp_path, "a.nii.gz", ".hidden/b.nii.gz", "a_seg.nii.gz")
        for name in ("1.txt", "2.txt", "noending", "x.seg.nrrd", ".DS_Store", "3.1.2.840"):
            (tmp_path / name).write_text("no scan")
        os.mkfifo(tmp_path / "talk")
        (tmp_path / "notes.txt").symlink_to("nowhere")
        with caplog.at_level("INFO"):
            assert found(tmp_path) == {"a": ""}
        assert f"{tmp_path}: 8 files skipped: " in caplog.text
        for kind in ("2 .txt", "2 hidden", "2 without an ending", "1 predictions", "1 segmentations of 3D Slicer"):
            assert kind in caplog.text
        assert "talk: is a named pipe" in caplog.text
        assert "notes.txt: is a broken link to nowhere" in caplog.text

    def test_unreadable_folder_fails(self, tmp_path, monkeypatch):
        write_empty_scans(tmp_path, "a.nii.gz", "locked/b.nii.gz")
        scandir = os.scandir

        def refusing(path):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        assert "locked: cannot be opened (Permission denied)" in found(tmp_path)["locked"]

    def test_missing_file_fails_alone(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz")
        scans = found([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])
        assert scans["a"] == ""
        assert "b.nii.gz: no such file or folder" in scans["b"]

    def test_non_utf8_name_fails_alone(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz")
        (tmp_path / os.fsdecode(b"gr\xf6\xdfe.nii.gz")).touch()
        scans = {entry["case"]: entry for entry in find_scans(tmp_path)}
        assert list(scans) == ["a", "gr\\udcf6\\udcdfe"]
        json.dumps(scans, ensure_ascii=False).encode()
        assert "its name is not in UTF-8" in scans["gr\\udcf6\\udcdfe"]["error"]

    def test_voxel_files_of_headers_are_not_skipped(self, tmp_path):
        (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = a.raw\n")
        for name in ("a.raw", "b.raw", "c.hdr", "c.img", "d.img"):
            (tmp_path / name).write_bytes(bytes(200))
        tree = list_tree(tmp_path)
        assert [file.name for file in tree.files] == ["a.mhd", "c.hdr"]
        assert tree.left_out == {".raw": 1}
        assert [lost.path.name for lost in tree.lost] == ["d.img"]

    @pytest.mark.parametrize(("name", "header"), [("p.img", "p.hdr"), ("p.IMG", "p.HDR"), ("p.img.gz", "p.hdr.gz")])
    def test_voxels_without_their_header_fail_by_name(self, tmp_path, name, header):
        write_empty_scans(tmp_path, "a.nii.gz")
        (tmp_path / name).write_bytes(bytes(200))
        a, other = find_scans(tmp_path)
        assert "error" not in a
        assert other["error"] == f"{tmp_path / name}: its header {header} is missing. Restore it, or remove the file."

    def test_slices_may_be_named_like_voxels(self, tmp_path):
        for path in write_series(tmp_path / "s"):
            path.rename(path.with_suffix(".img"))
        (entry,) = find_scans(tmp_path)
        assert "error" not in entry


class TestFoldersAreListedOnce:
    def test_links_to_parent_folders(self, tmp_path):
        write_empty_scans(tmp_path, "s/a.nii.gz")
        (tmp_path / "s" / "up").symlink_to("..")
        (tmp_path / "s" / "self").symlink_to(".")
        assert [entry["image"] for entry in find_scans(tmp_path)] == [str(tmp_path / "s" / "a.nii.gz")]

    def test_folder_is_found_by_real_path(self, tmp_path):
        write_empty_scans(tmp_path, "z/a.nii.gz")
        (tmp_path / "b").symlink_to("z")
        assert [entry["image"] for entry in find_scans(tmp_path)] == [str(tmp_path / "z" / "a.nii.gz")]

    def test_link_to_other_folder_is_followed(self, tmp_path):
        write_empty_scans(tmp_path, "archive/a.nii.gz")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link").symlink_to("../archive")
        assert found(tmp_path / "in") == {"a": ""}

    def test_nested_links_are_listed_once(self, tmp_path):
        for level in range(40):
            (tmp_path / f"d{level}").mkdir()
            for name in ("x", "y") if level < 39 else ():
                (tmp_path / f"d{level}" / name).symlink_to(f"../d{level + 1}")
        write_empty_scans(tmp_path, "d39/a.nii.gz")
        assert found(tmp_path) == {"a": ""}


class TestUniqueNames:
    def test_same_name_in_one_folder_fails_alone(self, tmp_path):
        write_empty_scans(tmp_path, "ct.nii.gz", "ct.nii", "b.nii.gz")
        scans = found(tmp_path)
        assert list(scans) == ["b", "ct.nii", "ct.nii.gz"]
        assert scans["b"] == ""
        assert "two cases are named 'ct': " in scans["ct.nii"]
        assert scans["ct.nii"] == scans["ct.nii.gz"]

    def test_given_folders_make_names_unique(self, tmp_path):
        write_empty_scans(tmp_path, "x/t1/a.nii.gz", "y/t1/a.nii.gz", "x/b.nii.gz")
        assert list(found([tmp_path / "x", tmp_path / "y"])) == ["b", "x_t1_a", "y_t1_a"]

    def test_name_from_path_may_be_taken(self, tmp_path):
        write_empty_scans(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p1_ct.nii.gz")
        assert len(found(tmp_path)) == 3
        assert not any(found(tmp_path).values())

    def test_scan_given_twice_is_one_case(self, tmp_path):
        write_empty_scans(tmp_path, "a.nii.gz")
        assert found([tmp_path, tmp_path / "a.nii.gz"]) == {"a": ""}


class TestSeries:
    def test_each_series_of_a_folder_is_a_case(self, tmp_path):
        write_series(tmp_path / "study", prefix="A", SeriesDescription="Thorax 5.0/B30f")
        write_series(tmp_path / "study", prefix="B", SeriesDescription="Abdomen")
        entries = find_scans(tmp_path)
        assert [entry["case"] for entry in entries] == ["study_Abdomen", "study_Thorax_5.0_B30f"]
        assert [read_scan(entry["image"]).array.shape for entry in entries] == [(1, 4, 3, 3)] * 2

    def test_series_without_description_are_named_by_files(self, tmp_path):
        write_series(tmp_path / "study", prefix="A")
        write_series(tmp_path / "study", prefix="B")
        assert list(found(tmp_path)) == ["study_CT_A000", "study_CT_B000"]

    def test_skipped_series_are_counted(self, tmp_path, caplog):
        write_series(tmp_path / "study")
        write_series(tmp_path / "study", prefix="S", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        (tmp_path / "study" / "LICENSE").write_text("x" * 500)
        with caplog.at_level("INFO"):
            assert found(tmp_path) == {"study": ""}
        assert "4 files skipped: 3 as a localizer, 1 without an ending" in caplog.text

    def test_skipped_series_are_named(self, tmp_path, caplog):
        write_series(tmp_path / "good")
        write_series(tmp_path / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        with caplog.at_level("INFO"):
            assert found(tmp_path) == {"good": ""}
        assert f"{tmp_path}: DICOM series skipped because they are not volumes (a localizer): scout" in caplog.text

    def test_slices_without_position_fail(self, tmp_path):
        write_series(tmp_path / "good")
        write_series(tmp_path / "bad", ImageOrientationPatient=None)
        scans = found(tmp_path)
        assert scans["good"] == ""
        assert "bad" in scans["bad"]
        assert "without positions and orientation in space. Export it again." in scans["bad"]

    @pytest.mark.parametrize(("count", "part"), [(2, "halves"), (2, "turns"), (3, "turns"), (12, "turns")])
    def test_series_in_several_folders_is_one_case(self, tmp_path, count, part):
        write_series(tmp_path / "good")
        for index, path in enumerate(write_series(tmp_path / "all", 12)):
            folder = path.parent / f"part{index % count if part == 'turns' else index // 6}"
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
        assert found(tmp_path) == {"all_CT": "", "good": ""}
        path = next(entry["image"] for entry in find_scans(tmp_path) if entry["case"] == "all_CT")
        for known in (True, False):  # as in the next process, which searches the folder again
            scan = read_scan(path)
            np.testing.assert_array_equal(scan.array[0, 0, 0], range(12))
            assert len(files_of(path)) == 12, known
            _scattered.clear()

    def test_missing_slice_of_a_series_in_several_folders(self, tmp_path):
        for index, path in enumerate(write_series(tmp_path / "all", 5)):
            (tmp_path / str(index)).mkdir()
            path.rename(tmp_path / str(index) / "a.dcm")
        (tmp_path / "3" / "a.dcm").unlink()
        (entry,) = find_scans(tmp_path)
        with pytest.raises(DataError, match=r"a slice is missing after a\.dcm"):
            read_scan(entry["image"])

    def test_parts_with_a_gap_warn(self, tmp_path, caplog):
        """0 to 7 mm and 9 to 11 mm: slice 8 is missing, so the parts do not form one volume."""
        paths = write_series(tmp_path / "a", 12)
        (tmp_path / "b").mkdir()
        paths[8].unlink()
        for path in paths[9:]:
            path.rename(tmp_path / "b" / path.name)
        assert found(tmp_path) == {"a": "", "b": ""}
        assert f"{tmp_path / 'a'} and {tmp_path / 'b'} have the same SeriesInstanceUID" in caplog.text

    def test_copies_of_a_series_are_one_case(self, tmp_path, caplog):
        """Folder c has the same slices as a under other names; b is another series with the same UID."""
        write_series(tmp_path / "b", uid=(uid := generate_uid()))
        write_series(tmp_path / "a", uid=uid)
        for path in sorted((tmp_path / "a").iterdir()):
            (tmp_path / "c").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "c" / f"I_{path.stem}")
        with caplog.at_level("INFO"):
            assert found(tmp_path) == {"a": "", "b": ""}
        assert f"{tmp_path}: 3 files skipped: 3 in copies of a series" in caplog.text
        assert f"{tmp_path}: DICOM series skipped because they are copies: c of a" in caplog.text
        assert found(tmp_path / "c") == {"c": ""}
        assert found([tmp_path / "a", tmp_path / "c"]) == {"a": "", "c": ""}  # chosen by the user

    def test_copy_without_problems_is_used(self, tmp_path):
        write_series(tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a" / "IM003.dcm").symlink_to("nowhere.dcm")
        assert found(tmp_path) == {"b": ""}

    def test_copies_of_each_volume_of_a_series(self, tmp_path, caplog):
        uid = generate_uid()
        for echo in (1, 2):
            write_series(tmp_path / "a", prefix=f"e{echo}_", uid=uid, EchoTime=10 * echo, EchoNumbers=echo)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        with caplog.at_level("INFO"):
            assert list(found(tmp_path)) == ["a_CT_TE10", "a_CT_TE20"]
        assert "6 in copies of a series" in caplog.text

    def test_series_without_instance_uids_are_no_copies(self, tmp_path):
        write_series(tmp_path / "a", SOPInstanceUID=None)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        assert found(tmp_path) == {"a": "", "b": ""}

    def test_single_slices_beside_other_series_are_skipped(self, tmp_path, caplog):
        """A dose report or a key image of an export has one slice; in a folder of its own, such a series is a scan."""
        write_series(tmp_path / "p1", SeriesDescription="thin")
        (image,) = write_series(tmp_path / "p1", 1, prefix="K", SeriesDescription="key")
        write_series(tmp_path / "p2", 1)
        with caplog.at_level("INFO"):
            assert list(found(tmp_path)) == ["p1_thin", "p2"]
        assert f"{tmp_path}: 1 file skipped: 1 as a single slice" in caplog.text
        assert "not volumes (a single slice): p1_key" in caplog.text
        assert list(found(image)) == ["p1_key"]
        assert read_scan(image).geometry.shape == (4, 3, 1)

    def test_single_slice_beside_a_damaged_file_may_be_a_series(self, tmp_path):
        write_series(tmp_path / "good")
        write_series(tmp_path / "bad", 2)[1].write_bytes(b"")
        assert "cannot be read and may be slices" in found(tmp_path)["bad"]

    def test_single_slices_of_a_dataset_are_cases(self, tmp_path):
        write_series(tmp_path / "imagesTs" / "a")
        write_series(tmp_path / "imagesTs" / "b", 1)
        assert found(tmp_path) == {"a": "", "b": ""}

    def test_equal_uids_of_other_images_are_cases(self, tmp_path, caplog):
        uid = generate_uid()
        write_series(tmp_path / "a", uid=uid)
        write_series(tmp_path / "b", uid=uid)
        assert found(tmp_path) == {"a": "", "b": ""}
        assert "SeriesInstanceUID" not in caplog.text and "copies" not in caplog.text

    def test_series_in_two_multi_frame_files_is_one_case(self, tmp_path):
        write_series(tmp_path / "good")
        for part in range(2):
            positions = [(-10, -20, 30 + 2 * k) for k in range(4 * part, 4 * part + 4)]
            half = voxels()[:, :, 4 * part : 4 * part + 4]
            write_enhanced(tmp_path / "mf" / f"{part}.dcm", half, positions, [1] * 4)
        entries = {entry["case"]: entry["image"] for entry in find_scans(tmp_path)}
        assert list(entries) == ["good", "mf_CT"]
        np.testing.assert_array_equal(read_scan(entries["mf_CT"]).array[0], voxels() - 10)

    def test_hidden_files_are_not_slices(self, tmp_path):
        for path in write_series(tmp_path / "study"):
            path.with_name(f"._{path.name}").write_bytes(bytes(200))
        (tmp_path / "study" / "empty").touch()
        assert found(tmp_path) == {"study": ""}

    def test_volume_with_tilted_slice_fails(self, tmp_path):
        write_series(tmp_path / "good")
        uid = generate_uid()
        write_series(tmp_path / "bad", 15, uid=uid)
        tilted = [1, 0, 0, 0, 0.999, 0.0447]  # tilted by 2.6 degrees
        write_series(tmp_path / "bad", 1, "X", uid, ImageOrientationPatient=tilted)
        scans = found(tmp_path)
        assert scans["good"] == ""
        assert "is not a volume but 16 slices in 2 orientations (15 in one of them). Export it again." in scans["bad"]

    @pytest.mark.parametrize(("count", "description"), [(5, ""), (9, "3-plane loc"), (9, "LOCALIZER")])
    def test_localizer_by_orientations(self, tmp_path, count, description):
        write_series(tmp_path / "good")
        uid = generate_uid()
        for prefix, axes in (("A", [1, 0, 0, 0, 1, 0]), ("B", [1, 0, 0, 0, 0, -1]), ("C", [0, 1, 0, 0, 0, -1])):
            tags = {"ImageOrientationPatient": axes, "SeriesDescription": description}
            write_series(tmp_path / "loc", count, prefix, uid, **tags)
        assert found(tmp_path) == {"good": ""}

    def test_images_without_position_are_skipped(self, tmp_path):
        write_series(tmp_path / "good")
        write_series(tmp_path / "picture", ImageOrientationPatient=None, ImageType=["DERIVED", "SECONDARY"])
        assert found(tmp_path) == {"good": ""}

    def test_folder_of_unreadable_slices_fails(self, tmp_path):
        write_series(tmp_path / "good")
        for path in write_series(tmp_path / "bad"):
            path.write_bytes(path.read_bytes()[:600])
        scans = found(tmp_path)
        assert scans["good"] == ""
        assert "3 of its DICOM files cannot be read" in scans["bad"]

    @pytest.mark.parametrize(("damage", "failed"), [("pixels", "a"), ("header", "a"), ("uid", "ab"), ("all", "a")])
    def test_damaged_file_fails_its_own_series(self, tmp_path, damage, failed):
        series = {
            name: write_series(tmp_path / "s", prefix=name, uid=f"1.2.3.{number}", SeriesDescription=name)
            for number, name in enumerate("ab")
        }
        for path in series["a"] if damage == "all" else series["a"][1:2]:
            content = path.read_bytes()
            if damage == "pixels":
                dataset = dcmread(path)
                del dataset.PixelData
                dataset.save_as(path)
            else:
                ends = {"header": content.index(b"1.2.3.0") + 20, "uid": content.index(b"1.2.3.0") + 5}
                path.write_bytes(content[: ends.get(damage, ends["header"])])
        write_series(tmp_path / "other")
        scans = found(tmp_path)
        names = {"s": "b", "s_a": "a", "s_b": "b", "s_a000": "a", "other": "other"}
        errors = {names[name]: error for name, error in scans.items() if error}
        assert len(scans) == 3 and sorted(errors) == list(failed)
        assert all("of its DICOM files cannot be read and may be slices" in error for error in errors.values())
        if damage in ("pixels", "header"):
            with pytest.raises(DataError, match=r"1 of its files cannot be read \(for instance a001\.dcm"):
                read_scan(series["a"][0])
            assert read_scan(series["b"][0]).geometry.shape == (4, 3, 3)

    def test_series_that_may_lack_a_slice_fails(self, tmp_path):
        slices = write_series(tmp_path / "study", 4)
        write_series(tmp_path / "other")
        slices[3].unlink()
        slices[3].symlink_to("nowhere.dcm")
        scans = found(tmp_path)
        assert list(scans) == ["other", "study"]
        assert "IM003.dcm: is a broken link to nowhere.dcm" in scans["study"]

    @pytest.mark.parametrize("name", ["IM{}.dcm", "1.2.840.{}", "CT.1.2.840.{}"])
    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_folder_of_broken_links_fails(self, tmp_path, name, kind):
        write_series(tmp_path / "good")
        (tmp_path / "bad").mkdir()
        for index in range(5):
            path = tmp_path / "bad" / name.format(index)
            if kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to("/nowhere/x")
        scans = found(tmp_path)
        assert list(scans) == ["bad", "good"]
        assert scans["good"] == ""
        said = "is a named pipe" if kind == "pipe" else "is a broken link to /nowhere/x"
        assert f"{name.format(0)}: {said}" in scans["bad"]

    def test_files_next_to_slices_are_found(self, tmp_path):
        write_series(tmp_path / "study")
        write_series(tmp_path / "study" / "later")
        write_empty_scans(tmp_path, "study/converted.nii.gz")
        assert list(found(tmp_path)) == ["converted", "study", "study_later"]


def test_pseudonyms_need_an_output_folder(tmp_path):
    write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(ConfigError, match="case_names is pseudonym, but output_dir is not set"):
        find_scans(tmp_path / "imagesTr", case_names="pseudonym")
    with pytest.raises(ConfigError, match="case_names is pseudonym, but output_dir is not set"):
        labeled_data(tmp_path, ["background", "a"], case_names="pseudonym")
