"""Slices of the worst, median and best case of every class, for the page of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from segbundle.errors import SegbundleError, describe
from segbundle.report.rendering import LABELS, progress, room_for_pictures
from segbundle.report.slices import CaseVolumes, worst_slices
from segbundle.results.made_by import regions_of, window_of
from segbundle.results.runs import Run
from segbundle.results.scores import Row

_logger = logging.getLogger(__name__)
_MAX_ROWS = 120
"""Upper limit of (case, class) pairs that are drawn in three planes."""


def worst_first(row: Row) -> tuple[bool, float, float, str, str]:
    """Return a sort key that puts rows with the lowest Dice first, and rows without Dice last.

    Rows with the same Dice are sorted by volume (the larger of reference and prediction; the largest first), then by
    case and class.

    Args:
        row: row of `metrics.csv`.

    Example:
        >>> from segbundle.metrics import Status
        >>> small = Row("a", "liver", Status.MISSED, 0.0, None, 0.0, 1.0, 0.0, 1, 0)
        >>> large = Row("b", "liver", Status.MISSED, 0.0, None, 0.0, 9.0, 0.0, 1, 0)
        >>> [row.case for row in sorted([small, large], key=worst_first)]
        ['b', 'a']
    """
    volume = max(row.volume_ref_ml or 0.0, row.volume_pred_ml or 0.0)
    return row.dice is None, row.dice or 0.0, -volume, row.case, row.name


def farthest(run: Run) -> Row | None:
    """Return the row with the largest HD95, or None if no HD95 is above 0.

    If several rows have the largest HD95, the row with the lowest Dice is returned.

    Args:
        run: run whose rows are searched.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.metrics import Status
        >>> near = Row("a", "liver", Status.SCORED, 0.9, 2.0, 0.9, 1.0, 1.0, 1, 1)
        >>> far = Row("b", "liver", Status.SCORED, 0.9, 7.0, 0.9, 1.0, 1.0, 1, 1)
        >>> farthest(Run(Path("run"), [near, far], {"classes": {"liver": {}}}, {}, {}, {})).case
        'b'
    """
    apart = [row for row in run.rows if row.hd95_mm]
    return min(apart, key=lambda row: (-(row.hd95_mm or 0.0), *worst_first(row))) if apart else None


def _ranked(rows: Iterable[Row], largest_hd95: Row | None) -> list[tuple[str, Row]]:
    """Return the worst, median and best row of a class with these names, and the row with the largest HD95."""
    rows = sorted((row for row in rows if row.dice is not None), key=worst_first)
    ranks = {index: "largest surface distance" for index, row in enumerate(rows) if row is largest_hd95}
    ranks |= {(len(rows) - 1) // 2: "median", len(rows) - 1: "best", 0: "worst"} if rows else {}
    return [("only" if len(rows) == 1 else rank, rows[index]) for index, rank in sorted(ranks.items())]


def _by_priority(ranked: dict[str, list[tuple[str, Row]]], first: Row | None) -> list[Row]:
    """Return rows in the order in which they get space: `first`, the worst of each class, the next of each class."""
    rows = [(rank, row) for pairs in ranked.values() for rank, (_, row) in enumerate(pairs)]
    rows.sort(key=lambda pair: (pair[1] is not first, pair[0], worst_first(pair[1])))
    return [row for _, row in rows[:_MAX_ROWS]]


def gallery(run: Run) -> list[dict[str, Any]]:
    """Return slices of the worst, median and best case of every class, within the size budget of a page.

    The case with the largest HD95 of the run is included as well. If the files of a case cannot be read, an error
    message takes the place of its slices.

    Args:
        run: run whose cases are shown; cases without known files are left out.

    Returns:
        one dict per class for the template, with the keys `name` (of the class) and `cases` (a list with one dict per
        case). Classes without cases to show are left out.

    Example:
        >>> from pathlib import Path
        >>> gallery(Run(Path("run"), [], {"classes": {"liver": {}}}, {}, {}, {}))
        []
    """
    first = farthest(run)
    ranked = {name: _ranked(run.rows_of(name), first) for name in run.class_names}
    wanted = [row for row in _by_priority(ranked, first) if row.case in run.files]
    drawn, problems = _draw(run, wanted)
    bytes_left, shown = room_for_pictures(len(run.rows)), set()
    for row in wanted:
        bytes_left -= sum(map(len, drawn.get((row.case, row.name), ())))
        if bytes_left >= 0:
            shown.add((row.case, row.name))
    groups = []
    for index, (name, rows) in enumerate(ranked.items()):
        cases = [
            {
                "anchor": f"picture-{index}-{place}", "rank": rank, "case": row.case, "name": name, "dice": row.dice,
                "label": LABELS[row.status], "problem": problems.get(row.case),
                "slices": drawn.get((row.case, name), []),
            }
            for place, (rank, row) in enumerate(rows) if (row.case, name) in shown
        ]  # fmt: skip
        if cases:
            groups.append({"name": name, "cases": cases})
    return groups


def _draw(run: Run, wanted: Iterable[Row]) -> tuple[dict[tuple[str, str], list[Markup]], dict[str, str]]:
    """Return slices by (case, class), and errors by case. Each case is read once for all of its classes."""
    by_case: dict[str, list[str]] = {}
    for row in wanted:
        by_case.setdefault(row.case, []).append(row.name)
    drawn: dict[tuple[str, str], list[Markup]] = {}
    problems: dict[str, str] = {}
    for case, names in progress(by_case.items(), "report"):
        try:
            every, regions = ["background", *run.class_names], regions_of(run.made_by)
            volumes = CaseVolumes.read(run.files[case], window_of(run.made_by), every, regions)
            for name in names:
                drawn[case, name] = list(worst_slices(volumes, run.class_names.index(name) + 1))
        except (SegbundleError, OSError, ValueError, MemoryError) as error:
            problems[case] = f"No slices: {describe(error)}"
            _logger.warning("report: no slices for case %s: %s", case, describe(error))
    return drawn, problems
