"""DICOM RT Structure Sets (RTSTRUCT): closed planar contours on the slices of the source series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import segbundle
from segbundle.files.atomic import atomic_write
from segbundle.segmentations.class_entries import ClassEntry
from segbundle.segmentations.dicom_source import MAX_LABEL, UTF_8, Source, read_source, reference_to
from segbundle.segmentations.outlines import pixel_outlines

_RTSTRUCT, _STUDY = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.3.1.2.3.1"
"""SOP classes."""
_CONTOUR_DATA = 0x30060050
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight", "AccessionNumber",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "StudyInstanceUID", "ReferringPhysicianName",
)  # fmt: skip
"""Elements of patient and study."""
_SERIES_OFFSET = 2000
"""Difference of the series number from that of the source."""


def write_rtstruct(labels: np.ndarray, scan: str | Path, path: str | Path, table: Sequence[ClassEntry]) -> None:
    """Write a label map as a DICOM RT Structure Set with one structure per class.

    Contours run along the edges of voxels, in the slices of the source series. A hole is connected with the contour
    around it by a channel of zero width (keyhole, see `pixel_outlines`), so that programs that fill every contour and
    those that combine contours by XOR get the same voxels. ROI numbers are label values. A class without voxels is a
    structure without contours. Elements of patient and study are copied from the source, as DICOM requires.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan. uint8 in Fortran order is fastest.
        scan: folder of the DICOM series, or one of its files.
        path: output path.
        table: classes.

    Raises:
        DataError: the shapes of `labels` and the scan differ, or the series has no UIDs.
        OutputError: the file cannot be written.

    Example:
        >>> write_rtstruct(labels, "ct_folder", "ct_rtstruct.dcm", table)  # doctest: +SKIP
    """
    from pydicom import dcmwrite

    source = read_source(scan, labels)
    dataset = _structure_set(source, table)
    boxes = ndimage.find_objects(labels, max_label=len(table))
    contours = [list(_contours(labels, box, source, entry.label)) for entry, box in zip(table, boxes, strict=True)]
    dataset.ROIContourSequence = [_roi_contour(entry, found) for entry, found in zip(table, contours, strict=True)]
    with atomic_write(path) as partial, partial.open("wb") as file:
        dcmwrite(file, dataset, enforce_file_format=True)


def _structure_set(source: Source, table: Sequence[ClassEntry]) -> Any:
    """Return a structure set without contours."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    now, first, dataset = datetime.now(), source.datasets[0], Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # in Explicit VR, contours are limited to 64 KB
    dataset.SpecificCharacterSet = UTF_8
    dataset.SOPClassUID, dataset.SOPInstanceUID = _RTSTRUCT, generate_uid()
    for name in _COPIED:
        if name in first:
            setattr(dataset, name, first[name].value)
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    dataset.SeriesNumber = int(first.get("SeriesNumber") or 0) + _SERIES_OFFSET
    dataset.SeriesDescription, dataset.OperatorsName = "Segmentation", ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "segbundle"
    dataset.SoftwareVersions = segbundle.__version__
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    dataset.StructureSetROISequence = [_structure(entry, first.FrameOfReferenceUID) for entry in table]
    dataset.RTROIObservationsSequence = [_observation(entry) for entry in table]
    return dataset


def _frame_of_reference(source: Source) -> Any:
    first = source.datasets[0]
    series = _dataset(
        SeriesInstanceUID=first.SeriesInstanceUID,
        ContourImageSequence=[reference_to(source, plane) for plane in source.slices],
    )
    study = _dataset(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _dataset(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _structure(entry: ClassEntry, frame_of_reference: str) -> Any:
    return _dataset(
        ROINumber=entry.label,
        ReferencedFrameOfReferenceUID=frame_of_reference,
        ROIName=entry.name.replace("\\", "/")[:MAX_LABEL],
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(entry: ClassEntry) -> Any:
    code = entry.code.type
    concept = _dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)
    return _dataset(
        ObservationNumber=entry.label,
        ReferencedROINumber=entry.label,
        RTROIIdentificationCodeSequence=[concept],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )


def _roi_contour(entry: ClassEntry, contours: Sequence[Any]) -> Any:
    found = _dataset(ReferencedROINumber=entry.label, ROIDisplayColor=list(entry.color))
    if contours:
        found.ContourSequence = contours
    return found


def _contours(labels: np.ndarray, box: Any, source: Source, label: int) -> Iterator[Any]:
    """Yield the contours of a class, slice by slice. `box` is its bounding box as slices, or None if it is absent."""
    if box is None:
        return
    axes, number = source.affine[:3, :2], 0
    corner = axes @ [box[0].start, box[1].start]
    for k in range(box[2].start, box[2].stop):
        plane = source.slices[k]
        mask = np.equal(labels[box[0], box[1], k].T, label)
        for outline in pixel_outlines(mask):
            number += 1
            yield _contour(outline @ axes.T + corner + plane.position, reference_to(source, plane), number)


def _contour(points: np.ndarray, reference: Any, number: int) -> Any:
    """Return a contour with points (N, 3) in mm. Their text is not parsed, which would take most of the time."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    contour = _dataset(
        ContourImageSequence=[reference],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourNumber=number,
    )
    text = "\\".join(["%.4f"] * points.size) % tuple(points.reshape(-1).tolist())
    value = (text + " " * (len(text) % 2)).encode("ascii")
    contour[_CONTOUR_DATA] = RawDataElement(Tag(_CONTOUR_DATA), "DS", len(value), value, 0, True, True)
    return contour


def _dataset(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset
