"""Case: an input in a separate folder, a command line, and the expected outcome."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostile.material import Material

REFUSED, PARTIAL, ACCEPTED, EITHER = "refused", "partial", "accepted", "either"
"""Expected outcomes: exit code 1 and a short message; exit code 1 and correct results for all valid scans; exit code 0
and the correct result; refused or accepted with the correct result."""

CANARY = "canary"
RUN = f'open("{CANARY}","w")'
"""Expression without a slash that writes a file into the working directory when it is evaluated."""


@dataclass
class Place:
    """Folders of a case.

    Attributes:
        folder: working directory of the command, with the files of the case.
        material: files that all cases share. No command may change them.
        output: folder into which the command may write.
        may_change: files or folders of the case that the command may replace or remove.
    """

    folder: Path
    material: Material
    output: Path = field(init=False)
    may_change: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = self.folder / "out"

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def dataset(self, name: str = "data") -> Path:
        return Path(shutil.copytree(self.material.dataset, self.folder / name))

    def copied(self, source: Path, name: str | None = None) -> Path:
        target = self.folder / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))

    def predict(self, *scans: object, ckpt: object = None, config: object = None) -> list[object]:
        return [
            "predict", *scans, "--config", config or self.material.task, "--ckpt_path",
            ckpt or self.material.checkpoint, "--output_dir", self.output,
        ]  # fmt: skip

    def evaluate(self, dataset: object = None, ckpt: object = None, config: object = None) -> list[object]:
        return [
            "evaluate", "--config", config or self.material.task, "--dataset_dir", dataset or self.material.dataset,
            "--ckpt_path", ckpt or self.material.checkpoint, "--output_dir", self.output,
        ]  # fmt: skip

    def train(self, dataset: object = None, config: object = None) -> list[object]:
        return self._training("train", dataset, config)

    def cross_validate(self, dataset: object = None, config: object = None) -> list[object]:
        return self._training("cross-validate", dataset, config)

    def _training(self, command: str, dataset: object, config: object) -> list[object]:
        return [
            command, "--config", config or self.material.task, "--dataset_dir", dataset or self.material.dataset,
            "--output_dir", self.output,
        ]  # fmt: skip

    def check(self, dataset: object, config: object = None) -> list[object]:
        return ["check", dataset, "--config", config or self.material.task]


Build = Callable[[Place], Sequence[object]]
Right = Callable[[Place], "str | None"]


@dataclass(frozen=True)
class Case:
    """Invalid or questionable input.

    Attributes:
        kind: group in the table of results.
        name: name, unique within its kind.
        build: function that writes the input and returns the command line without `segbundle`.
        expect: REFUSED, PARTIAL, ACCEPTED or EITHER.
        names: texts that the messages must contain; `|` separates alternatives.
        right: function that returns the problem of an accepted or partial result, or None.
        reason: reason why the input is accepted.
    """

    kind: str
    name: str
    build: Build
    expect: str = REFUSED
    names: tuple[str, ...] = ()
    right: Right | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"


def distinct(cases: Iterable[Case]) -> list[Case]:
    """Return the cases as a list, and fail if two cases have the same id."""
    found: dict[str, Case] = {}
    for case in cases:
        assert case.id not in found, f"two cases have the id {case.id}"
        found[case.id] = case
    return list(found.values())
