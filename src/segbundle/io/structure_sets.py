"""Reading of DICOM RT Structure Sets (RTSTRUCT) as label maps."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom_headers import read_dataset
from segbundle.io.geometry import Geometry
from segbundle.io.itk import LPS_TO_RAS
from segbundle.io.segments import LabelGrid, label_values
from segbundle.io.uneven_slices import slice_coordinates

_logger = logging.getLogger(__name__)
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class."""
_CONTOUR_DATA = 0x30060050
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_MARKER = "POINT"
_MIN_POINTS = 3
_ROUNDING = 1e-3
"""Rounding error of positions, in pixels."""
_MIN_GAPS = 2
"""Minimum number of gaps between the contours of a structure for which their distance counts."""
_OFF_PLANE = 0.25
"""Maximum distance of a contour from a slice, relative to the distance of slices."""


class DamagedContourError(DataError):
    """Error for a contour whose coordinates cannot be read.

    Example:
        >>> isinstance(DamagedContourError("rs.dcm: contour 1 of liver is damaged."), DataError)
        True
    """


def read_structure_set(path: Path, class_names: Sequence[str], grid: Geometry) -> np.ndarray:
    """Read a DICOM RT Structure Set as a label map of the voxels whose centers are within the contours of a structure.

    Several contours of a structure in a slice are combined by XOR, so that an inner contour is a hole. Structures
    without closed contours are skipped. Open contours are skipped with a warning.

    Args:
        path: path of the file.
        class_names: class names of the task, background first; may be empty, see `label_values`.
        grid: geometry of the scan. The contours must lie in its slices.

    Returns:
        uint8 label map (1, X, Y, Z)

    Raises:
        DataError: a structure is not a class of the task, contours do not lie in the slices of the scan, or a contour
            is damaged (`DamagedContourError`).

    Example:
        >>> read_structure_set(Path("rs.dcm"), ["background", "liver"], grid)  # doctest: +SKIP
    """
    dataset = read_dataset(path)
    drawn = {int(item.ReferencedROINumber) for item in dataset.get("ROIContourSequence") or [] if _closed(item)}
    names = {number: name for number, name in structure_names(dataset).items() if number in drawn}
    labels = LabelGrid(path, grid)
    add_structures(labels, dataset, label_values(path, names, class_names))
    return labels.finish()


def structure_names(dataset: Any) -> dict[int, str]:
    """Return the names of the structures of a DICOM RT Structure Set by their numbers.

    Args:
        dataset: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset, structure = Dataset(), Dataset()
        >>> structure.ROINumber, structure.ROIName = 7, "liver"
        >>> dataset.StructureSetROISequence = [structure]
        >>> structure_names(dataset)
        {7: 'liver'}
    """
    return {int(item.ROINumber): str(item.get("ROIName") or "") for item in dataset.StructureSetROISequence}


def drawn_structures(dataset: Any) -> set[int]:
    """Return the numbers of the structures with at least one contour, open or closed. Markers (POINT) do not count.

    Args:
        dataset: content of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> drawn_structures(Dataset())
        set()
    """
    return {
        int(item.ReferencedROINumber)
        for item in dataset.get("ROIContourSequence") or []
        if any(each.ContourGeometricType != _MARKER for each in item.get("ContourSequence") or [])
    }


def add_structures(labels: LabelGrid, dataset: Any, values: Mapping[int, int]) -> None:
    """Add the structures of a DICOM RT Structure Set to a label map.

    Args:
        labels: label map on the grid of the scan; its `path` is used in messages.
        dataset: content of the file (pydicom).
        values: label value of each structure by its number. Other structures of the file are skipped.

    Raises:
        DataError: contours do not lie in the slices of the scan.
        DamagedContourError: the coordinates of a contour cannot be read.

    Example:
        >>> add_structures(labels, dcmread("rs.dcm"), {7: 1})  # doctest: +SKIP
    """
    _warn_about_skipped(labels.path, dataset, values)
    to_voxels, names = np.linalg.inv(LPS_TO_RAS @ labels.grid.affine), structure_names(dataset)
    contours = {
        int(item.ReferencedROINumber): [
            _in_slices(points @ to_voxels[:3, :3].T + to_voxels[:3, 3], labels.grid)
            for points in _points_of(item, labels.path, names)
        ]
        for item in dataset.get("ROIContourSequence") or []
        if int(item.ReferencedROINumber) in values
    }
    axis = _slice_axis(Path(labels.path), [contour for same in contours.values() for contour in same])
    for number in sorted(filter(contours.get, contours), key=lambda number: values[number]):
        _warn_about_gaps(labels, contours[number], axis, names.get(number) or str(number))
        _add_structure(labels, contours[number], axis, values[number])


def _in_slices(points: np.ndarray, grid: Geometry) -> np.ndarray:
    """Return points (N, 3) in voxels, with the third coordinate in slices of an unevenly spaced series."""
    return np.column_stack([points[:, :2], slice_coordinates(points[:, 2], grid)])


def _closed(item: Any) -> list[Any]:
    """Return the closed contours of a structure that can enclose an area."""
    contours = item.get("ContourSequence") or []
    return [each for each in contours if each.ContourGeometricType in _CLOSED and _num_points(each) >= _MIN_POINTS]


def _num_points(contour: Any) -> int:
    """Return the number of points of a contour, or 3 if it cannot be counted, which is an error when it is read."""
    value = contour.get_item(_CONTOUR_DATA).value
    numbers = value.count(b"\\") + 1 if isinstance(value, bytes) else len(value or ())
    return numbers // 3 if numbers % 3 == 0 else _MIN_POINTS


def _warn_about_skipped(path: str | Path, dataset: Any, values: Mapping[int, int]) -> None:
    """Log a warning about contours that are open or have less than three points. Markers (POINT) are left out."""
    names, found = structure_names(dataset), dict[str, int]()
    for item in dataset.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        drawn = [each for each in item.get("ContourSequence") or [] if each.ContourGeometricType != _MARKER]
        if number in values and (skipped := len(drawn) - len(_closed(item))):
            found[names.get(number) or str(number)] = skipped
    if found:
        _logger.warning(
            "%s: %d contours of %s are open or have less than three points, and are skipped. Close them in the program "
            "that drew them, and export again.",
            path,
            sum(found.values()),
            ", ".join(found),
        )


def referenced_series(path: Path) -> set[str]:
    """Return the SeriesInstanceUIDs of the images to which a DICOM SEG or RTSTRUCT refers.

    Args:
        path: path of the file.

    Example:
        >>> referenced_series(Path("rs.dcm"))  # doctest: +SKIP
        {'1.2.3.4'}
    """
    return referenced_by(read_dataset(path, stop_before_pixels=True))


def referenced_by(dataset: Any) -> set[str]:
    """Return the SeriesInstanceUIDs of the images to which the header of a DICOM SEG or RTSTRUCT refers.

    Args:
        dataset: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> referenced_by(Dataset())
        set()
    """
    found = {str(series.get("SeriesInstanceUID")) for series in dataset.get("ReferencedSeriesSequence") or []}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            found |= {str(series.get("SeriesInstanceUID")) for series in study.get("RTReferencedSeriesSequence") or []}
    return found - {"None", ""}


def _points(contour: Any) -> np.ndarray:
    """Return the points (N, 3) of a contour in mm. pydicom would parse their text ten times slower."""
    element = contour.get_item(_CONTOUR_DATA)
    value = element.value
    numbers = value.split(b"\\") if isinstance(value, bytes) else value
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def _points_of(item: Any, path: str | Path, names: Mapping[int, str]) -> Iterator[np.ndarray]:
    """Yield the points (N, 3) of the closed contours of a structure, or raise an error that names a damaged one."""
    number = int(item.ReferencedROINumber)
    for index, contour in enumerate(_closed(item), 1):
        try:
            yield _points(contour)
        except ValueError as error:
            raise DamagedContourError(
                f"{path}: contour {contour.get('ContourNumber') or index} of {names.get(number) or number} is damaged: "
                "its coordinates are not x, y and z of each point. Export the file again."
            ) from error


def _warn_about_gaps(labels: LabelGrid, contours: Sequence[np.ndarray], axis: int, name: str) -> None:
    """Log a warning if the contours of a structure skip slices, between which the label map is empty."""
    slices = np.unique([round(float(contour[:, axis].mean())) for contour in contours])
    gaps = np.diff(slices)
    if len(gaps) < _MIN_GAPS or np.median(gaps) < 2:
        return
    spacing = float(np.linalg.norm(labels.grid.affine[:3, axis]))
    _logger.warning(
        "%s: the contours of %s are %.3g mm apart, but the slices %.3g mm, so its label map has empty slices between "
        "them. Interpolate the contours in the program that drew them, and export again.",
        labels.path,
        name,
        float(np.median(gaps)) * spacing,
        spacing,
    )


def _slice_axis(path: Path, contours: Sequence[np.ndarray]) -> int:
    """Return the axis of the scan to which all contours are perpendicular, and check that they lie in its slices."""
    spreads = np.array([np.ptp(contour, axis=0) for contour in contours]).reshape(-1, 3)
    axis = int(spreads.sum(axis=0).argmin())
    heights = np.array([contour[:, axis].mean() for contour in contours])
    if len(contours) and max(spreads[:, axis].max() / 2, np.abs(heights - np.rint(heights)).max()) > _OFF_PLANE:
        raise DataError(
            f"{path}: its contours do not lie in the slices of the scan. Pass the series they were drawn in."
        )
    return axis


def _add_structure(labels: LabelGrid, contours: Sequence[np.ndarray], axis: int, value: int) -> None:
    slices: dict[int, list[np.ndarray]] = defaultdict(list)
    for contour in contours:
        slices[round(float(contour[:, axis].mean()))].append(np.delete(contour, axis, axis=1))
    planes = np.moveaxis(labels.labels, axis, 0)
    for k, polygons in slices.items():
        if not 0 <= k < len(planes):
            raise DataError(f"{labels.path}: contains contours outside the scan. Pass the series they were drawn in.")
        mask = fill_polygons(polygons, planes.shape[1:])
        labels.add(mask, planes[k], value)


def fill_polygons(polygons: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Return the pixels whose centers are within an odd number of polygons (XOR).

    Args:
        polygons: vertices (N, 2) of each polygon in pixels along the two axes; the center of the first pixel is (0, 0).
        shape: number of pixels along the two axes.

    Returns:
        bool mask (`shape`), True for these pixels

    Example:
        >>> square = np.array([[-0.5, 0.5], [1.5, 0.5], [1.5, 2.5], [-0.5, 2.5]])
        >>> fill_polygons([square], (3, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    upward = starts[:, 0] <= ends[:, 0]
    low, high = np.where(upward[:, None], starts, ends), np.where(upward[:, None], ends, starts)
    first, last = (_first_inside(ends[:, 0], shape[0]) for ends in (low, high))  # an edge crosses low <= row < high
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    slope = (high[edge, 1] - low[edge, 1]) / (high[edge, 0] - low[edge, 0])
    crossing = low[edge, 1] + (row - low[edge, 0]) * slope
    column = _first_inside(crossing, shape[1])
    toggles = np.bincount(row * (shape[1] + 1) + column, minlength=shape[0] * (shape[1] + 1))
    inside = np.cumsum(toggles.reshape(shape[0], shape[1] + 1)[:, :-1], axis=1) % 2 == 1
    return np.asarray(inside)


def _first_inside(positions: np.ndarray, size: int) -> np.ndarray:
    """Return the first pixel at or after each position. A contour may run through the centers, so these are rounded."""
    return np.clip(np.ceil(positions - _ROUNDING), 0, size).astype(np.int64)
