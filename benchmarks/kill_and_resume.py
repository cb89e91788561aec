"""Compare the weights of a training that was killed and resumed with those of an uninterrupted training.

    python benchmarks/kill_and_resume.py data_samples --config configs/phantom.yaml --times 10

Runs `segbundle train` once without interruption, and then `--times` times with a kill (SIGKILL) at a random moment,
followed by `--resume`. Every tensor and number in each `last.pt` is compared bit for bit with those of the
uninterrupted training. Additional options are passed to `segbundle train`.
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


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Return the names of the values that differ between second nested states."""
    if isinstance(first, torch.Tensor):
        return [] if isinstance(second, torch.Tensor) and torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [name for key in first for name in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            name for i, pair in enumerate(zip(first, second, strict=True)) for name in differences(*pair, f"{path}/{i}")
        ]
    return [] if first == second else [path]


def run_and_kill(seconds: float, command: list[str]) -> bool:
    """Run a command, kill it after a number of seconds, and return whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def main() -> None:
    """Train, kill, resume and compare. The exit code is 1 if any value differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    arguments, options = parser.parse_known_args()
    rng = random.Random(arguments.seed)
    program = [str(Path(sys.executable).parent / "segbundle"), "train", "--dataset_dir", str(arguments.dataset)]
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        reference = Path(name) / "reference"
        subprocess.run([*program, "--output_dir", str(reference), *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        for number in range(1, arguments.times + 1):
            out = Path(name) / str(number)
            command, moment = [*program, "--output_dir", str(out), *options], rng.uniform(0, seconds)
            killed, last = run_and_kill(moment, command), out / "last.pt"
            epoch = torch.load(last, weights_only=True)["epoch"] if last.exists() else 0
            again = ["--resume", "true"] if out.exists() else []
            subprocess.run([*command, *again], check=True, stdout=subprocess.DEVNULL)
            found = differences(*(torch.load(folder / "last.pt", weights_only=True) for folder in (reference, out)))
            wrong += bool(found)
            result = f"{len(found)} values differ: {', '.join(found[:5])}" if found else "identical"
            print(
                f"{number}: {'killed' if killed else 'done'} after {moment:.1f} s, epoch {epoch} saved; {result}",
                flush=True,
            )
    print(f"{arguments.times - wrong} of {arguments.times} runs ended with identical tensors and numbers")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
