"""Checks of results of accepted inputs, computed without segbundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from hostile.cases import Place


def label_map(path: Path, mask: np.ndarray, affine: np.ndarray | None = None) -> str | None:
    """Return the problem of a label map (voxels or geometry), or None."""
    if not path.is_file():
        return f"{path.name} is missing"
    image = nib.load(path)
    found = np.asarray(image.dataobj)
    if found.shape != mask.shape:
        return f"{path.name} has shape {found.shape} instead of {mask.shape}"
    if (found != mask).any():
        return f"{path.name} has {int((found != mask).sum())} wrong voxels"
    if affine is not None and not np.allclose(image.affine, affine, atol=1e-4):
        return f"{path.name} has another affine"
    return None


def predicted(**scans: Path) -> Callable[[Place], str | None]:
    """Return a check of the label maps of scans by name: voxels above 500, as read by nibabel, must be class 1."""
    return lambda place: first(*(scan_of(place, name, place.folder / path) for name, path in scans.items()))


def scan_of(place: Place, name: str, scan: Path) -> str | None:
    image = nib.load(scan)
    mask = np.asarray(image.get_fdata()) > 500
    mask = mask.reshape(mask.shape[:3] if mask.ndim > 3 else (*mask.shape, 1)[:3])
    return label_map(place.output / f"{name}_seg.nii.gz", mask, image.affine)


def good_scan_done(place: Place) -> str | None:
    """Return the problem of the label map of the shared valid scan, or None."""
    return scan_of(place, "good", place.material.scan)


def first(*problems: str | None) -> str | None:
    return next((problem for problem in problems if problem is not None), None)
