"""Run cases and report the outcome and the problems of each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fork_server import ROOT, ForkServer
from hostile.cases import ACCEPTED, CANARY, EITHER, PARTIAL, REFUSED, Case, Place
from hostile.material import make_material

LIMIT = 20.0
"""Time limit of a command in seconds."""
MOST_LINES, MOST_CHARACTERS = 5, 1000
OWN_LIST = ".segbundle-files.jsonl"
"""File in which the runs of a folder list their output files."""
_PYTHON = re.compile(
    r"\b(?:Type|Attribute|Key|Index|Name|Recursion|UnboundLocal|Assertion|ZeroDivision|UnicodeDecode)Error\b.*"
)
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


@dataclass
class Result:
    """Result of a case.

    Attributes:
        outcome: refused, partial, accepted, traceback, crashed, hang, executed.
        problems: problems, each as a sentence.
        digest: hash of the command line and the input, to count distinct cases.
    """

    id: str
    kind: str
    expect: str
    outcome: str
    seconds: float
    command: str
    problems: list[str] = field(default_factory=list)
    message: str = ""
    digest: str = ""
    reason: str = ""


class Runner:
    """Runner of cases, in forks of a process that has imported everything, or as real commands.

    Args:
        folder: new folder for the cases.
        keep: whether to keep the folders of cases with problems (default False).
    """

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.folder, self.keep, self._count = folder.resolve(), keep, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "HOME": str(self.folder), "MPLCONFIGDIR": str(self.folder / ".mpl"),
            "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "src")),
            "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200",
        }  # fmt: skip
        self.environment = environment
        self._forks = ForkServer(environment, LIMIT)
        self.material = make_material(self.folder / "material", self._run_successfully)
        self._shared = self._file_states(self.material.folder)
        self._hashed = snapshot(self.material.folder)
        self._bundle = self._file_states(ROOT / "bundle")

    def close(self) -> list[str]:
        """End the process and return the changes of the files that all cases share."""
        self._forks.close()
        return changes(self._hashed, snapshot(self.material.folder), [], [])

    def run(self, case: Case, real: bool = False) -> Result:
        self._count += 1
        folder = self.folder / f"{self._count:04d}"
        place = Place(folder, self.material)
        folder.mkdir()
        try:
            words = [_text(word) for word in case.build(place)]
        except Exception as error:  # a mistake in a test case must not end a run of thousands of cases
            return Result(case.id, case.kind, case.expect, "not made", 0.0, "", [f"the input cannot be made: {error}"])
        before = snapshot(folder)
        answer = (self._run_real if real else self._forks.run)(words, folder)
        after = snapshot(folder)
        result = self._evaluate(case, place, words, answer, before, after)
        if result.problems and self.keep:
            (folder / ".case").write_text(f"{case.id}\n{result.command}\n", errors="backslashreplace")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def _evaluate(
        self,
        case: Case,
        place: Place,
        words: list[str],
        answer: dict[str, Any],
        before: dict[str, str],
        after: dict[str, str],
    ) -> Result:
        out, err = answer["out"], answer["err"]
        printed = out + err + _records(place.output)
        problems: list[str] = []
        canaries = [path for path in after if Path(path).name == CANARY and path not in before]
        if answer["hang"]:
            outcome = "hang"
        elif canaries:
            outcome = "executed"
        elif "Traceback (most recent call last)" in printed or "SEGBUNDLE_TRACEBACK" in printed:
            outcome = "traceback"
        elif answer["code"] < 0 or answer["code"] > 2:
            outcome = "crashed"
        elif answer["code"] == 0:
            outcome = ACCEPTED
        else:
            outcome = REFUSED
        if (
            outcome in (ACCEPTED, REFUSED)
            and case.right is not None
            and (outcome == ACCEPTED or case.expect == PARTIAL)
        ):
            try:
                wrong = case.right(place)
            except Exception as error:
                wrong = f"the result cannot be judged: {type(error).__name__}: {error}"
            if wrong is not None:
                problems.append(f"wrong result: {wrong}")
            elif outcome == REFUSED:
                outcome = PARTIAL
        wanted = {EITHER: (ACCEPTED, REFUSED)}.get(case.expect, (case.expect,))
        if outcome not in wanted:
            problems.insert(0, f"{outcome} instead of {case.expect}")
        if outcome in (REFUSED, PARTIAL):
            problems += self._message_problems(case, words, err, printed)
        problems += changes(before, after, [place.output], place.may_change, place.folder)
        problems += [f"partial file left: {path}" for path in after if ".partial" in path and path not in before]
        if (
            self._file_states(self.material.folder) != self._shared
            or self._file_states(ROOT / "bundle") != self._bundle
        ):
            problems.append("foreign files touched: shared files")
            self._shared, self._bundle = self._file_states(self.material.folder), self._file_states(ROOT / "bundle")
        command = " ".join(words).replace(str(place.folder), ".").replace(str(self.material.folder), "MATERIAL")
        made = sorted((os.path.relpath(path, place.folder), content) for path, content in before.items())
        digest = hashlib.sha256((command + json.dumps(made)).encode("utf-8", "backslashreplace"))
        message = (err.strip() or out.strip())[-700:].replace(str(place.folder), ".")
        return Result(
            case.id, case.kind, case.expect, outcome, round(answer["seconds"], 2), command, problems, message,
            digest.hexdigest()[:16], case.reason,
        )  # fmt: skip

    def _message_problems(self, case: Case, words: list[str], err: str, printed: str) -> list[str]:
        problems = []
        lines = [line for line in err.splitlines() if line.strip()]
        if not lines:
            problems.append("no message")
        lists = words[0] in ("check", "import")
        most = max(MOST_LINES, len(lines)) if lists else MOST_LINES  # one line per problem
        if len(lines) > most or len(err) > most * MOST_CHARACTERS // MOST_LINES:
            problems.append(f"message of {len(lines)} lines and {len(err)} characters")
        usage = "Usage:" in err
        if (
            words[0] not in ("check", "audit", "import")
            and not usage
            and not any(line.startswith("Error: ") for line in lines)
        ):
            problems.append("no line that begins with `Error: `")
        if " object at 0x" in printed or _ADDRESS.search(printed):
            problems.append("a memory address in a message")
        if case.kind != "YAML reference" and (
            found := _PYTHON.search(printed)
        ):  # the message quotes the error of the expression
            problems.append(f"a Python exception in a message: {found[0]}")
        for name in case.names:
            if not any(text.lower() in printed.lower() for text in name.split("|")):
                problems.append(f"the message does not name {name!r}")
        return problems

    def _run_real(self, words: list[str], folder: Path) -> dict[str, Any]:
        """Run the real command. Its time limit is longer, because starting takes seconds."""
        program, started = Path(sys.executable).parent / "segbundle", time.monotonic()
        try:
            done = subprocess.run(
                [str(program), *words], cwd=folder, env=self.environment, capture_output=True, timeout=60, check=False,
                stdin=subprocess.DEVNULL, encoding="utf-8", errors="backslashreplace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"code": None, "seconds": time.monotonic() - started, "hang": True, "out": "", "err": ""}
        seconds = time.monotonic() - started
        return {"code": done.returncode, "seconds": seconds, "hang": False, "out": done.stdout, "err": done.stderr}

    def _run_successfully(self, words: Sequence[object], folder: Path) -> None:
        answer = self._forks.run([_text(word) for word in words], folder)
        assert answer["code"] == 0, answer

    def _file_states(self, folder: Path) -> dict[str, tuple[int, int]]:
        found = {}
        for place, folders, files in os.walk(folder):
            if "__pycache__" in folders:
                folders.remove("__pycache__")
            for name in files:
                status = os.lstat(os.path.join(place, name))
                found[os.path.join(place, name)] = (status.st_size, status.st_mtime_ns)
        return found


def _text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, (bytes, os.PathLike)) else str(word)


def _records(output: Path) -> str:
    try:
        text = (output / "predictions.json").read_text(encoding="utf-8", errors="backslashreplace")
        return "\n".join(str(record["error"]) for record in json.loads(text) if record["error"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""


def snapshot(folder: Path) -> dict[str, str]:
    """Return a digest of the content by path, for every file, link and folder below a folder."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[path] = f"link {os.readlink(path)}"
            elif stat.S_ISDIR(mode):
                found[path] = "folder"
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found[path] = hashlib.sha256(file.read()).hexdigest()
            else:
                found[path] = "special"
    return found


def changes(
    before: dict[str, str],
    after: dict[str, str],
    outputs: list[Path],
    may_change: list[Path],
    folder: Path | None = None,
) -> list[str]:
    """Return problems: earlier files that were changed or removed, and new files outside the outputs."""

    def within(path: str, places: list[Path]) -> bool:
        return any(path == str(place) or path.startswith(f"{place}{os.sep}") for place in places)

    def shown(path: str) -> str:
        return (path if folder is None else os.path.relpath(path, folder)).encode("utf-8", "backslashreplace").decode()

    problems = []
    for path, content in before.items():
        if Path(path).name == OWN_LIST:
            continue
        if after.get(path) != content and not within(path, may_change):
            what = "removed" if path not in after else "changed"
            problems.append(f"foreign files touched: {shown(path)} {what}")
    for path in after:
        allowed = Path(path).name in (CANARY, OWN_LIST) or within(path, [*outputs, *may_change])
        if path not in before and not allowed:
            problems.append(f"file written outside the output folder: {shown(path)}")
    return problems[:4]


def write_results(results: Sequence[Result], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=True))
