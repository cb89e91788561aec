"""Write the list of functions that a scan passes in `segbundle predict` into docs/architecture.md.

python docs/path_of_a_scan.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

Call = tuple[str, str, str]
"""Thread, file in src/segbundle, and function."""
PAGE = Path(__file__).parent / "architecture.md"
LIST = r"(?<=<!-- written by docs/path_of_a_scan.py -->\n\n).*?\|\n(?=\n)"
STAGES = {"reading": "read, preprocess", "main": "windows, restore", "writing": "write"}
TASK = """\
class_names: [background, dark, bright]
spacing: [1.5, 1.5, 1.5]
patch_size: [16, 16, 16]
network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 3, kernel_size: 3, padding: 1}
device: cpu
"""
TRACE = """\
import json, sys, threading

ENTRIES = {"reading": "_transform", "main": "_iteration", "writing": "_write"}
THIRD = 3  # of four scans: what the first does once is over, and the pipeline is full
counts, calls = dict.fromkeys(ENTRIES, 0), []

def trace(frame, event, arg):
    code = frame.f_code
    if event != "call" or "/segbundle/" not in code.co_filename or not code.co_flags & 1 or code.co_name[0] == "<":
        return
    file = code.co_filename.rpartition("/segbundle/")[2]
    thread = threading.current_thread().name.replace("MainThread", "main").partition("_")[0]
    if code.co_name == ENTRIES.get(thread) and file.startswith("inference/scan_"):
        counts[thread] += 1
    call = [thread, file, code.co_qualname]
    if counts.get(thread, 0) == THIRD and call not in calls:
        calls.append(call)

sys.setprofile(trace)
threading.setprofile(trace)
from segbundle.cli import main
sys.argv = ["segbundle", "predict", *sys.argv[1:]]
try:
    main()
finally:
    sys.setprofile(None)
    print(json.dumps(calls))
"""


def path_of_a_scan() -> list[Call]:
    """Return the functions that the third of four scans passes, per thread, in the order of their first calls."""
    import nibabel as nib
    import numpy as np
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "scans").mkdir()
        values = np.random.default_rng(0).integers(0, 1000, (30, 28, 26)).astype(np.int16)
        for name in "abcd":
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "scans" / f"{name}.nii.gz")
        torch.manual_seed(0)
        torch.save(torch.nn.Conv3d(1, 3, 3, padding=1).state_dict(), folder / "model.pt")
        (folder / "task.yaml").write_text(TASK)
        options = {"config": "task.yaml", "ckpt_path": "model.pt", "output_dir": "out"}
        words = [word for key, value in options.items() for word in (f"--{key}", str(folder / value))]
        command = [sys.executable, "-c", TRACE, str(folder / "scans"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [tuple(call) for call in json.loads(done.stdout.splitlines()[-1])]


def table(calls: list[Call]) -> str:
    """Return the number of functions and files, and a table with a row for each change of file."""
    functions, files = {call[1:] for call in calls}, {call[1] for call in calls}
    lines = [f"{len(functions)} functions in {len(files)} files:", ""]
    lines += ["| stage | file | functions, in the order of their first calls |", "|---|---|---|"]
    for stage, text in STAGES.items():
        of_thread = [call for call in calls if call[0] == stage]
        for index, (file, group) in enumerate(groupby(of_thread, key=lambda call: call[1])):
            names = ", ".join(f"`{name.replace('.<locals>', '')}`" for _, _, name in group)
            lines.append(f"| {'' if index else f'**{text}** (thread `{stage}`)'} | `{file}` | {names} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """Return the list in the text of the page."""
    found = re.search(LIST, page, re.S)
    assert found is not None
    return found[0]


def main() -> None:
    """Write the list."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(written(page), table(path_of_a_scan())), encoding="utf-8")


if __name__ == "__main__":
    main()
