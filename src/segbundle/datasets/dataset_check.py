"""Check a whole dataset: open every case, and list every problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.classes import IGNORE_INDEX
from segbundle.datasets.case import Case, name_problems
from segbundle.datasets.case_checks import (
    image_problems,
    label_problems,
    pair_problems,
    unannotated_in_words,
    unannotated_problems,
)
from segbundle.datasets.cases import list_cases, load_cases
from segbundle.datasets.datalist import unlabeled_in_words
from segbundle.datasets.description import read_description
from segbundle.datasets.description_file import find_description
from segbundle.datasets.folds import DEFAULT_NUM_FOLDS, count_folds
from segbundle.datasets.given_folds import given_split
from segbundle.datasets.label_names import described_labels
from segbundle.datasets.label_values import DatasetLabels, dataset_labels
from segbundle.datasets.layouts import recognize
from segbundle.datasets.listed import unlisted_in_words
from segbundle.errors import DataError, SegbundleError, describe
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import Scan, read_geometry, read_scan

_MAX_CHARACTERS = 600


@dataclass
class ClassTally:
    """Number of label maps in which a class is labeled, absent, or not annotated.

    Attributes:
        labeled: number of label maps that contain the class (default 0).
        absent: number of label maps in which the class is annotated but absent (default 0).
        unannotated: number of label maps in which the class is not annotated (default 0).

    Example:
        >>> ClassTally(labeled=2)
        ClassTally(labeled=2, absent=0, unannotated=0)
    """

    labeled: int = 0
    absent: int = 0
    unannotated: int = 0


def examine_case(
    case: Case,
    labels: DatasetLabels,
    num_channels: int | None,
    allow_uneven: bool = False,
) -> tuple[list[str], set[int]]:
    """Read the files of a case, and return its problems and the values in its label map.

    If the case already has problems, its files are not opened, because a named pipe would block forever.

    Args:
        case: case to check.
        labels: labels of the dataset as the classes of the task.
        num_channels: number of channels that the network takes; None accepts any number.
        allow_uneven: see `segbundle.io.scans.read_scan`. Default: False.

    Returns:
        messages about the problems, and the set of label values (empty if no label map could be read)

    Example:
        >>> labels = DatasetLabels(["background", "liver"])
        >>> examine_case(Case("a", (Path("a.nii"),), problems=("a.nii: no such file.",)), labels, 1)
        (['a.nii: no such file.'], set())
    """
    if case.problems:
        return list(case.problems), set()
    found: list[str] = []
    path = case.image[0] if len(case.image) == 1 else list(case.image)
    image = _read(found, read_scan, path, np.float32, allow_uneven)
    grid = None if image is None else image.geometry
    label = _read(found, read_labels, case.label, labels.class_names, grid) if case.label is not None else None
    if image is not None:
        found += image_problems(image, num_channels)
    if label is not None:
        found += label_and_annotation_problems(case, label, labels)
    if image is not None and label is not None:
        found += pair_problems(image, label)
    return found, set(np.unique(label.array).tolist()) if label is not None else set()


def label_and_annotation_problems(case: Case, label: Scan, labels: DatasetLabels) -> list[str]:
    """Return problems of a label map, and contradictions between label map and `annotated` list of a case.

    Contradictions are reported only if the label map has no other problem.

    Args:
        case: case of the label map.
        label: label map (1, X, Y, Z).
        labels: labels of the dataset as the classes of the task.

    Example:
        >>> from segbundle.io.scans import Geometry
        >>> case = Case("a", (Path("a.nii"),), Path("seg.nii"))
        >>> label = Scan(np.ones((1, 2, 2, 2), np.uint8), Geometry((2, 2, 2), np.eye(4)), Path("seg.nii"))
        >>> label_and_annotation_problems(case, label, DatasetLabels(["background", "liver"]))
        []
    """
    found = list(label_problems(label, labels.class_names, labels.ignore_label, labels.loaded))
    try:
        annotated = labels.annotated_mask(case)
    except DataError as error:
        return [*found, str(error)]
    if labels.loaded is None:
        return found or list(unannotated_problems(label, annotated, labels.class_names))
    values = set(np.unique(label.array).tolist())
    return found or [unannotated_in_words(label.path, *each) for each in labels.unannotated(case, values)]


def _read(found: list[str], read: Callable[..., Scan], *arguments: Any) -> Scan | None:
    """Return a scan, or None if it cannot be read; the reason is appended to `found`."""
    try:
        return read(*arguments)
    except DataError as error:
        found.append(str(error))
        return None


class DatasetCheck:
    """Iterable that opens every case of a dataset, and yields each case with its problems.

    The check covers labeled and unlabeled cases of the training, validation and test lists.

    Args:
        dataset_dir: see `load_cases`.
        class_names: classes of the task, background first; None if they are unknown.
        num_channels: number of channels that the network takes; None (default) for that of the first readable case.
        allow_uneven: see `segbundle.io.scans.read_scan`. Default: False.
        classes: see `segbundle.datasets.label_values.dataset_labels`. Default: None.

    Attributes:
        cases: cases that will be opened.
        layout: name of the layout of the dataset, such as `nnU-Net raw`.
        problems: messages about the dataset as a whole: an invalid `dataset.json`, contradictory class names or folds,
            or duplicate names.
        tallies: `ClassTally` by name of each foreground class, over the labeled cases without problems; complete after
            iteration.
        partly_unknown: number of labeled cases without problems that have unknown voxels; complete after iteration.

    Raises:
        DataError: the folder does not exist or contains no cases.
        ConfigError: `class_names` is invalid.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "labels"):
        ...         path = Path(folder) / f"{kind}Tr" / "a.nii"
        ...         path.parent.mkdir()
        ...         nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
        ...     check = DatasetCheck(folder, ["background", "liver"])
        ...     for case, problems in check:
        ...         print(case.name, problems)
        a []
        >>> check.tallies["liver"].labeled
        1
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        class_names: Sequence[str] | None,
        num_channels: int | None = None,
        allow_uneven: bool = False,
        classes: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(dataset_dir)
        self._file = find_description(self.folder)
        self.class_names = [str(value) for value in range(IGNORE_INDEX)] if class_names is None else class_names
        self.num_channels, self.allow_uneven = num_channels, allow_uneven
        self.tallies = {name: ClassTally() for name in self.class_names[1:]}
        self.partly_unknown = 0
        self.problems: list[str] = []
        self.labels = DatasetLabels(self.class_names)
        self._learned: set[str] = set()
        description = self._read_description(class_names, classes)
        announced = description.get("numTraining")
        self._announced = announced if isinstance(announced, int) else None
        self._unlisted = self._find_unlisted(description)
        self.layout = recognize(self._file, description).title
        training, validation, test = (self._listed(key, description) for key in ("training", "validation", "test"))
        self._training = [*training, *validation]
        self.cases = [*self._training, *test]
        if not self._training and not self.problems:
            load_cases(dataset_dir)  # raises an error that explains the layout of a dataset
        self.problems += [message for cases in (self._training, test) for message in name_problems(cases)]
        try:
            split = given_split(self._file, *([case for case in c if case.label] for c in (training, validation)))
            count_folds(self._file.path, split, DEFAULT_NUM_FOLDS, description.get("num_folds"))
        except SegbundleError as error:
            self.problems.append(str(error))

    def _read_description(self, class_names: Sequence[str] | None, classes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the content of `dataset.json`, or an empty dict if it is invalid and cases come from folders."""
        description: dict[str, Any] = {}
        try:
            description = read_description(self.folder)
            self.labels = replace(self.labels, ignore_label=described_labels(self.folder).ignore_label)
            if class_names is not None:
                self.labels = dataset_labels(self.folder, class_names, classes)
        except DataError as error:
            self.problems.append(str(error))
        return description

    def _find_unlisted(self, description: dict[str, Any]) -> str | None:
        try:
            return unlisted_in_words(self._file, description)
        except DataError:  # invalid lists are reported separately
            return None

    def _listed(self, key: str, description: dict[str, Any]) -> list[Case]:
        if key == "validation" and not description.get(key):
            return []
        try:
            cases, malformed = list_cases(self.folder, key, description)
        except DataError as error:
            cases, malformed = [], [str(error)]
        self.problems += malformed
        return cases

    @property
    def notes(self) -> list[str]:
        """Messages about unlabeled or unlisted cases, and classes without examples; complete after iteration."""
        unlabeled = [case.name for case in self._training if case.label is None]
        notes = [unlabeled_in_words(self.folder, unlabeled, len(self._training))] if unlabeled else []
        if self._unlisted:
            notes.append(self._unlisted)
        if self._announced not in (None, len(self._training)):
            notes.append(
                f"{self._file.path.name} has numTraining {self._announced}, but {len(self._training)} cases were found."
            )
        unseen = [name for name in self.class_names[1:] if name not in self._learned]
        if unseen:
            notes.append(f"no training case contains {', '.join(unseen)}; a network needs examples of every class.")
        return notes

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[tuple[Case, list[str]]]:
        """Open each case, and yield it with a list of messages, one line per problem."""
        for number, case in enumerate(self.cases):
            try:
                problems, values = self._examine(case)
                if case.label is not None and not problems:
                    self._count(case, values)
                    self._learned |= self.labels.present(values) if number < len(self._training) else set()
            except Exception as error:  # a damaged file can raise anything; other cases are still checked
                problems = [
                    f"case {case.name}: cannot be checked ({describe(error)}). Repair its files, or remove the case."
                ]
            yield case, [" ".join(problem.split())[:_MAX_CHARACTERS] for problem in problems]

    def _examine(self, case: Case) -> tuple[list[str], set[int]]:
        if self.num_channels is None and not case.problems:
            self.num_channels = _channels(case)
        return examine_case(case, self.labels, self.num_channels, self.allow_uneven)

    def _count(self, case: Case, values: set[int]) -> None:
        self.partly_unknown += self.labels.ignore_label in values
        present, mask = self.labels.present(values), self.labels.annotated_mask(case)
        for name, annotated in zip(self.class_names[1:], mask[1:], strict=True):
            tally = self.tallies[name]
            tally.labeled += name in present
            tally.absent += annotated and name not in present
            tally.unannotated += not annotated


def _channels(case: Case) -> int | None:
    try:
        return read_geometry(case.image[0], allow_uneven=True).channels if len(case.image) == 1 else len(case.image)
    except DataError:
        return None
