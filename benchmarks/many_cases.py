"""What more cases cost: seconds to prepare them and per epoch, and memory, kept in memory or in files.

    python benchmarks/many_cases.py /path/to/Task04_Hippocampus --cases 50 100 200

Every row is a process of its own that prepares the first so many labeled cases and trains the network of `training.py`
on them (`training.py`). `again` is how long preparing takes when the files are there. Memory is what the process has to
itself (RssAnon): once cases are prepared, and its growth from then to the peak of the second epoch.
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


def own_memory() -> float:
    """GB of memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e9


def child(arguments: argparse.Namespace) -> None:
    """Prepare and train, and print the figures as JSON."""
    import torch
    from ignite.engine import Events

    torch.manual_seed(0)
    before, started = own_memory(), time.perf_counter()
    (most,) = arguments.cases
    _, trainer = run_segbundle(arguments, most, arguments.cache_dir)
    prepared, ready = own_memory(), time.perf_counter()
    ends, peak, done = [time.perf_counter()], [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            if len(ends) > 1:
                peak[0] = max(peak[0], own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: ends.append(time.perf_counter()))
    trainer.run()
    done.set()
    watching.join()
    figures = {"prepare": ready - started, "epoch": ends[-1] - ends[-2], "cases": prepared - before}
    print(json.dumps({**figures, "growth": peak[0] - prepared}))


def main() -> None:
    """Measure every number of cases, in memory and in files, and print a Markdown table."""
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
