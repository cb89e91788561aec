"""What a dataset's `dataset.json` says about it as a whole: its label values and their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.classes import Classes
from segbundle.errors import DataError


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a dataset's `dataset.json`, or an empty dict where there is none.

    Raises:
        DataError: the file is not valid JSON, or not a JSON object.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(description, dict):
        raise DataError(f"{path}: must hold a JSON object, found a {type(description).__name__}.")
    return description


class DescribedLabels(NamedTuple):
    """What a `dataset.json` says about label values: names by value, or None, and the value of unknown voxels."""

    class_names: list[str] | None = None
    ignore_label: int | None = None


def described_labels(folder: Path) -> DescribedLabels:
    """Class names by label value, and the label called `ignore` (nnU-Net's name for it), as `dataset.json` has them.

    Understands Decathlon's `{"0": "background", "1": "liver"}` and nnU-Net's `{"background": 0, "liver": 1}`.

    Raises:
        DataError: values that are not 0, 1, 2, ... (nnU-Net's region-based labels among them).
    """
    labels = read_description(folder).get("labels")
    if not labels:
        return DescribedLabels()
    try:
        if all(str(key).isdigit() for key in labels):
            by_value = {int(value): str(name) for value, name in labels.items()}
        else:
            by_value = {int(value): str(name) for name, value in labels.items()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder / 'dataset.json'}: `labels` must give each class one integer; "
            "label regions (lists of integers) are not supported."
        ) from error
    ignored = [value for value, name in by_value.items() if name.lower() == "ignore"]
    for value in ignored:
        del by_value[value]
    if len(ignored) > 1 or sorted(by_value) != list(range(len(by_value))):
        raise DataError(
            f"{folder / 'dataset.json'}: label values are {sorted(by_value)}, and must be 0, 1, 2, ... without a gap, "
            "apart from one called ignore."
        )
    return DescribedLabels([by_value[value] for value in range(len(by_value))], ignored[0] if ignored else None)


def check_class_names(dataset_dir: str | Path, class_names: Sequence[str]) -> None:
    """Refuse a task whose `class_names` contradict the dataset's own, upper and lower case aside.

    Raises:
        DataError: another number of classes, or another name at some label value.
    """
    described, names = described_labels(Path(dataset_dir)).class_names, Classes(class_names).names
    if described is None or [n.lower() for n in described] == [n.lower() for n in names]:
        return
    raise DataError(
        f"{Path(dataset_dir) / 'dataset.json'}: its labels are {described}, the task's class_names are {names}; "
        "correct whichever is wrong."
    )
