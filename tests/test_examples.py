"""The scripts in examples, run as written in the process of the tests, whose imports are done already."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from commands import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTED = {
    "losses_in_a_loop": r"step 40: loss \d\.\d+\nDice: bright ball 0\.[3-9]\d+, dark ball 0\.[3-9]\d+\n",
    "predict": r"case: phantom_016, ok, [\d.]+ s\nlabel map: \(57, 47, 34\) voxels",
    "score_label_maps": r"liver +scored +0\.932(.*\n)*vessel +unannotated +nan.*\nlesion +missed +0\.000",
    "sliding_window": r"equal labels by slabs: True\n",
    "train": r"epoch 2, 4 held-out cases, mean Dice 0\.\d+\nphantom_001  liver ",
}


def test_every_example_is_short_and_tested():
    assert {path.stem for path in EXAMPLES} == set(PRINTED)
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_its_results(path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capfd.readouterr().out
    assert re.search(PRINTED[path.stem], printed), printed
