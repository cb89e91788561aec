"""Images to which a DICOM SEG or RTSTRUCT refers: SOPInstanceUIDs and frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segbundle.io.dicom_folders import Series
from segbundle.io.dicom_headers import read_dataset
from segbundle.io.structure_sets import RTSTRUCT

References = Mapping[str, frozenset[int]]
"""Frame numbers from 1 by SOPInstanceUID; an empty set stands for all frames."""


def referenced_images(path: Path) -> References:
    """Return the images to which a DICOM SEG or RTSTRUCT refers.

    These are the images of its frames or contours, or else the images in its list of series.

    Args:
        path: path of the file.

    Returns:
        for each SOPInstanceUID, the frame numbers from 1, or an empty set for all frames; an empty mapping if the file
        refers to series only

    Example:
        >>> referenced_images(Path("seg.dcm"))  # doctest: +SKIP
        {'1.2.3.4.1': frozenset()}
    """
    dataset = read_dataset(path, stop_before_pixels=True)
    own, listed = (_of_contours, _of_structure_set) if dataset.SOPClassUID == RTSTRUCT else (_of_frames, _of_series)
    return _collected(own(dataset)) or _collected(listed(dataset))


def is_referenced(series: Series, references: References) -> bool:
    """Return whether references include a slice of a volume.

    Args:
        series: volume with the headers of its files.
        references: frame numbers by SOPInstanceUID, see `referenced_images`.

    Example:
        >>> is_referenced(Series(Path("ct"), "1.2.3", "", "CT", ()), {"1.2.3.1": frozenset()})
        False
    """
    for image in series.images:
        frames = references.get(image.instance)
        if frames is not None and (not frames or any(plane.frame + 1 in frames for plane in image.slices)):
            return True
    return False


def _collected(references: Iterator[Any]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int] | None] = {}
    for reference in references:
        uid, numbers = str(reference.get("ReferencedSOPInstanceUID") or ""), reference.get("ReferencedFrameNumber")
        frames = found.setdefault(uid, set())
        if numbers is None or frames is None:
            found[uid] = None
        else:
            frames.update(map(int, numbers) if _is_list(numbers) else [int(numbers)])
    return {uid: frozenset(frames or ()) for uid, frames in found.items() if uid}


def _is_list(value: Any) -> bool:
    """Return whether a value is a list of pydicom, which is not a subclass of list."""
    return hasattr(value, "__iter__") and not isinstance(value, str)


def _of_frames(dataset: Any) -> Iterator[Any]:
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for frame in [*shared, *(dataset.get("PerFrameFunctionalGroupsSequence") or [])]:
        for derivation in frame.get("DerivationImageSequence") or []:
            yield from derivation.get("SourceImageSequence") or []


def _of_series(dataset: Any) -> Iterator[Any]:
    for series in dataset.get("ReferencedSeriesSequence") or []:
        yield from series.get("ReferencedInstanceSequence") or []


def _of_contours(dataset: Any) -> Iterator[Any]:
    for structure in dataset.get("ROIContourSequence") or []:
        for contour in structure.get("ContourSequence") or []:
            yield from contour.get("ContourImageSequence") or []


def _of_structure_set(dataset: Any) -> Iterator[Any]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield from series.get("ContourImageSequence") or []
