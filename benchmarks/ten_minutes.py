"""Dice after a training of about ten minutes, with the bundle's defaults on the hippocampus data.

    python benchmarks/ten_minutes.py /path/to/Task04_Hippocampus --seeds 0 1 2

Seeds change the initial weights, patches and augmentation, but not the folds. The time is that of the whole command.
Additional options are passed to `segbundle train`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def train(dataset: Path, seed: int, output_dir: Path, options: list[str]) -> tuple[dict[str, float], float]:
    """Train; return the mean Dice and the Dice per class of the validation fold, and the seconds of the command."""
    command = [
        str(Path(sys.executable).parent / "segbundle"), "train", "--dataset_dir", str(dataset),
        "--output_dir", str(output_dir), "--seed", str(seed), *options,
    ]  # fmt: skip
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.monotonic() - started
    summary = json.loads((output_dir / "summary.json").read_text())
    dice = {name: row["dice_mean"] for name, row in summary["classes"].items()}
    return {"mean": summary["mean_dice"], **dice}, seconds


def main() -> None:
    """Train once per seed and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="folder in which to keep the trainings and their models")
    arguments, options = parser.parse_known_args()
    print("| seed | mean Dice | anterior | posterior | wall time |\n|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = (arguments.keep or Path(folder)) / f"seed{seed}"
            dice, seconds = train(arguments.dataset, seed, run, options)
        values = " | ".join(f"{value:.4f}" for value in dice.values())
        print(f"| {seed} | {values} | {int(seconds // 60)} min {int(seconds % 60)} s |", flush=True)


if __name__ == "__main__":
    main()
