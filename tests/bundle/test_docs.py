"""Every command and program in the documents runs as written; only trainings are cut to one epoch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import ROOT
from tiny import write_nifti, write_tiny_dataset

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "bundle" / "docs" / "README.md"]
DONE_BY_CI = ("make setup", "make test", "make lint", "source .venv/bin/activate")
TRAINING = re.compile(
    r"segbundle (train|cross-validate)|configs/train\.yaml|benchmarks/(?!losses|inference|kill|many|metrics)"
)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)


def commands(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def run_all(lines: list[str], cwd: Path) -> None:
    for line in lines:
        short = f"{line} --max_epochs 1 --val_interval 1" if TRAINING.search(line) else line
        short = short.replace("--seeds 0 1 2", "--seeds 0")
        if "segbundle reproduce" in line:
            short += " --steps 2 --seeds '[0]'"
        if "benchmarks/losses.py" in line:
            short += " --shape 1 3 16 16 16 --rounds 1 --repeats 1"
        if "benchmarks/inference.py" in line:
            short += " --classes 3 --rounds 1"
        if "benchmarks/training.py" in line:
            short += " --rounds 1"
        if "benchmarks/many_cases.py" in line:
            short += " --cases 2"
        if "benchmarks/kill_and_resume.py" in line:
            short = f"{line} --times 1 --max_epochs 2 --val_interval 1"
        if "benchmarks/metrics.py" in line:
            short += " --shape 64 64 40 --classes 1 --rounds 1"
        if "benchmarks/inference_accuracy.py" in line:
            short += " --ways 'window_size auto'"  # bf16 takes minutes on CPUs without it
        done = shell(short, cwd)
        assert done.returncode == 0, f"{short}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A working folder that looks like a clone, so that outputs do not land in the real one."""
    for name in ("bundle", "configs", "data_samples", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_readme_from_top_to_bottom(checkout: Path):
    for text in blocks(ROOT / "README.md", "yaml"):
        name = re.match(r"# (\S+\.yaml)\n", text)
        assert name, f"a YAML block has no file name:\n{text}"
        (checkout / name[1]).write_text(text)
    lines = [line for text in blocks(ROOT / "README.md", "bash") for line in commands(text)]
    run_all([line for line in lines if line not in (*DONE_BY_CI, "make demo")], checkout)
    for text in blocks(ROOT / "README.md", "python"):
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=checkout, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
    for text in blocks(ROOT / "README.md", "json"):
        json.loads(text)


def test_make_demo(checkout: Path):
    recipe = shell("make --dry-run demo", ROOT).stdout
    lines = [line.removeprefix(".venv/bin/") for line in commands(recipe) if "segbundle" in line.split()[0]]
    assert [line.split()[1] for line in lines] == ["train", "evaluate", "predict"]
    run_all(lines, checkout)
    summary = json.loads((checkout / "runs" / "demo" / "summary.json").read_text())
    assert summary["cases"] == 6
    assert len(list((checkout / "runs" / "demo" / "predictions").glob("*_seg.nii.gz"))) == 6
    if shutil.which("chromium") and shutil.which("chromedriver"):
        run_all([f"{sys.executable} {ROOT}/docs/screenshots.py runs/demo --output images"], checkout)
        drawn = {path.name for path in (checkout / "images").iterdir()}
        assert drawn == set(re.findall(r"\(images/(.*?)\)", (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")))


@pytest.fixture
def hippocampus_like(tmp_path: Path) -> Path:
    """A tiny dataset whose classes are called like those of the bundle's default task."""
    dataset = write_tiny_dataset(tmp_path / "hippocampus_like", num_cases=5)
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "Anterior", "2": "Posterior"}
    (dataset / "dataset.json").write_text(json.dumps(description))
    return dataset


def test_the_bundles_readme_in_the_bundles_folder(tmp_path: Path, hippocampus_like: Path):
    bundle = shutil.copytree(ROOT / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("eval"))
    document = ROOT / "bundle" / "docs" / "README.md"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    run_all([line.replace("/workspace/data/Task04_Hippocampus", str(hippocampus_like)) for line in lines], bundle)
    assert {path.name for path in (bundle / "eval").iterdir()} == {"train", "evaluate", "inference"}
    assert (bundle / "models" / "model.ts").exists()


@pytest.fixture
def small_ct(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(0, 100, (12, 10, 8)).round().astype(np.int16)
    return write_nifti(tmp_path / "ct_3mm.nii.gz", values, np.diag([3.0, 3.0, 3.0, 1.0]))


def test_the_commands_of_the_benchmarks(checkout: Path, hippocampus_like: Path, small_ct: Path):
    (checkout / "benchmarks").symlink_to(ROOT / "benchmarks")
    lines = [line for text in blocks(ROOT / "docs" / "benchmarks.md", "bash") for line in commands(text)]
    assert len(lines) >= 1
    lines = [line.replace("/path/to/Task04_Hippocampus", str(hippocampus_like)) for line in lines]
    lines = [line.replace("/path/to/ct_3mm.nii.gz", str(small_ct)) for line in lines]
    demo = "segbundle train --config configs/phantom.yaml --dataset_dir data_samples --output_dir runs/demo/training"
    run_all([demo, *lines], checkout)


def test_the_losses(checkout: Path):
    document = ROOT / "docs" / "losses.md"
    (checkout / "docs").symlink_to(ROOT / "docs")
    (task,) = blocks(document, "yaml")
    (checkout / "my_loss.yaml").write_text(task)
    train = "segbundle train --config configs/phantom.yaml --config my_loss.yaml --dataset_dir data_samples"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    run_all([*lines, f"{train} --output_dir runs/loss"], checkout)
    assert len(list((checkout / "runs" / "figures").glob("*.svg"))) == 3
    (program,) = blocks(document, "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_the_reproductions(checkout: Path):
    document = ROOT / "docs" / "reproductions.md"
    lines = [line for text in blocks(document, "bash") for line in commands(text)]
    known = {path.stem for path in (ROOT / "configs" / "reproductions").glob("*.yaml")}
    assert {line.split()[2] for line in lines} == known
    run_all(lines, checkout)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_key_that_the_readme_explains_exists():
    from monai.bundle import ConfigParser

    keys = set(ConfigParser.load_config_file(ROOT / "bundle" / "configs" / "train.yaml"))
    rows = re.findall(
        r"^\| (`.*?) \|", (ROOT / "README.md").read_text(encoding="utf-8").partition("## Settings")[2], re.M
    )
    explained = {name for row in rows for name in re.findall(r"`([\w#]+)`", row)}
    assert len(explained) > 20
    assert explained <= keys, explained - keys
