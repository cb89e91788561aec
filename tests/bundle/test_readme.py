"""The README, from top to bottom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from commands import ROOT
from documents import blocks, commands, run_all

DONE_BY_CI = ("make setup", "make test", "make lint", "source .venv/bin/activate")


def test_the_readme_from_top_to_bottom(few_test_scans: Path):
    for text in blocks(ROOT / "README.md", "yaml"):
        name = re.match(r"# (\S+\.yaml)\n", text)
        assert name, f"a YAML block has no file name:\n{text}"
        (few_test_scans / name[1]).write_text(text)
    lines = [line for text in blocks(ROOT / "README.md", "bash") for line in commands(text)]
    run_all([line for line in lines if line not in (*DONE_BY_CI, "make demo")], few_test_scans)
    for text in blocks(ROOT / "README.md", "python"):
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=few_test_scans, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
    for text in blocks(ROOT / "README.md", "json"):
        json.loads(text)
