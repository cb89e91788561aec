"""Server process that imports segbundle once and runs each command in a fork.

    python -m fork_server

`ForkServer` starts the process, writes one JSON line per command to its stdin, and reads one JSON line as answer.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEMORY = 16 << 30
"""Bytes of address space of a command, so that one that asks for too much does not end the machine."""
_IMPORTS = (
    "torch", "monai.bundle", "monai.networks.nets", "monai.engines", "monai.transforms", "monai.data", "ignite.engine",
    "nibabel", "SimpleITK", "scipy.ndimage", "scipy.stats", "tqdm", "yaml", "fire", "pydantic", "filelock", "psutil",
    "jinja2", "PIL.Image", "matplotlib", "contourpy", "torch.utils.tensorboard", "isal.igzip", "typer",
    "torch.fx", "torch.nn.utils.fusion", "monai.handlers", "monai.inferers",
    "segbundle.cli.app", "segbundle.cli.check", "segbundle.workflow.cross_validation", "segbundle.datasets.case_checks",
    "segbundle.datasets.samples", "segbundle.reproductions.ignore_background", "segbundle.files.documents",
    *(f"segbundle.{room}" for room in (
        "acceleration", "audit", "checkpoints", "config", "datasets", "files", "inference", "io", "losses", "metrics",
        "report", "reproductions", "results", "sampling", "training", "transforms", "viewer", "workflow",
    )),
)  # fmt: skip


class ForkServer:
    """Runner of `segbundle` and `python -m monai.bundle` without import time, in a tenth of the usual time.

    Args:
        environment: environment of the server process.
        limit: seconds after which a command counts as hanging. Time in which other processes had its core is excluded.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, limit: float = 600.0) -> None:
        given = {**os.environ} if environment is None else environment
        path = os.pathsep.join([str(ROOT / "tests"), given.get("PYTHONPATH", str(ROOT / "src"))])
        self.limit = limit
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "fork_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**given, "PYTHONPATH": path}, encoding="utf-8",
        )  # fmt: skip

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        module: str | None = None,
    ) -> dict[str, Any]:
        """Run a command; return its exit code, stdout, stderr, seconds, and whether it was stopped as hanging.

        Args:
            words: arguments of the program.
            folder: working directory.
            environment: environment variables. Default: those of the server.
            module: module to run like `python -m`. Default: `segbundle`.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            asked = {
                "words": list(words), "folder": str(folder), "stdout": out.name, "stderr": err.name,
                "limit": self.limit, "module": module,
                "environment": None if environment is None else dict(environment),
            }  # fmt: skip
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            for name, file in (("out", out), ("err", err)):
                answer[name] = file.read().decode(errors="backslashreplace")
        return answer

    def close(self) -> None:
        """End the server process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    os.environ["EAGER_IMPORT"] = "1"  # packages import their members lazily
    for name in _IMPORTS:
        importlib.import_module(name)
    del os.environ["EAGER_IMPORT"]
    gc.freeze()  # garbage collection would write to memory pages, and every fork would copy them
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_run(asked)), file=answers, flush=True)


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_and_exit(asked)
    seen = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            code = os.waitstatus_to_exitcode(status)
            if seen and code == 128 + signal.SIGINT:  # exit code of a viewer that is stopped during an import
                code = 0
            return {"code": code, "seconds": seconds, "hang": False}
        if not seen and asked["words"][0] == "view":
            seen = _visit_viewer(Path(asked["stdout"]))
            if seen:
                os.kill(child, signal.SIGINT)
        if seconds > asked["limit"] and seconds - _waiting_seconds(child) > asked["limit"]:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"code": None, "seconds": seconds, "hang": True}
        time.sleep(0.005 if seconds < 2 else 0.05)


def _waiting_seconds(process: int) -> float:
    """Return the seconds in which a process was ready to run but had no core."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


def _visit_viewer(output: Path) -> bool:
    """Request all pages and volumes of a viewer, and return False if it has not printed its address yet."""
    address = re.search(rb"http://127\.0\.0\.1:\d+/", output.read_bytes())
    if address is None:
        return False
    root = address[0].decode()
    for name in ("", "report.html"):
        _get(root + name)
    cases = json.loads(_get(root + "cases.json") or b'{"cases": []}')["cases"]
    for number, case in enumerate(cases):
        for volume in case["volumes"]:
            _get(f"{root}volumes/{number}/{volume}.nii.gz")
    return True


def _get(address: str) -> bytes | None:
    try:
        with urllib.request.urlopen(address, timeout=20.0) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def _run_and_exit(asked: dict[str, Any]) -> None:
    """Run `segbundle WORDS` in this process and exit."""
    os.setsid()
    code = 1
    try:
        os.chdir(asked["folder"])
        if asked["environment"] is not None:
            os.environ.clear()
            os.environ.update(asked["environment"])
        for number, path in ((0, "/dev/null"), (1, asked["stdout"]), (2, asked["stderr"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o644), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        program = ["segbundle"] if asked["module"] is None else [sys.executable, "-m", asked["module"]]
        sys.argv, sys.orig_argv = ["segbundle", *asked["words"]], [*program, *asked["words"]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from segbundle.cli.app import main as command

        try:
            if asked["module"] is None:
                command()
            else:
                sys.path[0] = asked["folder"]
                runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
