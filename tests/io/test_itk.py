"""NRRD and MetaImage files: separate data files, truncated files, and invalid headers."""

import numpy as np
import pytest
import SimpleITK as sitk

from segbundle.errors import DataError
from segbundle.io.scans import read_geometry, read_scan


def write(path, compressed=False):
    values = np.random.default_rng(0).integers(0, 999, (7, 6, 5)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path), compressed)
    return values.transpose(2, 1, 0)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".mha", ".nrrd"])
def test_compressed_and_uncompressed(tmp_path, suffix, compressed):
    values = write(tmp_path / f"a{suffix}", compressed)
    np.testing.assert_array_equal(read_scan(tmp_path / f"a{suffix}").array[0], values)
    found = read_scan(tmp_path / f"a{suffix}", None).array
    assert found.dtype == np.int16
    assert found.flags.writeable


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxel_file_is_named(tmp_path, suffix):
    write(tmp_path / f"a{suffix}")
    (tmp_path / "a.raw").write_bytes((tmp_path / "a.raw").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"says 210 voxels, 420 bytes; a\.raw has 419\). a\.raw may be truncated"):
        read_scan(tmp_path / f"a{suffix}")
    (tmp_path / "a.raw").unlink()
    for reading in (read_scan, read_geometry):
        with pytest.raises(DataError, match=r"its data file .*a\.raw is missing"):
            reading(tmp_path / f"a{suffix}")


def test_damaged_compressed_file_is_named(tmp_path):
    write(tmp_path / "a.mhd", compressed=True)
    (tmp_path / "a.zraw").write_bytes((tmp_path / "a.zraw").read_bytes()[:100])
    with pytest.raises(DataError, match=r"a\.mhd: cannot be read") as error:
        read_scan(tmp_path / "a.mhd")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("DimSize = 5 6 7", "DimSize = 50000 50000 50000", "its header says 125000000000000 voxels"),
        ("DimSize = 5 6 7", "DimSize = 5 0 7", "cannot be|cannot be read|has shape"),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 0 1", "cannot be read|affine is singular"),
        (
            "ElementSpacing = 1 1 1",
            "ElementSpacing = 1 1e9 1",
            r"implausible voxel size 1 x 1e\+09 x 1 mm",
        ),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 nan 1", "cannot be read|affine is (not finite|singular)"),
        ("Offset = 0 0 0", "Offset = 0 1e20 0", r"implausible distance from the origin: 1e\+20 mm"),
        ("MET_SHORT", "MET_NOTHING", "cannot be read|its header says"),
    ],
)
def test_invalid_header_raises(tmp_path, old, new, message):
    write(tmp_path / "a.mhd")
    text = (tmp_path / "a.mhd").read_text()
    assert old in text
    (tmp_path / "a.mhd").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message) as error:
        read_scan(tmp_path / "a.mhd")
    assert "\n" not in str(error.value)
