"""Commands do not connect to or look up any host, except the MLflow server that the user names."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from commands import TINY

GUARD = """
import os, sys

LOOKS_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}

def guard(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if not isinstance(address, tuple):  # of a file
            return
        allowed = list(address[:2]) == ["127.0.0.1", int(os.environ["ALLOWED_PORT"])]
    elif event in LOOKS_UP:
        allowed = args[0] in ("127.0.0.1", ("127.0.0.1", int(os.environ["ALLOWED_PORT"])))
    else:
        return
    if not allowed:
        with open(os.environ["GUARD_LOG"], "a") as file:
            file.write(f"{event} {args}\\n")
        raise OSError("no network in this test")

sys.addaudithook(guard)
"""
SECRET = "hunter2-hunter2"
CI = ("CI", "GITHUB_ACTIONS", "CIRCLECI", "GITLAB_CI", "JENKINS_URL", "TRAVIS", "BUILDKITE", "PYTEST_CURRENT_TEST")
"""Environment variables with which MLflow does not send telemetry."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield a server that answers the requests of MLflow's client and records them with their credentials."""
    info = {"run_id": "1" * 32, "run_uuid": "1" * 32, "experiment_id": "1", "status": "RUNNING", "run_name": "out"}
    info["artifact_uri"] = tmp_path_factory.mktemp("artifacts").as_uri()
    answer = {"experiment": {"experiment_id": "1", "name": "segbundle"}, "run": {"info": info}, "run_info": info}

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path.partition("?")[0], self.headers.get("Authorization")))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = asked
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, server):
    """Return a function that runs a command, allows connections to the server only, and returns the output."""
    folder = tmp_path_factory.mktemp("guard")
    (folder / "sitecustomize.py").write_text(GUARD)
    search = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    env = {name: value for name, value in os.environ.items() if name not in CI}
    env |= {"PYTHONPATH": search, "GUARD_LOG": str(folder / "log"), "ALLOWED_PORT": str(server.server_port)}

    def run(*words, code=0):
        words = [str(word) for word in words]
        done = subprocess.run(words, env=env, capture_output=True, encoding="utf-8", check=False)
        log = folder / "log"
        assert not log.exists() or not log.read_text()
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.log = folder / "log"
    return run


def segbundle(*words):
    return [Path(sys.executable).parent / "segbundle", *words]


def test_guard_detects_connections(guarded):
    for attempt in ("socket.getaddrinfo('localhost', 80)", "socket.create_connection(('127.0.0.1', 9))"):
        with pytest.raises(AssertionError):
            guarded(sys.executable, "-c", f"import socket; {attempt}")
        guarded.log.unlink()


def test_commands_do_not_connect_or_store_secrets(guarded, server, dataset, tmp_path):
    out, port = tmp_path / "out", server.server_port
    uri = f"http://me:{SECRET}@127.0.0.1:{port}"
    model = ["--ckpt_path", out / "model.pt"]
    scan = next((dataset / "imagesTr").iterdir())
    printed = [
        guarded(*segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs", 2),
            "--mlflow_uri", uri),
        guarded(*segbundle("evaluate", "--config", TINY, "--dataset_dir", dataset, *model, "--output_dir",
            tmp_path / "scores", "--fold", 0, "--mlflow_uri", uri)),
        guarded(*segbundle("predict", scan, "--config", TINY, *model, "--output_dir", tmp_path / "seg", "--mlflow_uri",
            uri)),
        guarded(*segbundle("report", tmp_path / "scores")),
        guarded(*segbundle("report", tmp_path / "seg")),
        guarded(*segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "other",
            "--mlflow_uri", f"nowhere://me:{SECRET}@127.0.0.1/?token={SECRET}"), code=1),
    ]  # fmt: skip
    assert "mlflow_uri: nowhere://***@127.0.0.1/?*** cannot be used: " in printed[-1]
    paths, users = zip(*server.asked, strict=True)
    assert "/api/2.0/mlflow/runs/create" in paths and any(path.endswith("/runs/log-metric") for path in paths)
    assert set(users) == {"Basic " + b64encode(f"me:{SECRET}".encode()).decode()}
    assert not any(SECRET in text for text in printed)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "report.html", "last.pt", "predictions.json"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["mlflow_uri"] == f"http://***@127.0.0.1:{port}"
    assert f"--mlflow_uri 'http://***@127.0.0.1:{port}'" in run["command"]


def test_report_of_earlier_version_has_no_secrets(guarded, trained, tmp_path):
    page = tmp_path / "page.html"
    run = json.loads((trained / "run.json").read_text())
    run["command"] += f" --mlflow_uri http://me:{SECRET}@host"
    run["config"]["mlflow_uri"] = f"http://me:{SECRET}@host"
    before = (trained / "run.json").read_text()
    try:
        (trained / "run.json").write_text(json.dumps(run))
        guarded(*segbundle("report", trained, "--output", page))
    finally:
        (trained / "run.json").write_text(before)
    assert SECRET not in page.read_text() and "http://***@host" in page.read_text()


def test_monai_command_sends_no_telemetry(guarded, server, dataset, tmp_path):
    from commands import CONFIGS

    files = f"['{CONFIGS / 'train.yaml'}','{TINY}']"
    words = ["-m", "monai.bundle", "run", "--config_file", files, "--dataset_dir", dataset, "--max_epochs", 1]
    uri = f"http://127.0.0.1:{server.server_port}"
    guarded(sys.executable, *words, "--output_dir", tmp_path / "out", "--mlflow_uri", uri)
    assert (tmp_path / "out" / "last.pt").exists()
