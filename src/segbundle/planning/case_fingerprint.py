"""Fingerprint of a case: geometry, intensities and class volumes that a plan is derived from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from segbundle.classes import IGNORE_INDEX
from segbundle.datasets.case import Case
from segbundle.datasets.case_checks import image_problems, label_problems, pair_problems
from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_scan

_SAMPLES = 1000
"""Maximum number of voxels inside the labels whose intensities are stored, per case."""
_SEED = 0


@dataclass(frozen=True)
class CaseFingerprint:
    """Measurements of a labeled case. X, Y and Z are the stored axes closest to those of RAS.

    Attributes:
        case: name of the case.
        shape: number of voxels along X, Y and Z.
        spacing: voxel size along X, Y and Z in mm.
        orientation: stored orientation, such as `LPS`.
        dtype: data type of the voxels after scaling, such as `int16`.
        nonzero: fraction of voxels that are nonzero in at least one channel.
        cropped: fraction of the volume outside the bounding box of the nonzero voxels.
        minimum: minimum of each channel.
        maximum: maximum of each channel.
        samples: for each channel, intensities of up to 1,000 random voxels inside the labels, rounded to six digits.
        voxels: number of voxels by label value.

    Example:
        >>> fingerprint = CaseFingerprint(
        ...     "a", (4, 4, 2), (1.0, 1.0, 5.0), "RAS", "int16", 1.0, 0.0, (0.0,), (9.0,), ((7.0,),), {0: 31, 1: 1}
        ... )
        >>> fingerprint.voxel_ml
        0.005
    """

    case: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    dtype: str
    nonzero: float
    cropped: float
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    samples: tuple[tuple[float, ...], ...]
    voxels: dict[int, int]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.minimum)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return math.prod(self.spacing) / 1000


def measure_case(
    case: Case,
    class_names: Sequence[str] | None = None,
    ignore_label: int | None = None,
    loaded: Mapping[int, int] | None = None,
) -> CaseFingerprint:
    """Read the scan and the label map of a case, and return its fingerprint.

    Args:
        case: labeled case.
        class_names: classes of the dataset, background first; None (default) if they are unknown.
        ignore_label: value of voxels whose class is unknown; None (default) if the dataset has no such value.
        loaded: loaded value by label value, see `segbundle.class_values.ClassValues`. Default: None (label values are
            class indices).

    Raises:
        DataError: a file cannot be read or is not valid, the label map has values without a class name or is not on
            the voxels of the scan, or all voxels of the scan have the same value. The message names the file and a fix.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.nii"
        ...     nib.save(nib.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None].repeat(4, axis=2), np.eye(4)), path)
        ...     fingerprint = measure_case(Case("a", (path,), path), ["background", "liver"])
        >>> fingerprint.voxels, fingerprint.nonzero, fingerprint.samples[0][:2]
        ({0: 48, 1: 16}, 0.25, (1.0, 1.0))
    """
    if case.problems or case.label is None:
        raise DataError(" ".join(case.problems) or f"case {case.name}: has no label map. Add one, or remove the case.")
    image = read_scan(case.image[0] if len(case.image) == 1 else list(case.image), None)
    label = read_labels(case.label, class_names or (), image.geometry)
    names = class_names or [str(value) for value in range(IGNORE_INDEX)]
    problems = [
        *image_problems(image, None),
        *label_problems(label, names, ignore_label, loaded),
        *pair_problems(image, label),
        *_empty_channels(image),
    ]
    if problems:
        raise DataError(" ".join(problems))
    shape, spacing, orientation = _toward_ras(image.geometry)
    channels = range(len(image.array))
    occupied = _occupied(image.array)
    values, counts = np.unique(label.array, return_counts=True)
    return CaseFingerprint(
        case.name,
        shape,
        spacing,
        orientation,
        str(image.array.dtype),
        float(occupied.mean()),
        1 - math.prod(_extent(occupied)) / occupied.size,
        tuple(float(image.array[channel].min()) for channel in channels),
        tuple(float(image.array[channel].max()) for channel in channels),
        _samples(image.array, label.array[0], ignore_label),
        {int(value): int(count) for value, count in zip(values, counts, strict=True)},
    )


def _empty_channels(image: Scan) -> list[str]:
    """Return a message for each channel whose voxels all have the same value."""
    values = [(index, channel.min(), channel.max()) for index, channel in enumerate(image.array)]
    return [
        f"{image.path}: every voxel of channel {index} is {low:g}; replace the file, or remove the case."
        for index, low, high in values
        if low == high
    ]


def _toward_ras(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[float, float, float], str]:
    """Return shape and spacing along the axes that are closest to X, Y and Z, and the stored orientation."""
    axes = nib.orientations.io_orientation(geometry.affine)[:, 0].astype(int)
    x, y, z = (int(np.flatnonzero(axes == axis)[0]) for axis in range(3))
    shape, spacing = geometry.shape, geometry.spacing
    rounded = [round(size, 5) for size in spacing]
    codes = "".join(nib.orientations.aff2axcodes(geometry.affine))
    return (shape[x], shape[y], shape[z]), (rounded[x], rounded[y], rounded[z]), codes


def _occupied(array: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z) of the voxels that are nonzero in at least one channel of an array (C, X, Y, Z)."""
    mask = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    return mask


def _extent(mask: np.ndarray) -> list[int]:
    """Return the size in voxels of the bounding box of a mask (X, Y, Z)."""
    sizes = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        sizes.append(int(found[-1] - found[0] + 1) if len(found) else 0)
    return sizes


def _samples(array: np.ndarray, label: np.ndarray, ignore_label: int | None) -> tuple[tuple[float, ...], ...]:
    """Return the intensities of the same random foreground voxels in each channel."""
    foreground = label > 0 if ignore_label is None else (label > 0) & (label != ignore_label)
    places = np.flatnonzero(foreground)
    if len(places) > _SAMPLES:
        places = np.sort(np.random.default_rng(_SEED).choice(places, _SAMPLES, replace=False))
    where = np.unravel_index(places, label.shape)
    return tuple(tuple(float(f"{value:.6g}") for value in channel[where]) for channel in array)
