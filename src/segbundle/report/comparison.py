"""Paired comparison of runs on the same cases, and its HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import OutputError
from segbundle.files.atomic import write_text
from segbundle.files.output_folders import refuse_to_replace
from segbundle.report.caveats import caveats, few
from segbundle.report.changes import pictures_of_changes
from segbundle.report.charts import Point, strip_plot
from segbundle.report.colors import color_classes, colors_of_run
from segbundle.report.pairing import DICE, MEAN, Measure, Pairing, Values
from segbundle.report.rendering import LABELS, as_yaml, number, render, signed
from segbundle.results.case_files import refuse_if_moved
from segbundle.results.runs import Run, read_run
from segbundle.results.scores import Row
from segbundle.results.summary import mean_dice

_SURFACE_MEASURES = (Measure("hd95_mm", "HD95 (mm)", 3, larger_is_better=False), Measure("nsd", "NSD", 4))
_ALWAYS_DIFFERENT = ("command", "working_directory", "date")


def write_comparison(folders: Sequence[str | Path], output: str | Path, dataset_dir: str | Path | None = None) -> Path:
    """Write an HTML page that compares runs with a baseline, case by case.

    Classes have the colors of the baseline.

    Args:
        folders: folders of two or more evaluations, cross-validations or training runs; the first is the baseline.
        output: path of the page.
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.

    Returns:
        path of the page

    Raises:
        OutputError: a folder was given twice, has no scores or cannot be read; the runs share no class or no case;
            scans are missing in `dataset_dir`; or the page cannot be written, or would replace a file that segbundle
            did not write.

    Example:
        >>> import tempfile
        >>> from segbundle.metrics import ClassScore, Status
        >>> from segbundle.results.scores import CaseScores
        >>> from segbundle.results.summary import write_scores
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runs = [Path(folder) / name for name in ("baseline", "deeper")]
        ...     for run, dice in zip(runs, (0.8, 0.9)):
        ...         scores = [ClassScore(Status.SCORED, 0.99, 900, 900), ClassScore(Status.SCORED, dice, 90, 110)]
        ...         _ = write_scores(run, [CaseScores("case_1", scores, 0.001)], ["background", "liver"])
        ...     page = write_comparison(runs, Path(folder) / "comparison.html")
        ...     "<td>+0.1000</td>" in page.read_text("utf-8")
        True
    """
    runs = [read_run(folder, dataset_dir) for folder in folders]
    refuse_to_replace(output)
    if dataset_dir is not None:
        refuse_if_moved(runs[0].files, dataset_dir)
    classes, common = _in_common(runs, folders)
    names = _distinct_names(runs)
    text = render(
        "comparison.html",
        colors_of_run(runs[0].folder, runs[0].made_by, runs[0].class_names),
        class_colors=color_classes(runs[0].class_names),
        title=f"Comparison of {' and '.join(names)}",
        **_runs_in_page(runs, names, classes, common),
        **_changes_in_page(runs, names, classes, common),
    )
    output = Path(output)
    write_text(output, text)
    return output


def _in_common(runs: Sequence[Run], folders: Sequence[str | Path]) -> tuple[list[str], set[str]]:
    """Return the classes and the names of the cases that all runs share.

    Raises:
        OutputError: there are none.
    """
    classes = [name for name in runs[0].class_names if all(name in run.class_names for run in runs)]
    common = set.intersection(*({row.case for row in run.rows} for run in runs))
    for shared, kind, remedy in (
        (classes, "class", "Give runs of the same task."),
        (common, "case", "Evaluate the models on the same cases."),
    ):
        if not shared:
            raise OutputError(
                f"{', '.join(map(str, folders))} cannot be compared: they have no {kind} in common. {remedy}"
            )
    return classes, common


def _runs_in_page(
    runs: Sequence[Run], names: Sequence[str], classes: Sequence[str], common: set[str]
) -> dict[str, Any]:
    """Return what the page says about the runs, and the cases and classes that only some of them have."""
    named = list(zip(names, runs, strict=True))
    others = {name: sorted({row.case for row in run.rows} - common) for name, run in named}
    missing = [(name, [each for each in run.class_names if each not in classes]) for name, run in named]
    return {
        "runs": [_means(name, run, classes, common) for name, run in named],
        "num_common": len(common),
        "unshared_cases": {name: cases for name, cases in others.items() if cases},
        "classes": classes,
        "unshared_classes": [(name, found) for name, found in missing if found],
        "settings": _settings(runs),
        "known": [name for name, run in named if run.made_by],
    }


def _changes_in_page(
    runs: Sequence[Run], names: Sequence[str], classes: Sequence[str], common: set[str]
) -> dict[str, Any]:
    """Return the differences between the first run and the others, as tables and as pictures."""
    first, later = runs[0], dict(zip(names[1:], runs[1:], strict=True))
    other_references = _cases_with_different_references(runs, classes, common)
    pictures = pictures_of_changes(first, later, classes, common.difference(other_references))
    anchors = {  # the second run takes precedence, because the table is sorted by it
        (change["case"], change["name"]): change["anchor"]
        for each in reversed(pictures.values())
        for change in each.shown
        if change["slices"]
    }
    others = [_compare(first, names[0], run, name, classes, common) for name, run in later.items()]
    is_unknown = any(each.unknown for each in pictures.values())
    return {
        "few": few([len(pairing.pairs) for other in others for pairing in other["pairings"]], "pairs"),
        "pictures": [(name, each) for name, each in pictures.items() if each.shown or each.unknown],
        "gone": next((gone for files in first.files.values() if is_unknown and (gone := files.gone)), None),
        "other_references": other_references,
        "others": others,
        "columns": _columns(names),
        "rows": _rows(runs, classes, common, anchors),
    }


def _means(name: str, run: Run, classes: Sequence[str], common: set[str]) -> dict[str, Any]:
    """Return the mean Dice of a run over the shared cases, and its provenance, for the template."""
    rows = [row for row in run.rows if row.case in common]
    return {
        "name": name,
        "folder": run.folder,
        "made_by": {key: value for key, value in run.made_by.items() if key != "config"},
        "config": as_yaml(run.made_by.get("config", {})),
        "mean": mean_dice(rows, classes),
        "means": {each: mean_dice(rows, [each]) for each in classes},
        "caveats": list(caveats(run, common, classes)),
    }


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Return the shortest path endings that distinguish the folders."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    duplicate = next(run.folder for run, each in zip(runs, parts, strict=True) if parts.count(each) > 1)
    raise OutputError(f"{duplicate} was given twice: a run cannot be compared with itself. Give different folders.")


def paired(first: Run, other: Run, classes: Sequence[str], cases: Collection[str]) -> list[Pairing]:
    """Return the paired comparisons of Dice, HD95 and NSD of each class between two runs.

    Args:
        first: baseline run.
        other: run that is compared with the baseline.
        classes: classes to compare.
        cases: cases to compare.

    Returns:
        one `Pairing` per class and metric; its pairs may be empty. For several classes, a `Pairing` of the mean Dice
        over the classes of each case comes first.

    Example:
        >>> run = Run(Path("run"), [], {"classes": {}}, {}, {}, {})
        >>> [pairing.measure.label for pairing in paired(run, run, ["liver"], [])]
        ['Dice', 'HD95 (mm)', 'NSD']
    """
    measures = (DICE, *_SURFACE_MEASURES)
    found = [
        Pairing.of(each, measure, *(_values(run, each, cases, measure) for run in (first, other)))
        for each in classes
        for measure in measures
    ]
    if len(classes) > 1:
        dice = [pairing.pairs for pairing in found if pairing.measure is DICE]
        mine, theirs = (_mean_over_classes(dice, run_number) for run_number in (0, 1))
        found.insert(0, Pairing.of(MEAN, DICE, mine, theirs))
    return found


def _compare(
    first: Run, first_name: str, other: Run, name: str, classes: Sequence[str], cases: Collection[str]
) -> dict[str, Any]:
    pairings = [pairing for pairing in paired(first, other, classes, cases) if pairing.pairs]
    points = {
        pairing.name: [Point(case, b - a) for case, (a, b) in pairing.pairs.items()]
        for pairing in pairings
        if pairing.measure is DICE
    }
    label = f"Dice of {name} − Dice of {first_name}"
    styles = color_classes(first.class_names)
    strip = strip_plot(f"{label} per class", label, points, differences=True, styles=styles) if points else None
    return {"name": name, "pairings": pairings, "strip": strip}


def _values(run: Run, name: str, cases: Collection[str], measure: Measure) -> Values:
    return {row.case: getattr(row, measure.key) for row in run.rows_of(name) if row.case in cases}


def _mean_over_classes(by_class: Sequence[Mapping[str, tuple[float, float]]], run_number: int) -> Values:
    """Return by case the mean over the classes with a value in both runs, for the first (0) or the other run (1)."""
    found: dict[str, list[float]] = {}
    for pairs in by_class:
        for case, pair in pairs.items():
            found.setdefault(case, []).append(pair[run_number])
    return {case: math.fsum(values) / len(values) for case, values in found.items()}


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the keys of configuration, versions, device and data that differ, with the value of each run."""
    flat = [
        _flatten({key: value for key, value in run.made_by.items() if key not in _ALWAYS_DIFFERENT}) for run in runs
    ]
    keys = sorted({key for each in flat for key in each})
    values = [(key, [each.get(key, "–") for each in flat]) for key in keys]
    return [(key.removeprefix("config#"), each) for key, each in values if len(set(each)) > 1]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as text with keys such as `network_def#filters`."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{key}#")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def _cases_with_different_references(
    runs: Sequence[Run], classes: Collection[str], common: Collection[str]
) -> list[str]:
    """Return the cases in which the reference volume of a class differs between runs."""
    volumes: dict[tuple[str, str], list[float]] = {}
    for row in (row for run in runs for row in run.rows if row.case in common and row.name in classes):
        if row.volume_ref_ml is not None:
            volumes.setdefault((row.case, row.name), []).append(row.volume_ref_ml)
    return sorted({case for (case, _), found in volumes.items() if not np.allclose(found, found[0], rtol=1e-5)})


def _columns(names: Sequence[str]) -> list[dict[str, str | None]]:
    labels = [
        "case",
        "class",
        "status",
        *(f"Dice of {name}" for name in names),
        *(f"{name} − {names[0]}" for name in names[1:]),
    ]
    sorted_by = f"{names[1]} − {names[0]}"
    return [{"label": label, "sort": "ascending" if label == sorted_by else None} for label in labels]


def _rows(
    runs: Sequence[Run], classes: Sequence[str], common: set[str], anchors: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Return the rows of the table of cases, the largest loss first."""
    by_key = [{(row.case, row.name): row for row in run.rows} for run in runs]
    keys = [key for key in by_key[0] if key[0] in common and key[1] in classes and all(key in rows for rows in by_key)]
    rows = [_row([rows[key] for rows in by_key], anchors.get(key)) for key in keys]
    return sorted(rows, key=lambda row: (row["change"] is None, row["change"] or 0.0, row["case"]))


def _row(rows: Sequence[Row], anchor: str | None) -> dict[str, Any]:
    dice = [row.dice for row in rows]
    changes = [None if value is None or dice[0] is None else value - dice[0] for value in dice[1:]]
    statuses = [LABELS[row.status] for row in rows]
    return {
        "case": rows[0].case,
        "anchor": anchor,
        "name": rows[0].name,
        "status": " ".join({row.status.value: None for row in rows}),
        "label": " → ".join(statuses) if len(set(statuses)) > 1 else statuses[0],
        "numbers": [*(number(value, 4) for value in dice), *(signed(value, 4) for value in changes)],
        "change": changes[0],
    }
