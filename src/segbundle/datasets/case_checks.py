"""What can be wrong with a case, found in one reading and told all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segbundle.datasets.folders import some
from segbundle.io.scans import Scan

_SHOWN_VALUES = 10
_RESAMPLE = "Resample the label map onto the image's grid with nearest neighbor."
_ALIGN = (
    "Look at both in a viewer first: if the label map was drawn on this image, copy the image's header to it; "
    "otherwise resample it onto the image's grid with nearest neighbor."
)
"""What to do where the shapes are the same: resampling empties a label map whose header lost its origin."""


def image_problems(scan: Scan, num_channels: int | None) -> Iterator[str]:
    """Problems of a scan's voxels: NaN or Inf, and another number of channels than the network takes."""
    if num_channels is not None and len(scan.array) != num_channels:
        yield (
            f"{scan.path}: has {len(scan.array)} channel(s), the network takes {num_channels}; "
            "set network_def#in_channels, or correct the case's list of channel files."
        )
    bad = _not_finite(scan.array)
    if bad:
        yield f"{scan.path}: holds {bad} NaN or Inf voxel(s); replace them, for instance by the scan's minimum."


def _not_finite(array: np.ndarray) -> int:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # one NaN or Inf spoils the sum, which is quicker than looking at every voxel
            return 0
    return int(array.size - np.isfinite(array).sum())


def label_problems(label: Scan, class_names: Sequence[str], ignore_label: int | None = None) -> Iterator[str]:
    """Problems of a label map: several channels, values that are not integers or no class, or nothing known at all."""
    if len(label.array) != 1:
        yield f"{label.path}: has {len(label.array)} channels; a label map needs one, holding class indices."
        return
    values = np.unique(label.array)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        shown = [float(v) for v in values if not np.isfinite(v) or v != np.round(v)][:3]
        yield (
            f"{label.path}: label values must be integers, found {shown}; it may have been resampled with "
            "linear interpolation: use nearest neighbour."
        )
        return
    unknown = [int(v) for v in values if not 0 <= v < len(class_names) and v != ignore_label]
    if unknown:
        yield (
            f"{label.path}: holds label value(s) [{some(unknown, _SHOWN_VALUES)}], but class_names has the "
            f"{len(class_names)} classes {list(class_names)} (0 to {len(class_names) - 1}); add the class or correct "
            'the label map. If it marks voxels whose class is unknown, call it "ignore" in the labels of dataset.json.'
        )
    elif ignore_label is not None and values.tolist() == [ignore_label]:
        yield f"{label.path}: every voxel is marked as unknown (ignore, {ignore_label}); leave the case's label out."


def pair_problems(image: Scan, label: Scan) -> Iterator[str]:
    """Problems between a scan and its label map: shapes or affines that differ."""
    difference = image.geometry.difference(label.geometry)
    if difference:
        yield (
            f"{label.path}: the label map and its image {image.path.name} differ in geometry: {difference}. "
            f"{_ALIGN if image.geometry.shape == label.geometry.shape else _RESAMPLE}"
        )


def unannotated_problems(label: Scan, annotated: Sequence[bool], class_names: Sequence[str]) -> Iterator[str]:
    """A class that is labelled although the case's `annotated` says that nobody looked for it."""
    if all(annotated):
        return
    present = {int(v) for v in np.unique(label.array)}
    for index, (name, looked_for) in enumerate(zip(class_names, annotated, strict=True)):
        if not looked_for and index in present:
            yield (
                f"{label.path}: holds class {name!r} ({index}), which the case's `annotated` list leaves out; "
                "add it to the list or clear those voxels."
            )
