"""Tests of OpenVINO and `torch.compile`, in a separate process (see tests/conftest.py)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_openvino_and_compile_in_separate_process():
    if importlib.util.find_spec("openvino") is None:  # importing it here would start its threads
        pytest.skip("needs openvino")
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "(openvino or compile) and not own", str(folder)],
        cwd=folder.parents[1],
        env={**os.environ, "OPENVINO_TESTS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
