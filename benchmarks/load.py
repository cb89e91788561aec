"""Memory, threads, open files and bytes written by `segbundle predict` on many scans and on long scans.

    python benchmarks/load.py --scans 5000 --slices 250 500 1000

First, `--scans` scans of 16x16x16 voxels are predicted in one run, and sampled after 100, 500, 1,000 and more scans.
Only the bytes written may grow, by the same amount per scan. Then, CTs of 512x512 voxels are predicted, with each
number of slices: smoothed noise as gzipped 16-bit integers. The network is a 1x1x1 convolution, so that the pipeline
dominates.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

TASK = """\
class_names: [background, bright]
spacing: null
intensity: {method: window, lower: 0, upper: 1000}
patch_size: [64, 64, 64]
network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 2, kernel_size: 1}
device: cpu
"""
SAMPLES_AFTER = (100, 500, 1000, 2000, 5000, 10000)


def write_model(folder: Path) -> list[str]:
    """Write a task, and weights that label voxels above 500, and return the options that use them."""
    weights = {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -0.5])}
    torch.save(weights, folder / "model.pt")
    (folder / "task.yaml").write_text(TASK)
    return ["--config", str(folder / "task.yaml"), "--ckpt_path", str(folder / "model.pt")]


def start(scans: Path, out: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `segbundle predict`."""
    program = str(Path(sys.executable).parent / "segbundle")
    words = [program, "predict", str(scans), "--output_dir", str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def process_usage(process: int) -> dict[str, float]:
    """Return resident memory and its peak in MB, threads, open files, and MB written since the start."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    written = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text(encoding="utf-8").splitlines())
    return {
        "rss": int(found["VmRSS"].split()[0]) / 1e3,
        "peak": int(found["VmHWM"].split()[0]) / 1e3,
        "threads": int(found["Threads"]),
        "files": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "written": int(written["wchar"]) / 1e6,
    }


def measure_many_scans(folder: Path, count: int) -> Iterator[str]:
    """Yield the lines of a table for one run over many scans, sampled after some of them."""
    scans, out = folder / "scans", folder / "many"
    scans.mkdir()
    values = np.random.default_rng(0).integers(0, 1000, (16, 16, 16)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "one.nii.gz")
    for number in range(count):
        shutil.copy(folder / "one.nii.gz", scans / f"scan_{number:05d}x.nii.gz")
    yield "| scans done | RSS, MB | threads | open files | MB written | seconds |"
    yield "|---:|---:|---:|---:|---:|---:|"
    started, process = time.monotonic(), start(scans, out, write_model(folder))
    samples, last = [sample for sample in SAMPLES_AFTER if sample < count], ""
    while process.poll() is None:
        done = sum(not path.name.startswith(".") for path in out.glob("*_seg.nii.gz"))
        with suppress(OSError, KeyError):  # the process has just ended
            last = _row(done, process_usage(process.pid), time.monotonic() - started)
        if samples and done >= samples[0]:
            samples = [sample for sample in samples if sample > done]
            yield last
        time.sleep(0.1)
    yield last
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}")
    shutil.rmtree(scans)


def _row(done: int, usage: dict[str, float], seconds: float) -> str:
    return (
        f"| {done} | {usage['rss']:.0f} | {usage['threads']:.0f} | {usage['files']:.0f} | {usage['written']:.1f} "
        f"| {seconds:.1f} |"
    )


def write_ct(path: Path, slices: int) -> None:
    """Write smooth noise between -1,000 and 2,000 with 0.7x0.7x1 mm voxels, slab by slab."""
    coarse = np.random.default_rng(0).normal(0, 1, (34, 34, slices // 16 + 3)).astype(np.float32)
    array = np.empty((512, 512, slices), np.int16, order="F")
    fine = np.random.default_rng(1).integers(-20, 20, (512, 512)).astype(np.int16)
    for start_slice in range(0, slices, 16):
        block = coarse[:, :, start_slice // 16 : start_slice // 16 + 2]
        zoomed = ndimage.zoom(block, (512 / 34, 512 / 34, 8), order=1)[:, :, : min(16, slices - start_slice)]
        array[:, :, start_slice : start_slice + 16] = np.clip(zoomed * 600 + 300, -1000, 2000)
        array[:, :, start_slice : start_slice + 16] += fine[:, :, None]
    nib.save(nib.Nifti1Image(array, np.diag([-0.7, -0.7, 1.0, 1.0])), path)


def measure_long_scans(folder: Path, lengths: Sequence[int], options: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table with a run per number of slices."""
    yield "| slices | voxels, million | peak RSS, GB | seconds |"
    yield "|---:|---:|---:|---:|"
    model = write_model(folder)
    for slices in lengths:
        scan = folder / f"ct_{slices}x.nii.gz"
        write_ct(scan, slices)
        started, process, peak = time.monotonic(), start(scan, folder / f"long_{slices}", [*model, *options]), 0.0
        while process.poll() is None:
            try:
                peak = max(peak, process_usage(process.pid)["peak"])
            except (OSError, KeyError):  # the process has just ended
                break
            time.sleep(0.05)
        if process.wait():
            raise RuntimeError(f"exit code {process.returncode}")
        seconds = time.monotonic() - started
        yield f"| {slices} | {512 * 512 * slices / 1e6:.0f} | {peak / 1e3:.2f} | {seconds:.1f} |"
        scan.unlink()


def main() -> None:
    """Measure and print Markdown tables. Additional options are passed to the runs on long scans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000, help="number of small scans; 0 skips them")
    parser.add_argument("--slices", type=int, nargs="*", default=[250, 500, 1000])
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.scans:
            for line in measure_many_scans(Path(name), arguments.scans):
                print(line, flush=True)
        if arguments.slices:
            print()
            for line in measure_long_scans(Path(name), arguments.slices, options):
                print(line, flush=True)


if __name__ == "__main__":
    main()
