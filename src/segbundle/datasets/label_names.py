"""Read the class names, label values and ignore label of a dataset, and compare them with those of a task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.class_values import class_values
from segbundle.classes import Classes
from segbundle.datasets.bids import bids_cases, is_bids
from segbundle.datasets.description import LISTS, read_description
from segbundle.datasets.description_file import find_description, root_of
from segbundle.datasets.folders import some
from segbundle.errors import ConfigError, DataError
from segbundle.files.documents import shortened
from segbundle.io.label_tables import find_label_table, read_label_table, table_class_names
from segbundle.io.segments import find_class
from segbundle.terminal import escaped

_VALUE = re.compile(r"[0-9]{1,9}$")


class DescribedLabels(NamedTuple):
    """Class names and ignore label of `dataset.json`.

    Attributes:
        class_names: names in the order of the label values; None (default) if the file does not have `labels`.
        ignore_label: value of voxels whose class is unknown; None (default) if the file defines no ignore label.
        by_name: True if label values may differ between label maps, and a `dseg.tsv` gives the name of each label value
            (default False).
        classes: label values by class name, as in the setting `classes`; None (default) if they are 0, 1, 2, ... in
            the order of the names.

    Example:
        >>> DescribedLabels(["background", "liver"]).ignore_label is None
        True
    """

    class_names: list[str] | None = None
    ignore_label: int | None = None
    by_name: bool = False
    classes: dict[str, Any] | None = None


def described_labels(dataset_dir: str | Path) -> DescribedLabels:
    """Return the class names and the ignore label of a dataset.

    `labels` may be `{"0": "background", "1": "liver"}` as in the Decathlon, `{"background": 0, "liver": 1}` as in
    nnU-Net, or a list of names. As in nnU-Net, a class may have a list of values, and these classes may overlap. The
    label named `ignore` marks unknown voxels. Without `labels`, the foreground classes come from VISTA3D's
    `original_label_dict` or `label_dict`, if its keys are 1, 2, 3, ... without a gap; for BIDS, from the `dseg.tsv`
    files of the label maps.

    Args:
        dataset_dir: see `load_cases`.

    Raises:
        DataError: `dataset.json` is invalid, two classes have the same label values, or `regions_class_order`
            contradicts the regions.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "ignore": 2}}')
        ...     described_labels(Path(folder))
        DescribedLabels(class_names=['background', 'liver'], ignore_label=2, by_name=False, classes=None)
    """
    path, description = find_description(dataset_dir).path, read_description(dataset_dir)
    labels = description.get("labels")
    if labels is None or labels == {}:
        labels = _vista_labels(description)
    if labels is None:
        return _of_bids(dataset_dir, description)
    named = _named_values(path, labels)
    singles = [(value, name) for name, value in named if isinstance(value, int)]
    duplicates = [value for value, count in Counter(value for value, _ in singles).items() if count > 1]
    if duplicates:
        same = ", ".join(repr(name) for value, name in singles if value == duplicates[0])
        raise DataError(
            f"{path}: `labels` gives the value {duplicates[0]} to {same}; give every class a different value."
        )
    ignored = [value for name, value in named if name.lower() == "ignore"]
    if len(ignored) > 1 or any(not isinstance(value, int) for value in ignored):
        raise DataError(f"{path}: `labels` gives `ignore` several values; give it one.")
    classes = {name: value for name, value in named if name.lower() != "ignore"}
    background = next((name for name, value in classes.items() if 0 in as_list(value)), None)
    elsewhere = [value for name, value in classes.items() if name.lower() == "background" and name != background]
    if elsewhere:
        raise DataError(f"{path}: `labels` gives the background the value {elsewhere[0]}; it must be 0.")
    if all(isinstance(value, int) for value in classes.values()):
        classes = dict(sorted(classes.items(), key=lambda item: item[1]))
    elif background is not None:
        classes = {background: classes[background], **classes}
    try:
        found = class_values(classes)
    except ConfigError as error:
        raise DataError(f"{path}: `labels` is invalid: {str(error).removeprefix('classes: ')}") from error
    if ignored and ignored[0] in {0, *found.loaded}:
        raise DataError(f"{path}: `labels` gives `ignore` the value {ignored[0]} of a class; give it another value.")
    _check_class_order(path, description.get("regions_class_order"), classes, background)
    return DescribedLabels(found.names, ignored[0] if ignored else None, False, None if found.is_identity else classes)


def as_list(value: Any) -> list[Any]:
    """Return a copy of a list, or a list that contains only the given value.

    Args:
        value: label value, or list of label values.

    Example:
        >>> as_list(5), as_list([2, 3])
        ([5], [2, 3])
    """
    return list(value) if isinstance(value, list) else [value]


def _check_class_order(path: Path, order: Any, classes: Mapping[str, Any], background: str | None) -> None:
    """Raise an error if nnU-Net would paint the regions in an order in which a larger one covers a smaller one."""
    if order is None:
        return
    painted = [(name, set(as_list(value))) for name, value in classes.items() if name != background]
    values = [set(as_list(value)) for value in order] if isinstance(order, list) else []
    if len(values) != len(painted):
        raise DataError(
            f"{path}: `regions_class_order` is {shortened(order)}; it needs one label value for each of the "
            f"{len(painted)} regions in `labels`."
        )
    for index, ((name, region), own) in enumerate(zip(painted, values, strict=True)):
        if not own <= region:
            raise DataError(
                f"{path}: `regions_class_order` gives {name} the value {min(own)}, which is not one of its label "
                "values. Correct the order."
            )
        inside = next((other for other, smaller in painted[:index] if smaller < region), None)
        if inside is not None:
            raise DataError(f"{path}: `labels` names {inside} before {name}, which contains it. Name {name} first.")


def _of_bids(dataset_dir: str | Path, description: Mapping[str, Any]) -> DescribedLabels:
    """Return the names in the `dseg.tsv` files of a BIDS dataset, in the order of the values of the first file."""
    file = find_description(dataset_dir)
    root = root_of(file, description)
    if not is_bids(root) or (root / "imagesTr").is_dir() or any(description.get(key) for key in LISTS):
        return DescribedLabels()
    cases, _ = bids_cases(root, description.get("bids") or {})
    tables = dict.fromkeys(table for case in cases if case.label and (table := find_label_table(case.label)))
    names, ignored = list[str](), set[int | None]()
    for table in tables:
        own, ignore_label = table_class_names(read_label_table(table))
        names += [name for name in own if find_class(name, names) is None]
        ignored.add(ignore_label)
    if len(ignored) > 1:
        raise DataError(
            f"{escaped(root)}: its dseg.tsv files give `ignore` different values. Use the same value in all of them."
        )
    return DescribedLabels(names, next(iter(ignored)), by_name=True) if names else DescribedLabels()


def _vista_labels(description: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the labels of a VISTA3D datalist with the background, or None if there are none or values are missing."""
    for key in ("original_label_dict", "label_dict"):
        names = description.get(key)
        if isinstance(names, dict) and set(names) == {str(value) for value in range(1, len(names) + 1)}:
            return {"0": "background", **names}
    return None


def _named_values(path: Path, labels: Any) -> list[tuple[str, Any]]:
    """Return the name and the value, or list of values, of every entry of `labels`."""
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
        if not as_list(value) or not all(_is_value(each) for each in as_list(value)):
            raise DataError(
                f"{path}: labels.{escaped(str(name))} is {shortened(value)}; `labels` must give each class one "
                "integer, or a list of integers."
            )
        if not isinstance(name, (str, int)) or isinstance(name, bool) or escaped(str(name)) != str(name) or name == "":
            raise DataError(
                f"{path}: labels.{escaped(str(value))} is {shortened(name)}; it must be the name of a class."
            )
    return [
        (str(name), [int(each) for each in value] if isinstance(value, list) else int(value)) for value, name in pairs
    ]


def _is_value(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and _VALUE.match(str(value)) is not None


def check_class_names(
    dataset_dir: str | Path, class_names: Sequence[str], classes: Mapping[str, Any] | None = None
) -> None:
    """Raise an error if the class names of a task differ from those of the dataset, ignoring case.

    Args:
        dataset_dir: see `load_cases`.
        class_names: classes of the task, background first.
        classes: label values by class name, see `segbundle.class_values.class_values`. If they are given, the names are
            not compared. Default: None.

    Raises:
        DataError: the number of classes or a name differs, the classes of the dataset overlap, or `dataset.json` is
            invalid. For BIDS datasets with `dseg.tsv`, only a class of the task that no table names is an error.
        ConfigError: a name in `class_names` is invalid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver"}}')
        ...     check_class_names(folder, ["background", "Liver"])
    """
    labels, names = described_labels(Path(dataset_dir)), Classes(class_names).names
    described = labels.class_names
    if classes:
        return
    if labels.classes is not None and class_values(labels.classes).members is not None:
        raise DataError(
            f"{find_description(dataset_dir).path}: its `labels` overlap. Add them to the task as classes: "
            f"{_in_yaml(labels.classes)}, and remove class_names; or run `segbundle plan`."
        )
    if described is None or [n.lower() for n in described] == [n.lower() for n in names]:
        return
    if labels.by_name:
        unknown = [name for name in names[1:] if find_class(name, described) is None]
        if not unknown:
            return
        raise DataError(
            f"{escaped(dataset_dir)}: its dseg.tsv names the classes {', '.join(described)}, but not {unknown[0]!r} of "
            "the task. Correct class_names or the table; or set dataset_dir to a JSON file with `dataroot` and "
            "`labels`."
        )
    raise DataError(
        f"{find_description(dataset_dir).path}: its labels differ from the task's class_names: "
        f"{_difference(described, names)}. Correct one of them."
    )


def _in_yaml(classes: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in classes.items()) + "}"


def _difference(described: Sequence[str], names: Sequence[str]) -> str:
    """Return how the class names of a task differ from those of the dataset: names of only one, or other values."""
    known, wanted = {name.lower() for name in described}, {name.lower() for name in names}
    parts = [
        f"{len(only)} {where} ({some(only)})"
        for only, where in (
            ([name for name in described if name.lower() not in wanted], "only in the dataset"),
            ([name for name in names if name.lower() not in known], "only in class_names"),
        )
        if only
    ]
    if parts:
        return ", ".join(parts)
    order = [name.lower() for name in names]
    values = [(value, name, order.index(name.lower())) for value, name in enumerate(described)]
    moved = [f"{name} is {value}, not {other}" for value, name, other in values if value != other]
    return f"other label values of {len(moved)} classes ({some(moved, 3)})"
