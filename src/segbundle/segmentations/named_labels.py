"""Read label maps with the label values 1, 2, ... of their classes, which are named in the file or by a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.label_maps import dicom_object, read_labels
from segbundle.io.regridding import read_labels_on
from segbundle.io.scan_files import is_segmentation
from segbundle.io.segments import label_values
from segbundle.segmentations.class_entries import ClassEntry
from segbundle.segmentations.file_classes import FileClass, table_of, with_algorithms
from segbundle.terminal import escaped


@dataclass(frozen=True)
class TaskClasses:
    """Classes of the command line or of a task YAML.

    Attributes:
        names: class names, background first; empty (default) if none are given.
        colors: `class_colors` of the task (default: none).
        codes: `class_codes` of the task (default: none).

    Example:
        >>> TaskClasses(["background", "liver"]).colors
        {}
    """

    names: Sequence[str] = ()
    colors: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Any] = field(default_factory=dict)


def named_table(path: str | Path, found: Sequence[FileClass], classes: TaskClasses) -> list[ClassEntry]:
    """Return the classes of a label map: those of the task, or else those that the file names.

    Args:
        path: path of the label map, for messages.
        found: classes of the file, see `classes_in_file`.
        classes: classes of the task; without names, those of the file are used.

    Returns:
        the classes, with the label values 1, 2, ...; empty if neither the task nor the file names any

    Raises:
        ConfigError: a color or code of the task is not valid.
        DataError: the classes of the file are used, and two have the same name, or one has no name or a name with
            unprintable characters.

    Example:
        >>> found = [FileClass(3, "liver"), FileClass(5, "cyst")]
        >>> [entry.label for entry in named_table("seg.nii", found, TaskClasses())]
        [1, 2]
    """
    if classes.names:
        return with_algorithms(table_of(found, classes.names, classes.colors, classes.codes), found)
    names = [entry.name for entry in found]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None or not all(names):
        problem = f"two segments are named {twice!r}" if twice else "a segment has no name"
        raise DataError(f"{path}: {problem}. Rename the segments.")
    if unreadable := next((name for name in names if escaped(name) != name), None):
        raise DataError(
            f"{path}: the name {escaped(unreadable)!r} of a segment contains unprintable characters. "
            "Rename the segment."
        )
    return with_algorithms(table_of(found), found) if found else []


def read_named_labels(
    path: str | Path,
    found: Sequence[FileClass],
    table: Sequence[ClassEntry],
    grid: Geometry | None = None,
    allow_uneven: bool = False,
) -> Scan:
    """Read a label map with the label values of a table of classes.

    Args:
        path: path of the label map, see `read_labels`.
        found: classes of the file, see `classes_in_file`.
        table: classes, see `named_table`. If empty, the label values are those of the file.
        grid: geometry of the scan to whose voxels the label map is transferred, see `read_labels_on`. Default: that of
            the label map.
        allow_uneven: whether to resample an unevenly spaced DICOM series, see `read_scan` (default False).

    Returns:
        scan with an integer array (1, X, Y, Z)

    Raises:
        DataError: the file cannot be read or is not a label map, is not on the grid, or has a label value without
            a class.

    Example:
        >>> import nibabel as nib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nib.save(nib.Nifti1Image(np.full((2, 2, 2), 5, np.uint8), np.eye(4)), f"{folder}/a.nii")
        ...     found = [FileClass(5, "liver")]
        ...     int(read_named_labels(f"{folder}/a.nii", found, named_table("", found, TaskClasses())).array.max())
        1
    """
    path = Path(path)
    by_name = is_segmentation(path.name) or dicom_object(path)[1] is not None
    names = ["background", *(entry.name for entry in table)] if by_name and table else []
    if grid is None:
        label = read_labels(path, names, allow_uneven=allow_uneven)
    else:
        label = read_labels_on(path, names, grid, allow_uneven)
    _check_labels(label)
    if found and table and not by_name:
        label = replace(label, array=_renumbered(label, found, table))
    _check_values(label, table)
    return label


def _check_labels(label: Scan) -> None:
    if len(label.array) != 1:
        raise DataError(
            f"{label.path}: has {len(label.array)} channels; a label map has one. Convert each channel separately."
        )
    if not np.issubdtype(label.array.dtype, np.integer):
        raise DataError(f"{label.path}: its values are not integers, so it is not a label map. Convert it to .nii.gz.")


def _renumbered(label: Scan, found: Sequence[FileClass], table: Sequence[ClassEntry]) -> np.ndarray:
    """Return the voxels of a label map, renumbered from the values in its own table to those of the classes."""
    names = ["background", *(entry.name for entry in table)]
    values = label_values(label.path, {entry.number: entry.name for entry in found if entry.name}, names)
    if all(old == new for old, new in values.items()):
        return label.array
    unnamed = set(np.unique(label.array).tolist()) - {0, *values}
    if unnamed:
        raise DataError(
            f"{label.path}: contains the label value {min(unnamed)}, which its table of labels does not name. Correct "
            "the table or the label map."
        )
    result = np.zeros_like(label.array)
    for old, new in values.items():
        result[label.array == old] = new
    return result


def _check_values(label: Scan, table: Sequence[ClassEntry]) -> None:
    """Raise an error for label values without a class, if the classes are known."""
    unknown = sorted(set(np.unique(label.array).tolist()) - set(range(len(table) + 1))) if table else []
    if unknown:
        raise DataError(
            f"{label.path}: contains the label value {unknown[0]}, but its {len(table)} classes have the values 1 to "
            f"{len(table)}. Correct the class names or the label map."
        )
