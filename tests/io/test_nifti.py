"""NIfTI, Analyze and MGH files: invalid headers and damaged files."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from segbundle.errors import DataError
from segbundle.hardware import memory_usage
from segbundle.io import nifti, scans
from segbundle.io.probabilities import ProbabilityFile
from segbundle.io.scan_files import files_of, stem
from segbundle.io.scans import Geometry, read_geometry, read_scan, write_segmentation
from tiny import write_nifti

AFFINE = np.array([[0, -1.5, 0, 7], [2, 0, 0, -3], [0, 0, 4.0, 11], [0, 0, 0, 1]])


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii.gz", ".NII", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".mgz"])
def test_files_are_recognized_by_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert nifti.is_nifti(path) == (suffix in (".nii.gz", ".NII", ".mgz"))
    (tmp_path / "a.hdr").touch()
    assert nifti.is_nifti(path) == (suffix in (".nii.gz", ".NII", ".mgz", ".img"))


def test_header_is_read_once_for_a_label_map(tmp_path, voxels, monkeypatch):
    path, load, loaded = write_nifti(tmp_path / "a.nii.gz", voxels, AFFINE), nib.load, []
    monkeypatch.setattr(nib, "load", lambda path: loaded.append(path) or load(path))
    write_segmentation(np.ones((5, 6, 7), np.uint8), path, tmp_path / "seg.nii.gz")
    assert loaded == [path]


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def shorts(*values):
    return struct.pack(f"<{len(values)}h", *values)


def patched(path, voxels, offset, content, form="sform"):
    """Write a NIfTI file with changed header bytes; `form` is the form that defines its geometry."""
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.set_sform(np.eye(4), int(form == "sform"))
    image.set_qform(np.eye(4), int(form == "qform"))
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("form", "offset", "content", "message"),
    [
        ("sform", 40, shorts(8), r"dim\[0\] of its header is 8"),
        ("sform", 40, shorts(0), r"dim\[0\] of its header is 0"),
        ("sform", 42, shorts(5, -6), r"shape \(5, -6, 7\); sizes must be positive"),
        ("sform", 42, shorts(5, 6, 0), r"shape \(5, 6, 0\)"),
        ("sform", 42, shorts(32767, 32767, 32767), "its header says 32767 x 32767 x 32767 voxels, .* has 772"),
        ("sform", 42, shorts(5, 6, 8), "its header says 5 x 6 x 8 voxels, 832 bytes; a.nii has 772"),
        ("sform", 70, shorts(9999), "data code 9999 not recognized"),
        ("sform", 70, shorts(1), "data code 1 not supported"),
        ("sform", 108, floats(-352), "vox_offset of its header is -352"),
        ("sform", 108, floats(0), "vox_offset of its header is 0"),
        ("sform", 108, floats(np.nan), "vox_offset of its header is nan"),
        ("sform", 108, floats(1e9), "a.nii has 772"),
        ("qform", 80, floats(-1), "voxel size of -1 x 1 x 1 mm"),
        ("sform", 112, floats(np.inf, 0), "scales values by inf and adds 0"),
        ("sform", 112, floats(np.nan, 5), "scales values by nan and adds 5"),
        ("sform", 112, floats(1, np.nan), "scales values by 1 and adds nan"),
        ("sform", 112, floats(2, -np.inf), "scales values by 2 and adds -inf"),
        ("sform", 280, floats(0, 0, 0, 0), r"affine is singular \(0, 0, 0, 0; 0, 1, 0, 0"),
        ("sform", 280, floats(np.nan), "affine is not finite"),
        ("sform", 280, floats(1e-7), "implausible voxel size 1e-07 x 1 x 1 mm"),
        ("sform", 280, floats(1e8), "implausible voxel size 1e[+]08 x 1 x 1 mm"),
        ("sform", 292, floats(1e20), "implausible distance from the origin: 1e[+]20 mm"),
        ("qform", 80, floats(0, 1, 1), r"voxel size of 0 x 1 x 1 mm \(pixdim\); it must be positive"),
        ("qform", 80, floats(1, np.nan, 1), r"voxel size of 1 x nan x 1 mm \(pixdim\)"),
        ("qform", 80, floats(1, 1, np.inf), r"voxel size of 1 x 1 x inf mm \(pixdim\)"),
        ("neither", 80, floats(0, 0, 0), r"voxel size of 0 x 0 x 0 mm \(pixdim\)"),
        ("qform", 256, floats(np.nan), "affine is not finite"),
        ("qform", 256, floats(2), "w2 should be positive"),
        ("qform", 268, floats(np.inf), "affine is not finite"),
    ],
)
def test_invalid_header_raises(tmp_path, voxels, capfd, form, offset, content, message):
    path = patched(tmp_path / "a.nii", voxels, offset, content, form)
    with pytest.raises(DataError, match=message) as error:
        read_scan(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (80, floats(0, 0, 0)),
        (112, floats(0, 5)),
        (112, floats(np.nan, np.nan)),
        (112, floats(np.nan, 0)),
        (72, shorts(64)),
    ],
)
def test_unused_header_values_are_accepted(tmp_path, voxels, offset, content):
    """Voxel sizes with an sform; a slope of 0 or NaN (as nibabel writes) for unscaled values."""
    path = patched(tmp_path / "a.nii", voxels, offset, content)
    np.testing.assert_array_equal(read_scan(path).array[0], voxels)
    np.testing.assert_array_equal(read_geometry(path).affine, np.eye(4))


def test_size_beyond_gzip_compression_ratio_raises(tmp_path, voxels, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((400, 400, 50), np.int16))
    assert read_scan(path).array.shape == (1, 400, 400, 50)
    patched(tmp_path / "b.nii", voxels, 42, shorts(2000, 2000, 2000))
    nib.openers.Opener(tmp_path / "b.nii.gz", "wb").write((tmp_path / "b.nii").read_bytes())
    monkeypatch.setattr(np, "empty", lambda *args: pytest.fail("memory was taken"))
    with pytest.raises(DataError, match=r"2000 x 2000 x 2000 voxels, 16000000352 bytes; .* compressed bytes"):
        read_scan(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    "error", [MemoryError("1 EB"), KeyError("x"), ZeroDivisionError(), RecursionError("a\nb"), TypeError()]
)
def test_read_errors_name_file_and_cause(tmp_path, voxels, monkeypatch, error):
    path = write_nifti(tmp_path / "a.nii", voxels)

    def fail(*args):
        raise error

    monkeypatch.setattr(nib, "load", fail)
    for reading_it in (read_scan, read_geometry):
        with pytest.raises(DataError, match=r"a\.nii: cannot be read") as found:
            reading_it(path)
        assert "\n" not in str(found.value)
    assert ("not enough memory" in str(found.value)) == isinstance(error, MemoryError)


def test_scan_larger_than_memory_raises(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((256, 256, 100), np.uint8))
    monkeypatch.setattr(memory_usage, "reusable_memory", lambda: 10**6)
    monkeypatch.setattr(memory_usage, "available_swap", lambda: 0)
    monkeypatch.setattr(memory_usage, "available_memory", lambda: 26 * 10**6)
    with pytest.raises(
        DataError, match=r"a\.nii\.gz: its voxels need 0\.0262 GB of memory, but only 0\.025 GB are free"
    ):
        monkeypatch.setattr(memory_usage, "available_memory", lambda: 24 * 10**6)
        read_scan(path)
    monkeypatch.setattr(memory_usage, "available_memory", lambda: 26 * 10**6)
    assert read_scan(path).array.nbytes == 26214400


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(nib.Nifti1Pair, ".img"), (nib.Nifti2Pair, ".img"), (nib.MGHImage, ".mgz"), (nib.MGHImage, ".mgh")],
)
def test_pairs_and_mgh_files(tmp_path, voxels, kind, suffix):
    kind(voxels, AFFINE).to_filename(tmp_path / f"a{suffix}")
    paths = [tmp_path / "a.hdr", tmp_path / "a.img"] if suffix == ".img" else [tmp_path / f"a{suffix}"]
    for path in paths:
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.array[0], voxels)
        np.testing.assert_allclose(scan.geometry.affine, nib.load(path).affine)
        np.testing.assert_allclose(scan.geometry.affine, AFFINE, atol=1e-5)
    assert files_of(paths[0]) == paths
    assert stem(paths[0]) == "a"
    write_segmentation(np.ones((5, 6, 7), np.uint8), paths[0], tmp_path / "seg.nii.gz")
    written = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert (np.asarray(written.dataobj) == 1).all()
    assert type(written).__name__ == ("Nifti2Image" if kind is nib.Nifti2Pair else "Nifti1Image")


def test_pair_without_voxel_file_raises(tmp_path, voxels):
    nib.Nifti1Pair(voxels, AFFINE).to_filename(tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(DataError, match=r"a\.hdr: cannot be read .*a\.img"):
        read_scan(tmp_path / "a.hdr")


def test_analyze_files_warn(tmp_path, voxels, caplog):
    nib.Spm99AnalyzeImage(voxels, np.diag([-2, 2, 3, 1])).to_filename(tmp_path / "a.img")
    (tmp_path / "a.mat").unlink()
    scan = read_scan(tmp_path / "a.hdr")
    np.testing.assert_array_equal(scan.array[0], voxels)
    np.testing.assert_array_equal(scan.geometry.affine, nib.load(tmp_path / "a.img").affine)
    assert "a.hdr: Analyze files do not define left and right" in caplog.text


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (40, shorts(0), r"dim\[0\] of its header is 0"),
        (42, shorts(5, -6), r"shape \(5, -6, 7\); sizes must be positive"),
        (80, floats(0), r"voxel size of 0 x 1 x 1 mm \(pixdim\)"),
        (80, floats(0, 0, 0), "voxel size of 0 x 0 x 0 mm"),
        (84, floats(-1), "voxel size of 1 x -1 x 1 mm"),
        (88, floats(np.inf), "voxel size of 1 x 1 x inf mm"),
        (108, floats(-4), "vox_offset of its header is -4"),
        (112, floats(np.inf, 0), "scales values by inf and adds 0"),
        (112, floats(2, np.nan), "scales values by 2 and adds nan"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_invalid_analyze_header_raises(tmp_path, voxels, order, offset, content, message):
    header = nib.AnalyzeHeader(endianness=order)
    header.set_data_dtype(np.int16)
    nib.AnalyzeImage(voxels, np.eye(4), header).to_filename(tmp_path / "a.img")
    read_scan(tmp_path / "a.hdr")
    size = 2 if offset < 80 else 4
    words = np.frombuffer(content, f"<i{size}").astype(f"{order}i{size}").tobytes()
    raw = bytearray((tmp_path / "a.hdr").read_bytes())
    raw[offset : offset + len(words)] = words
    (tmp_path / "a.hdr").write_bytes(raw)
    for path in (tmp_path / "a.hdr", tmp_path / "a.img"):
        for read in (read_scan, read_geometry):
            with pytest.raises(DataError, match=message) as error:
                read(path)
            assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_mgh_header_without_geometry_raises(tmp_path, voxels, suffix):
    image = nib.MGHImage(voxels, AFFINE)
    image.header["goodRASFlag"] = 0
    content = image.header.binaryblock + voxels.astype(">i2").tobytes(order="F")
    (tmp_path / f"a{suffix}").write_bytes(content if suffix == ".mgh" else gzip.compress(content))
    with pytest.raises(DataError, match=r"does not define the position of voxels \(goodRASFlag is 0\)"):
        read_scan(tmp_path / f"a{suffix}")


FREE_TEXT = {
    "descrip": b"Doe^Jane",
    "aux_file": b"jane.txt",
    "intent_name": b"jane",
    "db_name": b"doe",
    "data_type": b"d",
}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
def test_free_text_is_not_copied(tmp_path, voxels, kind):
    image = kind(voxels, AFFINE)
    for field, text in FREE_TEXT.items():
        if field in image.header:
            image.header[field] = text
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    path = tmp_path / ("a.img" if kind is nib.Nifti1Pair else "a.nii")
    image.to_filename(path)
    write_segmentation(np.ones((5, 6, 7), np.uint8), path, tmp_path / "seg.nii")
    with ProbabilityFile(tmp_path / "prob.nii", path) as probabilities:
        probabilities.array(2)[:] = 0
    for name in ("seg.nii", "prob.nii"):
        content = (tmp_path / name).read_bytes().lower()
        assert b"doe" not in content
        assert b"jane" not in content
        np.testing.assert_array_equal(nib.load(tmp_path / name).affine, nib.load(path).affine)
    assert scans.geometry_header(path, np.uint8)["descrip"] == b""


def rotated(degrees, axis=0):
    angles = [0.0, 0.0, 0.0]
    angles[axis] = np.radians(degrees)
    return nib.eulerangles.euler2mat(*angles)


@pytest.mark.parametrize("tilt", [0, 0.01, 0.05, 0.1, 0.2, 5])
def test_qform_rounding_is_not_a_difference(tmp_path, tilt):
    """Near 180 degrees, single precision has errors of 0.08 degrees; corners of this MR move by up to 0.4 mm."""
    turn = rotated(180 + tilt, 2) @ rotated(0.07) @ rotated(tilt / 2, 1)
    exact = nib.affines.from_matvec(turn @ np.diag([0.39, 0.39, 0.625]), [100, 90, -40])
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 120))
    header.set_qform(exact, 1)
    image, label = (Geometry((512, 512, 120), affine) for affine in (exact, header.get_qform()))
    assert image.difference(label) is None
    assert label.difference(image) is None
    for voxel in np.eye(3):
        shifted = exact.copy()
        shifted[:3, 3] += 0.5 * exact[:3, :3] @ voxel
        assert "mm apart" in Geometry((512, 512, 120), shifted).difference(label)
    turned = nib.affines.from_matvec(rotated(0.12, 2) @ exact[:3, :3], exact[:3, 3])
    assert "mm apart" in image.difference(Geometry((512, 512, 120), turned))
    larger = nib.affines.from_matvec(exact[:3, :3] * 1.001, exact[:3, 3])
    assert "mm apart" in image.difference(Geometry((512, 512, 120), larger))
