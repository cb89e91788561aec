"""What changed most from one run to another: of every class the cases that became worse and better, in three planes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.metrics import Status
from segbundle.reports.rendering import LABELS, MOST_BYTES, number, progress
from segbundle.reports.runs import Run, window_of
from segbundle.reports.scores import Row
from segbundle.reports.slices import CaseVolumes, changed_slices

_logger = logging.getLogger(__name__)
_MOST_PICTURED = 80
"""Changes that are drawn in three planes."""


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
            found += [lost] * (lost.gain < 0) + [gained] * (gained.gain > 0)
    return sorted(found, key=lambda change: -abs(change.gain))


def _worth(row: Row) -> float | None:
    return 1.0 if row.status is Status.TRUE_ABSENT else row.dice


def pictures_of_changes(
    first: Run, others: Mapping[str, Run], classes: Sequence[str], cases: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    """Slices of the largest changes of each other run, as far as there is room for them on a page.

    Args:
        first: what the others are compared with.
        others: runs by their names.
        classes: that all of them have.
        cases: that all of them have.

    Returns:
        for each other run what the page shows, the largest change first; cases whose files are unknown or were moved
        are left out.
    """
    wanted = [
        (name, change)
        for name, run in others.items()
        for change in largest_changes(first, run, classes, cases)
        if _is_there(first, run, change.before.case)
    ]
    wanted.sort(key=lambda one: -abs(one[1].gain))
    drawn = _drawn(first, others, wanted[:_MOST_PICTURED])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in others}
    left = MOST_BYTES
    for place, (name, change) in enumerate(wanted[:_MOST_PICTURED]):
        slices, problem = drawn[name, change.before.case, change.before.name]
        left -= sum(map(len, slices))
        if left >= 0:
            found[name].append(
                {
                    "anchor": f"change-{place}", "case": change.before.case, "name": change.before.name,
                    "words": "became better" if change.gain > 0 else "became worse",
                    "scores": _in_words(change), "slices": slices, "problem": problem,
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


def _is_there(first: Run, other: Run, case: str) -> bool:
    files = first.files.get(case)
    return files is not None and files.gone is None and case in other.files


def _drawn(
    first: Run, others: Mapping[str, Run], wanted: Sequence[tuple[str, Change]]
) -> dict[tuple[str, str, str], tuple[list[Markup], str | None]]:
    """Slices by run, case and class, or why there are none; a case is read once for all that is shown of it."""
    by_case: dict[str, list[tuple[str, str]]] = {}
    for name, change in wanted:
        by_case.setdefault(change.before.case, []).append((name, change.before.name))
    drawn: dict[tuple[str, str, str], tuple[list[Markup], str | None]] = {}
    for case, shown in progress(by_case.items(), "report"):
        volumes: CaseVolumes | None = None
        for name, each in shown:
            try:
                volumes = volumes or CaseVolumes.read(first.files[case], window_of(first.made_by))
                other = volumes.read_another(others[name].files[case].prediction)
                index = [run.class_names.index(each) + 1 for run in (first, others[name])]
                drawn[name, case, each] = list(changed_slices(volumes, index[0], other == index[1])), None
            except (SegbundleError, OSError, ValueError, MemoryError) as error:
                drawn[name, case, each] = [], f"No picture: {describe(error)}"
                _logger.warning("report: %s", describe(error))
    return drawn
