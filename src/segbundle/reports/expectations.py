"""What a training's cases let expect of a scan, and what of a prediction is then worth a look."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segbundle.files import write_csv
from segbundle.reports.runs import fold_folders

TRAINING_CASES = "training_cases.csv"
_COLUMNS = ("case", "class", "volume_ml", "touches_edge")
_USUAL = 0.9
_ENOUGH = 10
_FAR_OUT = 3.0
_LEAST = float(np.log(2))
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Structure:
    """One class in one scan.

    Attributes:
        case: the scan's name.
        name: of the class.
        volume_ml: 0 if it is not there.
        touches_edge: whether it reaches the first or last voxels of the scan along an axis.
    """

    case: str
    name: str
    volume_ml: float
    touches_edge: bool


def write_training_cases(folder: str | Path, structures: Sequence[Structure]) -> None:
    """Write `training_cases.csv`: one row per training case and class that was annotated in it; no file without any.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [(one.case, one.name, f"{one.volume_ml:.8g}", str(one.touches_edge).lower()) for one in structures]
    path = Path(folder) / TRAINING_CASES
    if rows:
        write_csv(path, _COLUMNS, rows)
    else:
        path.unlink(missing_ok=True)


def training_cases_of(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Structure]:
    """What `training_cases.csv` beside a model tells, or those beside all members of an ensemble; each case once.

    Args:
        ckpt_path: a model, several of them, or the folder of a cross-validation.
    """
    paths = [ckpt_path] if isinstance(ckpt_path, (str, Path)) else ckpt_path or []
    folders = [place for path in map(Path, paths) for place in (fold_folders(path) if path.is_dir() else [path.parent])]
    return list({(one.case, one.name): one for folder in folders for one in read_training_cases(folder)}.values())


def read_training_cases(folder: Path) -> list[Structure]:
    """What a folder's `training_cases.csv` tells; nothing if there is none, or one of another program."""
    path = folder / TRAINING_CASES
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [
                Structure(line["case"], line["class"], float(line["volume_ml"]), line["touches_edge"] == "true")
                for line in csv.DictReader(file)
            ]
    except (KeyError, ValueError, TypeError):
        _logger.warning("%s: cannot be read, and is not looked at", path)
        return []


@dataclass(frozen=True)
class Expected:
    """What other cases let expect of a class.

    Attributes:
        source: where it is from.
        num_cases: in how many cases somebody or something looked for it.
        present: in which part of them it is.
        at_edge: in which part of those that have it, it touches the edge.
        low, high: volumes in ml beyond which one is far out; None if it is in none of them.
    """

    source: str
    num_cases: int
    present: float
    at_edge: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, structures: Sequence[Structure], source: str) -> Expected | None:
        """From the same class in several cases; None if there is no case.

        Far out is more than three interquartile ranges beyond the quartiles (Tukey, Exploratory Data Analysis, 1977),
        of the volumes' logarithms, as volumes are skewed; and at least half or twice as large. With fewer than ten
        volumes, which have no quartiles to speak of: less than half the smallest or more than twice the largest one.
        """
        if not structures:
            return None
        there = [one for one in structures if one.volume_ml > 0]
        low = high = None
        if len(there) >= _ENOUGH:
            first, third = np.percentile(np.log([one.volume_ml for one in there]), [25, 75])
            reach = max(_FAR_OUT * (third - first), _LEAST)
            low, high = float(np.exp(first - reach)), float(np.exp(third + reach))
        elif there:
            low, high = min(one.volume_ml for one in there) / 2, 2 * max(one.volume_ml for one in there)
        at_edge = sum(one.touches_edge for one in there) / max(len(there), 1)
        return cls(source, len(structures), len(there) / len(structures), at_edge, low, high)


def expectations(
    training: Sequence[Structure], found: Sequence[Structure], class_names: Sequence[str]
) -> dict[str, Expected]:
    """What to expect of each class: from ten training cases or more, or else from the predictions themselves.

    Args:
        training: classes of the cases that the model was trained on; may be empty.
        found: those of the predictions.
        class_names: without the background.
    """
    expected = {}
    for name in class_names:
        known = [one for one in training if one.name == name]
        own = [replace(one, touches_edge=False) for one in found if one.name == name]  # all of them may be cut off
        of_class = (
            Expected.of(known, f"the {len(known)} training cases")
            if len(known) >= _ENOUGH
            else Expected.of(own, "these scans themselves")
        )
        if of_class is not None and of_class.num_cases >= _ENOUGH:
            expected[name] = of_class
    return expected


def warnings_of(found: Structure, expected: Mapping[str, Expected]) -> list[str]:
    """In words, what somebody should look at in a prediction."""
    warnings, usual = [], expected.get(found.name)
    if found.touches_edge and (usual is None or usual.at_edge <= 1 - _USUAL):
        warnings.append("touches the scan's edge, and may be cut off")
    if usual is None:
        return warnings
    if found.volume_ml == 0:
        if usual.present >= _USUAL:
            warnings.append(f"is missing, and is in {usual.present:.0%} of {usual.source}")
    elif usual.low is not None and usual.high is not None and not usual.low <= found.volume_ml <= usual.high:
        warnings.append(
            f"has {found.volume_ml:.3g} ml, far outside {usual.source} ({usual.low:.3g} to {usual.high:.3g} ml)"
        )
    return warnings
