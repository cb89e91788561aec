"""DICOM RT Structure Sets (RTSTRUCT): closed planar contours on the slices of the source series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

import segbundle
from segbundle.files.atomic import atomic_write
from segbundle.segmentations.class_entries import ClassEntry
from segbundle.segmentations.dicom_bytes import UTF_8, encode, implicit_element, item
from segbundle.segmentations.dicom_source import MAX_LABEL, Source, read_source, reference_to
from segbundle.segmentations.outlines import pixel_outlines

_RTSTRUCT, _STUDY = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.3.1.2.3.1"
"""SOP classes."""
_ROI_CONTOURS, _COLOR, _CONTOURS, _ROI = ((0x3006, element) for element in (0x39, 0x2A, 0x40, 0x84))
_KIND, _COUNT, _NUMBER, _POINTS = ((0x3006, element) for element in (0x42, 0x46, 0x48, 0x50))
"""Tags of a structure's contours, and of a contour."""
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight", "AccessionNumber",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "StudyInstanceUID", "ReferringPhysicianName",
)  # fmt: skip
"""Elements of patient and study."""
_SERIES_OFFSET = 2000
"""Difference of the series number from that of the source."""


def write_rtstruct(labels: np.ndarray, scan: str | Path, path: str | Path, table: Sequence[ClassEntry]) -> None:
    """Write a label map as a DICOM RT Structure Set with one structure per class.

    Contours run along the edges of voxels, in the slices of the source series (see `read_source`). A hole is connected
    with the contour around it by a channel of zero width (keyhole, see `pixel_outlines`), so that programs that fill
    every contour and those that combine contours by XOR get the same voxels. ROI numbers are label values. A class
    without voxels is a structure without contours. Elements of patient and study are copied from the source, as DICOM
    requires.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan. uint8 in Fortran order is fastest.
        scan: folder of the DICOM series, or one of its files.
        path: output path.
        table: classes with the label values 1, 2, ...

    Raises:
        DataError: the shapes of `labels` and the scan differ; or the series cannot be read, has no UIDs or is a Siemens
            mosaic.
        OutputError: the file cannot be written.

    Example:
        >>> write_rtstruct(labels, "ct_folder", "ct_rtstruct.dcm", table)  # doctest: +SKIP
    """
    from pydicom import dcmwrite
    from scipy import ndimage

    source, labels = read_source(scan, labels)
    dataset = _structure_set(source, table)
    observations = _dataset(RTROIObservationsSequence=[_observation(entry) for entry in table])
    references = [encode(_dataset(ContourImageSequence=[reference_to(source, plane)]), True) for plane in source.slices]
    boxes = ndimage.find_objects(
        labels, max_label=max([len(table), *(max(entry.members, default=0) for entry in table)])
    )
    contours = [
        _roi_contour(entry, b"".join(_contours(labels, _box(entry, boxes), source, references, entry)))
        for entry in table
    ]
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(buffer.getvalue())
        file.write(implicit_element(_ROI_CONTOURS, b"".join(contours)))
        file.write(encode(observations, implicit=True))


def _structure_set(source: Source, table: Sequence[ClassEntry]) -> Any:
    """Return a structure set up to its contours, which are the next element."""
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
        ROIGenerationAlgorithm=entry.algorithm,
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


def _roi_contour(entry: ClassEntry, contours: bytes) -> bytes:
    """Return the contours of a structure as an item."""
    color = implicit_element(_COLOR, "\\".join(map(str, entry.color)).encode())
    found = implicit_element(_CONTOURS, contours) if contours else b""
    return item(color + found + implicit_element(_ROI, str(entry.label).encode()))


def _box(entry: ClassEntry, boxes: Sequence[Any]) -> Any:
    """Return the bounding box of a class as slices, or None if it is absent."""
    found = [box for value in entry.members or (entry.label,) if (box := boxes[value - 1]) is not None]
    ends = [[(side.start, side.stop) for side in sides] for sides in zip(*found, strict=True)]
    return tuple(slice(min(side)[0], max(stop for _, stop in side)) for side in ends) or None


def _contours(
    labels: np.ndarray, box: Any, source: Source, references: Sequence[bytes], entry: ClassEntry
) -> Iterator[bytes]:
    """Yield the contours of a class as items, slice by slice.

    Args:
        labels: label map (X, Y, Z).
        box: bounding box of the class as slices, or None if it is absent.
        source: series.
        references: references to its slices.
        entry: the class.
    """
    if box is None:
        return
    axes, number = source.affine[:3, :2], 0
    corner = axes @ [box[0].start, box[1].start]
    for k in range(box[2].start, box[2].stop):
        mask = entry.mask(labels[box[0], box[1], k].T)
        for outline in pixel_outlines(mask):
            number += 1
            yield _contour(outline @ axes.T + corner + source.slices[k].position, references[k], number)


def _contour(points: np.ndarray, reference: bytes, number: int) -> bytes:
    """Return a contour with points (N, 3) in mm as an item."""
    text = "\\".join(["%.4f"] * points.size) % tuple(points.reshape(-1).tolist())
    return item(
        reference
        + implicit_element(_KIND, b"CLOSED_PLANAR")
        + implicit_element(_COUNT, str(len(points)).encode())
        + implicit_element(_NUMBER, str(number).encode())
        + implicit_element(_POINTS, text.encode())
    )


def _dataset(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset
