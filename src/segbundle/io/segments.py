"""Segments of label files with names: their label values in a task, and their voxels on the grid of a scan."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry
from segbundle.io.stacks import DISTANCE_TOLERANCE, last_decimal
from segbundle.io.uneven_slices import labels_on_grid, slice_coordinates

_logger = logging.getLogger(__name__)
_TOLERANCE = 0.1
"""Maximum distance of a voxel from the corresponding voxel of the scan, in voxels; `arrange` may allow more in mm."""
_ROUNDING = 2e-3
"""Rounding error of positions in mm."""
_MAX_LABEL = 64
"""Number of characters of a class name that DICOM keeps."""


def normalized(name: str) -> str:
    """Return a name in lower case with underscores instead of spaces and hyphens.

    Args:
        name: name of a class or segment.

    Example:
        >>> normalized("Left Kidney"), normalized("non-enhancing tumor")
        ('left_kidney', 'non_enhancing_tumor')
    """
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def find_class(name: str, class_names: Sequence[str]) -> int | None:
    """Return the label value of the class with the name of a segment; None without such a class.

    Case does not matter, and neither does the difference of spaces, hyphens and underscores, unless it distinguishes
    two classes. The first 64 characters of a name suffice, because DICOM shortens names.

    Args:
        name: name of a segment.
        class_names: class names of the task, background first.

    Example:
        >>> find_class("Kidney Left", ["background", "kidney_left"]), find_class("spleen", ["background", "liver"])
        (1, None)
    """
    known = list(map(str, class_names))
    for candidates in (known, [own[:_MAX_LABEL] for own in known]):
        if name in candidates:
            return candidates.index(name)
    similar = [normalized(own) for own in known]
    return similar.index(normalized(name)) if normalized(name) in similar else None


def label_values(path: str | Path, names: Mapping[int, str], class_names: Sequence[str]) -> dict[int, int]:
    """Return the label value of each segment of a file.

    A segment belongs to the class of its name. Case does not matter, and neither does the difference of spaces, hyphens
    and underscores, unless it distinguishes two classes. A segment without a name has its number as label value. If
    `class_names` is empty, the numbers of all segments are their label values.

    Args:
        path: path of the file, for the message.
        names: name of each segment by its number; empty text for a segment without a name.
        class_names: class names of the task, background first; may be empty.

    Returns:
        label value of each segment by its number

    Raises:
        DataError: the name of a segment is not that of a class.

    Example:
        >>> label_values("ct.dcm", {1: "Kidney Left", 2: ""}, ["background", "spleen", "kidney_left"])
        {1: 2, 2: 2}
    """
    if not class_names:
        return {number: number for number in names}
    values = {number: find_class(name, class_names) if name else number for number, name in names.items()}
    unknown = [names[number] for number, value in values.items() if value is None]
    if unknown:
        found, known = ", ".join(filter(None, names.values())), ", ".join(map(str, class_names))
        raise DataError(
            f"{path}: contains the segments {found}, but {unknown[0]!r} is not a class of the task ({known}). Rename "
            "the segments, or change class_names."
        )
    return {number: value for number, value in values.items() if value is not None}


class LabelGrid:
    """Label map on the grid of a scan, to which the segments of a file are added.

    Segments of an unevenly spaced DICOM series are added on its slices, and then resampled to its even grid.

    Args:
        path: path of the file, for messages.
        grid: geometry of the scan.

    Attributes:
        labels: uint8 label map (X, Y, Z), or (X, Y, number of slices) for an unevenly spaced series.
        overlaps: number of voxels in which two segments overlap, by their label values (first, second).

    Example:
        >>> grid = LabelGrid("ct.dcm", Geometry((4, 3, 2), np.eye(4)))
        >>> grid.add(np.ones((2, 3), bool), grid.place(np.eye(4), (2, 3, 1))[..., 0], 5)
        >>> int((grid.labels == 5).sum())
        6
    """

    def __init__(self, path: str | Path, grid: Geometry) -> None:
        self.path, self.grid = path, grid
        num_slices = grid.shape[2] if grid.source_slices is None else len(grid.source_slices)
        self.labels = np.zeros((*grid.shape[:2], num_slices), np.uint8, order="F")
        self.overlaps: Counter[tuple[int, int]] = Counter()

    def place(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return a view of the voxels of the label map that coincide with those of a box.

        The box may be as far from the voxels of the grid as a slice of a DICOM series from the line through all slices
        (`DISTANCE_TOLERANCE`), so that the frames of a DICOM SEG can be placed on their own series.

        Args:
            affine: (4, 4), from voxel indices of the box to RAS+ coordinates in mm. The axes of the box must be
                parallel to those of the grid, but may be permuted or flipped.
            shape: number of voxels along the three axes of the box. The direction of an axis with one voxel is ignored.

        Returns:
            a writable uint8 view of `labels` with this shape, on the axes of the box

        Raises:
            DataError: the voxels of the box are not those of the grid, or are outside.
        """
        matrix = np.linalg.inv(self.grid.affine) @ affine
        matrix[2, 3] = slice_coordinates(matrix[2, 3], self.grid)
        axes, rounded = matrix[:3, :3], np.rint(matrix[:3, :3])
        used = [axis for axis in range(3) if shape[axis] > 1]
        off = [np.abs(axes[:, axis] - rounded[:, axis]).max() * (shape[axis] - 1) for axis in used]
        along = [int(np.abs(rounded[:, axis]).argmax()) for axis in used]
        straight = all(np.abs(rounded[:, axis]).sum() == 1 for axis in used) and len(set(along)) == len(used)
        start = np.rint(matrix[:3, 3])
        for axis, target in zip(used, along, strict=True):
            start[target] = self._inside(matrix[target, 3], target, shape[axis], rounded[target, axis] > 0)
        if not straight or max([*off, 0]) > _TOLERANCE or not self._is_near(matrix[:3, 3] - start, affine[:3, 3]):
            raise DataError(f"{self.path}: its voxels are not those of the scan. {_REPAIR}")
        free = [axis for axis in range(3) if axis not in along]
        index: list[slice] = [slice(int(position), int(position) + 1) for position in start]
        for axis, target in zip(used, along, strict=True):
            sign = int(rounded[target, axis])
            first = int(start[target])
            last = first + sign * (shape[axis] - 1)
            index[target] = slice(first, last + sign if last + sign >= 0 else None, sign)
            if not 0 <= min(first, last) <= max(first, last) < self.labels.shape[target]:
                raise DataError(f"{self.path}: contains voxels outside the scan. {_REPAIR}")
        if any(not 0 <= int(start[axis]) < self.labels.shape[axis] for axis in free):
            raise DataError(f"{self.path}: contains voxels outside the scan. {_REPAIR}")
        targets = dict(zip(used, along, strict=True))
        order = [targets[axis] if axis in targets else free.pop(0) for axis in range(3)]
        return self.labels[tuple(index)].transpose(order)

    def _inside(self, start: float, axis: int, size: int, is_forward: bool) -> float:
        """Return the nearest voxel from which a box lies inside the grid along an axis, if it is less than 1 away.

        A frame of the size of the scan has only one such voxel, even if its slice is shifted by most of a voxel.
        """
        room = self.labels.shape[axis] - size
        nearest = min(max(round(start), 0 if is_forward else size - 1), room if is_forward else room + size - 1)
        return nearest if room >= 0 and abs(nearest - start) < 1 else round(start)

    def _is_near(self, off: np.ndarray, position: np.ndarray) -> bool:
        """Return whether a distance (3,) in voxels is within the tolerance in voxels or in mm.

        Along the slices, the tolerance in mm includes the rounding of the position (3,), up to a quarter of a slice.
        """
        step = float(np.linalg.norm(self.grid.affine[:3, 2]))
        tolerance = DISTANCE_TOLERANCE * step + _ROUNDING
        beside = np.abs(self.grid.affine[:3, :2] @ off[:2]).max()
        is_on_slice = abs(off[2]) * step <= tolerance + min(last_decimal(position) / 2, step / 4)
        return bool(np.abs(off).max() <= _TOLERANCE or (beside <= tolerance and is_on_slice))

    def add(self, mask: np.ndarray, part: np.ndarray, value: int) -> None:
        """Set the label value of the voxels of a mask; of overlapping segments, the last remains.

        Args:
            mask: bool array.
            part: view of the label map of the same shape, see `place`.
            value: label value.
        """
        covered = part[mask]
        covered = covered[(covered != 0) & (covered != value)]
        if covered.size:
            first, counts = np.unique(covered, return_counts=True)
            self.overlaps.update({(int(own), value): int(count) for own, count in zip(first, counts, strict=True)})
        part[mask] = value

    def finish(self) -> np.ndarray:
        """Return the uint8 label map (1, X, Y, Z) on the grid, and log a warning if segments overlapped."""
        if self.overlaps:
            _logger.warning(
                "%s: segments overlap in %d voxels; these belong to the last of the segments",
                self.path,
                self.overlaps.total(),
            )
        return labels_on_grid(self.labels, self.grid)[None]


_REPAIR = "Pass the label map of this scan, or convert it to NIfTI on the grid of the scan."
