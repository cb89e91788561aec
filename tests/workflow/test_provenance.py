"""Provenance of runs: fingerprints and command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segbundle.datasets.datalist import labeled_data
from segbundle.workflow import provenance
from segbundle.workflow.provenance import made_by
from tiny import TINY_CLASSES


def test_fingerprint_depends_on_file_content(tiny_dataset):
    data = labeled_data(tiny_dataset, TINY_CLASSES)
    before = provenance._fingerprint(data)
    assert before == provenance._fingerprint(list(reversed(data)))
    label = Path(data[0]["label"])
    size = label.stat().st_size
    content = bytearray(label.read_bytes())
    content[-5] ^= 1  # in the checksum
    label.write_bytes(content)
    assert label.stat().st_size == size
    assert provenance._fingerprint(data) != before


def test_each_model_has_a_fingerprint(tmp_path):
    for name in ("fold_0", "fold_1"):
        (tmp_path / name).mkdir()
        torch.save({"weight": torch.ones(3)}, tmp_path / name / "model.pt")
    one = made_by({"ckpt_path": str(tmp_path / "fold_0" / "model.pt")})["model_fingerprint"]
    assert len(one) == 12
    for members in (tmp_path, [str(tmp_path / name / "model.pt") for name in ("fold_0", "fold_1")]):
        prints = made_by({"ckpt_path": members if isinstance(members, list) else str(members)})["model_fingerprint"]
        assert prints.split(", ") == [one, one]
    assert "model_fingerprint" not in made_by({"ckpt_path": None})
    torch.save({"weight": torch.full((3,), 2.0)}, tmp_path / "fold_1" / "model.pt")
    assert made_by({"ckpt_path": str(tmp_path / "fold_1" / "model.pt")})["model_fingerprint"] != one


@pytest.mark.e2e
@pytest.mark.parametrize("as_module", [True, False])
def test_command_can_be_run_again(tmp_path, as_module):
    program = tmp_path / "tool" / "__main__.py"
    program.parent.mkdir()
    program.write_text("import json; from segbundle.workflow.provenance import made_by; print(json.dumps(made_by({})))")
    how = ["-m", "tool"] if as_module else [str(program.parent / "run.py")]
    (program.parent / "run.py").write_text(program.read_text())
    done = subprocess.run(
        [sys.executable, *how, "a b", "--x"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
    )
    made = json.loads(done.stdout)
    expected = f"{Path(sys.executable).name} -m tool" if as_module else "run.py"
    assert made["command"] == f"{expected} 'a b' --x"
    assert made["working_directory"] == str(tmp_path)
    assert made["versions"]["numpy"] == np.__version__
