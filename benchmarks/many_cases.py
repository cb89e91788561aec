"""Preparation time, epoch time and memory by number of cases, cached in memory or in files.

    python benchmarks/many_cases.py /path/to/Task04_Hippocampus --cases 50 100 200

Every row is a separate process that prepares the first N labeled cases and trains the network of `training.py` on them.
`again` is the preparation time when the files exist. Memory is private memory (RssAnon): the memory of the prepared
cases, and the growth from then to the peak of the second epoch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from training import run_segbundle


def private_memory() -> float:
    """Return the anonymous memory of this process in GB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e9


def child(arguments: argparse.Namespace) -> None:
    """Prepare the cases, train, and print the figures as JSON."""
    import torch
    from ignite.engine import Events

    torch.manual_seed(0)
    before, started = private_memory(), time.perf_counter()
    (max_cases,) = arguments.cases
    _, trainer = run_segbundle(arguments, max_cases, arguments.cache_dir)
    prepared, ready = private_memory(), time.perf_counter()
    ends, peak, done = [time.perf_counter()], [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            if len(ends) > 1:
                peak[0] = max(peak[0], private_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: ends.append(time.perf_counter()))
    trainer.run()
    done.set()
    watching.join()
    figures = {"prepare": ready - started, "epoch": ends[-1] - ends[-2], "cases": prepared - before}
    print(json.dumps({**figures, "growth": peak[0] - prepared}))


def main() -> None:
    """Measure every number of cases, cached in memory and in files, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cache_dir", help=argparse.SUPPRESS)
    arguments, _ = parser.parse_known_args()
    arguments.epochs = 2
    if arguments.child:
        child(arguments)
        return
    print("| cases | kept in | prepare, s | again, s | epoch, s | ms per case | memory of cases, GB | growth, GB |")
    print("|---" * 8 + "|")
    for count in arguments.cases:
        for kept in ("memory", "files"):
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, "-W", "ignore", __file__, str(arguments.dataset), "--child"]
                command += ["--cases", str(count), "--batch_size", str(arguments.batch_size)]
                command += ["--device", arguments.device, *(["--cache_dir", cache] if kept == "files" else [])]
                outputs = [
                    subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
                    for _ in range(1 + (kept == "files"))
                ]
            first, last = (json.loads(output.splitlines()[-1]) for output in (outputs[0], outputs[-1]))
            again = f"{last['prepare']:.1f}" if kept == "files" else ""
            each = 1000 * first["epoch"] / count
            print(
                f"| {count} | {kept} | {first['prepare']:.1f} | {again} | {first['epoch']:.1f} | {each:.0f} "
                f"| {first['cases']:.3f} | {first['growth']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
