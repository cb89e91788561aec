"""The README and the guides of the site, from top to bottom in one checkout, each command once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import ROOT
from documents import blocks, commands, named_blocks, pages, run_all

DONE_BY_CI = ("make setup", "make test", "make lint", "make demo", "make docs", "source .venv/bin/activate")
GUIDES = [page for page in pages() if page.parent.name in ("tutorials", "howto")]


def test_the_readme_and_the_guides_from_top_to_bottom(few_test_scans: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(few_test_scans)
    done = {*DONE_BY_CI}
    assert len(GUIDES) > 15
    for document in [ROOT / "README.md", *GUIDES, ROOT / "docs" / "security.md"]:
        for name, text in {**named_blocks(document, "yaml"), **named_blocks(document, "python")}.items():
            if Path(name).exists():
                assert keys(Path(name).read_text(encoding="utf-8")) == keys(text), f"{document}: another {name}"
            Path(name).write_text(text, encoding="utf-8")
        assert len(named_blocks(document, "yaml")) == len(blocks(document, "yaml")), f"{document}: a block has no name"
        for text in blocks(document, "python"):
            exec(compile(text, str(document), "exec"), {"__name__": "program"})
        for text in blocks(document, "json"):
            json.loads(text)
        lines = [line for text in blocks(document, "bash") for line in commands(text)]
        run_all([line for line in lines if line not in done], few_test_scans, forked=document.name != "README.md")
        done.update(lines)


def keys(text: str) -> list[str]:
    """Return the lines of a file without their comments."""
    return [line.partition(" #")[0].rstrip() for line in text.splitlines()]
