"""Mutation testing: count the small changes of the code that the tests detect.

    python benchmarks/mutation.py --journal runs/mutation.jsonl
    python benchmarks/mutation.py --journal runs/mutation.jsonl --files metrics --survivors
    python benchmarks/mutation.py --journal runs/mutation.jsonl --files metrics --again

Tests are collected once, with PyTorch and MONAI imported, and a process is forked for every mutant (see mutants.py). It
runs the tests that reach the changed line, shortest first, until one fails. Tests of more than `--slowest` seconds are
skipped. A mutant that has passed `--seconds` of tests counts as survived. A mutant that needs far more CPU time than
its tests did before (an endless loop) counts as timed out. A timeout is as good as a kill.

The journal records every outcome, so that a run can be stopped, resumed and sharded (`--shard 1/2`). `--again` repeats
the survivors after tests have been added. The program ends with the table in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from mutants import Mutant, mutants, mutated

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src"
TESTS = {
    "losses/*": [
        f"losses/test_{name}.py" for name in ("by_hand", "target_checks", "arguments", "values", "deep_supervision")
    ],
    "metrics/*": ["metrics"],
    "transforms/restoring.py": ["transforms/test_restoring_steps.py", "transforms/test_restoring.py"],
    "results/scores.py": ["results/test_scores.py"],
    "files/atomic.py": ["files/test_atomic.py", "files/test_output_folders.py"],
    "io/scan_files.py": ["io/test_scan_files.py", "io/test_scans.py"],
    "datasets/cases.py": ["datasets/test_cases.py"],
}
"""Tests by the files whose changes they should detect."""
PRELOADED = (
    "scipy.ndimage",
    "scipy.spatial",
    "monai.metrics.utils",
    "monai.losses",
    "rich.table",
    "nibabel",
    "SimpleITK",
)
"""Modules that the code imports lazily, imported once before the forks."""
KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"


@dataclass(frozen=True)
class Limits:
    """Limits in seconds: of a single test, and of all tests of a mutant."""

    slowest: float
    seconds: float


class Journal:
    """File with a line per outcome; for each mutant of a file, the last line counts."""

    def __init__(self, path: Path):
        self.path = path
        self.outcomes: dict[tuple[str, str], str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                known = json.loads(line)
                self.outcomes[known["file"], known["mutant"]] = known["outcome"]

    def add(self, file: str, mutant: Mutant, outcome: str) -> None:
        """Add an outcome and write it immediately."""
        self.outcomes[file, mutant.key] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file_object:
            file_object.write(json.dumps({"file": file, "mutant": mutant.key, "outcome": outcome}) + "\n")


class Runner:
    """Pytest plugin that runs mutants instead of the collected tests."""

    def __init__(self, work: dict[str, list[Mutant]], journal: Journal, limits: Limits):
        self.work = work
        self.journal = journal
        self.limits = limits
        self.kills: Counter[str] = Counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Record the lines that the tests reach, then test every mutant."""
        if session.testsfailed:
            raise pytest.UsageError("the tests cannot be collected")
        for name in PRELOADED:
            importlib.import_module(name)
        config: Any = session.config
        folder = config._tmp_path_factory.getbasetemp()
        items = {item.nodeid: item for item in session.items}
        paths = {str(SOURCES / "segbundle" / file): file for file in self.work}
        reached = self._reached(list(items.values()), set(paths))
        seconds = {name: known["seconds"] for name, known in reached.items() if known["passed"]}
        left_out = [name for name in items if name not in seconds]
        total = sum(seconds.values())
        print(f"{len(seconds)} tests of {total:.0f} s; {len(left_out)} failed or too slow: {left_out[:5]}", flush=True)
        for path, file in paths.items():
            by_line: dict[int, set[str]] = defaultdict(set)
            for name in seconds:
                for line in reached[name]["lines"].get(path, []):
                    by_line[line].add(name)
            for mutant in self.work[file]:
                names = self._chosen(mutant, by_line, seconds)
                outcome = self._try(Path(path), file, mutant, [items[name] for name in names], seconds)
                self.journal.add(file, mutant, outcome)
                if outcome == SURVIVED:
                    print(f"{file}:{mutant.line}: {mutant.change}, survived {len(names)} tests", flush=True)
                for left in folder.iterdir():
                    shutil.rmtree(left, ignore_errors=True)
        return True

    def _reached(self, items: Sequence[pytest.Item], paths: set[str]) -> dict[str, Any]:
        """Return the result of `_baseline`, from a file next to the journal if tests and sources are unchanged."""
        content = hashlib.sha1(json.dumps(sorted(paths)).encode())
        for path in sorted({*paths, *(str(item.path) for item in items)}):
            content.update(Path(path).read_bytes())
        stored = self.journal.path.with_name(f"reached-{content.hexdigest()}-{self.limits.slowest:g}.json")
        if stored.exists():
            known: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
            return known
        found: dict[str, Any] = run_in_fork(lambda: self._baseline(items, paths))
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _baseline(self, items: Sequence[pytest.Item], paths: set[str]) -> dict[str, Any]:
        """Run all tests; return whether they pass, their seconds, and the lines of each path that they reach."""
        result = {}
        signal.signal(signal.SIGALRM, _too_slow)
        for item, next_item in zip(items, [*items[1:], None], strict=True):
            lines: dict[str, set[int]] = defaultdict(set)
            tracer = _tracer(paths, lines)
            start = time.process_time()
            signal.alarm(max(int(4 * self.limits.slowest), 1))
            threading.settrace(tracer)
            sys.settrace(tracer)
            try:
                passed = _passes(item, next_item)
            finally:
                sys.settrace(None)
                threading.settrace(None)
                signal.alarm(0)
            seconds = time.process_time() - start
            passed = passed and bool(lines) and seconds <= self.limits.slowest
            found = {path: sorted(numbers) for path, numbers in lines.items()}
            result[item.nodeid] = {"passed": passed, "seconds": seconds, "lines": found}
        return result

    def _chosen(self, mutant: Mutant, by_line: dict[int, set[str]], seconds: dict[str, float]) -> list[str]:
        """Return the tests that reach a mutant, sorted by kills per second, highest first."""
        lines: Iterable[int] = by_line if mutant.lines is None else range(mutant.lines[0], mutant.lines[1] + 1)
        names = set().union(*(by_line.get(line, set()) for line in lines))
        ordered = sorted(names, key=lambda name: (-self.kills[name] / (seconds[name] + 0.05), seconds[name], name))
        chosen: list[str] = []
        total = 0.0
        for name in ordered:
            total += seconds[name]
            if chosen and total > self.limits.seconds:
                break
            chosen.append(name)
        return chosen

    def _try(
        self, path: Path, file: str, mutant: Mutant, items: Sequence[pytest.Item], seconds: dict[str, float]
    ) -> str:
        if not items:
            return SURVIVED
        expected = sum(seconds[item.nodeid] for item in items)
        module = "segbundle." + file.removesuffix(".py").replace("/", ".")

        def kill() -> str | None:
            limit = int(10 + 3 * expected)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            tree = mutated(path.read_text(encoding="utf-8"), mutant.number)
            try:
                replace_code(sys.modules[module], compile(tree, str(path), "exec"), at_import=mutant.lines is None)
            except Exception:
                return "import"
            for item, next_item in zip(items, [*items[1:], None], strict=True):
                if not _passes(item, next_item):
                    return item.nodeid
            return None

        try:
            killer = run_in_fork(kill, wall_seconds=40 + 20 * expected)
        except TimeoutError:
            return TIMED_OUT
        except ChildProcessError:
            return KILLED
        if killer is not None:
            self.kills[killer] += 1
        return SURVIVED if killer is None else KILLED


def run_in_fork(work: Callable[[], Any], wall_seconds: float = 7200) -> Any:
    """Return the result of a function that runs in a forked process, without output or effects on this process.

    Args:
        work: function with a JSON result.
        wall_seconds: time limit in seconds (default 7200).

    Raises:
        TimeoutError: the limit of CPU time or wall time was reached.
        ChildProcessError: the process ended with another error.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.setsid()
        code = 1
        try:
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    timer = threading.Timer(wall_seconds, os.killpg, (pid, signal.SIGKILL))
    timer.start()
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        raise TimeoutError
    if status:
        raise ChildProcessError(status)
    return json.loads(text)


def replace_code(module: types.ModuleType, code: types.CodeType, at_import: bool) -> None:
    """Replace the code of functions and classes in a loaded module by that of another version.

    Args:
        module: loaded module. Objects that other modules have imported from it are kept.
        code: code of the other version.
        at_import: whether to replace constants of the module and its classes as well, here and in other modules.
    """
    new = types.ModuleType(module.__name__)
    new.__dict__.update(
        {key: module.__dict__[key] for key in ("__file__", "__package__", "__path__") if key in vars(module)}
    )
    exec(code, new.__dict__)
    _replace_members(module, dict(vars(new)), module.__name__, at_import)


def _replace_members(owner: Any, new: dict[str, Any], module: str, at_import: bool) -> None:
    for name, value in new.items():
        old = vars(owner).get(name)
        if isinstance(value, type) and isinstance(old, type):
            if value.__module__ == module and value is not old:
                _replace_members(old, dict(vars(value)), module, at_import)
            continue
        function, new_function = _function(old), _function(value)
        if function and new_function:
            if new_function.__module__ == module:
                _replace_function(owner, name, old, function, new_function)
        elif at_import and is_dataclass(value) and is_dataclass(old):
            for field in fields(value):
                object.__setattr__(old, field.name, getattr(value, field.name))
        elif at_import and _is_plain(value) and (type(value), value) != (type(old), old):
            for other in [owner, *(part for part in list(sys.modules.values()) if vars(part).get(name) is old)]:
                setattr(other, name, value)


def _replace_function(owner: Any, name: str, old: Any, function: types.FunctionType, new: types.FunctionType) -> None:
    if function.__code__.co_freevars != new.__code__.co_freevars:  # for example with and without `super()`
        setattr(owner, name, type(old)(new) if isinstance(old, (staticmethod, classmethod, property)) else new)
        return
    function.__code__ = new.__code__
    if function.__defaults__ != new.__defaults__:
        function.__defaults__ = new.__defaults__
    if function.__kwdefaults__ != new.__kwdefaults__:
        function.__kwdefaults__ = new.__kwdefaults__


def _function(value: Any) -> types.FunctionType | None:
    """Return the function that a method, a property or a decorator wraps."""
    for name in ("__func__", "fget", "func", "__wrapped__"):
        inner = None if isinstance(value, (type, types.ModuleType)) else getattr(value, name, None)
        if inner is not None:
            return _function(inner)
    return value if isinstance(value, types.FunctionType) else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str, tuple, dict, list)) or type(value).__name__ == "Pattern"


def _passes(item: pytest.Item, next_item: pytest.Item | None) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=next_item))


def _tracer(paths: set[str], lines: dict[str, set[int]]) -> Any:
    def local(frame: types.FrameType, event: str, argument: object) -> Any:
        lines[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    def every(frame: types.FrameType, event: str, argument: object) -> Any:
        return local(frame, event, argument) if frame.f_code.co_filename in paths else None

    return every


def _too_slow(*_: object) -> None:
    raise TimeoutError


def chosen_files(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the files that contain one of the patterns (all files without patterns), with the tests of each file."""
    package = SOURCES / "segbundle"
    found = {}
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        tests = [test for pattern, names in TESTS.items() if fnmatch.fnmatch(file, pattern) for test in names]
        if tests and path.name != "__init__.py" and (not patterns or any(part in file for part in patterns)):
            found[file] = tests
    return found


def table(files: Iterable[str], journal: Journal) -> str:
    """Return the counts by file as a Markdown table."""
    lines = ["| file | mutants | killed | timed out | survived | killed or timed out |", "| --- " * 6 + "|"]
    total: Counter[str] = Counter()
    for file in files:
        keys = [mutant.key for mutant in mutants((SOURCES / "segbundle" / file).read_text(encoding="utf-8"))]
        counts = Counter(journal.outcomes[file, key] for key in keys if (file, key) in journal.outcomes)
        total += counts
        lines.append(_row(f"`{file}`", counts))
    return "\n".join([*lines, _row("all", total)])


def _row(name: str, counts: Counter[str]) -> str:
    tried = sum(counts.values())
    rate = f"{100 * (tried - counts[SURVIVED]) / tried:.1f} %" if tried else "–"
    return f"| {name} | {tried} | {counts[KILLED]} | {counts[TIMED_OUT]} | {counts[SURVIVED]} | {rate} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--files", nargs="*", default=[], help="parts of file names (default: all files)")
    parser.add_argument("--shard", default="1/1", help="shard and number of shards, for instance 1/2")
    parser.add_argument("--sample", type=int, help="number of random mutants per file (default: all)")
    parser.add_argument("--again", action="store_true", help="test the survivors again")
    parser.add_argument("--survivors", action="store_true", help="print the survivors and run nothing")
    parser.add_argument("--slowest", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    sys.path.remove(str(Path(__file__).parent))  # modules in it have the names of test packages
    journal = Journal(options.journal)
    part, parts = map(int, options.shard.split("/"))
    groups: dict[tuple[str, ...], dict[str, list[Mutant]]] = defaultdict(dict)
    files = chosen_files(options.files)
    for file, tests in files.items():
        todo = mutants((SOURCES / "segbundle" / file).read_text(encoding="utf-8"))
        if options.survivors:
            for mutant in todo:
                if journal.outcomes.get((file, mutant.key)) == SURVIVED:
                    print(f"{file}:{mutant.line}: {mutant.key}")
            continue
        if options.sample:
            todo = random.Random(0).sample(todo, min(options.sample, len(todo)))
        known = {None, SURVIVED} if options.again else {None}
        todo = [m for m in todo if m.number % parts == part - 1 and journal.outcomes.get((file, m.key)) in known]
        groups[tuple(tests)][file] = todo
    for names, work in groups.items():
        if not any(work.values()):
            continue
        paths = [str(ROOT / "tests" / test) for test in names if (ROOT / "tests" / test).exists()]
        arguments = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib"]
        pid = os.fork()
        if pid == 0:
            os.chdir(ROOT)
            os._exit(
                int(
                    pytest.main(
                        [*arguments, *paths], plugins=[Runner(work, journal, Limits(options.slowest, options.seconds))]
                    )
                )
            )
        os.waitpid(pid, 0)
    print(table(files, Journal(options.journal)))


if __name__ == "__main__":
    main()
