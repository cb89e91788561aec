"""Read the class names and the ignore label of a dataset, and compare the names with those of a task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.classes import Classes
from segbundle.datasets.description import read_description
from segbundle.datasets.description_file import find_description
from segbundle.errors import DataError
from segbundle.files.documents import shortened
from segbundle.terminal import escaped

_VALUE = re.compile(r"[0-9]{1,9}$")


class DescribedLabels(NamedTuple):
    """Class names and ignore label of `dataset.json`.

    Attributes:
        class_names: names in the order of the label values; None (default) if the file does not have `labels`.
        ignore_label: value of voxels whose class is unknown; None (default) if the file defines no ignore label.

    Example:
        >>> DescribedLabels(["background", "liver"]).ignore_label is None
        True
    """

    class_names: list[str] | None = None
    ignore_label: int | None = None


def described_labels(dataset_dir: str | Path) -> DescribedLabels:
    """Return the class names and the ignore label of a dataset.

    `labels` may be `{"0": "background", "1": "liver"}` as in the Decathlon, `{"background": 0, "liver": 1}` as in
    nnU-Net, or a list of names. The label named `ignore` marks unknown voxels. Without `labels`, the foreground classes
    come from VISTA3D's `original_label_dict` or `label_dict`, if its values have no gap.

    Args:
        dataset_dir: see `load_cases`.

    Raises:
        DataError: `dataset.json` is invalid, or the label values are not 0, 1, 2, ..., are duplicate, or are lists
            (nnU-Net's region-based labels).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "ignore": 2}}')
        ...     described_labels(Path(folder))
        DescribedLabels(class_names=['background', 'liver'], ignore_label=2)
    """
    path, description = find_description(dataset_dir).path, read_description(dataset_dir)
    labels = description.get("labels")
    if labels is None or labels == {}:
        labels = _vista_labels(description)
    if labels is None:
        return DescribedLabels()
    names = _names_by_value(path, labels)
    by_value = dict(names)
    duplicates = [value for value, count in Counter(value for value, _ in names).items() if count > 1]
    if duplicates:
        same = ", ".join(repr(name) for value, name in names if value == duplicates[0])
        raise DataError(
            f"{path}: `labels` gives the value {duplicates[0]} to {same}; give every class a different value."
        )
    ignored = [value for value, name in by_value.items() if name.lower() == "ignore"]
    for value in ignored:
        del by_value[value]
    if len(ignored) > 1 or sorted(by_value) != list(range(len(by_value))):
        raise DataError(
            f"{path}: the values of `labels` are {shortened(sorted(by_value))}, but must be 0, 1, 2, ... without a "
            "gap. Only the label named ignore may have another value."
        )
    elsewhere = [value for value, name in by_value.items() if name.lower() == "background" and value > 0]
    if elsewhere:
        raise DataError(f"{path}: `labels` gives the background the value {elsewhere[0]}; it must be 0.")
    return DescribedLabels([by_value[value] for value in range(len(by_value))], ignored[0] if ignored else None)


def _vista_labels(description: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the labels of a VISTA3D datalist with the background, or None if there are none or values are missing."""
    for key in ("original_label_dict", "label_dict"):
        names = description.get(key)
        if isinstance(names, dict) and set(names) == {str(value) for value in range(1, len(names) + 1)}:
            return {"0": "background", **names}
    return None


def _names_by_value(path: Path, labels: Any) -> list[tuple[int, str]]:
    if isinstance(labels, list) and labels and all(isinstance(name, str) for name in labels):
        if labels[0].lower() != "background":
            raise DataError(f"{path}: `labels` begins with {labels[0]!r}; a list of names must begin with background.")
        labels = {str(value): name for value, name in enumerate(labels)}
    if not isinstance(labels, dict):
        raise DataError(
            f"{path}: `labels` is {shortened(labels)}; it must give each class one integer, for instance "
            '{"0": "background", "1": "liver"}.'
        )
    decathlon = all(_VALUE.match(key) for key in labels)
    pairs = list(labels.items()) if decathlon else [(value, name) for name, value in labels.items()]
    for value, name in pairs:
        if isinstance(value, list):
            raise DataError(
                f"{path}: labels.{escaped(str(name))} is {shortened(value)}; `labels` must give each class one "
                "integer. Label regions (lists of integers) are not supported."
            )
        if isinstance(value, bool) or not _VALUE.match(str(value)) or not isinstance(value, (int, str)):
            raise DataError(
                f"{path}: labels.{escaped(str(name))} is {shortened(value)}; `labels` must give each class one integer."
            )
        if not isinstance(name, (str, int)) or isinstance(name, bool) or escaped(str(name)) != str(name) or name == "":
            raise DataError(f"{path}: labels.{value} is {shortened(name)}; it must be the name of a class.")
    return [(int(value), str(name)) for value, name in pairs]


def check_class_names(dataset_dir: str | Path, class_names: Sequence[str]) -> None:
    """Raise an error if the class names of a task differ from those of the dataset, ignoring case.

    Args:
        dataset_dir: folder of the dataset.
        class_names: classes of the task, background first.

    Raises:
        DataError: the number of classes or a name differs, or `dataset.json` is invalid.
        ConfigError: a name in `class_names` is invalid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver"}}')
        ...     check_class_names(folder, ["background", "Liver"])
    """
    described, names = described_labels(Path(dataset_dir)).class_names, Classes(class_names).names
    if described is None or [n.lower() for n in described] == [n.lower() for n in names]:
        return
    raise DataError(
        f"{find_description(dataset_dir).path}: its labels are {described}, but the task's class_names are {names}. "
        "Correct one of them."
    )
