"""Training speed in patches per second: MONAI's Model Zoo recipe and segbundle, with the same network and batches.

    python benchmarks/training.py /path/to/Task04_Hippocampus

Every run is a separate process that trains a DynUNet of 16 to 128 channels for some epochs. The first epoch is not
counted. `zoo` is the recipe of the Model Zoo's bundles: cached cases, patches that are cropped and augmented one by one
in worker processes (RandCropByPosNegLabeld, flips, 90-degree rotations, intensity shifts), MONAI's DiceCELoss and Adam,
in the Zoo's precision for this device (float32 on CPUs, amp on GPUs). `zoo, all` adds MONAI's transforms for all kinds
of augmentation of `segbundle`. `segbundle` uses the components of `segbundle train`. `batch` is the time to prepare a
batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

WAYS = ("zoo", "zoo, all", "segbundle")
CLASSES = ["background", "anterior", "posterior"]
PATCH = (40, 56, 40)


def zoo_batches(dataset_dir: Path, batch_size: int, all_augmentation: bool, workers: int) -> Any:
    """Return the loader of a Model Zoo bundle."""
    import math

    import monai.transforms as mt
    from monai.data import CacheDataset, DataLoader

    from segbundle.datasets.datalist import labeled_data

    keys, modes = ("image", "label"), ("bilinear", "nearest")
    fixed = [
        mt.LoadImaged(keys),
        mt.EnsureChannelFirstd(keys),
        mt.Orientationd(keys, axcodes="RAS"),
        mt.Spacingd(keys, pixdim=(1.0, 1.0, 1.0), mode=modes),
        mt.NormalizeIntensityd("image", channel_wise=True),
        mt.SpatialPadd(keys, PATCH),
    ]
    crop = mt.RandCropByPosNegLabeld(keys, label_key="label", spatial_size=PATCH, num_samples=1, pos=1, neg=1)
    few = [
        *(mt.RandFlipd(keys, prob=0.1, spatial_axis=axis) for axis in range(3)),
        mt.RandRotate90d(keys, prob=0.1, max_k=3, spatial_axes=(0, 2)),
        mt.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]
    turn, blur = math.radians(20), (0.5, 1.0)
    full = [
        mt.RandAffined(
            keys, prob=0.36, rotate_range=[turn] * 3, scale_range=[(-0.2, 0.25)] * 3, mode=modes, padding_mode="border"
        ),
        mt.RandFlipd(keys, prob=0.5, spatial_axis=0),
        mt.RandGaussianNoised("image", prob=0.1, std=0.1),
        mt.RandGaussianSmoothd("image", prob=0.1, sigma_x=blur, sigma_y=blur, sigma_z=blur),
        mt.RandScaleIntensityd("image", prob=0.15, factors=0.25),
        mt.RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, preserve_range=True),
        mt.RandSimulateLowResolutiond("image", prob=0.125, zoom_range=(0.5, 1.0)),
        mt.RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
    ]
    data = [
        {key: entry[key] for key in keys}
        for entry in labeled_data(dataset_dir, CLASSES, section="training", fold=0, num_folds=5, split_seed=0)
    ]
    transform = mt.Compose([*fixed, crop, *(full if all_augmentation else few)])
    dataset = CacheDataset(data, transform, progress=False)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)


def build_network() -> Any:
    """Return the bundle's network with the size in `configs/hippocampus_fast.yaml`."""
    from monai.networks.nets import DynUNet

    return DynUNet(3, 1, 3, (3,) * 4, (1, 2, 2, 2), (2,) * 3, filters=(16, 32, 64, 128), norm_name="INSTANCE")


def run_zoo(arguments: argparse.Namespace, all_augmentation: bool) -> Any:
    """Return the loader and trainer of the Model Zoo recipe, with an unchanged network."""
    import torch
    from monai.engines import SupervisedTrainer
    from monai.losses import DiceCELoss

    loader = zoo_batches(arguments.dataset, arguments.batch_size, all_augmentation, arguments.workers)
    network = build_network().to(arguments.device)
    return loader, SupervisedTrainer(
        device=torch.device(arguments.device),
        max_epochs=arguments.epochs,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-4),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True),
        amp=arguments.device.startswith("cuda"),
        decollate=False,
    )


def run_segbundle(arguments: argparse.Namespace, max_cases: int | None = None, cache_dir: str | None = None) -> Any:
    """Return segbundle's loader and trainer for all or the first `max_cases` cases, cached in memory or files."""
    import torch

    from segbundle.acceleration.process import keep_freed_memory
    from segbundle.datasets.datalist import labeled_data
    from segbundle.inference.patch_inferer import PatchInferer
    from segbundle.losses import DiceCELoss
    from segbundle.training.caching import PreparedCases
    from segbundle.training.patch_loading import patch_loader
    from segbundle.training.trainer import SegmentationTrainer
    from segbundle.training.weight_average import WeightAverage
    from segbundle.transforms import PrepareCase
    from segbundle.workflow.devices import place_network

    keep_freed_memory()  # as at the start of every workflow
    fold = None if max_cases else 0
    data = labeled_data(arguments.dataset, CLASSES, section="training", fold=fold, num_folds=5, split_seed=0)
    transform = PrepareCase(CLASSES, PATCH, {"method": "zscore"}, (1.0, 1.0, 1.0))
    cases = PreparedCases(data[:max_cases], transform, cache_dir)
    loader = patch_loader(cases, PATCH, arguments.batch_size, device=arguments.device)
    network = place_network(build_network(), arguments.device)
    return loader, SegmentationTrainer(
        device=torch.device(arguments.device),
        max_epochs=arguments.epochs,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), 2e-3),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, ignore_index=255),
        inferer=PatchInferer(),
        max_gradient_norm=12.0,
        average=WeightAverage(network),
        decollate=False,
    )


def child(arguments: argparse.Namespace) -> None:
    """Train with one method and print its figures as JSON."""
    import torch
    from ignite.engine import Events

    torch.manual_seed(0)
    way = arguments.way
    loader, trainer = run_segbundle(arguments) if way == "segbundle" else run_zoo(arguments, way == "zoo, all")
    ends: list[float] = []

    def record_end() -> None:
        if arguments.device.startswith("cuda"):
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    trainer.add_event_handler(Events.EPOCH_COMPLETED, record_end)
    trainer.run()
    epochs = [after - before for before, after in itertools.pairwise(ends)]
    batches = 0.0
    if way == "segbundle":
        started = time.perf_counter()
        for step in range(len(loader)):
            loader.batch(1, step)
        batches = (time.perf_counter() - started) / len(loader)
    patches = len(loader) * arguments.batch_size
    figures = {
        "rate": patches / statistics.median(epochs),
        "step_ms": 1000 * statistics.median(epochs) / len(loader),
        "batch_ms": 1000 * batches,
    }
    print(json.dumps(figures))


def run_measured(arguments: argparse.Namespace, way: str) -> dict[str, float]:
    """Run one method and return its figures, with the peak memory of all its processes."""
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--way", way]
    process = psutil.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    peak = 0.0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family) / 1e9)  # shared memory counts once
        except psutil.NoSuchProcess:
            pass
        time.sleep(2)  # each sample stops the processes briefly
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {**json.loads(process.stdout.read().splitlines()[-1]), "peak_gb": peak}


def main() -> None:
    """Measure every method in alternation and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", "--max_epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the Model Zoo recipe's loader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments, _ = parser.parse_known_args()
    arguments.epochs = max(arguments.epochs, 2)
    if arguments.way:
        child(arguments)
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            runs[way].append(run_measured(arguments, way))
    print("| way | patches/s, median (range) | times `zoo` | ms per step | ms per batch | peak GB |")
    print("|---" * 6 + "|")
    base = statistics.median(run["rate"] for run in runs["zoo"])
    for way, several in runs.items():
        rates = [run["rate"] for run in several]
        rate = statistics.median(rates)
        step, batch = (statistics.median(run[key] for run in several) for key in ("step_ms", "batch_ms"))
        shown = f"{batch:.1f} ({100 * batch / step:.0f} %)" if batch else ""
        peak = max(run["peak_gb"] for run in several)
        print(
            f"| {way} | {rate:.1f} ({min(rates):.1f} to {max(rates):.1f}) | {rate / base:.1f} | {step:.0f} "
            f"| {shown} | {peak:.2f} |"
        )


if __name__ == "__main__":
    main()
