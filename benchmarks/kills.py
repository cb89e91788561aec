"""Compare the results of commands that were stopped and restarted with those of uninterrupted commands.

    python benchmarks/kills.py --times 100 --folder /tmp/kills

Stops `train`, `predict`, `evaluate` and `cross-validate` in turn, by SIGKILL, SIGTERM and SIGINT in turn, at random
moments. Each command is then restarted with `--resume` (`cross-validate` with the same options) until it finishes.
Weights must be identical bit for bit; label maps, `metrics.csv` and `summary.json` byte for byte. SIGTERM and SIGINT
must end the command within ten seconds, with one line and exit code 143 or 130. The folder keeps the measurements: the
same command continues them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from kill_and_resume import differences

COMMANDS = ("train", "predict", "evaluate", "cross-validate")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TASK = """\
class_names: [background, liver, kidney, vessel, lesion]
spacing: [3.0, 3.0, 3.0]
patch_size: [24, 24, 24]
num_folds: 2
batch_size: 2
device: cpu
network_def#kernel_size: [3, 3, 3]
network_def#strides: [1, 2, 2]
network_def#upsample_kernel_size: [2, 2]
network_def#filters: [4, 8, 16]
"""
_EPOCHS = {
    "train": ("--max_epochs", "60", "--val_interval", "10"),
    "cross-validate": ("--max_epochs", "15", "--val_interval", "5"),
}
_LINES = 2
"""Maximum number of lines that a stopped command prints: its current step, and that it was stopped."""


@dataclass
class Stop:
    """Record of one command that was stopped and restarted."""

    number: int
    command: str
    signal: str
    moment: float
    running: bool = False
    code: int | None = None
    seconds: float = 0.0
    said: str = ""
    done_before: str = ""
    restarts: int = 0
    problems: list[str] = field(default_factory=list)


class Kills:
    """Commands on one dataset, and the results of their uninterrupted runs."""

    def __init__(self, folder: Path, commands: Sequence[str]) -> None:
        self.folder = folder
        self.program = str(Path(sys.executable).parent / "segbundle")
        self.task, self.dataset = folder / "task.yaml", folder / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        self.task.write_text(TASK)
        if not (self.dataset / "dataset.json").exists():
            self._run(["samples", str(self.dataset), "--num_training", "6", "--num_test", "6"])
        times = folder / "undisturbed.json"
        self.seconds: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
        for command in dict.fromkeys(["train", *commands]):  # the other commands use its model
            if command not in self.seconds:
                shutil.rmtree(self.reference(command), ignore_errors=True)
                started = time.monotonic()
                self._run(self.words(command, self.reference(command)))
                self.seconds[command] = round(time.monotonic() - started, 2)
                times.write_text(json.dumps(self.seconds))
            print(f"{command}, uninterrupted: {self.seconds[command]:.1f} s", flush=True)

    def reference(self, command: str) -> Path:
        """Return the folder of the uninterrupted run of a command."""
        return self.folder / f"whole-{command}"

    def words(self, command: str, out: Path, resume: bool = False) -> list[str]:
        """Return the arguments of a command."""
        words = [command, "--config", str(self.task), "--output_dir", str(out)]
        if command == "predict":
            words += [str(self.dataset / "imagesTs"), str(self.dataset / "imagesTr")]
        else:
            words += ["--dataset_dir", str(self.dataset)]
        if command in ("predict", "evaluate"):
            words += ["--ckpt_path", str(self.reference("train") / "model.pt")]
        words += _EPOCHS.get(command, ())
        return words + (["--resume"] if resume and command != "cross-validate" else [])

    def _run(self, words: list[str]) -> None:
        done = subprocess.run([self.program, *words], capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise RuntimeError(f"{words[0]}: exit code {done.returncode}: {done.stderr[-2000:]}")

    def stop(self, number: int, seed: int) -> Stop:
        """Stop a command at a random moment, restart it, and compare its results."""
        command, how = COMMANDS[number % len(COMMANDS)], SIGNALS[number // len(COMMANDS) % len(SIGNALS)]
        rng = random.Random(f"{seed} {number}")
        result = Stop(number, command, how.name, round(rng.uniform(0.0, self.seconds[command]), 2))
        out = self.folder / f"run-{number}"
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen(
            [self.program, *self.words(command, out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            process.wait(result.moment)
        except subprocess.TimeoutExpired:
            result.running = True
            started = time.monotonic()
            process.send_signal(how)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                result.problems.append("still runs a minute after the signal")
            result.seconds = round(time.monotonic() - started, 2)
        _, result.said = process.communicate()
        result.code = process.returncode
        result.done_before = _done(command, out)
        result.problems += _stop_problems(result, how, out) if result.running else []
        while result.restarts < 3:
            result.restarts += 1
            resume = (out / "last.pt").exists() if command == "train" else out.exists()
            words = self.words(command, out, resume)
            again = subprocess.run([self.program, *words], capture_output=True, encoding="utf-8", check=False)
            if again.returncode == 0:
                break
        else:
            result.problems.append(f"cannot be resumed: {again.stderr[-300:]}")
        result.problems += list(self._different(command, out))
        if not result.problems:
            shutil.rmtree(out)
        return result

    def _different(self, command: str, out: Path) -> Iterator[str]:
        reference = self.reference(command)
        for path in sorted(reference.rglob("*")):
            name = path.relative_to(reference)
            other = out / name
            if path.name in ("last.pt", "model.pt"):
                found = (
                    differences(*(torch.load(file, weights_only=True) for file in (path, other)))
                    if other.exists()
                    else ["missing"]
                )
                if found:
                    yield f"{name}: {', '.join(found[:3])}"
            elif path.name.endswith(("_seg.nii.gz", "metrics.csv", "summary.json", "training_cases.csv")) and (
                not other.exists() or path.read_bytes() != other.read_bytes()
            ):
                yield f"{name}: {'differs' if other.exists() else 'missing'}"
        if left := [path.name for path in out.rglob("*") if ".partial" in path.name]:
            yield f"partial files: {', '.join(left[:3])}"
        records = out / "predictions.json"
        if records.exists() and any(record["status"] != "ok" for record in json.loads(records.read_text())):
            yield "predictions.json contains failures"


def _done(command: str, out: Path) -> str:
    """Return the progress of a command when it was stopped."""
    if command == "train":
        last = out / "last.pt"
        return f"epoch {torch.load(last, weights_only=True)['epoch']}" if last.exists() else "nothing"
    found = len(list(out.rglob("*_seg.nii.gz")))
    return f"{found} scans" if found else "nothing"


def _stop_problems(result: Stop, how: signal.Signals, out: Path) -> Iterator[str]:
    if how is signal.SIGKILL:
        return
    before = result.code == -how and result.moment < 1  # Python itself was still starting
    if result.code != 128 + how and not before:
        yield f"exit code {result.code}"
    lines = [line for line in result.said.splitlines() if line.strip()]
    if not before and (len(lines) > _LINES or not any(line.startswith("Stopped.") for line in lines)):
        yield f"unexpected message {result.said[-300:]!r}"
    if result.seconds > 10:
        yield f"took {result.seconds:.1f} s to end"
    if left := [path.name for path in out.rglob("*") if ".partial" in path.name]:
        yield f"partial files after the stop: {', '.join(left[:3])}"


def table(stops: list[Stop]) -> Iterator[str]:
    """Yield the lines of a Markdown table with a row per command and signal."""
    yield "| command | signal | stops | while running | with results on disk | max s to end | identical | failed |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for command in COMMANDS:
        for how in SIGNALS:
            matching = [stop for stop in stops if (stop.command, stop.signal) == (command, how.name)]
            if matching:
                running = [stop for stop in matching if stop.running]
                work = sum(stop.done_before != "nothing" for stop in running)
                same = sum(not stop.problems for stop in matching)
                longest = max((stop.seconds for stop in running), default=0.0)
                yield (
                    f"| {command} | {how.name} | {len(matching)} | {len(running)} | {work} | {longest:.1f} "
                    f"| {same} | {len(matching) - same} |"
                )
    right = sum(not stop.problems for stop in stops)
    yield f"\n{right} of {len(stops)} runs stopped as documented, with the results of uninterrupted runs."


def main() -> None:
    """Stop, restart and compare. The exit code is 1 if any run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder for all files; an earlier run in it is continued"
    )
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=COMMANDS)
    arguments = parser.parse_args()
    kills = Kills(arguments.folder.resolve(), arguments.only)
    journal = arguments.folder / "stops.jsonl"
    lines: list[dict[str, Any]] = (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    )
    stops = [Stop(**line) for line in lines]
    for number in range(arguments.times):
        if COMMANDS[number % len(COMMANDS)] not in arguments.only or number in {stop.number for stop in stops}:
            continue
        stop = kills.stop(number, arguments.seed)
        stops.append(stop)
        with journal.open("a") as file:
            file.write(json.dumps(asdict(stop)) + "\n")
        how = "; ".join(stop.problems) or "identical"
        print(f"{number}: {stop.command}, {stop.signal} at {stop.moment} s ({stop.done_before}): {how}", flush=True)
    print("\n".join(table(stops)))
    raise SystemExit(any(stop.problems for stop in stops))


if __name__ == "__main__":
    main()
