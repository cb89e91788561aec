"""DICOM files like those of scanners, archives and exports, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT, MR, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = (1, 0, 0, 0, 1, 0)
ORIGIN = (-10.0, -20.0, 30.0)


def voxels(shape=(12, 10, 8), seed=0):
    """Return integers that every flip and permutation changes."""
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def lps_affine(spacing=(1, 1, 2), origin=ORIGIN, iop=AXIAL, step=None):
    """Return the affine from voxel index to LPS+ mm for the arguments of `write_series`."""
    row, column = np.array(iop[:3], float), np.array(iop[3:], float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[0], column * spacing[1]
    affine[:3, 2] = np.cross(row, column) * spacing[2] if step is None else step
    affine[:3, 3] = origin
    return affine


def header(path: Path, kind: str = CT, modality: str = "CT", syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Any:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Synthetic^Phantom", "0", modality
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", tags.pop("SeriesInstanceUID", "1.2.3.4")
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def add_pixels(dataset: Any, stored: np.ndarray) -> None:
    """Set the stored values (frames, rows, columns) or (rows, columns)."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    dataset["PixelData"].VR = "OW"


def write_series(
    folder: Path,
    volume: np.ndarray,
    spacing: Sequence[float] = (1, 1, 2),
    origin: Sequence[float] = ORIGIN,
    iop: Sequence[float] = AXIAL,
    step: Sequence[float] | None = None,
    positions: Sequence[Sequence[Any]] | None = None,
    slopes: Sequence[float] | None = None,
    intercept: float = 0,
    instances: Sequence[int] | None = None,
    thickness: float | Sequence[float] | None = None,
    prefix: str = "IM",
    edit: Any = None,
    **tags: Any,
) -> list[Path]:
    """Write one file per slice of (X, Y, Z) values; `edit(dataset, index)` changes each before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = lps_affine(spacing, origin, iop, step)
    paths = []
    for k in range(volume.shape[2]):
        path = folder / f"{prefix}{k:03d}.dcm"
        dataset = header(path, **tags)
        where = affine[:3, 3] + k * affine[:3, 2] if positions is None else positions[k]
        dataset.ImagePositionPatient = [v if isinstance(v, str) else f"{v:.10g}" for v in where]
        dataset.ImageOrientationPatient = [f"{v:.12g}" for v in iop]
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        size = spacing[2] if thickness is None else thickness
        dataset.SliceThickness = size[k] if isinstance(size, Sequence) else size
        dataset.InstanceNumber = k + 1 if instances is None else instances[k]
        slope = 1.0 if slopes is None else slopes[k]
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.10g}", f"{intercept:g}"
        add_pixels(dataset, volume[:, :, k].T)
        if edit is not None:
            edit(dataset, k)
        dataset.save_as(path, enforce_file_format=dataset.preamble is not None)
        paths.append(path)
    return paths


def _one(**tags: Any) -> list[Dataset]:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return [dataset]


def write_enhanced(
    path: Path,
    volume: np.ndarray,
    positions: Sequence[Sequence[float]],
    slopes: Sequence[float],
    stacks: Sequence[str] | None = None,
    syntax: str | None = None,
) -> Path:
    """Write an enhanced CT (multi-frame file) of (X, Y, Z) stored values with 0.8 x 0.9 mm voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = header(path, ENHANCED_CT, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    dataset.NumberOfFrames = volume.shape[2]
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = _one(PixelSpacing=[0.9, 0.8], SliceThickness=2)
    shared.PlaneOrientationSequence = _one(ImageOrientationPatient=list(AXIAL))
    dataset.SharedFunctionalGroupsSequence = [shared]
    for k, (position, slope) in enumerate(zip(positions, slopes, strict=True)):
        frame = Dataset()
        frame.PlanePositionSequence = _one(ImagePositionPatient=list(position))
        frame.PixelValueTransformationSequence = _one(RescaleSlope=slope, RescaleIntercept=-10, RescaleType="HU")
        frame.FrameContentSequence = _one(StackID="1" if stacks is None else stacks[k], InStackPositionNumber=k + 1)
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    add_pixels(dataset, volume.transpose(2, 1, 0))
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path
