"""Volumes of a case (scan, label maps, error map) as NIfTI files that browsers can read."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segbundle.classes import IGNORE_INDEX
from segbundle.errors import DataError
from segbundle.io.label_maps import as_loaded, read_labels
from segbundle.io.nifti import is_nifti
from segbundle.io.scans import Scan, read_geometry, read_scan
from segbundle.viewer.shown_cases import ShownCase

_FAST = 1  # compression level, as the data do not leave this machine
_IN_MM = ("mm", "unknown")
_BROWSER_TYPES = (np.uint8, np.int16, np.uint16, np.float32)
_UNCHANGED_TYPES = (*_BROWSER_TYPES, np.float64)
"""Voxel types that NiiVue reads correctly. It drops the last voxel of 32-bit integers and cannot read other types."""
_MISSED, _FALSE_POSITIVE = np.uint8(1), np.uint8(2)


def nifti_volume(case: ShownCase, name: str, class_names: Sequence[str]) -> bytes:
    """Return a volume of a case as the content of a gzipped NIfTI file with positions in mm.

    Args:
        case: case of the run.
        name: one of `case.volumes`.
        class_names: names of the foreground classes.

    Returns:
        for `scan`, the first channel: the file itself if browsers can read the file, otherwise a converted file. For
        `reference` and `prediction`, the label map as uint8, in which values that are not classes are background. For
        `errors`, the error map as uint8: 1 for missed or confused classes, 2 for false positives in the background,
        else 0.

    Raises:
        DataError: a file cannot be read, or prediction and reference are on different grids (error map).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/a_seg.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
        ...     content = nifti_volume(ShownCase("a", "", {"prediction": path}, None, []), "prediction", ["liver"])
        ...     nib.Nifti1Image.from_bytes(gzip.decompress(content)).shape
        (4, 4, 4)
    """
    if name == "scan":
        return _scan(case.files[name])
    if name == "errors":
        return _error_map(case, class_names)
    scan = _read(case, name, class_names)
    return to_nifti(_class_map(scan, len(class_names)), scan)


def _scan(path: str) -> bytes:
    """Return the first channel of a scan as gzipped NIfTI in mm; the file itself if browsers can read it."""
    if _is_browser_readable(path):
        return Path(path).read_bytes()
    scan = read_scan(path, None, allow_uneven=True)
    array = scan.array[0]
    return to_nifti(array if array.dtype in _BROWSER_TYPES else array.astype(np.float32), scan)


def _is_browser_readable(path: str) -> bool:
    if not path.endswith(".nii.gz"):
        return False
    read_scan(path)  # raises an error for a damaged file; browsers would show a part of it
    header: Any = nib.load(Path(path).absolute()).header
    return header.get_xyzt_units()[0] in _IN_MM and header.get_data_dtype() in _UNCHANGED_TYPES


def _read(case: ShownCase, name: str, class_names: Sequence[str]) -> Scan:
    """Return a label map. One with segments is placed on the grid of the scan."""
    path, scan = case.files[name], case.files.get("scan")
    grid = None if scan is None or is_nifti(Path(path)) else read_geometry(scan, allow_uneven=True)
    labels = read_labels(path, ["background", *class_names], grid)
    return as_loaded(labels, case.label_values, case.ignore_label) if name == "reference" else labels


def _error_map(case: ShownCase, class_names: Sequence[str]) -> bytes:
    """Return the error map: 1 for missed or confused classes, 2 for false positives in the background.

    Unknown voxels and classes that were not annotated count as correct.
    """
    num_classes = len(class_names)
    prediction = _read(case, "prediction", class_names)
    reference = read_labels(case.files["reference"], ["background", *class_names], prediction.geometry)
    reference = as_loaded(reference, case.label_values, case.ignore_label)
    difference = prediction.geometry.difference(reference.geometry)
    if difference:
        raise DataError(
            f"{prediction.path} and {reference.path} are on different grids ({difference}). Evaluate this case again."
        )
    values = reference.array[0]
    known = (values >= 0) & (values <= num_classes)
    if case.ignore_label is not None:
        known &= values != IGNORE_INDEX
    ref, pred = (_class_map(scan, num_classes, case.unannotated) for scan in (reference, prediction))
    errors = known & (ref != pred)
    return to_nifti(errors * np.where(ref > 0, _MISSED, _FALSE_POSITIVE), prediction)


def _class_map(scan: Scan, num_classes: int, unannotated: Sequence[int] = ()) -> np.ndarray:
    """Return a label map (X, Y, Z) as uint8; unannotated classes and other values become background."""
    labels = scan.array[0]
    labels = np.where((labels >= 0) & (labels <= num_classes), labels, 0).astype(np.uint8)
    return np.where(np.isin(labels, unannotated), 0, labels) if unannotated else labels


def to_nifti(array: np.ndarray, scan: Scan) -> bytes:
    """Return voxels as the content of a gzipped NIfTI file; the header contains only the affine of the scan.

    Args:
        array: voxels (X, Y, Z), of a dtype that the reader of the file supports.
        scan: scan with the geometry of the voxels.

    Example:
        >>> from segbundle.io.scans import Geometry
        >>> scan = Scan(np.ones((1, 4, 3, 2), np.uint8), Geometry((4, 3, 2), np.eye(4)), Path("a.nii"))
        >>> nib.Nifti1Image.from_bytes(gzip.decompress(to_nifti(scan.array[0], scan))).shape
        (4, 3, 2)
    """
    return gzip.compress(nib.Nifti1Image(array, scan.geometry.affine).to_bytes(), _FAST)
