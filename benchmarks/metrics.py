"""Time and memory to score one large case with segbundle, MONAI and surface-distance.

    python benchmarks/metrics.py --classes 14

The case has 512×512×300 voxels of 0.75×0.75×1 mm with ellipsoids of the sizes of organs. The prediction has smoothly
displaced surfaces. The methods alternate, each in a separate process, on label maps that are already in memory.
`segbundle` is `score_case`: status, Dice, HD95, NSD, volumes and connected components. `monai` is `compute_dice`,
`compute_hausdorff_distance` and `compute_surface_dice` on one-hot volumes in bool, without components.
`surface-distance` is DeepMind's library, class by class, without Dice and components.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SPACING = (0.75, 0.75, 1.0)
TOLERANCE = 2.0
RADII = (
    (68, 52, 90), (68, 52, 90), (60, 52, 52), (21, 21, 41), (21, 21, 41), (34, 26, 38), (9, 9, 90),
    (10, 10, 75), (34, 22, 15), (15, 11, 11), (8, 8, 8), (9, 9, 45), (22, 22, 26), (4, 4, 15),
)  # fmt: skip
"""Radii in mm: two lungs, liver, kidneys, spleen, aorta, vein, pancreas, bladder and smaller structures."""


def large_case(shape: tuple[int, int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and reference (X, Y, Z) as uint8."""
    from scipy.ndimage import gaussian_filter

    rng, spacing = np.random.default_rng(0), np.array(SPACING)
    pred, ref = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    extent = np.array(shape) * spacing
    for index, radius in enumerate(RADII[:num_classes], 1):
        center = rng.uniform(np.minimum(radius, extent / 2), extent - np.minimum(radius, extent / 2))
        reach = np.array(radius) * 1.25
        first = np.maximum((center - reach) / spacing, 0).astype(int)
        last = np.minimum((center + reach) / spacing + 1, shape).astype(int)
        sides = zip(first, last, spacing, center, radius, strict=True)
        axes = [(np.arange(a, b) * size - at) / half for a, b, size, at, half in sides]
        distance = np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))
        noise = gaussian_filter(rng.standard_normal(distance.shape, np.float32), 3)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        ref[box][distance < 1] = index
        pred[box][distance + noise * (0.04 / noise.std()) < 1] = index
    return pred, ref


def run_segbundle(pred: torch.Tensor, ref: torch.Tensor, num_classes: int) -> list[tuple[float, float, float]]:
    from segbundle.metrics import score_case

    scores = score_case(pred, ref, num_classes, spacing=SPACING, nsd_tolerance_mm=TOLERANCE)
    return [(score.dice, score.hd95_mm, score.nsd) for score in scores[1:]]


def run_monai(pred: torch.Tensor, ref: torch.Tensor, num_classes: int) -> list[tuple[float, float, float]]:
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
    from monai.networks import one_hot

    pair = [one_hot(labels[None, None], num_classes, dtype=torch.bool) for labels in (pred, ref)]
    dice = compute_dice(*pair, include_background=False)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, spacing=SPACING)
    thresholds = [TOLERANCE] * (num_classes - 1)
    nsd = compute_surface_dice(*pair, class_thresholds=thresholds, spacing=SPACING, use_subvoxels=True)
    return list(zip(*(values[0].tolist() for values in (dice, hd95, nsd)), strict=True))


def run_surface_distance(pred: torch.Tensor, ref: torch.Tensor, num_classes: int) -> list[tuple[float, float, float]]:
    import surface_distance  # type: ignore[import-untyped]

    found = []
    for index in range(1, num_classes):
        masks = [(labels == index).numpy() for labels in (ref, pred)]
        distances = surface_distance.compute_surface_distances(*masks, SPACING)
        hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE)
        found.append((float("nan"), float(hd95), float(nsd)))
    return found


WAYS = {"segbundle": run_segbundle, "monai": run_monai, "surface-distance": run_surface_distance}


def child(way: str, case: Path, num_classes: int) -> None:
    """Score the case and print the figures as JSON."""
    maps = np.load(case)
    pred, ref = torch.from_numpy(maps["pred"]), torch.from_numpy(maps["ref"])
    tiny = torch.nn.functional.pad(torch.ones(1, 2, 3, dtype=torch.uint8), (1, 1, 1, 1, 1, 1))
    WAYS[way](tiny, tiny, 2)  # imports
    started = time.perf_counter()
    scores = WAYS[way](pred, ref, num_classes)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "scores": scores}))


def main() -> None:
    """Measure every method and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--classes", type=int, default=14, help="number of classes without the background, at most 14")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.classes + 1)
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
    with tempfile.TemporaryDirectory() as folder:
        pred, ref = large_case(tuple(arguments.shape), arguments.classes)
        case = Path(folder) / "case.npz"
        np.savez(case, pred=pred, ref=ref)
        for _ in range(arguments.rounds):
            for way in arguments.ways:
                command = [sys.executable, __file__, "--classes", str(arguments.classes), "--child", way, str(case)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        "| way | seconds | range | peak GB | largest difference: Dice | HD95 mm | NSD |\n|---|---|---|---|---|---|---|"
    )
    ours = np.array(runs[arguments.ways[0]][0]["scores"])
    for way, measured in runs.items():
        seconds = [run["seconds"] for run in measured]
        difference = np.abs(np.array(measured[0]["scores"]) - ours).max(axis=0)
        differences = " | ".join("-" if np.isnan(value) else f"{value:.2g}" for value in difference)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        peak = max(run["peak_gb"] for run in measured)
        print(f"| {way} | {statistics.median(seconds):.1f} | {spread} | {peak:.2f} | {differences} |")


if __name__ == "__main__":
    main()
