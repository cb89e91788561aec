"""Measurements of classes in scans, and `training_cases.csv` with the measurements of the training cases."""

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
    """Measurements of one class in one scan.

    Attributes:
        case: name of the scan.
        name: name of the class.
        volume_ml: volume in ml; 0 if the class is absent.
        touches_edge: whether the class has voxels in the first or last slice along any axis.
        components: number of connected components; None if not counted.
        mean_intensity: mean of the first channel within the class, in the units of the scan; None if unknown.

    Example:
        >>> Structure("case_1", "liver", 1450.0).touches_edge
        False
    """

    case: str
    name: str
    volume_ml: float
    touches_edge: bool = False
    components: int | None = None
    mean_intensity: float | None = None


def write_training_cases(folder: str | Path, structures: Sequence[Structure]) -> None:
    """Write `training_cases.csv`, with one row per training case and annotated class.

    Args:
        folder: output folder of `train` or `predict`.
        structures: measurements. If empty, no file is written, and a file that segbundle wrote earlier is removed.

    Raises:
        OutputError: the file cannot be written, or would replace a file that segbundle did not write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_training_cases(folder, [Structure("case_1", "liver", 1450.0)])
        ...     print((Path(folder) / "training_cases.csv").read_text("utf-8-sig"))
        case,class,volume_ml,touches_edge,components,mean_intensity
        case_1,liver,1450,false,,
        <BLANKLINE>
    """
    path = Path(folder) / run_files.TRAINING_CASES
    if structures:
        write_csv(path, _COLUMNS, [(each.case, each.name, *measured(each)) for each in structures])
    else:
        folder_of(folder).remove([run_files.TRAINING_CASES])


def measured(one: Structure) -> tuple[str, ...]:
    """Return the measurements of a structure as CSV cells; unknown values are empty.

    Args:
        one: structure to format.

    Returns:
        four cells: `volume_ml`, `touches_edge`, `components` and `mean_intensity`

    Example:
        >>> measured(Structure("case_1", "liver", 1450.0, components=2))
        ('1450', 'false', '2', '')
    """
    components = "" if one.components is None else str(one.components)
    mean = "" if one.mean_intensity is None else f"{one.mean_intensity:.4f}"
    return f"{one.volume_ml:.8g}", str(one.touches_edge).lower(), components, mean


def training_cases_of(ckpt_path: str | Path | Sequence[str | Path] | None) -> list[Structure]:
    """Return the measurements of the training cases of a model or an ensemble, without duplicates.

    Args:
        ckpt_path: path of a model, list of such paths, or folder of a cross-validation. `training_cases.csv` is read
            from the folder of each model. None means no model.

    Returns:
        one `Structure` per case and class. Files that are missing or cannot be read are skipped (see
        `read_training_cases`).

    Example:
        >>> training_cases_of("missing/model.pt")
        []
    """
    paths = [ckpt_path] if isinstance(ckpt_path, (str, Path)) else ckpt_path or []
    folders = [
        folder for path in map(Path, paths) for folder in (fold_folders(path) if path.is_dir() else [path.parent])
    ]
    return list({(each.case, each.name): each for folder in folders for each in read_training_cases(folder)}.values())


def read_training_cases(folder: Path) -> list[Structure]:
    """Return the rows of `training_cases.csv` in a folder.

    Args:
        folder: folder of a model or of predictions.

    Returns:
        one `Structure` per row; empty if the file is missing. A file that cannot be read or has invalid values also
        gives an empty list, and a warning is logged.

    Example:
        >>> read_training_cases(Path("missing"))
        []
    """
    path = folder / run_files.TRAINING_CASES
    if not path.is_file():
        return []
    try:
        return [_structure(line) for line in read_csv(path, ("case", "class", "volume_ml", "touches_edge"))]
    except ValueError as error:
        reason = error if isinstance(error, SegbundleError) else f"{path}: {error}."
        _logger.warning("%s The file is ignored, so predictions are not compared with these training cases.", reason)
        return []


def _structure(line: Mapping[str, str]) -> Structure:
    components, mean = line.get("components"), line.get("mean_intensity")  # missing in files of earlier versions
    return Structure(
        line["case"],
        line["class"],
        finite_number(line["volume_ml"]),
        line["touches_edge"] == "true",
        int(components) if components else None,
        finite_number(mean) if mean else None,
    )
