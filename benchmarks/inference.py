"""Time and memory to segment a clinical CT from file to label map, with MONAI's Model Zoo recipe and with segbundle.

    python benchmarks/inference.py /path/to/ct_3mm.nii.gz --classes 2 14

First, the CT is resampled to 0.75×0.75×1 mm (488×404×336 voxels in docs/benchmarks.md). Every method then resamples it
to 1.5 mm, runs the same UNet with the same weights, and writes labels on the voxels of the scan. Each run is a separate
process. `zoo` is the recipe of the Model Zoo's CT bundles (96³ windows, overlap 0.5, Gaussian weights, Invertd,
AsDiscreted). `same` is `segbundle predict` with the same windows, and `fastest` adds `--window_size auto`.

Times are in seconds: `start` is importing and building, `scan` is from file to file, `total` is the whole process.
segbundle loads the scan during start-up, and alternates predicting and restoring. Its stages overlap, so the sum of
their times without waiting may exceed the elapsed time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

STAGES = ("start", "load", "predict", "restore", "write", "scan", "total")
CHANNELS, STRIDES = (16, 32, 64, 128, 256), (2, 2, 2, 2)


def clinical_scan(source: Path, target: Path) -> Path:
    """Resample the CT linearly to 0.75×0.75×1 mm, as int16."""
    import nibabel as nib
    import numpy as np
    from nibabel.processing import resample_to_output

    scan: Any = nib.load(source)
    fine: Any = resample_to_output(scan, (0.75, 0.75, 1.0), order=1, mode="nearest")
    nib.save(nib.Nifti1Image(np.round(fine.get_fdata(dtype=np.float32)).astype(np.int16), fine.affine), target)
    return target


def save_weights(num_classes: int, path: Path) -> None:
    """Save random weights with batch normalization statistics that spread the predictions over the classes."""
    import torch

    torch.manual_seed(0)
    network = zoo_network(num_classes).train()
    with torch.no_grad():
        network(torch.rand(2, 1, 96, 96, 96))
    torch.save(network.state_dict(), path)


def zoo_network(num_classes: int) -> Any:
    """Return the UNet of the Model Zoo's CT bundles."""
    from monai.networks.nets import UNet

    return UNet(3, 1, num_classes, channels=CHANNELS, strides=STRIDES, num_res_units=2, norm="batch")


def run_zoo(scan: Path, weights: Path, num_classes: int, output_dir: Path, device: str) -> dict[str, float]:
    """Run the Model Zoo's recipe and return seconds and peak memory in GB per stage. Call it in a separate process."""
    started = time.monotonic()
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        EnsureTyped,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    network = zoo_network(num_classes).to(device).eval()
    network.load_state_dict(torch.load(weights, map_location=device))
    loading = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
            ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True),
            EnsureTyped("image"),
        ]
    )
    softmax = Activationsd("pred", softmax=True)
    invert = Invertd("pred", transform=loading, orig_keys="image", nearest_interp=False, to_tensor=True)
    save = SaveImaged("pred", output_dir=output_dir, output_postfix="seg", separate_folder=False, print_log=False)
    inferer = SlidingWindowInferer((96, 96, 96), 4, 0.5, mode="gaussian")
    laps = [("start", time.monotonic(), peak_gb())]

    def lap(stage: str) -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        laps.append((stage, time.monotonic(), peak_gb()))

    item = loading({"image": str(scan)})
    lap("load")
    with torch.no_grad(), torch.autocast("cuda", enabled=device.startswith("cuda")):
        item["pred"] = inferer(item["image"][None].to(device), network)[0]
    lap("predict")
    item = AsDiscreted("pred", argmax=True)(invert(softmax(item)))
    lap("restore")
    save(item)
    lap("write")
    times = {
        stage: now - before
        for (stage, now, _), before in zip(laps, [started, *(t for _, t, _ in laps[:-1])], strict=True)
    }
    return {**times, **{f"{stage}_gb": gb for stage, _, gb in laps}}


def peak_gb() -> float:
    """Return the peak resident memory in GB since the last call, if Linux allows resetting it."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e9


def run_measured(command: list[str]) -> tuple[float, list[tuple[float, float]]]:
    """Run a command; return its seconds, and samples every 20 ms of elapsed seconds and resident memory in GB."""
    started, memory = time.monotonic(), []
    process = psutil.Popen(command, stdout=sys.stderr)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            memory.append((time.monotonic() - started, process.memory_info().rss / 1e9))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.monotonic() - started, memory


def run_zoo_process(scan: Path, weights: Path, num_classes: int, output_dir: Path, device: str) -> dict[str, float]:
    """Run `run_zoo` in a separate process and return its figures."""
    output_dir.mkdir(parents=True, exist_ok=True)
    stages = output_dir / "stages.json"
    given = {"scan": scan, "weights": weights, "num_classes": num_classes, "output_dir": output_dir, "device": device}
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    total, memory = run_measured([sys.executable, "-W", "ignore", __file__, "--zoo", *words])
    return {**json.loads(stages.read_text()), "total": total, "peak_gb": max(gb for _, gb in memory)}


def write_task(num_classes: int, path: Path) -> None:
    """Write a task with the preprocessing, windows and network of the Model Zoo's CT bundles."""
    names = ["background", *(f"class {index}" for index in range(1, num_classes))]
    path.write_text(
        f"""
class_names: {names}
spacing: [1.5, 1.5, 1.5]
intensity: {{method: window, lower: -57, upper: 164}}
patch_size: [96, 96, 96]
network_def: {{_target_: UNet, spatial_dims: 3, in_channels: 1, out_channels: {num_classes}, channels: {list(CHANNELS)},
  strides: {list(STRIDES)}, num_res_units: 2, norm: batch}}
"""
    )


def run_segbundle(
    scan: Path, weights: Path, num_classes: int, output_dir: Path, device: str, options: list[str]
) -> dict[str, float]:
    """Run `segbundle predict` on the scan and return its figures."""
    task = output_dir.parent / f"task_{num_classes}.yaml"
    write_task(num_classes, task)
    command = [str(Path(sys.executable).parent / "segbundle"), "predict", str(scan), "--config", str(task)]
    command += ["--ckpt_path", str(weights), "--output_dir", str(output_dir), "--device", device, *options]
    total, memory = run_measured(command)
    (record,) = json.loads((output_dir / "predictions.json").read_text())
    stages = record["stages"]
    computing = total - sum(stages[stage] for stage in ("predict", "restore", "write"))  # end of start and load
    return {
        **stages,
        "start": total - record["seconds"],
        "total": total,
        "peak_gb": max(gb for _, gb in memory),
        "before_gb": max(gb for seconds, gb in memory if seconds < computing),
    }


def equal_voxels(first: Path, second: Path) -> float:
    """Return the fraction of voxels with the same label in two files."""
    import nibabel as nib
    import numpy as np

    labels = [np.asarray(nib.load(path).dataobj) for path in (first, second)]  # type: ignore[attr-defined]
    return float(np.mean(labels[0] == labels[1]))


def row(way: str, num_classes: int, runs: list[dict[str, float]], baseline: list[dict[str, float]]) -> str:
    """Return a row of the table: medians, the range of the total, and ratios to the baseline."""
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    totals = [run["total"] for run in runs]
    stages = " | ".join(f"{median[stage]:.1f}" for stage in STAGES)
    ratios = "| |"
    if baseline:
        faster = (statistics.median(run[stage] for run in baseline) / median[stage] for stage in ("scan", "total"))
        ratios = "| " + " | ".join(f"{ratio:.1f}" for ratio in faster) + " |"
    spread = f"{min(totals):.1f} to {max(totals):.1f}"
    return f"| {num_classes} | {way} | {stages} | {spread} | {max(run['peak_gb'] for run in runs):.2f} {ratios}"


def main() -> None:
    """Measure every method for every number of classes, in alternation, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="CT, for instance TotalSegmentator's ct_3mm.nii.gz")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 14, 117])
    parser.add_argument(
        "--max_zoo_classes",
        type=int,
        default=14,
        help="maximum number of classes for which the Model Zoo recipe has enough memory",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = clinical_scan(arguments.source, folder / "ct.nii.gz")
        print(f"| classes | way | {' | '.join(STAGES)} | range of total | peak GB | scan × | total × |", flush=True)
        print("|---" * (len(STAGES) + 6) + "|", flush=True)
        for num_classes in arguments.classes:
            weights = folder / f"weights_{num_classes}.pt"
            save_weights(num_classes, weights)
            runs: dict[str, list[dict[str, float]]] = {"zoo": [], "same": [], "fastest": []}
            for _ in range(arguments.rounds):
                given = (scan, weights, num_classes)
                if num_classes <= arguments.max_zoo_classes:
                    runs["zoo"].append(run_zoo_process(*given, folder / "zoo", arguments.device))
                runs["same"].append(run_segbundle(*given, folder / "same", arguments.device, options))
                fastest = ["--window_size", "auto", *options]
                runs["fastest"].append(run_segbundle(*given, folder / "fastest", arguments.device, fastest))
            for way, measurements in runs.items():
                for run in measurements:
                    run["scan"] = sum(run[stage] for stage in ("load", "predict", "restore", "write"))
                if measurements:
                    print(row(way, num_classes, measurements, runs["zoo"]), flush=True)
            for way in ("same", "fastest"):
                run = runs[way][-1]
                print(
                    f"{way}, peak GB: start and load {run['before_gb']:.2f}, then {run['peak_gb']:.2f}", file=sys.stderr
                )
            if runs["zoo"]:
                peaks = ", ".join(f"{stage} {runs['zoo'][-1][f'{stage}_gb']:.2f}" for stage in STAGES[:5])
                same = equal_voxels(folder / "zoo" / "ct_seg.nii.gz", folder / "same" / "ct_seg.nii.gz")
                print(
                    f"zoo, peak GB by stage: {peaks}. Fraction of voxels with the same label as in `same`: {same:.6f}",
                    file=sys.stderr,
                )


def child() -> None:
    """Run the process that `run_zoo_process` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--zoo", action="store_true")
    for name, kind in (("scan", Path), ("weights", Path), ("num_classes", int), ("output_dir", Path), ("device", str)):
        parser.add_argument(f"--{name}", type=kind)
    given = vars(parser.parse_args())
    del given["zoo"]
    (given["output_dir"] / "stages.json").write_text(json.dumps(run_zoo(**given)))


if __name__ == "__main__":
    child() if "--zoo" in sys.argv else main()
