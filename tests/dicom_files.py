"""Small DICOM series that tests write: axial slices of 4x3 voxels, one millimeter apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder: Path, count: int = 3, prefix: str = "IM", uid: str | None = None, **tags: Any) -> list[Path]:
    """Write a series of CT slices; `tags` are set in each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    paths = []
    for index in range(count):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.Modality, data.SeriesDescription = uid, "CT", ""
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, index], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [1, 1], 1, index + 1
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 3, 4, 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.PixelData = np.full((3, 4), index, np.int16).tobytes()
        for name, value in tags.items():
            setattr(data, name, value)
        paths.append(folder / f"{prefix}{index:03d}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths
