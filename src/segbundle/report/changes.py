"""Largest changes between two runs: the most worsened and most improved case of every class, in three planes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.metrics import Status
from segbundle.report.rendering import LABELS, number, progress, room_for_pictures
from segbundle.report.slices import CaseVolumes, changed_slices
from segbundle.results.case_files import CaseFiles
from segbundle.results.made_by import regions_of, window_of
from segbundle.results.runs import Run
from segbundle.results.scores import Row

_logger = logging.getLogger(__name__)
_MAX_CHANGES = 80
"""Upper limit of the changes that are drawn, over all runs."""
_FILE_ERRORS = (SegbundleError, OSError, ValueError, MemoryError)
_MIN_GAIN = 0.0005
"""Smallest change in Dice that three digits show."""


@dataclass(frozen=True)
class Change:
    """Change of one class in one case between two runs.

    Attributes:
        before: row of the first run.
        after: row of the other run.
        gain: Dice of the other run minus Dice of the first run. A class that is absent from both reference and
            prediction counts as Dice 1.

    Example:
        >>> row = Row("case_1", "liver", Status.SCORED, 0.8, None, None, 12.0, 11.0, None, None)
        >>> Change(row, replace(row, dice=0.9, volume_ref_ml=12.5), gain=0.1).size
        12.5
    """

    before: Row
    after: Row
    gain: float

    @property
    def size(self) -> float:
        """Volume of the class in the reference in ml; 0 if unknown."""
        return max(self.before.volume_ref_ml or 0.0, self.after.volume_ref_ml or 0.0)


@dataclass
class Pictures:
    """Changes shown on a page, and the numbers of changes that are not shown.

    Attributes:
        shown: values for the template, one dictionary per change, the largest change first.
        no_room: number of changes that are left out to limit the size of the page.
        unknown: number of changes in cases whose files are unknown or were moved.

    Example:
        >>> Pictures().no_room
        0
    """

    shown: list[dict[str, Any]] = field(default_factory=list)
    no_room: int = 0
    unknown: int = 0


def largest_changes(first: Run, other: Run, classes: Sequence[str], cases: Collection[str]) -> list[Change]:
    """Return for each class the case with the largest loss and the case with the largest gain in Dice.

    Args:
        first: baseline run.
        other: run that is compared with the baseline.
        classes: classes to compare.
        cases: cases to compare.

    Returns:
        changes of at least 0.0005, the largest first. If several cases of a class have the same change, the case with
        the largest structure is returned.

    Example:
        >>> from pathlib import Path
        >>> row = Row("case_1", "liver", Status.SCORED, 0.8, None, None, 12.0, 11.0, None, None)
        >>> first, other = (Run(Path("run"), [each], {}, {}, {}, {}) for each in (row, replace(row, dice=0.5)))
        >>> [round(change.gain, 6) for change in largest_changes(first, other, ["liver"], ["case_1"])]
        [-0.3]
    """
    other_rows = {(row.case, row.name): row for row in other.rows}
    found = []
    for name in classes:
        changes = [
            Change(row, after, dice_after - dice_before)
            for row in first.rows_of(name)
            if row.case in cases and (after := other_rows.get((row.case, name))) is not None
            if (dice_before := _dice_or_absent(row)) is not None and (dice_after := _dice_or_absent(after)) is not None
        ]
        if changes:
            loss = min(changes, key=lambda change: (change.gain, -change.size))
            gain = max(changes, key=lambda change: (change.gain, change.size))
            found += [loss] * (loss.gain <= -_MIN_GAIN) + [gain] * (gain.gain >= _MIN_GAIN)
    return sorted(found, key=lambda change: -abs(change.gain))


def _dice_or_absent(row: Row) -> float | None:
    """Return the Dice of a row; 1 for a true negative."""
    return 1.0 if row.status is Status.TRUE_ABSENT else row.dice


def pictures_of_changes(
    first: Run, others: Mapping[str, Run], classes: Sequence[str], cases: Collection[str]
) -> dict[str, Pictures]:
    """Return slices of the largest changes between a baseline and each other run, within the size budget of a page.

    If the files of a case cannot be read, an error message takes the place of its slices.

    Args:
        first: baseline run.
        others: runs that are compared with the baseline, by name; at least one.
        classes: classes that all runs have.
        cases: cases that all runs have, with the same reference.

    Returns:
        for each name in `others`, the `Pictures` of the changes

    Example:
        >>> from pathlib import Path
        >>> run = Run(Path("run"), [], {}, {}, {}, {})
        >>> pictures_of_changes(run, {"other": run}, ["liver"], [])
        {'other': Pictures(shown=[], no_room=0, unknown=0)}
    """
    byte_budget = room_for_pictures(len(first.rows)) / len(others)
    wanted: dict[str, list[Change]] = {}
    found = {name: Pictures() for name in others}
    for name, run in others.items():
        changes = largest_changes(first, run, classes, cases)
        known = [change for change in changes if _find_files(first, run, change.before.case) is not None]
        wanted[name] = known[: _MAX_CHANGES // len(others)]
        found[name].unknown = len(changes) - len(known)
        found[name].no_room = len(known) - len(wanted[name])
    drawn = _draw(first, others, wanted)
    for run_number, (name, changes) in enumerate(wanted.items()):
        bytes_left = byte_budget
        for place, change in enumerate(changes):
            slices, problem = drawn[name, change.before.case, change.before.name]
            bytes_left -= sum(map(len, slices))
            if bytes_left < 0:
                found[name].no_room += 1
                continue
            found[name].shown.append(
                {
                    "anchor": f"change-{run_number}-{place}", "case": change.before.case, "name": change.before.name,
                    "direction": "improved" if change.gain > 0 else "worsened", "scores": _format_scores(change),
                    "slices": slices, "problem": problem,
                }
            )  # fmt: skip
    return found


def _format_scores(change: Change) -> str:
    before, after = _format_row(change.before), _format_row(change.after)
    return f"{before} → {after.removeprefix('Dice ') if before.startswith('Dice ') else after}"


def _format_row(row: Row) -> str:
    value = "" if row.dice is None else f"Dice {number(row.dice, 3)}"
    status = "" if row.status is Status.SCORED else LABELS[row.status]
    return ", ".join(filter(None, (value, status)))


def _find_files(first: Run, other: Run, case: str) -> CaseFiles | None:
    """Return the prediction of the first run with scan and reference of either run, or None if they are missing."""
    in_first, in_other = first.files.get(case), other.files.get(case)
    if in_first is None or in_other is None:
        return None
    existing = next((files for files in (in_first, in_other) if files.gone is None), None)
    return None if existing is None else replace(existing, prediction=in_first.prediction)


def _draw(
    first: Run, others: Mapping[str, Run], wanted: Mapping[str, Sequence[Change]]
) -> dict[tuple[str, str, str], tuple[list[Markup], str | None]]:
    """Return slices or an error message by (run, case, class). Each label map is read once."""
    by_case: dict[str, dict[str, list[str]]] = {}
    for name, changes in wanted.items():
        for change in changes:
            by_case.setdefault(change.before.case, {}).setdefault(name, []).append(change.before.name)
    drawn: dict[tuple[str, str, str], tuple[list[Markup], str | None]] = {}
    for case, shown in progress(by_case.items(), "report"):
        for name, classes, results in _draw_case(first, others, case, shown):
            drawn |= {(name, case, each): result for each, result in zip(classes, results, strict=True)}
    return drawn


def _draw_case(
    first: Run, others: Mapping[str, Run], case: str, shown: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Sequence[str], list[tuple[list[Markup], str | None]]]]:
    """Yield for each run the classes to show, and slices or an error message per class."""
    files = next(found for name in shown if (found := _find_files(first, others[name], case)) is not None)
    try:
        names = ["background", *first.class_names]
        volumes = CaseVolumes.read(files, window_of(first.made_by), names, regions_of(first.made_by))
    except _FILE_ERRORS as error:
        for name, classes in shown.items():
            yield name, classes, [_no_slices(case, error)] * len(classes)
        return
    for name, classes in shown.items():
        try:
            labels = volumes.read_another(others[name].files[case].prediction)
        except _FILE_ERRORS as error:
            yield name, classes, [_no_slices(case, error)] * len(classes)
            continue
        indices = [[run.class_names.index(each) + 1 for run in (first, others[name])] for each in classes]
        other = replace(volumes, regions=regions_of(others[name].made_by))
        yield name, classes, [(list(changed_slices(volumes, a, other.mask(labels, b))), None) for a, b in indices]


def _no_slices(case: str, error: Exception) -> tuple[list[Markup], str]:
    _logger.warning("report: no slices for case %s: %s", case, describe(error))
    return [], f"No slices: {describe(error)}"
