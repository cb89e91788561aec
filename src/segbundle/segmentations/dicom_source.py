"""Headers of the DICOM series that a segmentation refers to, slice by slice."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom import volume_slices
from segbundle.io.itk import LPS_TO_RAS
from segbundle.io.scans import check_label_shape, read_geometry
from segbundle.io.uneven_slices import labels_on_slices

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices",
)  # fmt: skip
_FRAME_TAGS = ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
"""Elements that are read from every file; all elements are read from the first."""
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Elements of patient and study that must be in derived objects, if only without a value (type 2)."""
_SEPARATOR = re.compile(r"[\^=\\\s]+")
"""Characters between the parts of a value, such as the components of a name."""
MAX_LABEL = 64
"""Maximum length of the name of a segment or structure."""

warnings.filterwarnings("ignore", module=r"highdicom(\.|$)")  # they quote names of patients
logging.getLogger("highdicom").setLevel(logging.CRITICAL)  # its messages quote UIDs and names


@dataclass(frozen=True)
class SourceSlice:
    """Slice of a DICOM series.

    Attributes:
        dataset: index of its file in `Source.datasets`.
        frame: number of the frame in the file, from 1; None for a file with one image.
        position: ImagePositionPatient, in mm.

    Example:
        >>> SourceSlice(0, None, (0.0, 0.0, 5.0)).position[2]
        5.0
    """

    dataset: int
    frame: int | None
    position: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """DICOM series that a segmentation refers to.

    Attributes:
        datasets: headers (pydicom), one per file, without voxels. The first has all elements of patient and study.
        slices: slices in the order of the third array axis.
        affine: (4, 4), from voxel indices to LPS+ coordinates in mm; the third axis is that of the even grid for an
            unevenly spaced series.
    """

    datasets: Sequence[Any]
    slices: Sequence[SourceSlice]
    affine: np.ndarray


def read_source(scan: str | Path, labels: np.ndarray) -> tuple[Source, np.ndarray]:
    """Read the headers of a DICOM series, and return them with a label map on its slices.

    For an unevenly spaced series, each slice has the labels of the nearest slice of the even grid. Missing elements of
    patient and study are added without a value. Without a FrameOfReferenceUID, one is derived from the
    SeriesInstanceUID.

    Args:
        scan: folder of the series, or one of its files.
        labels: label map (X, Y, Z) on the stored axes of the scan; of the even grid for an unevenly spaced series.

    Returns:
        a pair of the series and the label map (X, Y, number of slices)

    Raises:
        DataError: the series cannot be read, lacks UIDs, has a SOPInstanceUID twice or is a Siemens mosaic; or the
            shapes differ.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     source, labels = read_source(folder, np.zeros((4, 3, 2), np.uint8))
        >>> len(source.datasets), [plane.frame for plane in source.slices]
        (1, [1, 2])
    """
    geometry = read_geometry(scan, allow_uneven=True)
    check_label_shape(labels, geometry.shape, scan)
    planes = volume_slices(scan)
    files = list(dict.fromkeys(path for path, _ in planes))
    datasets = [_read_header(path, complete=index == 0) for index, path in enumerate(files)]
    for path, dataset in zip(files, datasets, strict=True):
        missing = [name for name in _NEEDED if not dataset.get(name)]
        if missing:
            raise DataError(
                f"{path}: has no {missing[0]}, which DICOM segmentations refer to. Export the series again, or use "
                "output_format nifti or nrrd."
            )
    if len({dataset.SOPInstanceUID for dataset in datasets}) < len(datasets):
        raise DataError(
            f"{scan}: several of its files have the same SOPInstanceUID, so DICOM segmentations cannot refer to its "
            "slices. Export the series again, or use output_format nifti or nrrd."
        )
    first = datasets[0]
    if len(planes) > len(files) and not first.get("PerFrameFunctionalGroupsSequence"):
        raise DataError(
            f"{scan}: is a Siemens mosaic, and DICOM segmentations cannot refer to its slices. Use output_format nifti "
            "or nrrd."
        )
    index_of = {path: index for index, path in enumerate(files)}
    slices = [_slice(datasets[index_of[path]], index_of[path], frame) for path, frame in planes]
    return Source(datasets, slices, LPS_TO_RAS @ geometry.affine), labels_on_slices(labels, geometry)


def _read_header(path: Path, complete: bool) -> Any:
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    tags = None if complete else [*_TAGS, *_FRAME_TAGS]
    dataset: Any = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    if complete:
        for name in _MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(dataset.get("SeriesInstanceUID"))])
    return dataset


def _slice(dataset: Any, index: int, frame: int) -> SourceSlice:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return SourceSlice(index, None, tuple(map(float, dataset.ImagePositionPatient)))
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    position = (groups[frame].get("PlanePositionSequence") or shared.get("PlanePositionSequence"))[0]
    return SourceSlice(index, frame + 1, tuple(map(float, position.ImagePositionPatient)))


def reference_to(source: Source, plane: SourceSlice) -> Any:
    """Return a dataset (pydicom) that refers to a slice: SOP class and instance, and the frame in a multi-frame file.

    Args:
        source: the series.
        plane: a slice of the series (an item of `Source.slices`).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2", "1.2.3"
        >>> source = Source([dataset], [], np.eye(4))
        >>> int(reference_to(source, SourceSlice(0, 2, (0.0, 0.0, 0.0))).ReferencedFrameNumber)
        2
    """
    from pydicom.dataset import Dataset

    dataset, reference = source.datasets[plane.dataset], Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    if plane.frame is not None:
        reference.ReferencedFrameNumber = plane.frame
    return reference


def reason_without_values(error: Exception, header: Any) -> str:
    """Return the text of an error of a DICOM library; if it quotes a DICOM header, the names of the quoted elements.

    Header elements can contain the name of a patient, and messages are written to logs and records.

    Args:
        error: exception of the library.
        header: header (pydicom) that the library processed.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.PatientID = "471108"
        >>> reason_without_values(ValueError("not valid: '471108'"), dataset)
        'check PatientID'
        >>> reason_without_values(ValueError("no frames"), dataset)
        'no frames'
    """
    text = str(error)
    names = [_keyword(tag) for tag in list(header.keys()) if _is_quoted(header, tag, text)]
    return f"check {', '.join(names)}" if names else text


def _is_quoted(header: Any, tag: Any, text: str) -> bool:
    """Return whether a text contains a word of an element; True if the element cannot be decoded."""
    try:
        words = _SEPARATOR.split(str(header[tag].value))
    except Exception:  # pydicom raises various exceptions for invalid values
        return True
    return _keyword(tag) not in _TAGS and any(word in text for word in words if word)


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or str(tag)
