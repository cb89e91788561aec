"""Read the labels of a dataset as the classes of a task: subsets, merged values, and regions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segbundle.class_values import ClassValues, class_values
from segbundle.classes import Classes
from segbundle.datasets.case import Case
from segbundle.datasets.description_file import find_description
from segbundle.datasets.folders import some
from segbundle.datasets.label_names import DescribedLabels, as_list, check_class_names, described_labels
from segbundle.errors import ConfigError, DataError, suggestion


@dataclass(frozen=True)
class DatasetLabels:
    """Labels of a dataset, as the classes of a task.

    Attributes:
        class_names: classes of the task, background first.
        ignore_label: value of voxels whose class is unknown; None (default) if the dataset has no such value.
        loaded: dict from the label value in a file to the value after loading; None (default) if label maps are loaded
            unchanged. If 0 is a key, all label values of the dataset are keys, and any other value in a label map is an
            error. If 0 is not a key, values that are not keys become background.
        values: dict from the name of each foreground class of the task to its label values; empty (default) if
            `loaded` is None.
        named: dict from each name in `dataset.json` to its label values; empty (default) if `dataset.json` has no
            names or `loaded` is None.

    Example:
        >>> DatasetLabels(["background", "liver"]).entry(Case("a", (Path("a.nii"),), Path("a_seg.nii")))
        {'case': 'a', 'image': 'a.nii', 'label': 'a_seg.nii', 'annotated': [True, True]}
    """

    class_names: Sequence[str]
    ignore_label: int | None = None
    loaded: dict[int, int] | None = None
    values: Mapping[str, frozenset[int]] = field(default_factory=dict)
    named: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def annotated_mask(self, case: Case) -> list[bool]:
        """Return one bool per class of the task, True if the class is annotated in a case.

        A class is annotated if the list of the case contains its name, or the names of all its label values.

        Args:
            case: case with a label map.

        Raises:
            DataError: the `annotated` list of the case contains an unknown name.
        """
        if case.annotated is None or self.loaded is None:
            return _mask(case, case.annotated, self.class_names)
        known = frozenset(value for name in case.annotated for value in self.named.get(name, ()))
        direct = [name for name in case.annotated if name not in self.named]
        merged = [name for name, values in self.values.items() if values <= known]
        return _mask(case, [*direct, *merged], self.class_names)

    def unannotated(self, case: Case, values: Collection[int]) -> Iterator[tuple[str, int]]:
        """Yield name and label value of each label of the dataset that is present in a label map, but not annotated.

        Label values that are loaded as background are left out. Nothing is yielded if all classes are annotated, or if
        `loaded` is None.

        Args:
            case: case with a label map.
            values: label values in the label map.
        """
        if case.annotated is None or self.loaded is None:
            return
        annotated = [each.get(name, frozenset()) for name in case.annotated for each in (self.named, self.values)]
        known = frozenset[int]().union(*annotated)
        used = {value for value, loaded in self.loaded.items() if loaded}
        for name, own in self.named.items():
            yield from ((name, value) for value in sorted((own - known) & used & set(values)))

    def present(self, values: Collection[int]) -> set[str]:
        """Return the names of the foreground classes in a label map.

        Args:
            values: label values in the label map.
        """
        pairs = enumerate(self.class_names)
        return {name for index, name in pairs if index and not self.values.get(name, {index}).isdisjoint(values)}

    def entry(self, case: Case) -> dict[str, Any]:
        """Return a case as an entry of a MONAI datalist, see `Case.item`.

        Args:
            case: case of the dataset.

        Returns:
            the entry, also with `ignore_label` if the dataset has one, and with `label_values` if `loaded` is not None

        Raises:
            DataError: see `annotated_mask`.
        """
        entry = replace(case, annotated=None).item(self.class_names)
        if case.label is not None:
            entry["annotated"] = self.annotated_mask(case)
        if self.ignore_label is not None:
            entry["ignore_label"] = self.ignore_label
        if self.loaded is not None:
            entry["label_values"] = self.loaded
        return entry


def _mask(case: Case, annotated: Sequence[str] | None, class_names: Sequence[str]) -> list[bool]:
    try:
        return Classes(class_names).annotated_mask(annotated)
    except ConfigError as error:
        raise DataError(f"case {case.name}: its `annotated` list in dataset.json is wrong: {error}") from error


def dataset_labels(
    dataset_dir: str | Path, class_names: Sequence[str], classes: Mapping[str, Any] | None = None
) -> DatasetLabels:
    """Return the labels of a dataset, as the classes of a task.

    Args:
        dataset_dir: see `load_cases`.
        class_names: classes of the task, background first.
        classes: label values by class name, see `segbundle.class_values.class_values`. None (default) uses the label
            values of `dataset.json`.

    Raises:
        DataError: the names differ from those of the dataset (see `check_class_names`), or the dataset does not have a
            value or name in `classes`.
        ConfigError: `classes` is invalid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     content = '{"labels": {"background": 0, "liver": 5, "left kidney": 2, "right kidney": 3}}'
        ...     _ = (Path(folder) / "dataset.json").write_text(content)
        ...     classes = {"liver": 5, "kidney": ["left kidney", "right kidney"]}
        ...     labels = dataset_labels(folder, ["background", "liver", "kidney"], classes)
        ...     labels.loaded, labels.annotated_mask(Case("a", (), annotated=("liver", "left kidney")))
        ({0: 0, 2: 2, 3: 2, 5: 1}, [True, True, False])
    """
    check_class_names(dataset_dir, class_names, classes)
    labels = described_labels(dataset_dir)
    named = {name: frozenset(values) for name, values in _values_by_name(labels).items()}
    given = classes or labels.classes
    found = class_values(given) if given else None
    if found is None or (found.is_identity and _is_complete(found, labels)):
        return DatasetLabels(class_names, labels.ignore_label)
    path, numbers = find_description(dataset_dir).path, dict[str | int, int]()
    for value in found.loaded:
        numbers[value] = _number(path, value, named, labels.ignore_label)
    loaded = {numbers[value]: index for value, index in found.loaded.items()}
    if named:  # then label values that are not listed are errors
        loaded = dict(sorted({0: 0, **{value: 0 for values in named.values() for value in values}, **loaded}.items()))
    if len(set(numbers.values())) < len(numbers):
        twice = next(value for value in numbers if list(numbers.values()).count(numbers[value]) > 1)
        raise DataError(
            f"{path}: classes contains the label value {numbers[twice]} also as a name. Remove one of them."
        )
    return DatasetLabels(class_names, labels.ignore_label, loaded, _values_of_classes(found, numbers), named)


def _is_complete(found: ClassValues, labels: DescribedLabels) -> bool:
    """Return whether classes with the values 0, 1, 2, ... have the names of a dataset, or all that it describes."""
    if labels.by_name or labels.class_names is None:
        return labels.ignore_label is None or labels.ignore_label not in found.loaded
    return labels.classes is None and [name.lower() for name in labels.class_names] == [n.lower() for n in found.names]


def _values_of_classes(found: ClassValues, numbers: Mapping[str | int, int]) -> dict[str, frozenset[int]]:
    pairs = zip(found.names[1:], found.values[1:], strict=True)
    return {name: frozenset(numbers[value] for value in values) for name, values in pairs}


def _values_by_name(labels: DescribedLabels) -> dict[str, list[int]]:
    """Return the label values of each name; empty if the dataset does not name its labels."""
    if labels.classes is not None:
        return {name: as_list(value) for name, value in labels.classes.items()}
    return {name: [value] for value, name in enumerate(labels.class_names or ())}


def _number(path: Path, value: str | int, named: Mapping[str, frozenset[int]], ignore_label: int | None) -> int:
    """Return the label value that a value or name in `classes` stands for."""
    known = {each for values in named.values() for each in values}
    if isinstance(value, str):
        if value not in named:
            if not named:
                raise DataError(
                    f"{path}: classes has the label {value!r}, but the dataset has no `labels`. Use label values "
                    "instead of names."
                )
            raise DataError(
                f"{path}: classes has the label {value!r}, which is not in the dataset{suggestion(value, named)}"
            )
        if len(named[value]) > 1:
            raise DataError(
                f"{path}: classes has the label {value!r}, which has several values. List the values instead."
            )
        return next(iter(named[value]))
    if known and value not in known:
        raise DataError(
            f"{path}: classes has the label value {value}, but the dataset has {some(sorted(known), 20)}. Correct "
            "classes."
        )
    if value == ignore_label:
        raise DataError(f"{path}: classes has the ignore label {value} of the dataset. Remove this value.")
    return value
