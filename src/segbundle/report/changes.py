"""What changed most from one run to another: of every class the cases that became worse and better, in three planes."""

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
from segbundle.results.runs import Run, window_of
from segbundle.results.scores import Row

_logger = logging.getLogger(__name__)
_MOST_PICTURED = 80
"""Changes that are drawn in three planes, of all runs together."""
_PROBLEMS = (SegbundleError, OSError, ValueError, MemoryError)
_LEAST_GAIN = 0.0005
"""In Dice: less is not seen in three digits."""


@dataclass(frozen=True)
class Change:
    """A class of a case in two runs.

    Attributes:
        before, after: its rows.
        gain: in Dice, where a class that is rightly absent counts as 1.
    """

    before: Row
    after: Row
    gain: float

    @property
    def size(self) -> float:
        """Volume in the reference in ml, as far as it is known."""
        return max(self.before.volume_ref_ml or 0.0, self.after.volume_ref_ml or 0.0)


@dataclass
class Pictures:
    """What a page shows of a run's changes, the largest first, and how many it does not show, and why."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    no_room: int = 0
    unknown: int = 0


def largest_changes(first: Run, other: Run, classes: Sequence[str], cases: Collection[str]) -> list[Change]:
    """For each class the case that lost most and the one that gained most, as far as there are such, the largest first.

    Of equal changes that of the larger structure counts.
    """
    theirs = {(row.case, row.name): row for row in other.rows}
    found = []
    for name in classes:
        changes = [
            Change(row, after, then - now)
            for row in first.rows_of(name)
            if row.case in cases and (after := theirs.get((row.case, name))) is not None
            if (now := _worth(row)) is not None and (then := _worth(after)) is not None
        ]
        if changes:
            lost = min(changes, key=lambda change: (change.gain, -change.size))
            gained = max(changes, key=lambda change: (change.gain, change.size))
            found += [lost] * (lost.gain <= -_LEAST_GAIN) + [gained] * (gained.gain >= _LEAST_GAIN)
    return sorted(found, key=lambda change: -abs(change.gain))


def _worth(row: Row) -> float | None:
    return 1.0 if row.status is Status.TRUE_ABSENT else row.dice


def pictures_of_changes(
    first: Run, others: Mapping[str, Run], classes: Sequence[str], cases: Collection[str]
) -> dict[str, Pictures]:
    """Slices of the largest changes of each other run, as far as there is room for them on a page.

    Args:
        first: what the others are compared with.
        others: runs by their names.
        classes: that all of them have.
        cases: that all of them have, with the same reference.
    """
    room = room_for_pictures(len(first.rows)) / len(others)
    wanted: dict[str, list[Change]] = {}
    found = {name: Pictures() for name in others}
    for name, run in others.items():
        changes = largest_changes(first, run, classes, cases)
        known = [change for change in changes if _files(first, run, change.before.case) is not None]
        wanted[name] = known[: _MOST_PICTURED // len(others)]
        found[name].unknown = len(changes) - len(known)
        found[name].no_room = len(known) - len(wanted[name])
    drawn = _drawn(first, others, wanted)
    for number_of_run, (name, changes) in enumerate(wanted.items()):
        left = room
        for place, change in enumerate(changes):
            slices, problem = drawn[name, change.before.case, change.before.name]
            left -= sum(map(len, slices))
            if left < 0:
                found[name].no_room += 1
                continue
            found[name].shown.append(
                {
                    "anchor": f"change-{number_of_run}-{place}", "case": change.before.case, "name": change.before.name,
                    "words": "became better" if change.gain > 0 else "became worse", "scores": _in_words(change),
                    "slices": slices, "problem": problem,
                }
            )  # fmt: skip
    return found


def _in_words(change: Change) -> str:
    before, after = _told(change.before), _told(change.after)
    return f"{before} → {after.removeprefix('Dice ') if before.startswith('Dice ') else after}"


def _told(row: Row) -> str:
    value = "" if row.dice is None else f"Dice {number(row.dice, 3)}"
    status = "" if row.status is Status.SCORED else LABELS[row.status]
    return ", ".join(filter(None, (value, status)))


def _files(first: Run, other: Run, case: str) -> CaseFiles | None:
    """A case's prediction in the first run, with scan and reference from whichever run has them; None if none has."""
    mine, theirs = first.files.get(case), other.files.get(case)
    if mine is None or theirs is None:
        return None
    there = next((files for files in (mine, theirs) if files.gone is None), None)
    return None if there is None else replace(there, prediction=mine.prediction)


def _drawn(
    first: Run, others: Mapping[str, Run], wanted: Mapping[str, Sequence[Change]]
) -> dict[tuple[str, str, str], tuple[list[Markup], str | None]]:
    """Slices by run, case and class, or why there are none; every label map is read once."""
    by_case: dict[str, dict[str, list[str]]] = {}
    for name, changes in wanted.items():
        for change in changes:
            by_case.setdefault(change.before.case, {}).setdefault(name, []).append(change.before.name)
    drawn: dict[tuple[str, str, str], tuple[list[Markup], str | None]] = {}
    for case, shown in progress(by_case.items(), "report"):
        for name, classes, slices in _of_case(first, others, case, shown):
            drawn |= {(name, case, each): one for each, one in zip(classes, slices, strict=True)}
    return drawn


def _of_case(
    first: Run, others: Mapping[str, Run], case: str, shown: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Sequence[str], list[tuple[list[Markup], str | None]]]]:
    """For each other run the classes to be shown, and of each its slices, or why there are none."""
    files = next(found for name in shown if (found := _files(first, others[name], case)) is not None)
    try:
        volumes = CaseVolumes.read(files, window_of(first.made_by))
    except _PROBLEMS as error:
        for name, classes in shown.items():
            yield name, classes, [_no_picture(error)] * len(classes)
        return
    for name, classes in shown.items():
        try:
            labels = volumes.read_another(others[name].files[case].prediction)
        except _PROBLEMS as error:
            yield name, classes, [_no_picture(error)] * len(classes)
            continue
        places = [[run.class_names.index(each) + 1 for run in (first, others[name])] for each in classes]
        yield name, classes, [(list(changed_slices(volumes, a, labels == b)), None) for a, b in places]


def _no_picture(error: Exception) -> tuple[list[Markup], str]:
    _logger.warning("report: %s", describe(error))
    return [], f"No picture: {describe(error)}"
