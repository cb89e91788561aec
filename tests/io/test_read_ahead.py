import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest

from segbundle.errors import DataError
from segbundle.io.read_ahead import BackgroundReader, begin_reading, read_begun


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


def test_calls_run_in_order_in_one_thread():
    reader, order = BackgroundReader("a name"), []
    waiting = threading.Event()
    first = reader.submit(lambda: (waiting.wait(60), order.append(1), threading.current_thread()))
    second = reader.submit(lambda: (order.append(2), threading.current_thread()))
    assert not first.done() and not second.done()
    waiting.set()
    assert first.result()[-1] is second.result()[-1]
    assert first.result()[-1].name == "a name"
    assert order == [1, 2]


def test_error_of_a_call_is_raised_on_request():
    reader = BackgroundReader()
    failed = reader.submit(int, "x")
    assert reader.submit(int, "7").result() == 7
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()


@pytest.mark.e2e
@pytest.mark.parametrize("must_finish", [True, False])
def test_program_waits_for_calls_that_must_finish(must_finish, tmp_path):
    """Without waiting, a library in the thread may crash when the interpreter ends."""
    program = (
        "import sys, time; from pathlib import Path; from segbundle.io.read_ahead import reader\n"
        "def read(): time.sleep(1 if sys.argv[1] == 'True' else 600); Path(sys.argv[2]).touch()\n"
        "reader.submit(read, must_finish=sys.argv[1] == 'True')"
    )
    path = tmp_path / "finished"
    subprocess.run([sys.executable, "-c", program, str(must_finish), path], check=True, timeout=300)
    assert path.exists() == must_finish
