"""Whole commands of this checkout and of another one, in turn: whether a change has made something slower.

    git worktree add /tmp/before d86b070
    python benchmarks/versions.py /tmp/before --rounds 7
    python benchmarks/versions.py /tmp/before --rounds 3 --only ct --ct /path/to/ct_3mm.nii.gz

Both run by this Python and its packages. Each command runs once per version before it counts. Seconds of a round are
compared pair by pair, so that a machine that changes its speed changes both; the table has the medians of each version,
median, smallest and largest ratio of the pairs, and the ratio of the fastest runs, by the clock and by processor time.
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
"""What runs; `{here}` is this checkout's folder for both versions."""


@dataclass
class Taken:
    """Seconds of one run, by the clock and of all its processes' processors."""

    wall: float
    cpu: float


def run(command: str, source: Path, places: dict[str, str]) -> Taken:
    """Run a command with a checkout's sources."""
    shutil.rmtree(places["out"], ignore_errors=True)
    words = shlex.split(command.format(**places))
    words[0] = str(Path(sys.executable).parent / words[0])
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{places['out']}.pyc"}  # as once installed
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
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def row(name: str, before: Sequence[Taken], now: Sequence[Taken]) -> str:
    """Return a line of the table."""
    cells = []
    for kind in ("wall", "cpu"):
        old, new = ([getattr(one, kind) for one in runs] for runs in (before, now))
        ratios = sorted(b / a for a, b in zip(old, new, strict=True))
        cells += [f"{statistics.median(old):.2f}", f"{statistics.median(new):.2f}"]
        cells += [
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            f"{min(new) / min(old):.3f}",
        ]
    return f"| {name} | {' | '.join(cells)} |"


def table(names: Sequence[str], other: Path, places: dict[str, str], rounds: int) -> Iterator[str]:
    """Measure, and return the table's lines as they become known."""
    yield (
        "| command | before, s | now, s | ratio (range) | of the fastest | "
        "before, CPU s | now, CPU s | ratio (range) | of the fastest |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in names:
        pairs = [[run(COMMANDS[name], source, places) for source in (other, HERE)] for _ in range(rounds + 1)][1:]
        yield row(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), help="some of the commands")
    parser.add_argument("--ct", type=Path, help="a CT for the command `ct`")
    arguments = parser.parse_args()
    names = arguments.only or [name for name in COMMANDS if name != "ct" or arguments.ct]
    with tempfile.TemporaryDirectory() as temporary:
        places = prepare(Path(temporary), arguments.ct)
        for line in table(names, arguments.other.resolve(), places, arguments.rounds):
            print(line, flush=True)


def prepare(folder: Path, ct: Path | None) -> dict[str, str]:
    """Write what the commands read; return their places by the names in `COMMANDS`."""
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
    values[16:48, 16:48, 16:48] += 520  # what the network labels
    reference = np.zeros(values.shape, np.uint8)
    reference[18:50, 16:48, 16:48] = 1
    for number in range(50):
        scan = nib.Nifti1Image(values, np.eye(4))
        nib.save(scan, small / f"scan_{number}x.nii.gz")
        nib.save(scan, labeled / "imagesTr" / f"scan_{number}x.nii.gz")
        nib.save(nib.Nifti1Image(reference, np.eye(4)), labeled / "labelsTr" / f"scan_{number}x.nii.gz")
    pred, ref = large_case((512, 512, 300), 14)
    np.savez(folder / "case.npz", pred=pred, ref=ref)
    own = {name: folder / name for name in ("samples", "model.pt", "case.npz")}
    places = {**own, "here": HERE, "small": small, "labeled": labeled, "out": out, "ct": ct}
    texts = {name.partition(".")[0]: str(place) for name, place in places.items()}
    run("segbundle samples {samples}", HERE, texts)
    run(COMMANDS["train"], HERE, texts)
    shutil.copy(out / "model.pt", folder / "model.pt")
    save_weights(14, small / "ct.pt")
    write_task(14, small / "ct.yaml")
    return texts


if __name__ == "__main__":
    main()
