"""List the cases in `dataset.json`, in the formats of the Decathlon, MONAI and nnU-Net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.datasets.case import (
    CHANNEL,
    Case,
    case_of_channel,
    channel_files,
    path_name,
    path_problems,
    real_path,
)
from segbundle.datasets.description import FILE_NAME, ListedCase, listed_case, mapped_case
from segbundle.datasets.folders import list_tree, some
from segbundle.errors import DataError
from segbundle.io.scan_files import label_stem, stem

_ALIASES = {"test": "testing"}


def has_list(description: Mapping[str, Any], key: str) -> bool:
    """Return whether `dataset.json` has a list of cases.

    MONAI's key `testing` counts as `test`, and nnU-Net's `dataset` mapping as `training`.

    Args:
        description: content of `dataset.json`.
        key: key of the list.

    Example:
        >>> has_list({"testing": []}, "test")
        True
    """
    mapped = key == "training" and bool(description.get("dataset"))
    return mapped or isinstance(description.get(key, description.get(_ALIASES.get(key, key))), list)


def listed_cases(folder: Path, description: Mapping[str, Any], key: str) -> tuple[list[Case], list[str]]:
    """Return the cases of a list in `dataset.json`, and a message for each invalid entry.

    Args:
        folder: folder of the dataset.
        description: content of `dataset.json`.
        key: key of an existing list (see `has_list`).

    Raises:
        DataError: both `training` and `dataset` list cases.

    Example:
        >>> cases, problems = listed_cases(Path("data"), {"training": ["a.nii", 7]}, "training")
        >>> [case.name for case in cases], problems[0][:38]
        (['a'], 'data/dataset.json: training[1] is 7; i')
    """
    channels = num_channels(description)
    cases: list[Case] = []
    malformed: list[str] = []
    for name, number, entry in _entries(folder, description, key):
        try:
            cases.append(_listed_case(folder, name, _checked(folder, key, name, number, entry), channels))
        except DataError as error:
            malformed.append(str(error))
    return cases, malformed


def unlisted_in_words(folder: Path, description: Mapping[str, Any]) -> str | None:
    """Return a message about cases of `imagesTr` and `labelsTr` that `dataset.json` does not list; None without any.

    Args:
        folder: folder of the dataset.
        description: content of `dataset.json`.

    Raises:
        DataError: both `training` and `dataset` list cases.

    Example:
        >>> unlisted_in_words(Path("data"), {}) is None
        True
    """
    images, labels = folder / "imagesTr", folder / "labelsTr"
    if not has_list(description, "training") or not (images.is_dir() and labels.is_dir()):
        return None
    used = {real_path(path) for case in _all_listed(folder, description) for path in case.image}
    tree, labeled = list_tree(images), {label_stem(path) for path in list_tree(labels).files}
    found = {case: path for path in tree.files for case in (stem(path), case_of_channel(path)) if case in labeled}
    found |= {path_name(path, images): path for path in tree.dicom if path_name(path, images) in labeled}
    unlisted = sorted(case for case, path in found.items() if real_path(path) not in used)
    if not unlisted:
        return None
    count = f"{len(unlisted)} case{'s' * (len(unlisted) > 1)}"
    return (
        f"{folder / FILE_NAME}: does not list {count} of imagesTr and labelsTr, which will not be used: "
        f"{some(unlisted)}"
    )


def _all_listed(folder: Path, description: Mapping[str, Any]) -> list[Case]:
    keys = ["training", *(key for key, value in description.items() if key != "training" and isinstance(value, list))]
    return [case for key in keys for case in listed_cases(folder, description, key)[0]]


def num_channels(description: Mapping[str, Any]) -> int:
    """Return the number of channels named in `dataset.json`; 1 if it does not name channels.

    Args:
        description: content of `dataset.json`.

    Example:
        >>> num_channels({"channel_names": ["T1", "T2"]}), num_channels({})
        (2, 1)
    """
    return len(description.get("channel_names") or description.get("modality") or [None])


def _entries(folder: Path, description: Mapping[str, Any], key: str) -> list[tuple[str | None, int, Any]]:
    """Return the entries of a list in `dataset.json`, each with its name (or None) and index."""
    entries = description.get(key, description.get(_ALIASES.get(key, key))) or []
    mapping = description.get("dataset", {}) if key == "training" else {}
    if mapping and entries:
        raise DataError(f"{folder / FILE_NAME}: has both `training` and `dataset`. Remove one of them.")
    named = [(name, number, entry) for number, (name, entry) in enumerate(mapping.items())]
    return named or [(None, number, entry) for number, entry in enumerate(entries)]


def _checked(folder: Path, key: str, name: str | None, number: int, entry: Any) -> ListedCase:
    path = folder / FILE_NAME
    return listed_case(path, key, number, entry) if name is None else mapped_case(path, name, entry)


def _listed_case(folder: Path, name: str | None, entry: ListedCase, channels: int) -> Case:
    """Return the case of an entry of `dataset.json`."""
    paths = tuple(_resolve_path(folder, part) for part in entry["image"])
    label = _resolve_path(folder, label_name) if (label_name := entry.get("label")) else None
    case_name = stem(paths[0]) if name is None else name
    if len(paths) == 1 and not os.path.lexists(paths[0]):
        paths = _channels_of(paths[0], channels)
    match = CHANNEL.match(case_name)
    if name is None and match and (len(paths) > 1 or (label is not None and label_stem(label) == match["case"])):
        case_name = match["case"]
    annotated = entry.get("annotated")
    return Case(
        case_name,
        paths,
        label,
        None if annotated is None else tuple(annotated),
        entry.get("fold"),
        path_problems(paths if label is None else (*paths, label)),
    )


def _resolve_path(folder: Path, written: str) -> Path:
    """Return the path of an entry; backslashes are replaced if the path does not exist as written."""
    path = folder / written
    if "\\" in written and not os.path.lexists(path):
        return folder / written.replace("\\", "/")
    return path


def _channels_of(path: Path, channels: int) -> tuple[Path, ...]:
    """Return the files `case_0000`, ... that nnU-Net v1 lists as `case`, or only the path if they do not exist."""
    name, ending = stem(path), path.name[len(stem(path)) :]
    first = path.with_name(f"{name}_0000{ending}")
    return channel_files(name, {0: first}, channels) if os.path.lexists(first) else (path,)
