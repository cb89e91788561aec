"""What can be wrong with a case, found in one reading and told all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segbundle.classes import Classes
from segbundle.data.cases import Case, list_cases, load_cases, name_problems
from segbundle.data.description import check_class_names, described_labels
from segbundle.data.labels import read_labels
from segbundle.data.scans import Scan, read_geometry, read_scan
from segbundle.errors import ConfigError, DataError

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
            f"{label.path}: holds label value(s) {unknown}, but class_names has the {len(class_names)} classes "
            f"{list(class_names)} (0 to {len(class_names) - 1}); add the class or correct the label map. If it marks "
            'voxels whose class is unknown, call it "ignore" in the labels of dataset.json.'
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


@dataclass
class ClassTally:
    """In how many label maps a class is there, looked for in vain, and not annotated."""

    labelled: int = 0
    absent: int = 0
    unannotated: int = 0


def examine_case(
    case: Case, class_names: Sequence[str], num_channels: int | None, ignore_label: int | None
) -> tuple[list[str], set[int]]:
    """Every problem of one case, after reading its files, and the values in its label map."""
    found: list[str] = []
    image = _read(case.image[0] if len(case.image) == 1 else list(case.image), found, labels=False)
    label = _read(case.label, found, labels=True) if case.label is not None else None
    if image is not None:
        found += image_problems(image, num_channels)
    if label is not None:
        found += label_and_annotation_problems(case, label, class_names, ignore_label)
    if image is not None and label is not None:
        found += pair_problems(image, label)
    return found, set(np.unique(label.array).tolist()) if label is not None else set()


def label_and_annotation_problems(
    case: Case, label: Scan, class_names: Sequence[str], ignore_label: int | None
) -> list[str]:
    """Problems of a label map, and between it and the case's `annotated` list."""
    found = list(label_problems(label, class_names, ignore_label))
    try:
        annotated = Classes(class_names).annotated_mask(case.annotated)
    except ConfigError as error:
        return [*found, f"case {case.name}: its `annotated` list in dataset.json is wrong: {error}"]
    return found or list(unannotated_problems(label, annotated, class_names))


def _read(path: Path | list[Path], found: list[str], labels: bool) -> Scan | None:
    try:
        return read_labels(path) if labels else read_scan(path)
    except DataError as error:
        found.append(str(error))
        return None


class DatasetCheck:
    """Opens every case of a dataset, labelled or not, in its training and its test list.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first.
        num_channels: how many channels the network takes; None takes the first readable case's as the rule.

    Attributes:
        cases: what will be opened.
        problems: those of the dataset as a whole: contradicting class names, two cases of one name.
        tallies: after iterating, one per foreground class, of the labelled cases without problems.
        partly_unknown: after iterating, how many of those have unknown voxels.

    Raises:
        DataError: there is no case to open, or a `dataset.json` that cannot be used.
    """

    def __init__(self, dataset_dir: str | Path, class_names: Sequence[str], num_channels: int | None = None) -> None:
        self.class_names = class_names
        self.num_channels = num_channels
        self.tallies = {name: ClassTally() for name in class_names[1:]}
        self.partly_unknown = 0
        sections = [list_cases(dataset_dir, key) for key in ("training", "test")]
        self.cases = [case for cases in sections for case in cases]
        self.problems = [message for cases in sections for message in name_problems(cases)]
        if not sections[0]:
            load_cases(dataset_dir)  # says what a dataset needs
        self.ignore_label: int | None = None
        try:
            self.ignore_label = described_labels(Path(dataset_dir)).ignore_label
            check_class_names(dataset_dir, class_names)
        except DataError as error:
            self.problems.insert(0, str(error))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[tuple[Case, list[str]]]:
        """Each case with its problems, after opening it."""
        for case in self.cases:
            if self.num_channels is None:
                self.num_channels = _channels(case)
            problems, values = examine_case(case, self.class_names, self.num_channels, self.ignore_label)
            if case.label is not None and not problems:
                self._count(case, values)
            yield case, problems

    def _count(self, case: Case, values: set[int]) -> None:
        self.partly_unknown += self.ignore_label in values
        mask = Classes(self.class_names).annotated_mask(case.annotated)
        for index, name in enumerate(self.class_names):
            if index > 0:
                tally = self.tallies[name]
                tally.labelled += index in values
                tally.absent += mask[index] and index not in values
                tally.unannotated += not mask[index]


def _channels(case: Case) -> int | None:
    try:
        return read_geometry(case.image[0]).channels if len(case.image) == 1 else len(case.image)
    except DataError:
        return None
