"""What the viewer's server answers, and what it does not."""

import gzip
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from runs_by_hand import CASES, RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.viewer import make_server


@pytest.fixture
def ask(request):
    """Starts a run's server and returns a function that asks it: (status, content, headers)."""

    def started(run):
        server = make_server(run)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        assert server.server_address[0] == "127.0.0.1"

        def get(path, host=None):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.putrequest("GET", path, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

        return get

    return started


def volume(content):
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_cases_come_worst_first_with_their_dice(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    found = json.loads(get("/cases.json")[1])
    assert [case["case"] for case in found["cases"]] == ["invented", "missed", "shifted", "perfect"]
    assert found["cases"][2]["scores"] == "ball 0.750, cube 1.000"
    assert [one["name"] for one in found["classes"]] == ["ball", "cube"]
    assert found["cases"][0]["volumes"] == ["scan", "reference", "prediction"]


def test_volumes_are_those_of_the_case(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    status, content, _ = get("/volumes/2/prediction.nii.gz")
    assert status == 200
    image = volume(content)
    np.testing.assert_array_equal(np.asarray(image.dataobj), CASES["shifted"][0])
    assert image.header.get_zooms() == (2, 1, 1)
    np.testing.assert_array_equal(np.asarray(volume(get("/volumes/2/reference.nii.gz")[1]).dataobj), RIGHT)
    assert get("/volumes/2/scan.nii.gz")[1] == (tmp_path / "scans" / "shifted.nii.gz").read_bytes()


def test_unknown_voxels_are_no_class_there(ask, tmp_path):
    ref = RIGHT.copy()
    ref[9:] = 255
    get = ask(write_evaluation(tmp_path, {"a": (RIGHT, ref)}))
    found = np.asarray(volume(get("/volumes/0/reference.nii.gz")[1]).dataobj)
    np.testing.assert_array_equal(found, np.where(ref == 255, 0, ref))


def test_the_report_is_made_if_there_is_none(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    assert b"Scores of" in get("/report.html")[1]
    assert (tmp_path / "report.html").exists()
    assert b"<canvas" in get("/")[1]
    for name in ("viewer.js", "viewer.css", "niivue/niivue.umd.js"):
        assert get(f"/static/{name}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/niivue/LICENSE", "//etc/passwd", "/etc/passwd",
        "/volumes/0/../../metrics.csv", "/volumes/9/scan.nii.gz", "/volumes/-1/scan.nii.gz", "/volumes/0/labels.nii.gz",
        "/metrics.csv", "/run.json", "/volumes/0/scan.nii.gz/..", "/report.html/", "",
    ],
)  # fmt: skip
def test_nothing_else_is_answered(ask, tmp_path, path):
    get = ask(write_evaluation(tmp_path))
    assert get(path or "/?/../x")[0] == (404 if path else 200)


def test_other_names_are_refused(ask, tmp_path):
    """A page elsewhere whose name is made to lead here (DNS rebinding) gets nothing."""
    get = ask(write_evaluation(tmp_path))
    assert get("/cases.json", host="evil.example")[0] == 403
    assert get("/cases.json", host="127.0.0.1:1")[0] == 403
    assert get("/cases.json")[2]["Cross-Origin-Resource-Policy"] == "same-origin"


def test_other_formats_become_nifti(ask, tmp_path):
    write_predictions(tmp_path, {"a": labels((1, 2, 2))})
    array = np.arange(12 * 16 * 14, dtype=np.int16).reshape(14, 16, 12)  # Z, Y, X as SimpleITK has it
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "scan.nrrd"))
    records = json.loads((tmp_path / "predictions.json").read_text())
    records[0]["image"] = str(tmp_path / "scan.nrrd")
    (tmp_path / "predictions.json").write_text(json.dumps(records))
    (tmp_path / "report.html").write_text("not needed")
    get = ask(tmp_path)
    np.testing.assert_array_equal(np.asarray(volume(get("/volumes/0/scan.nii.gz")[1]).dataobj), array.T)
    assert json.loads(get("/cases.json")[1])["cases"][0]["volumes"] == ["scan", "prediction"]


def test_files_that_are_gone_or_broken_are_told(ask, tmp_path):
    write_evaluation(tmp_path)
    get = ask(tmp_path)
    (tmp_path / "invented_seg.nii.gz").write_bytes(b"no longer a label map")
    status, content, _ = get("/volumes/0/prediction.nii.gz")
    assert status == 500
    assert b"cannot be read" in content
    (tmp_path / "scans" / "missed.nii.gz").unlink()
    found = json.loads(ask(tmp_path)("/cases.json")[1])["cases"][1]
    assert found["volumes"] == ["reference", "prediction"]
    assert found["problem"] == "The scan is not where it was."


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    write_evaluation(tmp_path)
    command = [str(Path(sys.executable).parent / "segbundle"), "view", str(tmp_path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(f"{address}cases.json") as answer:
            assert len(json.load(answer)["cases"]) == 4
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")


def test_a_port_that_is_taken_and_a_folder_without_a_run(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match=r"port \d+ cannot be used"):
            make_server(write_evaluation(tmp_path / "run"), taken.getsockname()[1])
    with pytest.raises(OutputError, match=r"holds no predictions\.json"):
        make_server(tmp_path)
