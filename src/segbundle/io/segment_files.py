"""DICOM SEG and RTSTRUCT files: which series they refer to, which segments they have, and the voxels of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segbundle.io.dicom_headers import read_dataset
from segbundle.io.dicom_segments import SEG, add_dicom_segments, segment_names
from segbundle.io.scan_files import is_dicom_file
from segbundle.io.scans import unreadable
from segbundle.io.segments import LabelGrid
from segbundle.io.structure_sets import RTSTRUCT, add_structures, drawn_structures, referenced_by, structure_names

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence", "SegmentSequence", "ROIContourSequence",
)  # fmt: skip


@dataclass(frozen=True)
class SegmentFile:
    """Header of a DICOM SEG or RTSTRUCT file.

    Attributes:
        path: path of the file.
        kind: UID of the SOP class.
        uid: SOPInstanceUID; may be empty.
        series: SeriesInstanceUIDs of the images to which the file refers.
        names: names by number: of all segments of a DICOM SEG, or of the structures with contours of an RTSTRUCT.
        empty: names of the structures without contours of an RTSTRUCT, which count as not annotated (default: none).
        algorithms: algorithm type of each segment by its number, such as `MANUAL` or `AUTOMATIC` (default: none).

    Example:
        >>> SegmentFile(Path("rs.dcm"), RTSTRUCT, "1.2", frozenset({"1.2.3"}), {1: "liver"}).names[1]
        'liver'
    """

    path: Path
    kind: str
    uid: str
    series: frozenset[str]
    names: Mapping[int, str] = field(hash=False)
    empty: tuple[str, ...] = ()
    algorithms: Mapping[int, str] = field(default_factory=dict, hash=False)


def read_segment_file(path: Path) -> SegmentFile | None:
    """Return the header of a DICOM SEG or RTSTRUCT file; None for other files.

    Args:
        path: path of a file.

    Raises:
        DataError: the file is a DICOM SEG or RTSTRUCT, but its header is damaged.

    Example:
        >>> read_segment_file(Path("/nowhere/rs.dcm")) is None
        True
    """
    if not is_dicom_file(path):
        return None
    from pydicom import dcmread

    kind = ""
    try:
        dataset: Any = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        kind = str(dataset.get("SOPClassUID") or "")
        if kind not in (*SEG, RTSTRUCT):
            return None
        names = structure_names(dataset) if kind == RTSTRUCT else segment_names(dataset)
        drawn = drawn_structures(dataset) if kind == RTSTRUCT else names.keys()
        return SegmentFile(
            path,
            kind,
            str(dataset.get("SOPInstanceUID") or ""),
            frozenset(referenced_by(dataset)),
            {number: name for number, name in names.items() if number in drawn},
            tuple(name for number, name in names.items() if number not in drawn),
            _algorithms(dataset),
        )
    except Exception as error:  # pydicom raises various exceptions for damaged headers
        if kind in (*SEG, RTSTRUCT):
            raise unreadable(path, error) from error
        return None


def _algorithms(dataset: Any) -> dict[int, str]:
    """Return the algorithm type of each segment or structure that has one, by number."""
    segments = {
        item.get("SegmentNumber"): item.get("SegmentAlgorithmType") for item in dataset.get("SegmentSequence", [])
    }
    structures = {
        item.get("ROINumber"): item.get("ROIGenerationAlgorithm") for item in dataset.get("StructureSetROISequence", [])
    }
    return {int(number): str(kind) for number, kind in (segments | structures).items() if number is not None and kind}


def add_segments(labels: LabelGrid, file: SegmentFile, values: Mapping[int, int]) -> None:
    """Add the segments of a DICOM SEG or RTSTRUCT file to a label map.

    Args:
        labels: label map on the grid of the series.
        file: header of the file, see `read_segment_file`; its path is used in messages.
        values: label value of each segment by its number. Other segments of the file are skipped.

    Raises:
        DataError: the segments do not lie on the grid.
        Exception: any error of pydicom for a damaged file.

    Example:
        >>> add_segments(labels, read_segment_file(Path("rs.dcm")), {1: 1})  # doctest: +SKIP
    """
    dataset = read_dataset(file.path)
    labels.path = file.path
    (add_structures if file.kind == RTSTRUCT else add_dicom_segments)(labels, dataset, values)
