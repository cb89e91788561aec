"""Input and output of scans in all formats: arrays (C, X, Y, Z), affines in RAS+ mm."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from segbundle.errors import DataError, OutputError
from segbundle.io import nifti, scans
from segbundle.io.scan_files import files_of, is_dicom_folder, stem
from segbundle.io.scans import Geometry, read_geometry, read_scan, write_segmentation
from tiny import write_nifti

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.05) @ np.diag([-0.4, 0.4, 6.5]), [12.5, -40.0, 7.25]
)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def itk_twin(path, array, affine):
    """Write a volume with SimpleITK: convert a RAS+ affine and (X, Y, Z) to LPS+ and (Z, Y, X)."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_all_formats_give_the_same_scan(tmp_path, voxels, suffix):
    path = tmp_path / f"scan{suffix}"
    itk_twin(path, voxels, OBLIQUE)
    scan = read_scan(path)
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array[0], voxels)
    np.testing.assert_allclose(scan.geometry.affine, OBLIQUE, atol=1e-4)
    np.testing.assert_allclose(scan.geometry.spacing, [0.4, 0.4, 6.5], rtol=1e-5)
    header = read_geometry(path)
    assert (header.shape, header.channels) == ((5, 6, 7), 1)
    np.testing.assert_allclose(header.affine, scan.geometry.affine, atol=1e-9)


def test_files_of(tmp_path, voxels):
    for suffix, data in {".nii": [], ".mha": [], ".nrrd": [], ".mhd": ["a.raw"], ".nhdr": ["a.raw"]}.items():
        folder = tmp_path / suffix
        folder.mkdir()
        itk_twin(folder / f"a{suffix}", voxels, OBLIQUE)
        assert [file.name for file in files_of(folder / f"a{suffix}")] == [f"a{suffix}", *data]
        assert [file.name for file in files_of(folder)] == sorted([f"a{suffix}", *data])
    for name in ("s1.raw", "s2.raw", "other.raw"):
        (tmp_path / name).write_bytes(b"")
    header = tmp_path / "many.mhd"
    for data in ("s%d.raw 1 2 1", "LIST\ns1.raw\ns2.raw"):
        header.write_text(f"NDims = 3\nElementDataFile = {data}\n")
        assert [file.name for file in files_of(header)] == ["many.mhd", "s1.raw", "s2.raw"]
    assert files_of(tmp_path / "nothing.mhd") == [tmp_path / "nothing.mhd"]


def test_scale_slope_and_intercept_are_applied(tmp_path, voxels):
    path = write_nifti(tmp_path / "scaled.nii.gz", voxels, slope=0.5, inter=-50)
    np.testing.assert_allclose(read_scan(path).array[0], voxels * 0.5 - 50)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, np.uint16])
def test_dtypes(tmp_path, dtype):
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    np.testing.assert_array_equal(read_scan(write_nifti(tmp_path / "a.nii", array)).array[0], array)


STORED = ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", ">u8", "<f4", ">f4", "<f8"]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("scaling", [(None, None), (1, -1024), (0.3, 0), (1e-3, 7)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_voxels_equal_nibabel(tmp_path, monkeypatch, stored, scaling, kind, suffix):
    stored = np.dtype(stored)
    array = np.random.default_rng(0).integers(0, 255, (5, 4, 3, 2)).astype(stored)
    if stored.itemsize == 8 and stored.kind != "f":
        array = array * stored.type(2**47 + 2**23 + 1)  # float64 and float32 cannot represent all of these values
    header = kind.header_class(endianness="big" if stored.str[0] == ">" else "little")
    header.set_data_dtype(stored)
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"voxels start later"))
    image = kind(array, OBLIQUE, header)
    image.header.set_slope_inter(*scaling)
    image.to_filename(tmp_path / f"a{suffix}")
    written = nib.load(tmp_path / f"a{suffix}").dataobj
    monkeypatch.setattr(nifti, "_CHUNK", 50)
    for dtype in (None, np.float32):
        expected = np.moveaxis(np.asarray(written, dtype=dtype), -1, 0)
        found = read_scan(tmp_path / f"a{suffix}", dtype).array
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_gzip_with_several_members(tmp_path, voxels):
    """bgzip and pigz write such files."""
    content = write_nifti(tmp_path / "a.nii", voxels).read_bytes()
    parts = [content[start : start + 150] for start in range(0, len(content), 150)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii.gz").array[0], voxels)


def test_memory_order_is_that_of_the_file(tmp_path, voxels):
    assert read_scan(write_nifti(tmp_path / "a.nii.gz", voxels)).array[0].flags.f_contiguous


def test_4d_images_are_channel_first(tmp_path):
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float32)
    scan = read_scan(write_nifti(tmp_path / "a.nii.gz", array))
    assert scan.array.shape == (5, 2, 3, 4)
    np.testing.assert_array_equal(scan.array[3], array[..., 3])
    assert read_geometry(tmp_path / "a.nii.gz").channels == 5


def test_one_file_per_channel(tmp_path, voxels):
    paths = [write_nifti(tmp_path / f"a_000{c}.nii.gz", voxels + c) for c in (0, 1)]
    scan = read_scan(paths)
    assert scan.array.shape == (2, 5, 6, 7)
    assert scan.geometry.channels == 2
    np.testing.assert_array_equal(scan.array[1] - scan.array[0], 1)


def test_channels_on_different_grids_raise(tmp_path, voxels):
    paths = [write_nifti(tmp_path / "a_0000.nii", voxels), write_nifti(tmp_path / "a_0001.nii", voxels[1:])]
    with pytest.raises(DataError, match=r"a_0001\.nii: its geometry differs .* a_0000\.nii: shape \(5, 6, 7\)"):
        read_scan(paths)


def test_a_single_slice_is_one_voxel_thick(tmp_path):
    assert read_scan(write_nifti(tmp_path / "a.nii", np.ones((4, 5), np.int16))).array.shape == (1, 4, 5, 1)


def write_dicom_series(folder, voxels, series="1.2.3", first=1):
    """Write CT slices like a scanner: 2 x 3 mm in plane, 4 mm apart."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(voxels.shape[2]):
        image = sitk.GetImageFromArray(voxels[:, :, z].T[None])
        image.SetSpacing([2.0, 3.0, 4.0])
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0008|0018": f"{series}.{z + 1}",
            "0020|0032": f"10\\20\\{-30 + 4 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(z),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{first + z:03d}.dcm"))
        writer.Execute(image)


def test_a_dicom_series(tmp_path, voxels):
    write_dicom_series(tmp_path / "series", voxels)
    assert is_dicom_folder(tmp_path / "series")
    assert not is_dicom_folder(tmp_path)
    scan = read_scan(tmp_path / "series")
    np.testing.assert_array_equal(scan.array[0], voxels)
    expected = [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, -30], [0, 0, 0, 1]]
    np.testing.assert_allclose(scan.geometry.affine, expected)
    assert read_geometry(tmp_path / "series").shape == (5, 6, 7)


def test_two_dicom_series_in_a_folder_raise(tmp_path, voxels):
    write_dicom_series(tmp_path / "s", voxels)
    write_dicom_series(tmp_path / "s", voxels, series="1.2.4", first=20)
    with pytest.raises(DataError, match="2 DICOM volumes"):
        read_scan(tmp_path / "s")


def test_dicom_series_with_missing_slice_raises(tmp_path, voxels):
    write_dicom_series(tmp_path / "s", voxels)
    (tmp_path / "s" / "003.dcm").unlink()
    with pytest.raises(DataError, match="its slices are 4 to 8 mm apart; a slice is missing"):
        read_scan(tmp_path / "s")


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_units_are_converted_to_millimeters(tmp_path, voxels, unit, mm):
    image = nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_scan(tmp_path / "a.nii").geometry.spacing, 2 * mm)


def test_missing_file(tmp_path):
    for path in (tmp_path / "no.nii.gz", tmp_path / "no.mha"):
        with pytest.raises(DataError, match=rf"{path.name}: no such file"):
            read_scan(path)


def test_pipe_raises(tmp_path):
    for name in ("a.nii.gz", "a.mha", "a"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: is a pipe or a device"):
            read_scan(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    itk_twin(path, np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16), np.eye(4))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"scan\{suffix}: cannot be read .* truncated"):
        read_scan(path)


@pytest.mark.parametrize("kept", [0, 5, 200, 400, -20, -9, -1])
def test_truncated_gzip_raises(tmp_path, voxels, kept):
    path = write_nifti(tmp_path / "a.nii.gz", voxels)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"a\.nii\.gz: cannot be read"):
        read_scan(path)


def test_truncated_uncompressed_file_raises(tmp_path, voxels):
    path = write_nifti(tmp_path / "a.nii", voxels)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.nii: cannot be read"):
        read_scan(path)


@pytest.mark.parametrize("position", [200, -100, -6])
def test_damaged_gzip_raises(tmp_path, voxels, position):
    """The last bytes are the checksum; nibabel does not read it."""
    path = write_nifti(tmp_path / "a.nii.gz", voxels)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz: cannot be read"):
        read_scan(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha"])
def test_wrong_suffix_raises(tmp_path, name):
    (tmp_path / name).write_text("not a scan")
    with pytest.raises(DataError, match=rf"{name}: cannot be read"):
        read_scan(tmp_path / name)


def test_complex_voxels_raise(tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.ones((2, 2, 2), np.complex64))
    with pytest.raises(DataError, match=r"a\.nii: contains complex voxels; convert them to one real value per voxel"):
        read_scan(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 2, 2), np.complex64)), str(tmp_path / "a.nrrd"))
    with pytest.raises(DataError, match=r"a\.nrrd: contains complex voxels"):
        read_scan(tmp_path / "a.nrrd")


def test_5d_images_raise(tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.ones((2, 2, 2, 2, 2), np.int16))
    with pytest.raises(DataError, match="a 3D scan"):
        read_scan(path)


def test_singular_affine_raises(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.int16), None)
    image.header.set_sform(np.zeros((4, 4)), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="affine is singular"):
        read_scan(tmp_path / "a.nii")


def raw_geometry(path):
    """Return all header fields that define the geometry."""
    header = nib.load(path).header
    fields = ["pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"]
    fields += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]
    return header.get_data_shape()[:3], [header[field].tobytes() for field in fields]


@pytest.mark.parametrize(("qcode", "scode"), [(1, 1), (0, 2), (3, 0), (0, 0), (1, 4)])
def test_label_map_keeps_header_geometry(tmp_path, voxels, qcode, scode):
    image = nib.Nifti1Image(voxels, OBLIQUE)
    image.header.set_qform(OBLIQUE, code=qcode)
    image.header.set_sform(OBLIQUE, code=scode)
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_slope_inter(2, -7)
    nib.save(image, tmp_path / "scan.nii.gz")
    labels = np.abs(voxels) % 3
    write_segmentation(labels, tmp_path / "scan.nii.gz", tmp_path / "out" / "seg.nii.gz")
    assert raw_geometry(tmp_path / "scan.nii.gz") == raw_geometry(tmp_path / "out" / "seg.nii.gz")
    written = nib.load(tmp_path / "out" / "seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert written.get_data_dtype() == np.uint8
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seg.nii.gz"]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1].copy()[::-1]])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
def test_written_file_equals_nibabel(tmp_path, voxels, kind, suffix, arrange, dtype):
    image = kind(voxels, OBLIQUE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of the scan"))
    image.to_filename(tmp_path / "scan.nii")
    labels = arrange((np.abs(voxels) % 3).astype(dtype))
    path = tmp_path / f"seg{suffix}"
    write_segmentation(labels, tmp_path / "scan.nii", path)
    written = path.read_bytes()
    header = scans.geometry_header(tmp_path / "scan.nii", np.uint8)
    expected = kind(labels.astype(np.uint8), None, header)
    assert (gzip.decompress(written) if suffix == ".nii.gz" else written) == expected.to_bytes()
    write_segmentation(labels, tmp_path / "scan.nii", path)
    assert path.read_bytes() == written


def test_label_map_of_multichannel_scan_is_3d(tmp_path, voxels):
    path = write_nifti(tmp_path / "scan.nii.gz", np.stack([voxels, voxels], axis=-1), OBLIQUE)
    write_segmentation(np.ones((5, 6, 7), int), path, tmp_path / "seg.nii.gz")
    assert nib.load(tmp_path / "seg.nii.gz").shape == (5, 6, 7)
    np.testing.assert_array_equal(nib.load(tmp_path / "seg.nii.gz").affine, nib.load(path).affine)


def test_label_map_of_other_format_keeps_geometry(tmp_path, voxels):
    itk_twin(tmp_path / "scan.mha", voxels, OBLIQUE)
    write_segmentation(np.ones((5, 6, 7), int), tmp_path / "scan.mha", tmp_path / "seg.nii.gz")
    written = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-4)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    assert written.header.get_xyzt_units()[0] == "mm"


def test_more_than_256_classes_use_int16(tmp_path, voxels):
    path = write_nifti(tmp_path / "scan.nii", voxels)
    write_segmentation(np.full((5, 6, 7), 300), path, tmp_path / "seg.nii")
    assert nib.load(tmp_path / "seg.nii").get_data_dtype() == np.int16


def test_label_map_of_other_shape_raises(tmp_path, voxels):
    path = write_nifti(tmp_path / "scan.nii", voxels)
    with pytest.raises(DataError, match=r"the scan has shape \(5, 6, 7\), but its label map has \(5, 6, 6\)"):
        write_segmentation(np.ones((5, 6, 6), int), path, tmp_path / "seg.nii")


def test_unwritable_output_raises(tmp_path, voxels):
    path = write_nifti(tmp_path / "scan.nii", voxels)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"seg\.nii: cannot be written"):
        write_segmentation(np.ones((5, 6, 7), int), path, tmp_path / "file" / "seg.nii")


def test_geometry_difference_ignores_rounding():
    one = Geometry((10, 10, 10), np.eye(4))
    rounded, shifted = np.eye(4), np.eye(4)
    rounded[0, 0], shifted[0, 3] = 1 + 1e-5, 0.5
    assert one.difference(Geometry((10, 10, 10), rounded)) is None
    assert "0.5 mm apart" in one.difference(Geometry((10, 10, 10), shifted))
    assert "shape" in one.difference(Geometry((10, 10, 9), np.eye(4)))


@pytest.mark.parametrize(
    ("name", "expected"), [("a/case.01.nii.gz", "case.01"), ("b.NII.GZ", "b"), ("c.mha", "c"), ("folder", "folder")]
)
def test_stem(name, expected):
    assert stem(name) == expected
