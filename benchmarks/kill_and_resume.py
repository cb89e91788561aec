"""Whether a training that is killed at a random moment and resumed ends with the weights of an undisturbed one.

    python benchmarks/kill_and_resume.py data_samples --config configs/phantom.yaml --times 10

Trains with `segbundle train`: once undisturbed; then so many times anew, each killed without warning (SIGKILL) at a
random moment between its start and its end, and resumed. Compares every tensor and number of each `last.pt` with the
undisturbed one's, bit for bit. Further options are passed on.
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


def killed_after(seconds: float, command: list[str]) -> bool:
    """Run a command and kill it after so many seconds; whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def main() -> None:
    """Train, kill, resume, compare; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments, options = parser.parse_known_args()
    rng = random.Random(arguments.seed)
    program = [str(Path(sys.executable).parent / "segbundle"), "train", "--dataset_dir", str(arguments.dataset)]
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        whole = Path(name) / "whole"
        subprocess.run([*program, "--output_dir", str(whole), *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        for number in range(1, arguments.times + 1):
            out = Path(name) / str(number)
            command, moment = [*program, "--output_dir", str(out), *options], rng.uniform(0, seconds)
            killed, last = killed_after(moment, command), out / "last.pt"
            epoch = torch.load(last, weights_only=True)["epoch"] if last.exists() else 0
            again = ["--resume", "true"] if out.exists() else []
            subprocess.run([*command, *again], check=True, stdout=subprocess.DEVNULL)
            found = differences(*(torch.load(folder / "last.pt", weights_only=True) for folder in (whole, out)))
            wrong += bool(found)
            result = f"{len(found)} values differ: {', '.join(found[:5])}" if found else "identical"
            print(
                f"{number}: {'killed' if killed else 'done'} after {moment:.1f} s, epoch {epoch} saved; {result}",
                flush=True,
            )
    print(f"{arguments.times - wrong} of {arguments.times} ended with every tensor and number the same")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
