"""Time and memory of the forward and backward pass of DiceCELoss, in segbundle and in MONAI, in alternation.

    python benchmarks/losses.py --shape 2 14 96 96 96

Each measurement runs in a separate process. Memory is given in three ways: the peak of the whole process, the peak
without Python and libraries (logits, labels, and everything that the loss allocates), and the peak without logits and
labels.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

KINDS = ("MONAI", "segbundle")


def measure(kind: str, shape: list[int], device: str, dtype: str, repeats: int) -> None:
    """Print seconds per forward and backward pass, and peaks in MB, as JSON."""
    import monai.losses
    import torch

    import segbundle.losses

    loss = {"MONAI": monai.losses, "segbundle": segbundle.losses}[kind].DiceCELoss(to_onehot_y=True, softmax=True)
    empty = _memory_in_use(device)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(device, getattr(torch, dtype)).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator).to(device)
    with_data = _memory_in_use(device)
    seconds = []
    for _ in range(repeats + 1):
        logits.grad = None
        started = time.perf_counter()
        value = loss(logits, labels)
        value.backward()
        if logits.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = _peak(device)
    result = {"seconds": statistics.median(seconds[1:]), "peak": peak, "data": peak - empty, "added": peak - with_data}
    print(json.dumps(result))


def _memory_in_use(device: str) -> float:
    """Return the memory in use by the process or the GPU in MB."""
    import torch

    if device != "cpu":
        return torch.cuda.memory_allocated() / 2**20
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def _peak(device: str) -> float:
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return one measurement, made in a separate process."""
    options = ["--shape", *map(str, arguments.shape), "--device", arguments.device, "--dtype", arguments.dtype]
    command = [sys.executable, __file__, *options, "--repeats", str(arguments.repeats), "--measure", kind]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    """Measure both losses in alternation and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", type=int, nargs="+", default=[2, 14, 96, 96, 96], help="shape of the logits (B, C, ...)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--repeats", type=int, default=5, help="forward and backward passes per process")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.shape, arguments.device, arguments.dtype, arguments.repeats)
        return
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind in KINDS:
            results[kind].append(run(kind, arguments))
    print("| loss | ms, median (range) | peak, MB | without libraries, MB | added by the loss, MB |")
    print("|---|---|---|---|---|")
    medians = {}
    for kind, rounds in results.items():
        medians[kind] = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
        times = sorted(1000 * row["seconds"] for row in rounds)
        row = medians[kind]
        spread = f"{1000 * row['seconds']:.0f} ({times[0]:.0f} to {times[-1]:.0f})"
        print(f"| {kind} | {spread} | {row['peak']:.0f} | {row['data']:.0f} | {row['added']:.0f} |")
    ratio = {key: medians["segbundle"][key] / medians["MONAI"][key] for key in medians["MONAI"]}
    print(f"| ratio | {ratio['seconds']:.2f} | {ratio['peak']:.2f} | {ratio['data']:.2f} | {ratio['added']:.2f} |")


if __name__ == "__main__":
    main()
