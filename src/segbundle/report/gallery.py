"""The cases of every class that one should look at, in three planes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.report.rendering import LABELS, progress, room_for_pictures
from segbundle.report.slices import CaseVolumes, worst_slices
from segbundle.results.runs import Run, window_of
from segbundle.results.scores import Row

_logger = logging.getLogger(__name__)
_MOST_PICTURED = 120
"""Cases of classes that are drawn in three planes."""


def worst_first(row: Row) -> tuple[bool, float, float, str, str]:
    """Of those without any overlap the one with the largest volume comes first."""
    largest = max(row.volume_ref_ml or 0.0, row.volume_pred_ml or 0.0)
    return row.dice is None, row.dice or 0.0, -largest, row.case, row.name


def farthest(run: Run) -> Row | None:
    """Where the surfaces lie farthest apart, if anywhere; of several places that with the worst Dice."""
    apart = [row for row in run.rows if row.hd95_mm]
    return min(apart, key=lambda row: (-(row.hd95_mm or 0.0), *worst_first(row))) if apart else None


def _chosen(rows: Iterable[Row], also: Row | None) -> list[tuple[str, Row]]:
    """The worst, the median and the best case of a class, as far as there are so many, and another one."""
    rows = sorted((row for row in rows if row.dice is not None), key=worst_first)
    places = {place: "surfaces farthest apart" for place, row in enumerate(rows) if row is also}
    places |= {(len(rows) - 1) // 2: "median", len(rows) - 1: "best", 0: "worst"} if rows else {}
    return [("only" if len(rows) == 1 else rank, rows[place]) for place, rank in sorted(places.items())]


def _in_order(chosen: dict[str, list[tuple[str, Row]]], before: Row | None) -> list[Row]:
    """What to show if there is not room for all: a first one, the worst of each class, the second worst, and so on."""
    ranked = [(place, row) for rows in chosen.values() for place, (_, row) in enumerate(rows)]
    ranked.sort(key=lambda one: (one[1] is not before, one[0], worst_first(one[1])))
    return [row for _, row in ranked[:_MOST_PICTURED]]


def gallery(run: Run) -> list[dict[str, Any]]:
    """Slices of the worst, the median and the best case of every class, as far as there is room for them on a page."""
    first = farthest(run)
    chosen = {name: _chosen(run.rows_of(name), first) for name in run.class_names}
    wanted = [row for row in _in_order(chosen, first) if row.case in run.files]
    drawn, problems = _drawn(run, wanted)
    left, shown = room_for_pictures(len(run.rows)), set()
    for row in wanted:
        left -= sum(map(len, drawn.get((row.case, row.name), ())))
        if left >= 0:
            shown.add((row.case, row.name))
    found = []
    for index, (name, rows) in enumerate(chosen.items()):
        cases = [
            {
                "anchor": f"picture-{index}-{place}", "rank": rank, "case": row.case, "name": name, "dice": row.dice,
                "label": LABELS[row.status], "problem": problems.get(row.case),
                "slices": drawn.get((row.case, name), []),
            }
            for place, (rank, row) in enumerate(rows) if (row.case, name) in shown
        ]  # fmt: skip
        if cases:
            found.append({"name": name, "cases": cases})
    return found


def _drawn(run: Run, wanted: Iterable[Row]) -> tuple[dict[tuple[str, str], list[Markup]], dict[str, str]]:
    """Slices by case and class, and why those of a case cannot be drawn; it is read once for all of its classes."""
    by_case: dict[str, list[str]] = {}
    for row in wanted:
        by_case.setdefault(row.case, []).append(row.name)
    drawn: dict[tuple[str, str], list[Markup]] = {}
    problems: dict[str, str] = {}
    for case, names in progress(by_case.items(), "report"):
        try:
            volumes = CaseVolumes.read(run.files[case], window_of(run.made_by))
            for name in names:
                drawn[case, name] = list(worst_slices(volumes, run.class_names.index(name) + 1))
        except (SegbundleError, OSError, ValueError, MemoryError) as error:
            problems[case] = f"No picture: {describe(error)}"
            _logger.warning("report: %s", describe(error))
    return drawn, problems
