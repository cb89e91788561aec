"""Table of the scans in a folder that is not a dataset, such as the export of a PACS."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segbundle.datasets.case import path_name
from segbundle.datasets.finding import find_scans
from segbundle.datasets.folders import escaped, list_tree
from segbundle.datasets.series import SINGLE_SLICE
from segbundle.errors import DataError
from segbundle.io.dicom import find_series, series_files
from segbundle.io.dicom_folders import Series, list_series
from segbundle.io.scan_files import is_volume_path
from segbundle.io.scans import read_geometry
from segbundle.terminal import counted

_COLUMNS = (
    *("scan", "modality", "size (voxels)", "spacing (mm)", "slice gaps (mm)", "series", "date", "description"),
    "not a volume",
)


@dataclass(frozen=True)
class ScanRow:
    """Row of a table of the scans in a folder.

    Attributes:
        case: name that the scan has in predictions.
        cells: text of the columns after the name: modality, size, spacing, distances of slices that are resampled to an
            even spacing, SeriesNumber, date, SeriesDescription, and why a DICOM series is not a volume; empty text if
            unknown. Empty (default) if the scan has a problem.
        problem: message if the scan cannot be used; None (default) if it can.

    Example:
        >>> ScanRow("a", ("CT", "512 x 512 x 90", "0.7 x 0.7 x 3", "", "4", "2026-01-31", "thorax", "")).problem is None
        True
    """

    case: str
    cells: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def is_volume(self) -> bool:
        """True for a scan, also with a problem; False for a DICOM series that is not a volume."""
        return not (self.cells and self.cells[-1])


def list_scans(folder: str | Path, allow_uneven: bool = False) -> list[ScanRow]:
    """Return the scans of a folder and its subfolders, with modality, size and other values of their headers.

    DICOM series that are not volumes, such as localizers and skipped single slices, come last, with the reason.

    Args:
        folder: folder with scans in any supported format.
        allow_uneven: see `segbundle.io.scans.read_scan`. Default: False.

    Raises:
        DataError: the folder contains no scan, or no scan that can be used.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), f"{folder}/ct.nii.gz")
        ...     [(row.case, row.cells[1]) for row in list_scans(folder)]
        [('ct', '4 x 3 x 2')]
    """
    entries = find_scans(folder)
    rows = [
        _row(entry["case"], entry["image"], entry.get("error"), allow_uneven)
        for entry in counted(entries, len(entries), "reading headers", "scan")
    ]
    used = {file for entry in entries for path in [Path(entry["image"])] for file in (path, *_scattered_files(path))}
    return [*rows, *_no_volumes(Path(folder), used)]


def _scattered_files(path: Path) -> list[Path]:
    with suppress(DataError):  # reported with the scans
        return series_files(path) if is_volume_path(path) else []
    return []


def _no_volumes(root: Path, used: Container[Path]) -> Iterator[ScanRow]:
    """Yield a row for each DICOM series that is not a volume, and for single slices that are not among the scans."""
    for folder in list_tree(root).dicom if root.is_dir() else ():
        with suppress(DataError):  # reported with the scans
            for series in list_series(folder):
                is_single = series.num_slices == 1 and series.path not in used and series.files[0] not in used
                why = SINGLE_SLICE if series.why is None and is_single else series.why
                if why is not None:
                    image = series.images[0] if series.images else None
                    size = "" if image is None else f"{image.columns} x {image.rows} x {len(series.files)}"
                    cells = (series.modality, size, "", "", *_series_cells(series), escaped(why))
                    yield ScanRow(path_name(folder, root), cells)


def _series_cells(series: Series) -> tuple[str, str, str]:
    """Return SeriesNumber, date and SeriesDescription."""
    words = " ".join(filter(None, (series.description, series.volume)))
    return str(series.number or ""), _date(series.date), escaped(words)


def _row(case: str, path: str, problem: str | None, allow_uneven: bool) -> ScanRow:
    if problem is not None:
        return ScanRow(case, problem=problem)
    try:
        geometry, series = read_geometry(path, allow_uneven), find_series(path)
    except DataError as error:
        return ScanRow(case, problem=str(error))
    size = " x ".join(map(str, geometry.shape)) + (f" x {geometry.channels}" if geometry.channels > 1 else "")
    cells = ["", size, " x ".join(f"{value:.3g}" for value in geometry.spacing), "", "", "", "", ""]
    if geometry.source_gaps is not None:
        cells[3] = "{:.3g} to {:.3g} (resampled)".format(*geometry.source_gaps)
    if series is not None:
        cells[0], cells[4:7] = series.modality, _series_cells(series)
    return ScanRow(case, tuple(cells))


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


def table_lines(rows: list[ScanRow]) -> Iterator[str]:
    """Yield the lines of a table of the scans without problems, below a line with the names of the columns.

    Columns without any text are left out.

    Args:
        rows: rows of `list_scans`.

    Example:
        >>> print(*table_lines([ScanRow("a", ("CT", "9 x 9 x 9", "1 x 1 x 1", "", "", "", "", ""))]), sep="\\n")
        scan  modality  size (voxels)  spacing (mm)
        a     CT        9 x 9 x 9      1 x 1 x 1
    """
    lines = [_COLUMNS, *((row.case, *row.cells) for row in rows if row.problem is None)]
    used = [index for index in range(len(_COLUMNS)) if any(line[index] for line in lines[1:])]
    widths = [max(len(line[index]) for line in lines) for index in used]
    for line in lines:
        yield "  ".join(f"{line[index]:{width}}" for index, width in zip(used, widths, strict=True)).rstrip()
