"""Real commands, run as a user types them, on a task that trains in a second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from segbundle.cli import app

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundle" / "configs"
TINY = ROOT / "tests" / "bundle" / "tiny.yaml"


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, encoding="utf-8", check=False)


def monai_bundle(workflow: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle run` on one of the bundle's workflows with the tiny task laid over it."""
    files = f"['{CONFIGS / workflow}.yaml','{TINY}']"
    return run(sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *words, cwd=cwd)


def segbundle(command: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The `segbundle` command beside the Python that runs the tests."""
    return run(Path(sys.executable).parent / "segbundle", command, *words, cwd=cwd)


def invoke(command: str, *words: object) -> Result:
    """The same in the process of the tests, which takes a tenth of the time."""
    return CliRunner().invoke(app, [command, *(str(word) for word in words)])
