"""A dataset checked as a whole: every case is opened, and every problem is listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.classes import IGNORE_INDEX, Classes
from segbundle.data.case import Case, name_problems
from segbundle.data.cases import list_cases, load_cases
from segbundle.data.checks import image_problems, label_problems, pair_problems, unannotated_problems
from segbundle.data.datalist import unlabeled_in_words
from segbundle.data.description import check_class_names, described_labels, read_description
from segbundle.data.folds import DEFAULT_NUM_FOLDS, count_folds, given_split
from segbundle.data.labels import read_labels
from segbundle.data.listed import unlisted_in_words
from segbundle.data.scans import Scan, read_geometry, read_scan
from segbundle.errors import ConfigError, DataError, SegbundleError, describe

_LONGEST = 600


@dataclass
class ClassTally:
    """Numbers of label maps in which a class is labeled, absent, and not annotated."""

    labelled: int = 0
    absent: int = 0
    unannotated: int = 0


def examine_case(
    case: Case, class_names: Sequence[str], num_channels: int | None, ignore_label: int | None
) -> tuple[list[str], set[int]]:
    """Return every problem of one case, after reading its files, and the values in its label map.

    Files of a case with known problems are not opened: a named pipe would never end.
    """
    if case.problems:
        return list(case.problems), set()
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
    """Return problems of a label map, and between it and the case's `annotated` list."""
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
    """Opens every case of a dataset, labeled or not, in its training, validation and test list.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first; None if nothing says what they are.
        num_channels: how many channels the network takes; None takes the first readable case's as the rule.

    Attributes:
        cases: what will be opened.
        problems: those of the dataset as a whole: a `dataset.json` that cannot be used, contradicting class names or
            folds, two cases of one name.
        tallies: after iterating, one per foreground class, of the labeled cases without problems.
        partly_unknown: after iterating, how many of those have unknown voxels.

    Raises:
        DataError: there is no case to open.
    """

    def __init__(
        self, dataset_dir: str | Path, class_names: Sequence[str] | None, num_channels: int | None = None
    ) -> None:
        self.folder = Path(dataset_dir)
        self.class_names = [str(value) for value in range(IGNORE_INDEX)] if class_names is None else class_names
        self.num_channels = num_channels
        self.tallies = {name: ClassTally() for name in self.class_names[1:]}
        self.partly_unknown = 0
        self.problems: list[str] = []
        self.ignore_label: int | None = None
        self._learned: set[int] = set()
        description = self._described(class_names)
        announced = description.get("numTraining")
        self._announced = announced if isinstance(announced, int) else None
        self._unlisted = self._find_unlisted(description)
        training, validation, test = (self._listed(key, description) for key in ("training", "validation", "test"))
        self._training = [*training, *validation]
        self.cases = [*self._training, *test]
        if not self._training and not self.problems:
            load_cases(dataset_dir)  # its message says what a dataset needs
        self.problems += [message for cases in (self._training, test) for message in name_problems(cases)]
        try:
            split = given_split(self.folder, *([case for case in c if case.label] for c in (training, validation)))
            count_folds(self.folder, split, DEFAULT_NUM_FOLDS, description.get("num_folds"))
        except SegbundleError as error:
            self.problems.append(str(error))

    def _described(self, class_names: Sequence[str] | None) -> dict[str, Any]:
        """The content of `dataset.json`, or nothing where it cannot be used: then folders say what cases there are."""
        description: dict[str, Any] = {}
        try:
            description = read_description(self.folder)
            self.ignore_label = described_labels(self.folder).ignore_label
            if class_names is not None:
                check_class_names(self.folder, class_names)
        except DataError as error:
            self.problems.append(str(error))
        return description

    def _find_unlisted(self, description: dict[str, Any]) -> str | None:
        try:
            return unlisted_in_words(self.folder, description)
        except DataError:  # lists that cannot be used are a problem of their own
            return None

    def _listed(self, key: str, description: dict[str, Any]) -> list[Case]:
        if key == "validation" and not description.get(key):
            return []
        try:
            cases, malformed = list_cases(self.folder, key, description)
        except DataError as error:
            if not self.folder.is_dir():
                raise
            cases, malformed = [], [str(error)]
        self.problems += malformed
        return cases

    @property
    def notes(self) -> list[str]:
        """After iterating: what is no problem, and yet worth knowing before a training."""
        unlabeled = [case.name for case in self._training if case.label is None]
        notes = [unlabeled_in_words(self.folder, unlabeled, len(self._training))] if unlabeled else []
        if self._unlisted:
            notes.append(self._unlisted)
        if self._announced not in (None, len(self._training)):
            notes.append(f"dataset.json has numTraining {self._announced}, but {len(self._training)} cases were found.")
        unseen = [name for index, name in enumerate(self.class_names) if index > 0 and index not in self._learned]
        if unseen:
            notes.append(f"no training case holds {', '.join(unseen)}: a network cannot learn a class from none.")
        return notes

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[tuple[Case, list[str]]]:
        """Each case with its problems, one line each, after opening it."""
        for number, case in enumerate(self.cases):
            try:
                problems, values = self._examine(case)
                if case.label is not None and not problems:
                    self._count(case, values)
                    self._learned |= values if number < len(self._training) else set()
            except Exception as error:  # whatever a damaged file raises is this case's problem, and no other's
                problems = [f"case {case.name}: cannot be checked ({describe(error)})."]
            yield case, [" ".join(problem.split())[:_LONGEST] for problem in problems]

    def _examine(self, case: Case) -> tuple[list[str], set[int]]:
        if self.num_channels is None and not case.problems:
            self.num_channels = _channels(case)
        return examine_case(case, self.class_names, self.num_channels, self.ignore_label)

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
