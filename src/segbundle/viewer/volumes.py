"""A case's volumes as browsers read them: the scan, its label maps, and where they differ."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segbundle.errors import DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import Scan, read_scan
from segbundle.viewer.shown_cases import ShownCase

_FAST = 1  # compression: it goes no further than this machine
_IN_MM = ("mm", "unknown")
_FOR_BROWSERS = (np.uint8, np.int16, np.uint16, np.float32)
_AS_IT_IS = (*_FOR_BROWSERS, np.float64)
"""Of scans that NiiVue reads as they are stored; of 32-bit integers it drops the last voxel, others it cannot read."""
_MISSED, _INVENTED = np.uint8(1), np.uint8(2)


def nifti_volume(case: ShownCase, name: str, num_classes: int) -> bytes:
    """One of a case's `volumes` as compressed NIfTI in mm.

    Args:
        case: whose volume it is.
        name: one of `case.volumes`.
        num_classes: without the background.

    Raises:
        DataError: as `read_scan`; or, of errors, prediction and reference do not lie on the same voxels.
    """
    if name == "scan":
        return _scan(case.files[name])
    if name == "errors":
        return _error_map(case, num_classes)
    return _label_map(case.files[name], num_classes)


def _scan(path: str) -> bytes:
    """The first channel of a scan as compressed NIfTI in mm, of a type that browsers read; the file, if it is that."""
    if _is_for_browsers(path):
        return Path(path).read_bytes()
    scan = read_scan(path, None)
    array = scan.array[0]
    return _as_nifti(array if array.dtype in _FOR_BROWSERS else array.astype(np.float32), scan)


def _is_for_browsers(path: str) -> bool:
    if not path.endswith(".nii.gz"):
        return False
    read_scan(path)  # of a damaged file, browsers would show a part
    header: Any = nib.load(Path(path).absolute()).header
    return header.get_xyzt_units()[0] in _IN_MM and header.get_data_dtype() in _AS_IT_IS


def _label_map(path: str, num_classes: int) -> bytes:
    """A label map as compressed NIfTI in mm; values that are no class, such as unknown voxels, become background."""
    scan = read_labels(path)
    return _as_nifti(_classes(scan, num_classes), scan)


def _error_map(case: ShownCase, num_classes: int) -> bytes:
    """Where a prediction is wrong: 1 where a class was missed or taken for another, 2 where one was invented.

    It is right where nothing is known: in unknown voxels, and about classes that nobody has looked for.
    """
    reference, prediction = (read_labels(case.files[name]) for name in ("reference", "prediction"))
    difference = prediction.geometry.difference(reference.geometry)
    if difference:
        raise DataError(f"{prediction.path}: does not lie on the voxels of {reference.path} ({difference}).")
    given = reference.array[0]
    known = (given >= 0) & (given <= num_classes)
    if case.ignore_label is not None:
        known &= given != case.ignore_label
    right, found = (_classes(scan, num_classes, case.unannotated) for scan in (reference, prediction))
    wrong = known & (right != found)
    return _as_nifti(wrong * np.where(right > 0, _MISSED, _INVENTED), prediction)


def _classes(scan: Scan, num_classes: int, unannotated: Sequence[int] = ()) -> np.ndarray:
    """A label map (X, Y, Z) of uint8, with background where there is no class, or one that nobody has looked for."""
    labels = scan.array[0]
    labels = np.where((labels >= 0) & (labels <= num_classes), labels, 0).astype(np.uint8)
    return np.where(np.isin(labels, unannotated), 0, labels) if unannotated else labels


def _as_nifti(array: np.ndarray, scan: Scan) -> bytes:
    """Voxels of a scan as compressed NIfTI, whose header says no more than where they are."""
    return gzip.compress(nib.Nifti1Image(array, scan.geometry.affine).to_bytes(), _FAST)
