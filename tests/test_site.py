"""The site: it builds without warnings, and its reference pages agree with the code."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from commands import ROOT
from documents import pages
from segbundle.cli.app import app
from segbundle.metrics import ClassScore
from segbundle.report.measurements import _COLUMNS as MEASUREMENT_COLUMNS
from segbundle.results.schemas import MadeBy, Record, Scores, Summary, _Class
from segbundle.results.scores import COLUMNS
from segbundle.results.structures import _COLUMNS as STRUCTURE_COLUMNS
from segbundle.training.resuming import _TYPES as LAST_KEYS

DOCS = ROOT / "docs"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_builds_without_warnings(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = (tmp_path / "site" / "reference" / "python" / "losses" / "index.html").read_text(encoding="utf-8")
    assert "GeneralizedDiceCELoss" in losses


def test_every_page_is_in_the_navigation():
    assert sorted(pages()) == sorted(DOCS.rglob("*.md"))


def test_every_package_with_public_names_has_a_page():
    packages = {path.parent.name for path in (ROOT / "src" / "segbundle").glob("*/__init__.pyi")}
    documented = {path.stem for path in (DOCS / "reference" / "python").glob("*.md")} - {"index", "errors"}
    assert packages - documented == {"files", "reproductions", "viewer"}
    assert documented <= packages


def test_the_page_of_commands_lists_every_option():
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"### {name}\n" in page
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert not option.startswith("--") or f"`{option}" in page or f"[{option}" in page, (name, option)


def test_the_page_of_files_lists_every_key():
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    models = (Record, Scores, Summary, _Class, MadeBy)
    names = {name for model in models for name in model.model_fields}
    names |= {*COLUMNS, *STRUCTURE_COLUMNS, *MEASUREMENT_COLUMNS, *LAST_KEYS, *ClassScore.__dataclass_fields__}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_messages_of_the_page_of_troubleshooting_exist():
    texts = "\n".join(text for path in (ROOT / "src" / "segbundle").rglob("*.py") for text in _texts(path))
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [row[1] for row in re.findall(r"^\| (`+) ?(.+?)\1(?: .*?)? \|", page, re.M)]
    assert len(messages) > 40
    for message in messages:
        for part in message.split("…"):
            assert part.strip(" ()[];,:.") in texts, f"no message contains {part!r} of {message!r}"


def _texts(path: Path) -> list[str]:
    """Return the literal texts of a module; a value in an f-string becomes a null character."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            found.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found
