"""Which cases of a run can be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segbundle.metrics import Status
from segbundle.report.measurements import read_warnings
from segbundle.results.case_files import CaseFiles, is_there
from segbundle.results.runs import Run, holds_scores, read_predictions, read_run
from segbundle.results.scores import Row


@dataclass(frozen=True)
class ShownCase:
    """A case that can be shown.

    Attributes:
        name: of the case.
        told: what is said of it: its Dice, or its warnings.
        files: its volumes by name, as far as they are there.
        ignore_label: value of unknown voxels in the reference, if it has any.
        unannotated: indices of the classes that nobody has looked for in it.
    """

    name: str
    told: str
    files: dict[str, str]
    ignore_label: int | None
    unannotated: Sequence[int]

    @classmethod
    def of(cls, name: str, told: str, files: CaseFiles, unannotated: Sequence[int]) -> ShownCase:
        """A case of a run, with those of its files that are there."""
        given = {"scan": files.first_image, "reference": files.reference, "prediction": files.prediction}
        there = {kind: path for kind, path in given.items() if path is not None and is_there(path)}
        return cls(name, told, there, files.ignore_label, unannotated)

    @property
    def volumes(self) -> list[str]:
        """Names of what can be shown."""
        return [*self.files, *(["errors"] if {"reference", "prediction"} <= self.files.keys() else [])]


def shown_cases(
    folder: str | Path, dataset_dir: str | Path | None = None
) -> tuple[list[ShownCase], list[str], dict[str, Any]]:
    """The cases of an evaluation, worst first, or of predictions, as far as their files are known.

    Args:
        folder: of the run.
        dataset_dir: where the scans are now, if they were moved.

    Returns:
        the cases; the names of the classes without the background; and `run.json`.

    Raises:
        OutputError: as `read_run` or `read_predictions`.
    """
    if holds_scores(folder):
        run = read_run(folder, dataset_dir)
        return list(_scored(run)), run.class_names, run.made_by
    found = read_predictions(folder, dataset_dir)
    return [ShownCase.of(case, "", files, []) for case, files in found.files.items()], found.class_names, found.made_by


def with_warnings(cases: Sequence[ShownCase], measurements: Path) -> list[ShownCase]:
    """Cases of predictions with their warnings, which `measurements.csv` tells; those with most of them first."""
    warnings = read_warnings(measurements)
    order = {case: place for place, case in enumerate(warnings)}
    told = [replace(case, told=warnings.get(case.name, "")) for case in cases]
    return sorted(told, key=lambda case: order.get(case.name, len(order)))


def _scored(run: Run) -> Iterator[ShownCase]:
    rows: dict[str, list[Row]] = {case: [] for case in run.files}
    for row in run.rows:
        rows.get(row.case, []).append(row)
    index = {name: place for place, name in enumerate(run.class_names, 1)}
    dice = {case: [(one.dice, one.name) for one in found if one.dice is not None] for case, found in rows.items()}
    for case in sorted(rows, key=lambda case: (min(dice[case], default=(2.0, "")), case)):
        words = ", ".join(f"{name} {value:.3f}" for value, name in dice[case])
        words = f"Dice: {words}" if words else ""
        unannotated = [index[row.name] for row in rows[case] if row.status is Status.UNANNOTATED]
        yield ShownCase.of(case, words, run.files[case], unannotated)
