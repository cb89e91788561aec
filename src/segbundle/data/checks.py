"""What can be wrong with a case, found in one reading and told all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segbundle.classes import Classes
from segbundle.data.cases import Case, check_class_names, load_cases
from segbundle.data.scans import Scan, read_scan
from segbundle.errors import ConfigError, DataError


@dataclass(frozen=True)
class Problem:
    """Something that makes a case unusable: which case, and a message that names the file and the fix."""

    case: str
    message: str


def image_problems(scan: Scan, num_channels: int | None) -> Iterator[str]:
    """Problems of a scan's voxels: NaN or Inf, and another number of channels than the network takes."""
    if num_channels is not None and len(scan.array) != num_channels:
        yield (
            f"{scan.path}: has {len(scan.array)} channel(s), the network takes {num_channels}; "
            "set network_def#in_channels, or correct the case's list of channel files."
        )
    bad = int(scan.array.size - np.isfinite(scan.array).sum())
    if bad:
        yield f"{scan.path}: holds {bad} NaN or Inf voxel(s); replace them, for instance by the scan's minimum."


def label_problems(label: Scan, class_names: Sequence[str]) -> Iterator[str]:
    """Problems of a label map: several channels, values that are not integers, or integers that are no class."""
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
    unknown = [int(v) for v in values if not 0 <= v < len(class_names)]
    if unknown:
        yield (
            f"{label.path}: holds label value(s) {unknown}, but class_names has the {len(class_names)} classes "
            f"{list(class_names)} (0 to {len(class_names) - 1}); add the class or correct the label map."
        )


def pair_problems(image: Scan, label: Scan) -> Iterator[str]:
    """Problems between a scan and its label map: shapes or affines that differ."""
    difference = image.geometry.difference(label.geometry)
    if difference:
        yield (
            f"{label.path}: the label map and its image {image.path.name} differ in geometry: {difference}. "
            "Resample the label map onto the image's grid."
        )


def unannotated_problems(label: Scan, annotated: Sequence[bool], class_names: Sequence[str]) -> Iterator[str]:
    """A class that is labelled although the case's `annotated` says that nobody looked for it."""
    present = {int(v) for v in np.unique(label.array)}
    for index, (name, looked_for) in enumerate(zip(class_names, annotated, strict=True)):
        if not looked_for and index in present:
            yield (
                f"{label.path}: holds class {name!r} ({index}), which the case's `annotated` list leaves out; "
                "add it to the list or clear those voxels."
            )


def case_problems(case: Case, class_names: Sequence[str], num_channels: int | None) -> list[str]:
    """Every problem of one case, after reading its files."""
    found: list[str] = []
    image = _read(case.image[0] if len(case.image) == 1 else list(case.image), found, labels=False)
    label = _read(case.label, found, labels=True) if case.label is not None else None
    if image is not None:
        found += image_problems(image, num_channels)
    if label is not None:
        before = len(found)
        found += label_problems(label, class_names)
        try:
            annotated = Classes(class_names).annotated_mask(case.annotated)
        except ConfigError as error:
            found.append(f"case {case.name}: its `annotated` list in dataset.json is wrong: {error}")
        else:
            if len(found) == before:
                found += unannotated_problems(label, annotated, class_names)
    if image is not None and label is not None:
        found += pair_problems(image, label)
    return found


def _read(path: Path | list[Path], found: list[str], labels: bool) -> Scan | None:
    try:
        return read_scan(path, None) if labels else read_scan(path)
    except DataError as error:
        found.append(str(error))
        return None


def check_dataset(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    num_channels: int | None = None,
    data_list_key: str = "training",
) -> Iterator[tuple[Case, list[Problem]]]:
    """Open every case of a dataset and yield it with the problems it has, one case at a time.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first.
        num_channels: how many channels the network takes; None takes the first readable case's as the rule.
        data_list_key: which list of the dataset.

    Raises:
        DataError: problems of the dataset as a whole: no case, two cases of one name, contradicting class names.
    """
    check_class_names(dataset_dir, class_names)
    for case in load_cases(dataset_dir, data_list_key):
        if num_channels is None:
            num_channels = _channels(case)
        yield case, [Problem(case.name, message) for message in case_problems(case, class_names, num_channels)]


def _channels(case: Case) -> int | None:
    try:
        return len(read_scan(case.image[0]).array) if len(case.image) == 1 else len(case.image)
    except DataError:
        return None
