"""A dataset's `dataset.json`: its lists of cases, its label values and their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from segbundle.classes import Classes
from segbundle.datasets.folders import escaped
from segbundle.errors import DataError
from segbundle.files.documents import read_json, shortened, validate

FILE_NAME = "dataset.json"
LISTS = ("training", "validation", "test", "testing")
_SECTIONS_IN_FOLDS = ("training", "validation")
_OTHER_FOLD_KEYS = frozenset(
    ("fold", "folds", "foldid", "foldidx", "foldindex", "foldno", "foldnumber", "cvfold", "kfold", "split", "splits")
)
"""Keys of cases by which other programs name a case's fold, without their capitals and word separators."""
_OTHER_NUM_FOLDS_KEYS = frozenset(
    ("numfolds", "nfolds", "nfold", "numberoffolds", "kfolds", "cvfolds", "numsplits", "nsplits", *_OTHER_FOLD_KEYS)
)
"""The same for keys of the whole file."""
_VALUE = re.compile(r"[0-9]{1,9}$")
_NO_LETTER = re.compile(r"[\W_]+")
_STRICT: Any = {"strict": True, "extra": "allow"}


class ListedCase(TypedDict, total=False):
    """An entry of a list of cases; a path alone stands for its `image`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    image: list[str]
    label: str | None
    annotated: list[str] | None
    fold: int | None


_ENTRY_KEYS = frozenset(ListedCase.__annotations__)


class MappedCase(TypedDict):
    """An entry of nnU-Net's `dataset` mapping, whose key is the case's name."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    images: list[str]
    label: str | None


class _Description(TypedDict, total=False):
    """The keys of `dataset.json` that are used; entries of lists are checked one by one."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    training: list[Any] | None
    validation: list[Any] | None
    test: list[Any] | None
    testing: list[Any] | None
    dataset: dict[str, Any] | None
    channel_names: list[str] | None
    modality: list[str] | None
    num_folds: int | None


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of a dataset's `dataset.json`, or an empty dict where there is none.

    `channel_names` and `modality` come as lists.

    Raises:
        DataError: the file is not valid JSON, or a key holds a value of a wrong type.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return {}
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object with keys such as `labels`, found {shortened(content)}.")
    for key in ("channel_names", "modality"):
        content[key] = _as_list(content.get(key))
    if isinstance(content.get("dataset"), str):  # a name, as some programs write
        del content["dataset"]
    description: dict[str, Any] = validate(content, _Description, str(path))
    for key, known in _misspelt(description, frozenset({*LISTS, "labels", "channel_names"})):
        raise DataError(f"{path}: has {key!r}: did you mean {known!r}?")
    for key in other_spellings(content, _OTHER_NUM_FOLDS_KEYS, "num_folds"):
        raise DataError(
            f"{path}: has {key!r}, which is not read: did you mean 'num_folds'? Folds may also be given by a `fold` of "
            "each case, or by nnU-Net's splits_final.json."
        )
    return {key: value for key, value in description.items() if value is not None}


def _as_list(value: Any) -> Any:
    """nnU-Net and the Decathlon number channels as keys of a mapping; one channel may be a word."""
    if isinstance(value, Mapping):
        return list(value.values())
    return [value] if isinstance(value, str) else value


def _misspelt(content: Mapping[str, Any], known: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Keys that are nearly one of the known ones that are missing."""
    missing = known.difference(content)
    for key in content.keys() - known:
        near = _nearest(key, missing)
        if near is not None:
            yield key, near


def other_spellings(names: Iterable[str], meant: Collection[str], known: str) -> list[str]:
    """Return the names that mean the same as a known name; the known name is none of them.

    Args:
        names: for instance keys of a mapping.
        meant: what has the same meaning, in lower case, letters and digits only.
        known: the name as it is read.
    """
    return sorted(name for name in names if name != known and _NO_LETTER.sub("", name.lower()) in meant)


@lru_cache(maxsize=1000)
def _nearest(key: str, known: frozenset[str]) -> str | None:
    return next(iter(get_close_matches(key, known, n=1, cutoff=0.8)), None)


def listed_case(path: Path, key: str, number: int | str, entry: Any) -> ListedCase:
    """Return an entry of a list of cases, checked.

    Args:
        path: of the `dataset.json`.
        key: of the list.
        number: of the entry in it, or its name.
        entry: `{"image": ..., "label": ..., "annotated": [...], "fold": 0}`, or a path.

    Raises:
        DataError: a value of a wrong type, no image, or a key that is nearly a known one.
    """
    place = f"{path}: {key}[{number}]" if isinstance(number, int) else f"{path}: {key}.{escaped(number)}"
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise DataError(f'{place} is {shortened(entry)}; {{"image": path, "label": path}} or a path is needed.')
    entry = dict(entry)
    for name, known in _misspelt(entry, _ENTRY_KEYS):
        raise DataError(f"{place} has {name!r}: did you mean {known!r}?")
    for name in other_spellings(entry, _OTHER_FOLD_KEYS, "fold") if key in _SECTIONS_IN_FOLDS else ():
        raise DataError(f"{place} has {name!r}, which is not read: did you mean 'fold', with the values 0, 1, 2, ...?")
    if isinstance(entry.get("image"), str):
        entry["image"] = [entry["image"]]
    if not entry.get("image") or entry["image"] == [""]:
        raise DataError(f"{place} has no `image`: {shortened(entry)}.")
    schema = dict[str, dict[Any, ListedCase]]
    checked: ListedCase = validate({key: {number: entry}}, schema, str(path))[key][number]
    return checked


def mapped_case(path: Path, name: str, entry: Any) -> ListedCase:
    """Return an entry of nnU-Net's `dataset` mapping as one of a list; see `listed_case`."""
    if isinstance(entry, dict) and isinstance(entry.get("images"), str):
        entry = {**entry, "images": [entry["images"]]}
    validate({"dataset": {name: entry}}, dict[str, dict[str, MappedCase]], str(path))
    return listed_case(path, "dataset", name, {**entry, "image": entry["images"]})


class DescribedLabels(NamedTuple):
    """Class names by value, or None where `dataset.json` has none, and the value of unknown voxels."""

    class_names: list[str] | None = None
    ignore_label: int | None = None


def described_labels(folder: Path) -> DescribedLabels:
    """Return class names by label value, and the label called `ignore`, as `dataset.json` has them.

    Understands Decathlon's `{"0": "background", "1": "liver"}` and nnU-Net's `{"background": 0, "liver": 1}`.

    Raises:
        DataError: values that are not 0, 1, 2, ... (nnU-Net's region-based labels among them), or given twice.
    """
    labels = read_description(folder).get("labels")
    if labels is None or labels == {}:
        return DescribedLabels()
    path = folder / FILE_NAME
    names = _names_by_value(path, labels)
    by_value = dict(names)
    twice = [value for value, count in Counter(value for value, _ in names).items() if count > 1]
    if twice:
        same = ", ".join(repr(name) for value, name in names if value == twice[0])
        raise DataError(f"{path}: `labels` gives the value {twice[0]} to {same}; give every class a value of its own.")
    ignored = [value for value, name in by_value.items() if name.lower() == "ignore"]
    for value in ignored:
        del by_value[value]
    if len(ignored) > 1 or sorted(by_value) != list(range(len(by_value))):
        raise DataError(
            f"{path}: the values of `labels` are {shortened(sorted(by_value))}, and must be 0, 1, 2, ... without a "
            "gap, apart from one called ignore."
        )
    elsewhere = [value for value, name in by_value.items() if name.lower() == "background" and value > 0]
    if elsewhere:
        raise DataError(f"{path}: `labels` gives the value {elsewhere[0]} to the background, which must have 0.")
    return DescribedLabels([by_value[value] for value in range(len(by_value))], ignored[0] if ignored else None)


def _names_by_value(path: Path, labels: Any) -> list[tuple[int, str]]:
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
            raise DataError(f"{path}: labels.{value} is {shortened(name)}; a class's name is needed.")
    return [(int(value), str(name)) for value, name in pairs]


def check_class_names(dataset_dir: str | Path, class_names: Sequence[str]) -> None:
    """Refuse a task whose `class_names` contradict the dataset's own, upper and lower case aside.

    Raises:
        DataError: another number of classes, or another name at some label value.
    """
    described, names = described_labels(Path(dataset_dir)).class_names, Classes(class_names).names
    if described is None or [n.lower() for n in described] == [n.lower() for n in names]:
        return
    raise DataError(
        f"{Path(dataset_dir) / FILE_NAME}: its labels are {described}, the task's class_names are {names}; "
        "correct whichever is wrong."
    )
