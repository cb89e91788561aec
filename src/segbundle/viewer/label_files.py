"""Read a single label map for the viewer, with the names and colors in its file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segbundle.errors import DataError, OutputError
from segbundle.io.dicom import is_dicom
from segbundle.io.label_maps import dicom_object, referenced_volume
from segbundle.io.scans import read_geometry
from segbundle.io.structure_sets import RTSTRUCT
from segbundle.results.case_files import CaseFiles, is_there
from segbundle.results.journal import read_records
from segbundle.segmentations.class_entries import ClassEntry
from segbundle.segmentations.file_classes import FileClass, classes_in_file, table_of
from segbundle.segmentations.named_labels import TaskClasses, named_table, read_named_labels
from segbundle.viewer.shown_cases import ShownCase
from segbundle.viewer.volumes import to_nifti

_MAX_CLASSES = 255


@dataclass(frozen=True)
class LabelFile:
    """Label map that was read from a file.

    Attributes:
        case: case of the viewer: the label map and, if known, its scan.
        table: classes, whose label values are those of the content.
        content: label map as the content of a gzipped NIfTI file.

    Example:
        >>> LabelFile(ShownCase("ct_seg.dcm", "", {"prediction": "ct_seg.dcm"}, None, []), [], b"").case.volumes
        ['prediction']
    """

    case: ShownCase
    table: list[ClassEntry]
    content: bytes


def is_label_file(path: str | Path) -> bool:
    """Return whether a path stands for a label map, not for the folder of a run.

    A folder stands for a label map if it contains only a DICOM SEG or RTSTRUCT. Every other path that is not a folder
    counts as a label map, even if the file does not exist.

    Args:
        path: path of a label map or of the folder of a run.

    Example:
        >>> is_label_file("ct_seg.dcm"), is_label_file(".")
        (True, False)
    """
    path = Path(path)
    return not path.is_dir() or dicom_object(path)[1] is not None


def read_label_file(path: str | Path, scan: str | Path | None = None, classes: TaskClasses | None = None) -> LabelFile:
    """Read a label map of any format, with the names and colors of its classes.

    Args:
        path: path of a NIfTI file, another image file, a `.seg.nrrd` file, a DICOM SEG or an RTSTRUCT.
        scan: path of the scan. Default: the scan in the `predictions.json` next to the label map, or else the DICOM
            series to which the label map refers, if it is near the file (see `referenced_volume`).
        classes: classes of a task, with precedence over those of the file. Default: those in the file. Label values
            without names are named `label 1`, `label 2`, ...

    Raises:
        ConfigError: a color of the task is not valid.
        DataError: a file cannot be read, is not a label map or does not fit the scan or the classes, or the scan of an
            RTSTRUCT is unknown.
        OutputError: the label map does not exist.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/a.nii"
        ...     nib.save(nib.Nifti1Image(np.full((4, 4, 4), 3, np.uint8), np.eye(4)), path)
        ...     [(entry.name, entry.hex_color) for entry in read_label_file(path).table]
        [('label 3', '#e69f00')]
    """
    path, classes = Path(path), classes or TaskClasses()
    if not is_there(path):
        raise OutputError(f"{path} does not exist. Give the folder of a run, or a label map.")
    file, kind = dicom_object(path)
    if kind is None and is_dicom(path):
        raise DataError(f"{path}: is a DICOM image, not a label map. Give the label map, and this scan with --scan.")
    scan = scan or _recorded_scan(path) or (None if kind is None else referenced_volume(file))
    if scan is None and kind == RTSTRUCT:
        raise DataError(f"{path}: its contours need the slices of the scan. Give the scan with --scan.")
    grid = None if scan is None else read_geometry(scan)
    found = classes_in_file(path)
    table = named_table(path, found, classes)
    if not table:
        values = np.unique(read_named_labels(path, [], [], grid).array).tolist()
        found = [FileClass(value, f"label {value}") for value in values if value]
        if len(found) > _MAX_CLASSES:
            raise DataError(
                f"{path}: contains {len(found)} different values; a label map has up to {_MAX_CLASSES}. Give a label "
                "map, and its scan with --scan."
            )
        table = table_of(found) if found else []
    label = read_named_labels(path, found, table, grid)
    files = {**({} if scan is None else {"scan": str(scan)}), "prediction": str(path)}
    return LabelFile(ShownCase(path.name, "", files, None, []), table, to_nifti(label.array[0].astype(np.uint8), label))


def _recorded_scan(path: Path) -> str | None:
    """Return the scan of a label map in an output folder of segbundle; None if it is unknown or was moved."""
    with suppress(OutputError):
        for record in read_records(path.parent):
            written = [record.get("prediction"), *(record.get("outputs") or {}).values()]
            image = record.get("image")
            if image and path.name in [Path(each).name for each in written if each]:
                scan = CaseFiles(image, None, str(path)).first_image
                return scan if is_there(scan) else None
    return None
