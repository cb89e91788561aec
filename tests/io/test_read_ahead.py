import nibabel as nib
import numpy as np
import pytest

from segbundle.errors import DataError
from segbundle.io.read_ahead import begin_reading, read_begun


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    return path


def test_background_result_is_used_once(scan):
    begin_reading(scan)
    first, seconds = read_begun(str(scan))
    assert first.array.ravel().tolist() == list(range(24))
    assert seconds > 0
    again, none = read_begun(scan)
    assert again.array is not first.array
    assert none == 0


def test_background_error_is_raised_on_request(scan):
    scan.write_bytes(scan.read_bytes()[:40])
    begin_reading(scan)
    with pytest.raises(DataError, match=r"scan\.nii\.gz: cannot be read"):
        read_begun(scan)


def test_other_formats_are_not_read_in_background(tmp_path):
    begin_reading(tmp_path)
    begin_reading(tmp_path / "missing.nii.gz")
    with pytest.raises(DataError, match="no such file"):
        read_begun(tmp_path / "missing.nii.gz")


def test_channels_in_separate_files(scan):
    begin_reading(scan)
    both, _ = read_begun([scan, scan])
    assert both.array.shape == (2, 2, 3, 4)
    read_begun(scan)
