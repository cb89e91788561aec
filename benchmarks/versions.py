"""Time of whole commands in this and another checkout, in alternation, to find changes that slow them down.

    git worktree add /tmp/before d86b070
    python benchmarks/versions.py /tmp/before --rounds 7
    python benchmarks/versions.py /tmp/before --rounds 3 --only ct --ct /path/to/ct_3mm.nii.gz

Both checkouts use this Python and its packages. Each command first runs once per version to warm up. The times of a
round are compared in pairs, so that a change in the speed of the machine affects both. The table gives the median of
each version; the median, minimum and maximum of the paired ratios; and the ratio of the fastest runs, in wall and CPU
time.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
TASK = "--config {here}/configs/phantom.yaml"
COMMANDS = {
    "help": "segbundle --help",
    "check": "segbundle check {samples}",
    "train": f"segbundle train {TASK} --dataset_dir {{samples}} --output_dir {{out}} --max_epochs 2 --val_interval 2",
    "predict": f"segbundle predict {{samples}}/imagesTs {TASK} --ckpt_path {{model}} --output_dir {{out}}",
    "evaluate": f"segbundle evaluate {TASK} --dataset_dir {{samples}} --ckpt_path {{model}} --output_dir {{out}} "
    "--data_list_key test",
    "start": "segbundle predict {small}/scan_0x.nii.gz --config {small}/task.yaml --ckpt_path {small}/model.pt "
    "--output_dir {out}",
    "many": "segbundle predict {small} --config {small}/task.yaml --ckpt_path {small}/model.pt --output_dir {out}",
    "scores": "segbundle evaluate --dataset_dir {labeled} --config {small}/task.yaml --ckpt_path {small}/model.pt "
    "--output_dir {out}",
    "ct": "segbundle predict {ct} --config {small}/ct.yaml --ckpt_path {small}/ct.pt --output_dir {out}",
    "metrics": "python {here}/benchmarks/metrics.py --classes 14 --child segbundle {case}",
}
"""Commands by name; `{here}` is the folder of this checkout for both versions."""


@dataclass
class Timing:
    """Wall time and CPU time of one run in seconds, over all its processes."""

    wall: float
    cpu: float


def run(command: str, source: Path, paths: dict[str, str]) -> Timing:
    """Run a command with the sources of a checkout and return its time."""
    shutil.rmtree(paths["out"], ignore_errors=True)
    words = shlex.split(command.format(**paths))
    words[0] = str(Path(sys.executable).parent / words[0])
    # as in an installed package
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{paths['out']}.pyc"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        words,
        env={**os.environ, **bytecode, "PYTHONPATH": str(source / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{source}: {shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Timing(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def row(name: str, before: Sequence[Timing], now: Sequence[Timing]) -> str:
    """Return a row of the table."""
    cells = []
    for kind in ("wall", "cpu"):
        old, new = ([getattr(timing, kind) for timing in runs] for runs in (before, now))
        ratios = sorted(b / a for a, b in zip(old, new, strict=True))
        cells += [f"{statistics.median(old):.2f}", f"{statistics.median(new):.2f}"]
        cells += [
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            f"{min(new) / min(old):.3f}",
        ]
    return f"| {name} | {' | '.join(cells)} |"


def table(names: Sequence[str], other: Path, paths: dict[str, str], rounds: int) -> Iterator[str]:
    """Measure, and yield each line of the table as soon as it is complete."""
    yield (
        "| command | before, s | now, s | ratio (range) | of the fastest | "
        "before, CPU s | now, CPU s | ratio (range) | of the fastest |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in names:
        pairs = [[run(COMMANDS[name], source, paths) for source in (other, HERE)] for _ in range(rounds + 1)][1:]
        yield row(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), help="commands to run (default: all)")
    parser.add_argument("--ct", type=Path, help="CT for the command `ct`")
    arguments = parser.parse_args()
    names = arguments.only or [name for name in COMMANDS if name != "ct" or arguments.ct]
    with tempfile.TemporaryDirectory() as temporary:
        paths = prepare(Path(temporary), arguments.ct)
        for line in table(names, arguments.other.resolve(), paths, arguments.rounds):
            print(line, flush=True)


def prepare(folder: Path, ct: Path | None) -> dict[str, str]:
    """Write the input files of the commands and return their paths by the names in `COMMANDS`."""
    import nibabel as nib
    import numpy as np

    from inference import save_weights, write_task
    from load import write_model
    from metrics import large_case

    small, labeled, out = folder / "small", folder / "labeled", folder / "out"
    for path in (small, labeled / "imagesTr", labeled / "labelsTr"):
        path.mkdir(parents=True)
    write_model(small)
    values = np.random.default_rng(0).integers(0, 500, (64, 64, 64)).astype(np.int16)
    values[16:48, 16:48, 16:48] += 520  # above the threshold of the network
    reference = np.zeros(values.shape, np.uint8)
    reference[18:50, 16:48, 16:48] = 1
    for number in range(50):
        scan = nib.Nifti1Image(values, np.eye(4))
        nib.save(scan, small / f"scan_{number}x.nii.gz")
        nib.save(scan, labeled / "imagesTr" / f"scan_{number}x.nii.gz")
        nib.save(nib.Nifti1Image(reference, np.eye(4)), labeled / "labelsTr" / f"scan_{number}x.nii.gz")
    pred, ref = large_case((512, 512, 300), 14)
    np.savez(folder / "case.npz", pred=pred, ref=ref)
    files = {name: folder / name for name in ("samples", "model.pt", "case.npz")}
    paths = {**files, "here": HERE, "small": small, "labeled": labeled, "out": out, "ct": ct}
    texts = {name.partition(".")[0]: str(path) for name, path in paths.items()}
    run("segbundle samples {samples}", HERE, texts)
    run(COMMANDS["train"], HERE, texts)
    shutil.copy(out / "model.pt", folder / "model.pt")
    save_weights(14, small / "ct.pt")
    write_task(14, small / "ct.yaml")
    return texts


if __name__ == "__main__":
    main()
