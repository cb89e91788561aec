"""What was measured of single classes in single scans, and the file in which a training keeps it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segbundle.errors import SegbundleError
from segbundle.files import run_files
from segbundle.files.atomic import read_csv, write_csv
from segbundle.files.output_folders import folder_of
from segbundle.results.runs import fold_folders
from segbundle.results.scores import finite_number

_COLUMNS = ("case", "class", "volume_ml", "touches_edge", "components", "mean_intensity")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Structure:
    """One class in one scan.

    Attributes:
        case: the scan's name.
        name: of the class.
        volume_ml: 0 if it is not there.
        touches_edge: whether it reaches the first or last voxels of the scan along an axis.
        components: connected parts; None where nobody has counted them.
        mean_intensity: of the scan's first channel in it, in the scan's own units; None where there is none.
    """

    case: str
    name: str
    volume_ml: float
    touches_edge: bool = False
    components: int | None = None
    mean_intensity: float | None = None


def write_training_cases(folder: str | Path, structures: Sequence[Structure]) -> None:
    """Write `training_cases.csv`: one row per training case and class that was annotated in it; no file without any.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(folder) / run_files.TRAINING_CASES
    if structures:
        write_csv(path, _COLUMNS, [(one.case, one.name, *measured(one)) for one in structures])
    else:
        folder_of(folder).remove([run_files.TRAINING_CASES])


def measured(one: Structure) -> tuple[str, ...]:
    """What was measured of a structure as cells of a CSV file, from its volume on; what is not known is empty."""
    parts = "" if one.components is None else str(one.components)
    mean = "" if one.mean_intensity is None else f"{one.mean_intensity:.4f}"
    return f"{one.volume_ml:.8g}", str(one.touches_edge).lower(), parts, mean


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
    path = folder / run_files.TRAINING_CASES
    if not path.is_file():
        return []
    try:
        return [_structure(line) for line in read_csv(path, ("case", "class", "volume_ml", "touches_edge"))]
    except ValueError as error:
        reason = error if isinstance(error, SegbundleError) else f"{path}: {error}."
        _logger.warning("%s It is not used.", reason)
        return []


def _structure(line: Mapping[str, str]) -> Structure:
    parts, mean = line.get("components"), line.get("mean_intensity")  # which earlier versions did not write down
    return Structure(
        line["case"],
        line["class"],
        finite_number(line["volume_ml"]),
        line["touches_edge"] == "true",
        int(parts) if parts else None,
        finite_number(mean) if mean else None,
    )
