"""Write scans as NIfTI: exact geometry and values, in the smallest data type that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry
from segbundle.io.scan_files import NIFTI_SUFFIXES
from segbundle.io.scans import geometry_header, read_scan, write_image

_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
"""Integer data types of NIfTI that many programs read, from the smallest."""


def write_scan(source: str | Path, path: str | Path, allow_uneven: bool = False) -> Geometry:
    """Write a scan of any supported format as NIfTI, with its rescale slope and intercept applied.

    The header has the geometry of the scan (see `write_segmentation`), and neither free text nor extensions, which may
    contain patient data. The same scan gives the same bytes.

    Args:
        source: path of the scan, see `read_scan`.
        path: output path, with the suffix `.nii.gz` or `.nii`.
        allow_uneven: see `read_scan`. Default: False.

    Returns:
        geometry of the scan

    Raises:
        DataError: the scan cannot be read, or the suffix of the output path is not that of NIfTI.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ct = nib.Nifti1Image(np.full((4, 3, 2), -1024, np.float64), np.eye(4))
        ...     nib.save(ct, f"{folder}/ct.nii")
        ...     geometry = write_scan(f"{folder}/ct.nii", f"{folder}/small.nii.gz")
        ...     nib.load(f"{folder}/small.nii.gz").get_data_dtype().name
        'int16'
    """
    if not str(path).lower().endswith(NIFTI_SUFFIXES):
        raise DataError(f"{path}: scans are written as NIfTI. Use a name such as {Path(path).name}.nii.gz.")
    scan = read_scan(source, None, allow_uneven)
    voxels = np.moveaxis(scan.array, 0, -1)
    voxels = voxels[..., 0] if len(scan.array) == 1 else voxels
    voxels = voxels.astype(smallest_dtype(voxels), copy=False)
    header: Any = geometry_header(source, voxels.dtype, voxels.shape[3:])
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    write_image(kind(voxels, None, header), path)
    return scan.geometry


def smallest_dtype(values: np.ndarray, integers: Sequence[Any] = _INTEGERS) -> np.dtype[Any]:
    """Return the smallest data type that represents all values exactly.

    Args:
        values: array of any real dtype.
        integers: integer dtypes to choose from, from the smallest (default: those that many programs read in NIfTI).

    Returns:
        an integer dtype if all values are integers within its range; else float32 if it represents the values exactly,
        or float64

    Example:
        >>> smallest_dtype(np.array([0.0, 300.0])), smallest_dtype(np.array([0.5])), smallest_dtype(np.array([0.1]))
        (dtype('int16'), dtype('float32'), dtype('float64'))
    """
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if np.isfinite(low) and np.isfinite(high) and _all_integers(values):
        for dtype in integers:
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return np.dtype(dtype)
    if values.dtype.itemsize <= 4 and values.dtype.kind == "f":
        return np.dtype(np.float32)
    with np.errstate(over="ignore"):
        exact = all(np.array_equal(part, part.astype(np.float32), equal_nan=True) for part in values)
    return np.dtype(np.float32 if exact else np.float64)


def _all_integers(values: np.ndarray) -> bool:
    """Return whether all values are integers. Slabs are compared one by one, to save memory."""
    return values.dtype.kind in "iub" or all(np.array_equal(part, np.rint(part)) for part in values)
