"""Effect of faster inference settings on Dice, and agreement of the label maps with those of float32.

    python benchmarks/inference_accuracy.py /path/to/Task04_Hippocampus --fold 0
    python benchmarks/inference_accuracy.py data_samples --config configs/phantom.yaml --data_list_key test \
        --ckpt_path runs/demo/training/model.pt

Every row is one run of `segbundle evaluate`. Additional options are passed to all runs. `reference` uses float32 and
windows of the training patch size. `agreement` is the minimum over classes of the Dice between the label maps of the
row and of the reference, pooled over all cases.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from inference import run_measured

WAYS = {
    "reference": ["--precision", "fp32"],
    "bf16": ["--precision", "bf16"],
    "fp16": ["--precision", "fp16"],
    "openvino": ["--precision", "fp32", "--backend", "openvino"],
    "window_size auto": ["--precision", "fp32", "--window_size", "auto"],
    "window_size auto, skip_air": ["--precision", "fp32", "--window_size", "auto", "--skip_air", "true"],
    "test_time_flips": ["--precision", "fp32", "--test_time_flips", "[0]"],
}


def agreement(folder: Path, reference: Path) -> float:
    """Return the smallest Dice of a class between the label maps of two folders, pooled over all cases."""
    size = 256
    confusion = np.zeros((size, size), np.int64)
    for path in sorted(reference.glob("*_seg.nii.gz")):
        first, second = (np.asarray(load(parent / path.name).dataobj).ravel() for parent in (reference, folder))
        confusion += np.bincount(first.astype(np.int64) * size + second, minlength=size * size).reshape(size, size)
    sums = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = sums[1:] > 0
    return float((2 * confusion.diagonal()[1:][present] / sums[1:][present]).min())


def load(path: Path) -> Any:
    return nib.load(path)


def main() -> None:
    """Evaluate every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    arguments, options = parser.parse_known_args()
    print("| way | mean Dice | difference | agreement | seconds per scan |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for way in dict.fromkeys(["reference", *arguments.ways]):
            out = Path(name) / way
            command = [str(Path(sys.executable).parent / "segbundle"), "evaluate", "--dataset_dir"]
            run_measured([*command, str(arguments.dataset), "--output_dir", str(out), *WAYS[way], *options])
            dice = json.loads((out / "summary.json").read_text())["mean_dice"]
            records = json.loads((out / "predictions.json").read_text())
            if way == "reference":
                reference = dice
            seconds = sum(record["seconds"] for record in records) / len(records)
            same = agreement(out, Path(name) / "reference")
            print(f"| {way} | {dice:.4f} | {dice - reference:+.4f} | {same:.4f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
