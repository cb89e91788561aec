"""Whether a training that is killed at random moments, over and over, ends with the weights of an undisturbed one.

    python benchmarks/kill_and_resume.py data_samples --config configs/phantom.yaml --kills 10

Trains twice with `segbundle train`: once undisturbed; once killed without warning (SIGKILL) that many times, each time
at a random moment of its run, and resumed. Then compares every tensor and number of `last.pt`, bit for bit. Further
options are passed on.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """Names of the values in which two nested states differ."""
    if isinstance(one, torch.Tensor):
        return [] if isinstance(two, torch.Tensor) and torch.equal(one, two) else [path]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [name for key in one for name in differences(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [name for i, pair in enumerate(zip(one, two, strict=True)) for name in differences(*pair, f"{path}/{i}")]
    return [] if one == two else [path]


def main() -> None:
    """Train, kill, resume, compare; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments, options = parser.parse_known_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        command = [str(Path(sys.executable).parent / "segbundle"), "train", "--dataset_dir", str(arguments.dataset)]
        started = time.monotonic()
        subprocess.run([*command, "--output_dir", str(whole), *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        for kill in range(1, arguments.kills + 1):
            again = ["--resume", "true"] if killed.exists() else []
            process = subprocess.Popen(
                [*command, "--output_dir", str(killed), *options, *again],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            moment = rng.uniform(0, seconds)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            last = killed / "last.pt"
            epoch = torch.load(last, weights_only=True)["epoch"] if last.exists() else 0
            print(f"kill {kill}: after {moment:.1f} s, last.pt holds epoch {epoch}", flush=True)
        subprocess.run(
            [*command, "--output_dir", str(killed), *options, "--resume", "true"], check=True, stdout=subprocess.DEVNULL
        )
        one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, killed))
    found = differences(one, two)
    print(f"{len(found)} values differ: {', '.join(found[:5])}" if found else "identical: every tensor and number")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
