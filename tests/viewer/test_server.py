"""Responses of the viewer's server."""

import gzip
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from runs_by_hand import AFFINE, CASES, RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.viewer import make_server
from segbundle.viewer.shown_cases import shown_cases
from tiny import write_nifti


@pytest.fixture
def ask(request):
    """Return a function that serves a run and returns a function for requests: (status, content, headers)."""

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


def test_cases_are_sorted_by_dice_worst_first(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    found = json.loads(get("/cases.json")[1])
    assert [case["case"] for case in found["cases"]] == ["invented", "missed", "shifted", "perfect"]
    assert found["cases"][2]["summary"] == "Dice: ball 0.750, cube 1.000"
    assert [one["name"] for one in found["classes"]] == ["ball", "cube"]
    assert found["cases"][0]["volumes"] == ["scan", "reference", "prediction", "errors"]


def test_volumes_match_the_files(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    status, content, _ = get("/volumes/2/prediction.nii.gz")
    assert status == 200
    image = volume(content)
    np.testing.assert_array_equal(np.asarray(image.dataobj), CASES["shifted"][0])
    assert image.header.get_zooms() == (2, 1, 1)
    np.testing.assert_array_equal(np.asarray(volume(get("/volumes/2/reference.nii.gz")[1]).dataobj), RIGHT)
    assert get("/volumes/2/scan.nii.gz")[1] == (tmp_path / "scans" / "shifted.nii.gz").read_bytes()


def test_unknown_voxels_become_background(ask, tmp_path):
    ref = RIGHT.copy()
    ref[9:] = 255
    get = ask(write_evaluation(tmp_path, {"a": (RIGHT, ref)}))
    found = np.asarray(volume(get("/volumes/0/reference.nii.gz")[1]).dataobj)
    np.testing.assert_array_equal(found, np.where(ref == 255, 0, ref))


def test_missing_report_is_written(ask, tmp_path):
    get = ask(write_evaluation(tmp_path))
    assert b"invented" in get("/report.html")[1]
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
def test_other_addresses_are_not_found(ask, tmp_path, path):
    get = ask(write_evaluation(tmp_path))
    assert get(path or "/?/../x")[0] == (404 if path else 200)


def test_other_host_names_are_forbidden(ask, tmp_path):
    """A page on another host whose name resolves to 127.0.0.1 (DNS rebinding) is rejected."""
    get = ask(write_evaluation(tmp_path))
    assert get("/cases.json", host="evil.example")[0] == 403
    assert get("/cases.json", host="127.0.0.1:1")[0] == 403
    assert get("/cases.json")[2]["Cross-Origin-Resource-Policy"] == "same-origin"


def test_other_formats_are_converted_to_nifti(ask, tmp_path):
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


def test_missing_and_damaged_files_are_reported(ask, tmp_path, capfd):
    write_evaluation(tmp_path)
    get = ask(tmp_path)
    (tmp_path / "invented_seg.nii.gz").write_bytes(b"no longer a label map")
    for name in ("prediction", "errors"):
        status, content, _ = get(f"/volumes/0/{name}.nii.gz")
        assert status == 500
        assert b"invented_seg.nii.gz: cannot be read" in content
    (tmp_path / "scans" / "missed.nii.gz").unlink()
    found = json.loads(ask(tmp_path)("/cases.json")[1])["cases"][1]
    assert found["volumes"] == ["reference", "prediction", "errors"]
    assert found["problem"].startswith("The scan does not exist. If the dataset was moved")
    assert "Traceback" not in capfd.readouterr().err


def no_nifti(path):
    path.write_bytes(b"no longer a scan")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])  # its header can be read


def patched(path, place, value):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:place] + value + content[place + len(value) :]))


def unknown_unit(path):
    patched(path, 123, b"\x07")


def float128(path):
    patched(path, 70, (1536).to_bytes(2, "little"))


def complex_voxels(path):
    write_nifti(path, RIGHT.astype(np.complex64), AFFINE)


@pytest.mark.parametrize("damage", [no_nifti, truncated, unknown_unit, float128, complex_voxels, Path.unlink])
def test_damaged_scan_error_names_the_file(ask, tmp_path, damage, capfd):
    get = ask(write_evaluation(tmp_path))
    damage(tmp_path / "scans" / "missed.nii.gz")
    status, content, _ = get("/volumes/1/scan.nii.gz")
    assert status == 500
    assert b"missed.nii.gz: " in content
    assert get("/volumes/0/scan.nii.gz")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.int8])
def test_voxel_types_unsupported_by_browsers_are_converted(ask, tmp_path, dtype):
    get = ask(write_evaluation(tmp_path))
    array = np.arange(RIGHT.size).reshape(RIGHT.shape) % 100
    image = nib.Nifti1Image(array.astype(dtype), AFFINE, dtype=dtype)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scans" / "missed.nii.gz")
    found = volume(get("/volumes/1/scan.nii.gz")[1])
    assert found.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(found.dataobj), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_voxel_types_supported_by_browsers_are_unchanged(ask, tmp_path, dtype):
    get = ask(write_evaluation(tmp_path))
    path = write_nifti(tmp_path / "scans" / "missed.nii.gz", RIGHT.astype(dtype), AFFINE)
    assert get("/volumes/1/scan.nii.gz")[1] == path.read_bytes()


def test_error_map_marks_missed_and_false_positive_voxels(ask, tmp_path):
    right = np.array([[[0, 0, 1, 1, 1, 2, 255, 255]]], np.uint8)
    found = np.array([[[0, 2, 1, 0, 2, 2, 0, 1]]], np.uint8)
    wrong = np.array([[[0, 2, 0, 1, 1, 0, 0, 0]]], np.uint8)
    get = ask(write_evaluation(tmp_path, {"a": (found, right)}))
    image = volume(get("/volumes/0/errors.nii.gz")[1])
    np.testing.assert_array_equal(np.asarray(image.dataobj), wrong)
    np.testing.assert_array_equal(image.affine, AFFINE)
    words = [one["name"] for one in json.loads(get("/cases.json")[1])["errors"]]
    assert words == ["missed or wrong class", "predicted in the background"]


def test_unannotated_class_is_not_an_error(ask, tmp_path):
    found, right = labels((1, 2, 2), (7, 9, 8)), labels((2, 2, 2))
    annotated = {"a": np.array([True, True, False])}
    get = ask(write_evaluation(tmp_path, {"a": (found, right), "b": (found, right)}, annotated))
    cases = [case["case"] for case in json.loads(get("/cases.json")[1])["cases"]]
    for case, invented_cube in (("a", 0), ("b", 4**3)):
        errors = np.asarray(volume(get(f"/volumes/{cases.index(case)}/errors.nii.gz")[1]).dataobj)
        assert [(errors == value).sum() for value in (1, 2)] == [16, 16 + invented_cube]


def test_label_maps_on_different_grids_have_no_error_map(ask, tmp_path):
    get = ask(write_evaluation(tmp_path, {"a": CASES["shifted"]}, affine_ref=np.diag([1.0, 1.0, 1.0, 1.0])))
    status, content, _ = get("/volumes/0/errors.nii.gz")
    assert status == 500
    assert b"are on different grids" in content
    assert get("/volumes/0/reference.nii.gz")[0] == 200


def test_error_map_of_a_reference_with_other_axes(ask, tmp_path):
    get = ask(write_evaluation(tmp_path, {"a": CASES["shifted"]}))
    expected = np.asarray(volume(get("/volumes/0/errors.nii.gz")[1]).dataobj)
    path = tmp_path / "labels" / "a.nii.gz"
    nib.save(nib.load(path).as_reoriented([[1, 1], [2, -1], [0, -1]]), path)
    found = volume(get("/volumes/0/errors.nii.gz")[1])
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_array_equal(found.affine, AFFINE)


def test_report_older_than_its_run_is_updated(ask, tmp_path):
    write_evaluation(tmp_path)
    report = tmp_path / "report.html"
    report.write_text("as it was")
    assert ask(tmp_path)("/report.html")[1] == b"as it was"
    for name in ("metrics.csv", "summary.json", "run.json"):
        report.write_text("as it was")
        later = time.time() + 60
        os.utime(tmp_path / name, (later, later))
        assert b"invented" in ask(tmp_path)("/report.html")[1], name
        os.utime(tmp_path / name)
        os.utime(report)


def test_report_older_than_its_predictions_is_updated(ask, tmp_path):
    write_predictions(tmp_path, {"a": RIGHT})
    (tmp_path / "report.html").write_text("as it was")
    os.utime(tmp_path / "report.html", (1, 1))
    assert b"as it was" not in ask(tmp_path)("/report.html")[1]


@contextmanager
def viewing(run, *program, **variables):
    """Run the real command and yield its address and its process."""
    command = [*program, str(Path(sys.executable).parent / "segbundle"), "view", str(run), "--no-browser"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | variables, **pipes) as process:
        try:
            yield process.stdout.readline().split()[0], process
        finally:
            process.kill()


def test_read_only_folder_has_a_temporary_report(tmp_path):
    mortal = []
    if os.geteuid() == 0:  # root may write anywhere, unless that is taken from it
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv")
        mortal = ["setpriv", "--bounding-set=-dac_override"]
    run, elsewhere = write_predictions(tmp_path / "run", {"a": RIGHT}), tmp_path / "elsewhere"
    elsewhere.mkdir()
    run.chmod(0o555)
    held = sorted(run.iterdir())
    with viewing(run, *mortal, TMPDIR=str(elsewhere)) as (address, process):
        with urllib.request.urlopen(f"{address}report.html") as answer:
            assert b"<html" in answer.read()
        assert len(list(elsewhere.glob("*/report.html"))) == 1
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    run.chmod(0o755)
    assert process.returncode == 0
    assert "cannot be written" in stderr
    assert str(elsewhere) in stderr
    assert list(elsewhere.iterdir()) == []
    assert sorted(run.iterdir()) == held


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_interrupted(tmp_path, how):
    with viewing(write_evaluation(tmp_path)) as (address, process):
        with urllib.request.urlopen(f"{address}cases.json") as answer:
            assert len(json.load(answer)["cases"]) == 4
        process.send_signal(how)
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")


def test_port_in_use_and_folder_without_run_raise(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match=r"port \d+ cannot be used"):
            make_server(write_evaluation(tmp_path / "run"), taken.getsockname()[1])
    with pytest.raises(OutputError, match=r"predictions\.json"):
        make_server(tmp_path)


def test_closed_connection_leaves_no_traceback(tmp_path, capfd):
    server = make_server(write_evaluation(tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for _ in range(10):
        with socket.create_connection(server.server_address) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
            connection.sendall(f"GET /report.html HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
    server.shutdown()
    server.server_close()  # waits for its threads
    assert capfd.readouterr().err == ""


def test_failed_request_is_logged_in_one_line(tmp_path, capfd, caplog):
    server = make_server(write_evaluation(tmp_path))
    for error in (BrokenPipeError(32, "Broken pipe"), ValueError("no such case")):
        try:
            raise error
        except (OSError, ValueError):
            server.handle_error(None, None)
    server.server_close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "A request failed: no such case"
    ]
    assert "Traceback" not in capfd.readouterr().err


def test_niivue_components_come_with_their_licenses():
    folder = files("segbundle.viewer") / "static" / "niivue"
    text, script = ((folder / name).read_text("utf-8") for name in ("THIRD_PARTY_LICENSES", "niivue.umd.js"))
    heads = re.findall(r"^={100}\n(.+), (.+)\n={100}\n", text, re.MULTILINE)
    bundled = ("@lukeed/uuid", "@ungap/structured-clone", "@zarrita/storage", "array-equal", "fflate", "gl-matrix",
               "nifti-reader-js", "numcodecs", "zarrita", "c-blosc", "LZ4", "Zstandard")  # fmt: skip
    for name in bundled:
        assert any(re.match(rf"{re.escape(name)} \d+\.\d+\.\d+$", head) for head, _ in heads), name
    assert script.count("AGFzbQ") == 3  # the WebAssembly of numcodecs, and no other
    assert len(re.findall(r"Permission is hereby granted|Redistribution and use|Permission to use", text)) >= 15


def test_run_without_known_files_raises(tmp_path):
    """For instance a training: it has validation scores but no files of cases."""
    run = write_evaluation(tmp_path / "run", files=False)
    with pytest.raises(OutputError, match="Give the output_dir of `segbundle evaluate`"):
        make_server(run)
    assert not (run / "report.html").exists()
    predictions = write_predictions(tmp_path / "predictions", {})
    with pytest.raises(OutputError, match="does not list the files of its cases"):
        make_server(predictions)


def test_moved_dataset_is_found_with_dataset_dir(tmp_path):
    write_predictions(tmp_path / "run", {"a": RIGHT})
    shutil.move(tmp_path / "run" / "scans", tmp_path / "new" / "scans")
    found = str(tmp_path / "new" / "scans" / "a.nii.gz")
    for now in ("new", "new/scans"):
        assert shown_cases(tmp_path / "run", tmp_path / now)[0][0].files["scan"] == found
    assert "scan" not in shown_cases(tmp_path / "run", tmp_path / "nowhere")[0][0].files


def test_predictions_with_warnings_come_first(ask, tmp_path):
    scans = {"a": RIGHT, "b": labels((1, 2, 2), (8, 9, 8)), "c": RIGHT}  # the cube of b ends in the last layer
    found = json.loads(ask(write_predictions(tmp_path, scans))("/cases.json")[1])["cases"]
    assert [case["case"] for case in found] == ["b", "a", "c"]
    assert found[0]["label"] == "b (cube touches the edge of the scan and may be cut off)"
    assert found[1]["summary"] == ""
    write_nifti(tmp_path / "scans" / "c.nii.gz", np.zeros(RIGHT.shape, np.float32), AFFINE)
    (tmp_path / "report.html").unlink()
    found = json.loads(ask(tmp_path)("/cases.json")[1])["cases"]
    assert [case["summary"] for case in found if case["case"] == "c"] == ["the scan has the same value everywhere"]
