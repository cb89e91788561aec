"""Scans that Python code passes to `predict`, and the names of their label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.datasets.finding import find_scans
from segbundle.errors import DataError, OutputError
from segbundle.files import run_files
from segbundle.io.scan_files import stem

Series = str | int | Sequence[str | int]
"""See the setting `series`."""


class GivenScan(NamedTuple):
    """Scan with its name.

    Attributes:
        scan: path, list of paths of channels, or image in memory.
        name: name of the case; None (default) to derive it from the file.

    Example:
        >>> GivenScan("ct.nii.gz").name is None
        True
    """

    scan: Any
    name: str | None = None


def select_scans(scans: Any, series: Series | None = None, num_channels: int = 1) -> list[GivenScan]:
    """Return the scans in the order in which they are given; with `series`, folders are searched for matching series.

    Args:
        scans: a scan or a list of scans. A list contains scans, not channels.
        series: DICOM series to use, see `find_scans`. A folder then stands for all its scans, and files are unchanged.
            Default: None (a folder is one series).
        num_channels: number of channels of the network (default 1).

    Raises:
        DataError: a folder has no matching series, or one of its scans cannot be used.

    Example:
        >>> [given.scan for given in select_scans(["a.nii.gz", "b.nii.gz"])]
        ['a.nii.gz', 'b.nii.gz']
    """
    found = list[GivenScan]()
    for scan in scans if isinstance(scans, list) else [scans]:
        if series is None or not isinstance(scan, (str, Path)) or not Path(scan).is_dir():
            found.append(GivenScan(scan))
            continue
        for entry in find_scans(scan, num_channels, series):
            if "error" in entry:
                raise DataError(entry["error"])
            found.append(GivenScan(entry["image"], entry["case"]))
    return found


def names_of_label_maps(folder: Path, scans: Sequence[GivenScan], formats: Sequence[str]) -> list[str]:
    """Return the case names from which the label maps of all scans are named, and create the output folder.

    The names are those of the scans, or for images in memory their positions in the list, such as `0000`.

    Args:
        folder: output folder, which is created.
        scans: scans with their names.
        formats: output formats, such as `nifti`.

    Returns:
        one name per scan, without the suffix and the extension of the label map

    Raises:
        OutputError: two scans have the same name, or a file exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     names_of_label_maps(Path(folder), [GivenScan("ct.nii.gz"), GivenScan(None)], ["nifti"])
        ['ct', '0001']
    """
    names = [_name(number, given) for number, given in enumerate(scans)]
    for number, name in enumerate(names):
        for path in run_files.label_map_files(folder, name, formats):
            if name in names[:number] or path.exists():
                twice = name in names[:number]
                problem = "two scans have this name. Rename one" if twice else "it exists. Choose another output_dir"
                raise OutputError(f"{path}: cannot be written, because {problem}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}). Choose another output_dir.") from error
    return names


def _name(number: int, given: GivenScan) -> str:
    if given.name is not None:
        return given.name
    first = given.scan[0] if isinstance(given.scan, (list, tuple)) else given.scan
    return stem(first) if isinstance(first, (str, Path)) else f"{number:04d}"
