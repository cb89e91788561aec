"""Every command in the documents runs as written (see also test_readme.py and test_benchmarks.py)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT
from documents import blocks, commands, run_all, shell

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "bundle" / "docs" / "README.md"]


def test_make_demo(checkout: Path):
    recipe = shell("make --dry-run demo", ROOT).stdout
    lines = [line.removeprefix(".venv/bin/") for line in commands(recipe) if "segbundle" in line.split()[0]]
    assert [line.split()[1] for line in lines] == ["train", "evaluate", "predict"]
    run_all(lines, checkout, forked=True)
    summary = json.loads((checkout / "runs" / "demo" / "summary.json").read_text())
    assert summary["cases"] == 6
    assert len(list((checkout / "runs" / "demo" / "predictions").glob("*_seg.nii.gz"))) == 6
    if shutil.which("chromium") and shutil.which("chromedriver"):
        run_all([f"{sys.executable} {ROOT}/docs/screenshots.py runs/demo --output images"], checkout)
        drawn = {path.name for path in (checkout / "images").iterdir()}
        pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
        assert drawn == {name for name in re.findall(r"\((?:\.\./)*images/(.*?)\)", pages) if name.endswith(".png")}


def test_bundle_readme_in_the_bundle_folder(tmp_path: Path, hippocampus_like: Path):
    bundle = shutil.copytree(ROOT / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("eval"))
    document = ROOT / "bundle" / "docs" / "README.md"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    lines = [line.replace("/workspace/data/Task04_Hippocampus", str(hippocampus_like)) for line in lines]
    run_all(lines, bundle, forked=True)
    assert {path.name for path in (bundle / "eval").iterdir()} == {"train", "evaluate", "inference"}
    assert (bundle / "models" / "model.ts").exists()


def test_losses_document(checkout: Path):
    document = ROOT / "docs" / "losses.md"
    (checkout / "docs").symlink_to(ROOT / "docs")
    (task,) = blocks(document, "yaml")
    (checkout / "my_loss.yaml").write_text(task)
    train = "segbundle train --config configs/phantom.yaml --config my_loss.yaml --dataset_dir data_samples"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    run_all([*lines, f"{train} --output_dir runs/loss"], checkout, forked=True)
    assert len(list((checkout / "runs" / "figures").glob("*.svg"))) == 3
    (program,) = blocks(document, "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_reproductions_document(checkout: Path):
    document = ROOT / "docs" / "reproductions.md"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    known = {path.stem for path in (ROOT / "configs" / "reproductions").glob("*.yaml")}
    assert {line.split()[2] for line in lines} == known
    run_all(lines, checkout, forked=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_key_on_the_page_of_settings_exists():
    from monai.bundle import ConfigParser

    configs = [ROOT / "bundle" / "configs" / f"{name}.yaml" for name in ("train", "inference")]
    keys = {key for config in configs for key in ConfigParser.load_config_file(config)}
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Keys within other keys")[0], re.M)
    explained = {name for row in rows for name in re.findall(r"`([\w#]+)`", row)}
    assert len(explained) > 20
    assert explained <= keys, explained - keys
