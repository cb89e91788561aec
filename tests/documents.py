"""Run the commands of the documents as written, with shorter trainings and benchmarks."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from commands import ROOT, segbundle

TRAINING = re.compile(
    r"segbundle (train|cross-validate)|configs/train\.yaml|benchmarks/(training|partial_labels|ten_minutes)"
)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)


def named_blocks(document: Path, language: str) -> dict[str, str]:
    """Return the blocks that begin with the name of a file, such as `# my_task.yaml`."""
    found = {}
    for text in blocks(document, language):
        if name := re.match(r"# (\S+\.(?:yaml|py))\n", text):
            found[name[1]] = text
    return found


def pages() -> list[Path]:
    """Return the pages of the site in the order of its navigation."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    return [ROOT / "docs" / name for name in re.findall(r"^ .*?([\w/]+\.md)$", text, re.M)]


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


def plain_command(line: str) -> list[str] | None:
    """Return the arguments of a line that is a single `segbundle` command, or None."""
    words = shlex.split(line)
    return words[1:] if words[0] == "segbundle" and not re.search(r"[|&;<>$`*~]", line) else None


def run_all(lines: list[str], cwd: Path, forked: bool = False) -> None:
    """Run commands one after another.

    Args:
        lines: commands.
        cwd: working directory.
        forked: whether `segbundle` commands run in forks of a process that has imported it (default False).
    """
    for line in lines:
        short = f"{line} --max_epochs 1 --val_interval 1" if TRAINING.search(line) else line
        short = short.replace("--seeds 0 1 2", "--seeds 0")
        if "segbundle reproduce" in line:
            short += " --steps 2 --seeds '[0]'"
        if "benchmarks/losses.py" in line:
            short += " --shape 1 3 16 16 16 --rounds 1 --repeats 1"
        if "benchmarks/inference.py" in line:
            short += " --classes 3 --rounds 1"
        if "benchmarks/backends.py" in line:
            short += " --ways PyTorch rewritten --rounds 1"
        if "benchmarks/library_choices.py" in line:
            short += " --draws 2 --updates 2"
        if "benchmarks/training.py" in line:
            short += " --rounds 1"
        if "benchmarks/many_cases.py" in line:
            short += " --cases 2"
        if "benchmarks/kill_and_resume.py" in line:
            short = f"{line} --times 1 --max_epochs 2 --val_interval 1"
        if "benchmarks/metrics.py" in line:
            short += " --shape 64 64 40 --classes 1 --rounds 1"
        if "benchmarks/output_formats.py" in line:
            short += " --shape 40 36 20 --classes 4 --rounds 1"
        if "benchmarks/inference_accuracy.py" in line:
            short += " --ways 'window_size auto'"  # bf16 takes minutes on CPUs without hardware support
        words = plain_command(short) if forked else None
        done = shell(short, cwd) if words is None else segbundle(*words, cwd=cwd)
        assert done.returncode == 0, f"{short}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
