"""Check a single case: voxel values, label values, geometry and annotated classes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from segbundle.datasets.folders import some
from segbundle.io.scan_files import stem
from segbundle.io.scans import Scan

_SHOWN_VALUES = 5
_RESAMPLE = "Resample the label map onto the image's grid: {like}"
_ALIGN = (
    "Look at both in a viewer first. If the label map was drawn on this image, copy the image's geometry to it: {copy} "
    "Otherwise, resample the label map onto the image's grid: {like}"
)
"""Advice for equal shapes: resampling would empty a label map whose header lost its origin."""
_OPTIONS = {"copy": "--copy_geometry", "like": "--like"}
"""Options of `segbundle convert` that the advice names."""
_TRANSPOSE = (
    "Its axes seem to be reversed, as in arrays (z, y, x) of SimpleITK that are saved with nibabel: if so, transpose "
    "the array, and save it with the image's header; otherwise resample it onto the image's grid: {like}"
)
"""Advice for reversed shapes."""


def image_problems(scan: Scan, num_channels: int | None) -> Iterator[str]:
    """Yield problems of an image: NaN or Inf voxels, or a wrong number of channels.

    Args:
        scan: image (C, X, Y, Z).
        num_channels: number of channels that the network takes; None accepts any number.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.io.scans import Geometry
        >>> scan = Scan(np.full((1, 2, 2, 1), np.nan, np.float32), Geometry((2, 2, 1), np.eye(4)), Path("ct.nii"))
        >>> list(image_problems(scan, num_channels=1))
        ["ct.nii: contains 4 NaN or Inf voxel(s); replace them, for instance by the scan's minimum."]
    """
    if num_channels is not None and len(scan.array) != num_channels:
        yield (
            f"{scan.path}: has {len(scan.array)} channel(s), but the network takes {num_channels}; "
            "set network_def#in_channels, or correct the list of channel files of the case."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        total = scan.array.sum()  # NaN and Inf propagate to the sum; a sum is faster than a test of each voxel
    bad = 0 if np.isfinite(total) else int(scan.array.size - np.isfinite(scan.array).sum())
    if bad:
        yield f"{scan.path}: contains {bad} NaN or Inf voxel(s); replace them, for instance by the scan's minimum."


def label_problems(
    label: Scan,
    class_names: Sequence[str],
    ignore_label: int | None = None,
    loaded: Mapping[int, int] | None = None,
) -> Iterator[str]:
    """Yield problems of a label map: several channels, invalid label values, or only unknown voxels.

    Args:
        label: label map (1, X, Y, Z).
        class_names: classes of the task, background first.
        ignore_label: value of voxels whose class is unknown; None (default) if the dataset has no such value.
        loaded: class index by label value. If it lists the value 0, label values that it does not list are problems;
            else such values become background when the label map is loaded. None (default) if the label values are
            the class indices.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.io.scans import Geometry
        >>> label = Scan(np.zeros((2, 3, 2, 1), np.uint8), Geometry((3, 2, 1), np.eye(4)), Path("seg.nii"))
        >>> list(label_problems(label, ["background", "liver"]))
        ['seg.nii: has 2 channels; a label map needs one channel. Merge them into one channel of class indices.']
    """
    if len(label.array) != 1:
        yield (
            f"{label.path}: has {len(label.array)} channels; a label map needs one channel. Merge them into one "
            "channel of class indices."
        )
        return
    values = np.unique(label.array)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        shown = [float(v) for v in values if not np.isfinite(v) or v != np.round(v)][:3]
        yield (
            f"{label.path}: label values must be integers, found {shown}; it may have been resampled with "
            "linear interpolation: use nearest neighbor."
        )
        return
    if loaded is not None:
        stray = [int(v) for v in values if v not in loaded and v != ignore_label] if 0 in loaded else []
        if stray:
            yield (
                f"{label.path}: contains label value(s) [{some(stray, _SHOWN_VALUES)}] that are not among the `labels` "
                "of dataset.json; add them there, or correct the label map."
            )
            return
    unknown = [int(v) for v in values if not 0 <= v < len(class_names) and v != ignore_label]
    if unknown and loaded is None:
        yield (
            f"{label.path}: contains label value(s) [{some(unknown, _SHOWN_VALUES)}], but the {len(class_names)} "
            f"class_names have values 0 to {len(class_names) - 1}; add the class, correct the label map, "
            "or name the value `ignore` in dataset.json if it marks unknown voxels."
        )
    elif ignore_label is not None and values.tolist() == [ignore_label]:
        yield f"{label.path}: every voxel is marked as unknown (ignore, {ignore_label}); remove this label map."


def pair_problems(image: Scan, label: Scan) -> Iterator[str]:
    """Yield a problem if the voxels of an image and its label map do not coincide.

    Args:
        image: image (C, X, Y, Z).
        label: label map (1, X, Y, Z), reoriented to the axes of the image if the voxels are the same.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.io.scans import Geometry
        >>> image = Scan(np.zeros((1, 3, 2, 1)), Geometry((3, 2, 1), np.eye(4)), Path("ct.nii"))
        >>> list(pair_problems(image, image))
        []
    """
    difference = image.geometry.difference(label.geometry)
    if difference:
        shape, label_shape = image.geometry.shape, label.geometry.shape
        advice = _ALIGN if shape == label_shape else _TRANSPOSE if shape == label_shape[::-1] else _RESAMPLE
        commands = {name: _command(label.path, option, image.path) for name, option in _OPTIONS.items()}
        yield (
            f"{label.path}: the label map and its image {image.path.name} differ in geometry: {difference}. "
            f"{advice.format(**commands)} Then use the new file."
        )


def _command(label: Path, option: str, image: Path) -> str:
    """Return the command that writes a label map on the voxels of its image to the folder `aligned`."""
    words = ["segbundle", "convert", str(label), f"aligned/{stem(label)}.nii.gz", option, str(image)]
    return f"`{shlex.join(words)}`."


def unannotated_problems(label: Scan, annotated: Sequence[bool], class_names: Sequence[str]) -> Iterator[str]:
    """Yield a problem for each class that is present in a label map but not annotated in the case.

    Args:
        label: label map (1, X, Y, Z) of class indices.
        annotated: one bool per class, False for unannotated classes.
        class_names: classes of the task, background first.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.io.scans import Geometry
        >>> label = Scan(np.ones((1, 3, 2, 1), np.uint8), Geometry((3, 2, 1), np.eye(4)), Path("seg.nii"))
        >>> next(unannotated_problems(label, [True, False], ["background", "liver"]))[:38]
        "seg.nii: contains class 'liver' (1), b"
    """
    if all(annotated):
        return
    present = {int(v) for v in np.unique(label.array)}
    for index, (name, is_annotated) in enumerate(zip(class_names, annotated, strict=True)):
        if not is_annotated and index in present:
            yield unannotated_in_words(label.path, name, index)


def unannotated_in_words(path: Path, name: str, value: int) -> str:
    """Return a message about voxels of a class that is not annotated in the case.

    Args:
        path: path of the label map.
        name: name of the class.
        value: its label value.

    Example:
        >>> unannotated_in_words(Path("seg.nii"), "liver", 1)[:31]
        "seg.nii: contains class 'liver'"
    """
    return (
        f"{path}: contains class {name!r} ({value}), but the `annotated` list of the case does not; add the class to "
        "the list, or clear those voxels."
    )
