"""DICOM Segmentation objects (SEG): one binary segment per class, on the slices of the source series.

highdicom creates everything but the frames: patient and study, references to the source, codes of the segments, and the
functional groups that frames share. The functional groups and voxels of the frames are encoded here: for 12,000 frames,
this takes a sixth of the time and a tenth of the memory (docs/benchmarks.md).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import segbundle
from segbundle.errors import DataError
from segbundle.files.atomic import atomic_write
from segbundle.segmentations.class_entries import OWN_SCHEME, ClassEntry
from segbundle.segmentations.dicom_bytes import UTF_8, encode, explicit_start, item
from segbundle.segmentations.dicom_source import (
    MAX_LABEL,
    Source,
    SourceSlice,
    read_source,
    reason_without_values,
    reference_to,
)
from segbundle.segmentations.snomed import Code

_SERIES_OFFSET = 1000
"""Difference of the series number from that of the source."""
_MAX_BYTES = 2**32 - 2
"""Maximum length of the pixel data."""
_PER_FRAME, _PIXELS = (0x5200, 0x9230), (0x7FE0, 0x0010)
_OTHER_FAMILY = Code("algorithm", "Unknown algorithm", OWN_SCHEME)
"""Family of the algorithm of another program."""
_TOGETHER = 8
"""Number of frames that are packed together: frames follow each other without padding bits."""


def write_dicom_seg(labels: np.ndarray, scan: str | Path, path: str | Path, table: Sequence[ClassEntry]) -> None:
    """Write a label map as a DICOM Segmentation with one binary segment per class.

    Frames have the positions of the slices of the source series, also with a tilted gantry or an uneven spacing (see
    `read_source`). Slices without a class are left out of its segment. A class without voxels has a segment without
    frames; if all classes are without voxels, the file has a single empty frame. Segment numbers are label values.
    Elements of patient and study are copied from the source, as DICOM requires.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan. uint8 in Fortran order is fastest.
        scan: folder of the DICOM series, or one of its files.
        path: output path.
        table: classes with the label values 1, 2, ...

    Raises:
        DataError: the shapes of `labels` and the scan differ; the series has no UIDs, is a Siemens mosaic or is
            inconsistent; or the label map is too large for DICOM (4 GB).
        OutputError: the file cannot be written.

    Example:
        >>> write_dicom_seg(labels, "ct_folder", "ct_seg.dcm", table)  # doctest: +SKIP
    """
    source, labels = read_source(scan, labels)
    planes = np.ascontiguousarray(labels.T)  # (Z, rows, columns)
    present = np.stack([np.bincount(plane.reshape(-1), minlength=256)[:256] > 0 for plane in planes])
    frames = [
        (entry.label, k)
        for entry in table
        for k in np.flatnonzero(present[:, list(entry.members or [entry.label])].any(axis=1)).tolist()
    ]
    frames = frames or [(1, 0)]  # an image needs a frame, if only an empty one
    size = math.ceil(len(frames) * planes[0].size / 8)
    size += size % 2
    if size > _MAX_BYTES:
        raise DataError(
            f"{scan}: its label map is too large for DICOM SEG ({size / 1e9:.1f} GB). Use output_format nrrd."
        )
    try:
        dataset = _without_frames(source, planes.shape[1:], table)
        groups = _functional_groups(source, frames)
    except Exception as error:  # highdicom checks the source with various exceptions
        reason = reason_without_values(error, source.datasets[0])
        raise DataError(
            f"{scan}: its label map cannot be written as DICOM SEG ({reason}). Use output_format nifti or nrrd."
        ) from error
    dataset.NumberOfFrames = len(frames)
    with atomic_write(path) as partial, partial.open("wb") as file:
        _write_header(file, dataset, groups)
        file.write(explicit_start(_PIXELS, b"OB", size))
        written = sum(map(file.write, _packed(planes, frames, table)))
        file.write(bytes(size - written))


def _without_frames(source: Source, shape: Sequence[int], table: Sequence[ClassEntry]) -> Any:
    """Return a segmentation of highdicom without frames."""
    import highdicom as hd
    from pydicom.uid import generate_uid

    for header in source.datasets:  # highdicom compares the size with that of the voxels; one per slice is faster
        header.Rows = header.Columns = 1
    headers = _with_frames_of_volume(source)
    first = headers[0]
    voxels = np.zeros((int(first.get("NumberOfFrames") or len(headers)), 1, 1), np.uint8)
    voxels[0] = 1
    dataset: Any = hd.seg.Segmentation(
        headers,
        voxels,
        hd.seg.SegmentationTypeValues.BINARY,
        [_segment(entry) for entry in table],
        series_instance_uid=generate_uid(),
        series_number=int(first.get("SeriesNumber") or 0) + _SERIES_OFFSET,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="segbundle",
        manufacturer_model_name="segbundle",
        software_versions=segbundle.__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Predicted label map",
        series_description="Segmentation",
        specific_character_set=UTF_8,
    )
    dataset.Rows, dataset.Columns = shape
    if len(headers) < len(source.datasets):
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = _references_to_files(source)
        dataset.SourceImageSequence = _references_to_files(source)
    if any(entry.members for entry in table):
        dataset.SegmentsOverlap = "YES"
    dataset.ContentCreatorName = ""  # DICOM requires the element, but not a value
    dataset.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    del dataset.PerFrameFunctionalGroupsSequence, dataset.PixelData
    return dataset


def _with_frames_of_volume(source: Source) -> Sequence[Any]:
    """Return the headers of a series; those of multi-frame files as one header with the frames of the volume only.

    A file may have several volumes at the same positions, and highdicom refuses repeated positions and several files.
    """
    from pydicom.dataset import Dataset

    first = source.datasets[0]
    frames = sorted((plane.dataset, plane.frame) for plane in source.slices if plane.frame is not None)
    if not frames:
        return source.datasets
    chosen: Any = Dataset()
    chosen.update(first)
    chosen.file_meta = first.file_meta
    chosen.PerFrameFunctionalGroupsSequence = [
        source.datasets[index].PerFrameFunctionalGroupsSequence[frame - 1] for index, frame in frames
    ]
    chosen.NumberOfFrames = len(frames)
    return [chosen]


def _references_to_files(source: Source) -> list[Any]:
    return [reference_to(source, SourceSlice(index, None, ())) for index in range(len(source.datasets))]


def _segment(entry: ClassEntry) -> Any:
    """Return the description of a segment with codes, algorithm, tracking identifiers and color."""
    import highdicom as hd
    from pydicom.uid import generate_uid

    code, uid = entry.code, generate_uid()
    name = entry.name.replace("\\", "/")[:MAX_LABEL]
    segment = hd.seg.SegmentDescription(
        segment_number=entry.label,
        segment_label=name,
        segmented_property_category=_concept(code.category),
        segmented_property_type=_concept(code.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues(entry.algorithm),
        algorithm_identification=_algorithm(entry),
        tracking_uid=uid,
        tracking_id=f"{name} {uid}",
        anatomic_regions=None if code.region is None else [_concept(code.region)],
        display_color=hd.color.CIELabColor.from_rgb(*entry.color),
    )
    if code.modifier is not None:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _concept(code.modifier)
        ]
    if code.region_modifier is not None:
        segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_concept(code.region_modifier)]
    return segment


def _algorithm(entry: ClassEntry) -> Any:
    """Return the description of the program that made a segment; None for a manual segment."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if entry.algorithm == "MANUAL":
        return None
    own = entry.algorithm_name == "segbundle"
    family = codes.DCM.ArtificialIntelligence if own else _concept(_OTHER_FAMILY)
    return hd.AlgorithmIdentificationSequence(
        entry.algorithm_name[:MAX_LABEL], family, segbundle.__version__ if own else "unknown"
    )


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _functional_groups(source: Source, frames: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the functional groups of each frame, a pair of label value and slice, encoded as an item."""
    from pydicom.dataset import Dataset

    derivations, positions = [], []
    for plane in source.slices:
        derivation, position = Dataset(), Dataset()
        derivation.DerivationImageSequence = [_derivation(reference_to(source, plane))]
        position.PlanePositionSequence = [Dataset()]
        position.PlanePositionSequence[0].ImagePositionPatient = [_decimal(value) for value in plane.position]
        derivations.append(encode(derivation, implicit=False))
        positions.append(encode(position, implicit=False))
    content, segment = Dataset(), Dataset()
    content.FrameContentSequence, segment.SegmentIdentificationSequence = [Dataset()], [Dataset()]
    content.FrameContentSequence[0].DimensionIndexValues = [0, 0]
    segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 0
    content_start = encode(content, implicit=False)[:-8]  # without the values, which come last
    segment_start = encode(segment, implicit=False)[:-2]
    items = []
    for label, k in frames:
        index = struct.pack("<II", label, k + 1)
        number = struct.pack("<H", label)
        items.append(item(derivations[k] + content_start + index + positions[k] + segment_start + number))
    return items


def _derivation(reference: Any) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    derivation = Dataset()
    reference.SpatialLocationsPreserved = "YES"
    reference.PurposeOfReferenceCodeSequence = [_dicom_code(codes.DCM.SourceImageForImageProcessingOperation)]
    derivation.SourceImageSequence = [reference]
    derivation.DerivationCodeSequence = [_dicom_code(codes.DCM.Segmentation)]
    return derivation


def _dicom_code(code: Any) -> Any:
    return _concept(Code(code.value, code.meaning, code.scheme_designator))


def _decimal(value: float) -> str:
    """Return a number as a decimal string of DICOM, which has at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(value)


def _write_header(file: BinaryIO, dataset: Any, groups: Sequence[bytes]) -> None:
    """Write all elements up to the voxels; the functional groups of the frames are the last of them."""
    from pydicom import dcmwrite

    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    file.write(buffer.getvalue())
    file.write(explicit_start(_PER_FRAME, b"SQ", sum(map(len, groups))))
    file.writelines(groups)


def _packed(planes: np.ndarray, frames: Sequence[tuple[int, int]], table: Sequence[ClassEntry]) -> Iterator[bytes]:
    """Yield the voxels of the frames, eight frames at a time; the first voxel is the lowest bit of a byte."""
    entries = {entry.label: entry for entry in table}
    for start in range(0, len(frames), _TOGETHER):
        masks = np.stack([entries[label].mask(planes[k]) for label, k in frames[start : start + _TOGETHER]])
        yield np.packbits(masks.reshape(-1), bitorder="little").tobytes()
