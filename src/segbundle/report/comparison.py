"""Several runs on the same cases, side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import OutputError
from segbundle.files.atomic import write_text
from segbundle.files.output_folders import refuse_to_replace
from segbundle.report.caveats import caveats, few
from segbundle.report.changes import pictures_of_changes
from segbundle.report.charts import Point, strip_plot
from segbundle.report.rendering import LABELS, as_yaml, number, render, signed
from segbundle.results.case_files import refuse_if_moved
from segbundle.results.runs import Run, read_run
from segbundle.results.scores import Row, bootstrap_interval, mean_dice


@dataclass(frozen=True)
class Measure:
    """What is compared: a column of `metrics.csv`, what people call it, and with how many digits."""

    key: str
    label: str
    digits: int
    larger_is_better: bool = True


DICE = Measure("dice", "Dice", 4)
MEAN = "mean of a case's classes"
_OTHER_MEASURES = (Measure("hd95_mm", "HD95, mm", 3, larger_is_better=False), Measure("nsd", "NSD", 4))
_OWN = ("command", "working_directory", "date")
_SMALL_P = 0.05
_EXACT = 50  # pairs; with more, Wilcoxon's statistic is as good as normally distributed
_DIGITS = 6  # of what metrics.csv holds: beyond, differences are rounding


Values = Mapping[str, float | None]
"""Of cases, by their names."""


@dataclass(frozen=True)
class Pairing:
    """One class, or the mean over classes, in two runs, over the cases that both could score.

    Attributes:
        name: of the class, or what else is compared.
        measure: of what is compared.
        pairs: its value in the first run and in the other one, by case.
        difference: mean of other - first, None without a pair.
        ci95: its bootstrap interval over cases.
        p_value: see `signed_rank_test`.
    """

    name: str
    measure: Measure
    pairs: Mapping[str, tuple[float, float]]
    difference: float | None
    ci95: Sequence[float | None]
    p_value: float | None

    @classmethod
    def of(cls, name: str, measure: Measure, mine: Values, theirs: Values) -> Pairing:
        """Compare values of two runs, by case, as far as both have one."""
        pairs = {
            case: (value, their)
            for case, value in mine.items()
            if value is not None and (their := theirs.get(case)) is not None
        }
        differences = [round(b - a, _DIGITS) for a, b in pairs.values()]
        mean = math.fsum(differences) / len(differences) if differences else None
        return cls(name, measure, pairs, mean, bootstrap_interval(differences), signed_rank_test(differences))

    @property
    def better(self) -> int:
        """In how many cases the other run is better."""
        return sum(one > 0 for one in self._gains)

    @property
    def worse(self) -> int:
        """In how many cases the first run is."""
        return sum(one < 0 for one in self._gains)

    @property
    def _gains(self) -> list[float]:
        sign = 1 if self.measure.larger_is_better else -1
        return [sign * round(b - a, _DIGITS) for a, b in self.pairs.values()]

    @property
    def is_too_small(self) -> bool:
        """Whether there are so few pairs that p cannot be small, whatever they are."""
        return self.p_value is not None and 2 * 0.5 ** (self.better + self.worse) > _SMALL_P


def signed_rank_test(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1945).

    Zeros are left out, and equal absolute values share the mean of their ranks. With up to 50 differences the
    distribution of the statistic is counted out, whatever is tied (SciPy's exact test has no ties), beyond that it is
    approximated by a normal one.

    Args:
        differences: of pairs.

    Returns:
        p; None if all differences are 0.
    """
    from scipy.stats import rankdata, wilcoxon

    given = np.array([one for one in differences if one != 0])
    if len(given) == 0:
        return None
    if len(given) > _EXACT:
        return float(wilcoxon(given, method="asymptotic").pvalue)
    ranks = (2 * rankdata(np.abs(given))).astype(int)  # twice, as shared ranks may be halves
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1
    for rank in ranks:  # every one may count or not
        ways[rank:] = ways[rank:] + ways[:-rank]
    positive = ranks[given > 0].sum()
    return float(min(1.0, 2 * min(ways[: positive + 1].sum(), ways[positive:].sum()) / ways.sum()))


def write_comparison(folders: Sequence[str | Path], output: str | Path, dataset_dir: str | Path | None = None) -> Path:
    """Write a page that compares runs with the first of them.

    Args:
        folders: of two or more evaluations, cross-validations or trainings.
        output: the page to write.
        dataset_dir: where the scans are now, if they were moved.

    Raises:
        OutputError: a folder holds no scores, the runs have no class in common, no case, the scans are not where they
            should be now, or the page cannot be written.
    """
    runs = [read_run(folder, dataset_dir) for folder in folders]
    refuse_to_replace(output)
    if dataset_dir is not None:
        refuse_if_moved(runs[0].files, dataset_dir)
    names = _names(runs)
    first = runs[0]
    classes = [name for name in first.class_names if all(name in run.class_names for run in runs)]
    if not classes:
        raise OutputError(f"{', '.join(map(str, folders))}: have no class in common, and cannot be compared.")
    cases = [{row.case for row in run.rows} for run in runs]
    common = set.intersection(*cases)
    if not common:
        raise OutputError(f"{', '.join(map(str, folders))}: have no case in common, and cannot be compared.")
    other_references = _with_other_references(runs, classes, common)
    comparable = common.difference(other_references)
    pictures = pictures_of_changes(first, dict(zip(names[1:], runs[1:], strict=True)), classes, comparable)
    anchors = {  # those of the second run, by which the table is sorted, if it has any
        (one["case"], one["name"]): one["anchor"]
        for each in reversed(pictures.values())
        for one in each.shown
        if one["slices"]
    }
    others = [
        _compared(first, names[0], run, name, classes, common) for run, name in zip(runs[1:], names[1:], strict=True)
    ]
    text = render(
        "comparison.html",
        title=f"{' and '.join(names)} compared",
        runs=[_means(name, run, classes, common) for name, run in zip(names, runs, strict=True)],
        num_common=len(common),
        few=few([len(pairing.pairs) for other in others for pairing in other["pairings"]], "pairs"),
        lonely={name: sorted(own - common) for name, own in zip(names, cases, strict=True) if own - common},
        classes=classes,
        left_out=[
            (name, missing)
            for name, run in zip(names, runs, strict=True)
            if (missing := [each for each in run.class_names if each not in classes])
        ],
        settings=_settings(runs),
        known=[name for name, run in zip(names, runs, strict=True) if run.made_by],
        pictures=[(name, one) for name, one in pictures.items() if one.shown or one.unknown],
        gone=next((gone for files in first.files.values() if (gone := files.gone)), None)
        if any(one.unknown for one in pictures.values())
        else None,
        other_references=other_references,
        others=others,
        columns=_columns(names),
        rows=_rows(runs, classes, common, anchors),
    )
    output = Path(output)
    write_text(output, text)
    return output


def _means(name: str, run: Run, classes: Sequence[str], common: set[str]) -> dict[str, Any]:
    """A run's Dice over the cases that all runs have, as `summary.json` has it over its own."""
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


def _names(runs: Sequence[Run]) -> list[str]:
    """As much of the ends of the folders' paths as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(run.folder for run, each in zip(runs, parts, strict=True) if parts.count(each) > 1)
    raise OutputError(f"{twice}: a run cannot be compared with itself.")


def paired(first: Run, other: Run, classes: Sequence[str], cases: Collection[str]) -> list[Pairing]:
    """Dice, HD95 and NSD of each class in two runs, and of several classes before that the Dice of a case's mean."""
    measures = (DICE, *_OTHER_MEASURES)
    found = [
        Pairing.of(each, measure, *(_values(run, each, cases, measure) for run in (first, other)))
        for each in classes
        for measure in measures
    ]
    if len(classes) > 1:
        dice = [one.pairs for one in found if one.measure is DICE]
        mine, theirs = (_mean_of_classes(dice, place) for place in (0, 1))
        found.insert(0, Pairing.of(MEAN, DICE, mine, theirs))
    return found


def _compared(
    first: Run, first_name: str, other: Run, name: str, classes: Sequence[str], cases: Collection[str]
) -> dict[str, Any]:
    pairings = [pairing for pairing in paired(first, other, classes, cases) if pairing.pairs]
    points = {
        pairing.name: [Point(case, b - a) for case, (a, b) in pairing.pairs.items()]
        for pairing in pairings
        if pairing.measure is DICE
    }
    label = f"Dice of {name} − Dice of {first_name}"
    strip = strip_plot(f"{label}, per class", label, points, differences=True) if points else None
    return {"name": name, "pairings": pairings, "strip": strip}


def _values(run: Run, name: str, cases: Collection[str], measure: Measure) -> Values:
    return {row.case: getattr(row, measure.key) for row in run.rows_of(name) if row.case in cases}


def _mean_of_classes(by_class: Sequence[Mapping[str, tuple[float, float]]], place: int) -> Values:
    """Of each case the mean over the classes that both runs could score in it, in one of the two."""
    found: dict[str, list[float]] = {}
    for pairs in by_class:
        for case, both in pairs.items():
            found.setdefault(case, []).append(both[place])
    return {case: math.fsum(values) / len(values) for case, values in found.items()}


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What the runs' configurations, versions, devices and data differ in, and its value in each, in words."""
    told = [_flat({key: value for key, value in run.made_by.items() if key not in _OWN}) for run in runs]
    keys = sorted({key for one in told for key in one})
    values = [(key, [one.get(key, "–") for one in told]) for key in keys]
    return [(key.removeprefix("config#"), each) for key, each in values if len(set(each)) > 1]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested values by keys as the command line has them, `network_def#filters`."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}#")
        else:
            found[f"{above}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def _with_other_references(runs: Sequence[Run], classes: Collection[str], common: Collection[str]) -> list[str]:
    """Cases in which a class has another volume in the reference of one run than in that of another."""
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
        *(f"Dice, {name}" for name in names),
        *(f"{name} − {names[0]}" for name in names[1:]),
    ]
    sorted_by = f"{names[1]} − {names[0]}"
    return [{"label": label, "sort": "ascending" if label == sorted_by else None} for label in labels]


def _rows(
    runs: Sequence[Run], classes: Sequence[str], common: set[str], anchors: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """What became worse comes first."""
    by_key = [{(row.case, row.name): row for row in run.rows} for run in runs]
    keys = [key for key in by_key[0] if key[0] in common and key[1] in classes and all(key in rows for rows in by_key)]
    rows = [_row([rows[key] for rows in by_key], anchors.get(key)) for key in keys]
    return sorted(rows, key=lambda row: (row["worst"] is None, row["worst"] or 0.0, row["case"]))


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
        "worst": changes[0],
    }
