"""Small DICOM exports of synthetic patients, with segmentations, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dicoms
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps

SHAPE = (20, 18, 12)


def labels(*values: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return a label map with a box for each label value; 0 leaves a box empty."""
    found = np.zeros(shape, np.uint8, order="F")
    for index, value in enumerate(values):
        start = 1 + 5 * index
        found[start : start + 4, 2:12, 2:9] = value
    return found


def write_case(folder: Path, uid: str, modality: str = "CT", seed: int = 0, shape: tuple[int, ...] = SHAPE, **more):
    """Write a series to `folder/ct`, brighter where the boxes of `labels` are."""
    kind = dicoms.MR if modality == "MR" else dicoms.CT
    volume = (dicoms.voxels(shape, seed) // 20 + 300 * (labels(1, 2, 3, shape=shape) > 0)).astype(np.int16)
    dicoms.write_series(
        folder / "ct", volume, spacing=(0.9, 0.8, 2.5), kind=kind, modality=modality, SeriesInstanceUID=uid, **more
    )
    return folder / "ct"


def write_segments(series: Path, name: str, label_map: np.ndarray, names: list[str], kind: str = "rtstruct") -> Path:
    """Write a DICOM SEG or RTSTRUCT of a label map beside the folder of its series."""
    table = class_table(["background", *names])
    return Path(write_label_maps(label_map, series, series.parent / name, name, [kind], table)[kind])


def write_export(folder: Path) -> Path:
    """Write an export of eight patients: three with a usable segmentation."""
    one = write_case(folder / "Doe_John", "1.2.1", seed=1, intercept=-1024)
    write_segments(one, "seg", labels(1, 2, 0), ["liver", "lesion", "empty"], "dicom_seg")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dicoms.write_series(folder / "Doe_John" / "scout", dicoms.voxels((6, 5, 1)), SeriesInstanceUID="1.2.11",
                        ImageType=scout)  # fmt: skip
    two = write_case(folder / "p2", "1.2.2", "MR", seed=2)
    write_segments(two, "rs", labels(2, 1, 0), ["Lesion", "Liver"])
    three = write_case(folder / "p3", "1.2.3", seed=3)
    write_segments(three, "seg1", labels(1), ["liver"], "dicom_seg")
    write_segments(three, "seg2", labels(0, 0, 1), ["Left Kidney"])
    damaged = write_case(folder / "p4", "1.2.4", seed=4)
    write_segments(damaged, "rs", labels(1), ["liver"])
    (damaged / "IM005.dcm").unlink()
    twice = write_case(folder / "p5", "1.2.5", seed=5)
    write_segments(twice, "seg1", labels(1), ["liver"], "dicom_seg")
    write_segments(twice, "seg2", labels(0, 1), ["Liver"], "dicom_seg")
    write_case(folder / "p6", "1.2.6", seed=6)
    overlapping = write_case(folder / "p7", "1.2.7", seed=7)
    write_segments(overlapping, "rs1", labels(1, 1, 1), ["body"])
    write_segments(overlapping, "rs2", labels(0, 1), ["liver"])
    lost = write_case(folder / "p8", "1.2.8", seed=8)
    write_segments(lost, "rs", labels(1), ["liver"])
    other = write_case(folder / "p8", "1.2.9", seed=9, shape=(20, 18, 7))  # the same files, of another series
    assert other == lost
    for extra in sorted(lost.iterdir())[7:]:
        extra.unlink()
    return folder
