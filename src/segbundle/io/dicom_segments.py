"""Reading of DICOM Segmentation objects (SEG) as label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom_headers import read_dataset
from segbundle.io.geometry import Geometry
from segbundle.io.itk import LPS_TO_RAS
from segbundle.io.segments import LabelGrid, label_values

SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: Segmentation and Label Map Segmentation."""


def read_dicom_segments(path: Path, class_names: Sequence[str], grid: Geometry | None) -> tuple[np.ndarray, Geometry]:
    """Read a DICOM Segmentation (binary, fractional, or a label map) as a label map.

    A voxel belongs to a fractional segment if its value is at least half of MaximumFractionalValue.

    Args:
        path: path of the file.
        class_names: class names of the task, background first; may be empty, see `label_values`.
        grid: geometry of the scan, on whose voxels the frames must lie. None for the grid of the frames themselves,
            from the first to the last frame of the file.

    Returns:
        a pair of the uint8 label map (1, X, Y, Z) and its geometry

    Raises:
        DataError: a segment is not a class of the task, the frames do not lie on the grid, or a frame refers to a
            segment that the header does not describe.
        Exception: any error of pydicom for a damaged file; `read_labels` converts it to a `DataError`.

    Example:
        >>> read_dicom_segments(Path("ct_seg.dcm"), ["background", "liver"], None)  # doctest: +SKIP
    """
    dataset = read_dataset(path)
    values = label_values(path, segment_names(dataset), class_names)
    labels = LabelGrid(path, grid or _own_grid(dataset))
    add_dicom_segments(labels, dataset, values)
    return labels.finish(), labels.grid


def segment_names(dataset: Any) -> dict[int, str]:
    """Return the names of the segments of a DICOM Segmentation by their numbers, without the background.

    Args:
        dataset: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset, segment = Dataset(), Dataset()
        >>> segment.SegmentNumber, segment.SegmentLabel = 1, "liver"
        >>> dataset.SegmentSequence = [segment]
        >>> segment_names(dataset)
        {1: 'liver'}
    """
    segments = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "") for item in dataset.SegmentSequence}
    return {number: name for number, name in segments.items() if number}


def add_dicom_segments(labels: LabelGrid, dataset: Any, values: Mapping[int, int]) -> None:
    """Add the segments of a DICOM Segmentation to a label map.

    Args:
        labels: label map on the grid of the scan; its `path` is used in messages.
        dataset: content of the file (pydicom).
        values: label value of each segment by its number. Other segments of the file are skipped.

    Raises:
        DataError: the frames do not lie on the grid, or refer to a segment that the header does not describe.

    Example:
        >>> add_dicom_segments(labels, dcmread("ct_seg.dcm"), {1: 1})  # doctest: +SKIP
    """
    shared, frames, affines = _frames(dataset)
    described = set(segment_names(dataset))
    shape = (int(dataset.Columns), int(dataset.Rows), 1)
    for frame, affine, voxels in zip(frames, affines, _voxels(dataset), strict=True):
        if not voxels.any():
            continue
        if dataset.SegmentationType == "LABELMAP":
            masks = [(number, (voxels == number).T) for number in np.unique(voxels[voxels > 0]).tolist()]
        else:
            group = _group(frame, shared, "SegmentIdentificationSequence")
            masks = [(int(group.ReferencedSegmentNumber), voxels.T)]
        for number, mask in masks:
            if number not in described:
                raise DataError(
                    f"{labels.path}: its frames refer to segment {number}, but its header does not describe it. Export "
                    "the file again."
                )
            if number in values:
                labels.add(mask, labels.place(affine, shape)[..., 0], values[number])


def _frames(dataset: Any) -> tuple[Any, list[Any], list[np.ndarray]]:
    """Return the shared functional groups, and the functional groups and the affine of each frame."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    return shared, frames, [_affine(frame, shared) for frame in frames]


def _group(frame: Any, shared: Any, name: str) -> Any:
    return (frame.get(name) or shared.get(name))[0]


def _affine(frame: Any, shared: Any) -> np.ndarray:
    """Return the affine of a frame from column and row to RAS+ coordinates; its third axis is the normal in mm."""
    position = _group(frame, shared, "PlanePositionSequence").ImagePositionPatient
    axes = np.array(_group(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
    row_spacing, column_spacing = map(float, _group(frame, shared, "PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = axes[0] * column_spacing, axes[1] * row_spacing
    affine[:3, 2], affine[:3, 3] = np.cross(axes[0], axes[1]), np.array(position, float)
    return LPS_TO_RAS @ affine


def _own_grid(dataset: Any) -> Geometry:
    """Return the grid from the first to the last frame. The distance of slices is in the header, or the smallest."""
    shared, frames, affines = _frames(dataset)
    first = affines[0]
    normal = first[:3, 2]
    heights = np.array([(affine[:3, 3] - first[:3, 3]) @ normal for affine in affines])
    measures = _group(frames[0], shared, "PixelMeasuresSequence")
    steps = np.diff(np.unique(heights.round(3)))
    given = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0
    spacing = float(steps.min() if steps.size and "SpacingBetweenSlices" not in measures else given)
    lowest, highest = int(heights.argmin()), int(heights.argmax())
    count = round(float(heights[highest] - heights[lowest]) / spacing) + 1
    affine = affines[lowest].copy()
    affine[:3, 2] = (affines[highest] - affines[lowest])[:3, 3] / (count - 1) if count > 1 else normal * spacing
    return Geometry((int(dataset.Columns), int(dataset.Rows), count), affine)


def _voxels(dataset: Any) -> Iterator[np.ndarray]:
    """Yield the voxels of each frame (rows, columns): bool masks, or segment numbers of a label map."""
    count, size = int(dataset.NumberOfFrames), int(dataset.Rows) * int(dataset.Columns)
    shape = (int(dataset.Rows), int(dataset.Columns))
    if dataset.BitsAllocated == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        packed = np.frombuffer(dataset.PixelData, np.uint8)
        for index in range(count):
            start = index * size
            bits = np.unpackbits(packed[start // 8 : (start + size + 7) // 8], bitorder="little")
            yield bits[start % 8 : start % 8 + size].reshape(shape).view(bool)
        return
    stored = dataset.pixel_array.reshape(count, *shape)
    half = int(dataset.get("MaximumFractionalValue") or 1) / 2
    for frame in stored:
        yield frame if dataset.SegmentationType == "LABELMAP" else frame >= half
