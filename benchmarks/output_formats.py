"""Time, memory and size of a label map in every output format, from the label map in memory to the file.

The source is a synthetic CT series. Every measurement runs in a process of its own, after a small warm-up. The table is
printed in Markdown; see docs/benchmarks.md.

python benchmarks/output_formats.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from segbundle.hardware.memory_usage import PeakMemory
from segbundle.segmentations import class_table, write_label_maps

FORMATS = ("nifti", "nrrd", "dicom_seg", "rtstruct", "highdicom")
"""Output formats; the last is DICOM SEG as the class `Segmentation` of highdicom writes it, for comparison."""


def main() -> None:
    """Measure all formats and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--worst", action="store_true", help="every class in every slice")
    parser.add_argument("--measure", choices=FORMATS, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder) / "ct", given.shape)
        print("| format | seconds (range) | memory beyond the label map, MB | file, MB |\n|---|---|---|---|")
        for name in given.formats:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", name, "--source", f"{folder}/ct"]
            found = [json.loads(subprocess.check_output(command)) for _ in range(given.rounds)]
            seconds = [one["seconds"] for one in found]
            print(
                f"| {name} | {median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) "
                f"| {max(one['memory'] for one in found):.0f} | {found[0]['size']:.1f} |",
                flush=True,
            )


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Return seconds, peak memory beyond the label map in MB, and size of the file in MB."""
    labels = blobs(given.shape, given.classes, given.worst)
    table = class_table(["background", *(f"structure {number}" for number in range(1, given.classes + 1))])
    device = torch.device("cpu")
    before = PeakMemory(device).peaks()["peak_memory_mb"]
    memory, started = PeakMemory(device), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if given.measure == "highdicom":
            path = write_by_highdicom(labels, given.source, Path(folder) / "seg.dcm", given.classes)
        else:
            written = write_label_maps(labels, given.source, folder, "ct", [given.measure], table)
            path = Path(written[given.measure])
        seconds = time.monotonic() - started
        size = path.stat().st_size / 1e6
    return {"seconds": seconds, "memory": memory.peaks()["peak_memory_mb"] - before, "size": size}


def blobs(shape: tuple[int, int, int], classes: int, worst: bool = False) -> np.ndarray:
    """Return a label map of ellipsoids, hollow ones among them; or of tiles, with every class in every slice."""
    labels = np.zeros(shape, np.uint8, order="F")
    if worst:
        x, y = np.meshgrid(np.arange(shape[0]) // 32, np.arange(shape[1]) // 32, indexing="ij")
        labels[...] = ((x * -(-shape[1] // 32) + y) % (classes + 1))[..., None]
        return labels
    rng = np.random.default_rng(0)
    for label in range(1, classes + 1):
        radii = np.maximum(rng.uniform(0.03, 0.15, 3) * shape, 1.5)
        center = rng.uniform(0.2, 0.8, 3) * shape
        box = [slice(max(0, int(c - r)), min(n, int(c + r) + 2)) for c, r, n in zip(center, radii, shape, strict=True)]
        axes = np.ogrid[tuple(box)]
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, center, radii, strict=True))
        wall = distance > 0.5 if label % 4 == 0 else True
        labels[tuple(box)][(distance < 1) & wall] = label
    return labels


def write_series(folder: Path, shape: tuple[int, int, int]) -> None:
    """Write an empty CT series with voxels of 0.8 x 0.8 x 1.5 mm."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for k in range(shape[2]):
        data: Any = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID, data.SOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), study, series
        data.FrameOfReferenceUID, data.Modality, data.PatientID = frame, "CT", "synthetic"
        data.ImagePositionPatient, data.ImageOrientationPatient = [-200, -200, 1.5 * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [0.8, 0.8], 1.5, k + 1
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = (
            shape[1],
            shape[0],
            1,
            "MONOCHROME2",
        )
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.PixelData = bytes(2 * shape[0] * shape[1])
        data.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)


def write_by_highdicom(labels: np.ndarray, source: Path, path: Path, classes: int) -> Path:
    """Write a DICOM SEG with highdicom only."""
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    images: list[Any] = [dcmread(file, stop_before_pixels=True) for file in sorted(source.iterdir())]
    names = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
    for name in names:
        setattr(images[0], name, "")
    algorithm = hd.AlgorithmIdentificationSequence("highdicom", codes.DCM.ArtificialIntelligence, "1")
    kind = hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    category, organ = codes.SCT.AnatomicalStructure, codes.SCT.Organ
    segments = [
        hd.seg.SegmentDescription(number, f"structure {number}", category, organ, kind, algorithm)
        for number in range(1, classes + 1)
    ]
    uid, series = hd.UID(), hd.UID()
    hd.seg.Segmentation(
        images, np.ascontiguousarray(labels.T), hd.seg.SegmentationTypeValues.BINARY, segments, series, 1, uid, 1,
        "highdicom", "highdicom", "1", "0",
    ).save_as(path)  # fmt: skip
    return path


if __name__ == "__main__":
    main()
