"""Helpers that run commands as a user types them, on a task that trains in a second."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from fork_server import ROOT, ForkServer
from segbundle.cli.app import app
from segbundle.config.overlays import workflow_files

CONFIGS = ROOT / "bundle" / "configs"
TINY = ROOT / "tests" / "bundle" / "tiny.yaml"


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for its end."""
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, encoding="utf-8", check=False)


def monai_bundle(workflow: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a workflow of the bundle with the tiny task as overlay, by `python -m monai.bundle run` in a fork."""
    return _forked("run", "--config_file", _with_tiny(workflow), *words, cwd=cwd, module="monai.bundle")


def monai_bundle_really(workflow: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `monai_bundle` in a new Python process."""
    return run(sys.executable, "-m", "monai.bundle", "run", "--config_file", _with_tiny(workflow), *words, cwd=cwd)


def segbundle(command: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `segbundle` in a fork of a process that has its imports, with separate streams and exit code."""
    return _forked(command, *words, cwd=cwd)


def _with_tiny(workflow: str) -> str:
    return str([*map(str, workflow_files(CONFIGS, workflow)), str(TINY)])


def _forked(*words: object, cwd: Path | None, module: str | None = None) -> subprocess.CompletedProcess[str]:
    line = [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words]
    answer = _fork_server().run(line, cwd or Path.cwd(), os.environ, module)
    assert not answer["hang"], line
    return subprocess.CompletedProcess(line, answer["code"], answer["out"], answer["err"])


def invoke(command: str, *words: object) -> Result:
    """Run `segbundle` in the process of the tests, in a tenth of the time."""
    return CliRunner().invoke(app, [command, *(str(word) for word in words)])


@functools.cache
def _fork_server() -> ForkServer:
    return ForkServer()
