"""A process that has imported everything once and runs each command in a fork of itself.

    python -m hostile.worker

Reads one JSON line per command from standard input and answers with one each.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

LIMIT = 20.0
"""Seconds after which a command counts as hanging, without those in which other processes had its core."""
MEMORY = 16 << 30
"""Bytes of address space of a command, so that one that asks for too much does not end the machine."""
_IMPORTS = (
    "torch", "monai.bundle", "monai.networks.nets", "monai.engines", "monai.transforms", "monai.data", "ignite.engine",
    "nibabel", "SimpleITK", "scipy.ndimage", "scipy.stats", "tqdm", "yaml", "fire", "pydantic", "filelock", "psutil",
    "jinja2", "PIL.Image", "matplotlib", "contourpy", "torch.utils.tensorboard", "isal.igzip", "typer",
    "torch.fx", "torch.nn.utils.fusion", "monai.handlers", "monai.inferers",
    "segbundle.cli", "segbundle.engines", "segbundle.engines.cross_validation", "segbundle.data",
    "segbundle.data.checks", "segbundle.data.samples", "segbundle.transforms", "segbundle.inferers",
    "segbundle.losses", "segbundle.metrics", "segbundle.patches", "segbundle.reports", "segbundle.viewer",
    "segbundle.reproductions", "segbundle.reproductions.ignore_background", "segbundle.documents",
)  # fmt: skip


def main() -> None:
    for name in _IMPORTS:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # or every fork copies the pages that a collection of garbage marks
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_run(asked)), file=answers, flush=True)


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(asked)
    seen = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            code = os.waitstatus_to_exitcode(status)
            if seen and code == 128 + signal.SIGINT:  # how a viewer ends that is stopped while it imports something
                code = 0
            return {"code": code, "seconds": seconds, "hang": False}
        if not seen and asked["words"][0] == "view":
            seen = _looked_at(Path(asked["stdout"]))
            if seen:
                os.kill(child, signal.SIGINT)
        if seconds > LIMIT and seconds - _waited(child) > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"code": None, "seconds": seconds, "hang": True}
        time.sleep(0.005 if seconds < 2 else 0.05)


def _waited(process: int) -> float:
    """Seconds in which a process could have run and had no core."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


def _looked_at(output: Path) -> bool:
    """Ask a viewer for everything that it offers, once it says where it is."""
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
        with urllib.request.urlopen(address, timeout=LIMIT) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def _be_the_command(asked: dict[str, Any]) -> None:
    """What `segbundle WORDS` does from its first line to its end; never returns."""
    os.setsid()
    code = 1
    try:
        os.chdir(asked["folder"])
        for number, path in ((0, "/dev/null"), (1, asked["stdout"]), (2, asked["stderr"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o644), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["segbundle", *asked["words"]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from segbundle.cli import main as command

        try:
            command()
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
