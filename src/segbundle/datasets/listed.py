"""List the cases in `dataset.json` or a datalist, in the formats of the Decathlon, MONAI and nnU-Net."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
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
from segbundle.datasets.description import ListedCase, listed_case, mapped_case
from segbundle.datasets.description_file import DescriptionFile, root_of
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


def listed_cases(file: DescriptionFile, description: Mapping[str, Any], key: str) -> tuple[list[Case], list[str]]:
    """Return the cases of a list, and a message for each invalid entry.

    A case is named after its (first) image. If several entries have the same name, each name is prefixed with the names
    of folders, as in `patient_1_ct`.

    Args:
        file: file of the description.
        description: content of the file.
        key: key of an existing list (see `has_list`).

    Returns:
        a pair: the cases, in the order of the list, and one message per invalid entry

    Raises:
        DataError: both `training` and `dataset` list cases, or the folder `dataroot` does not exist.

    Example:
        >>> file = DescriptionFile(Path("data/dataset.json"), Path("data"))
        >>> cases, problems = listed_cases(file, {"training": ["a.nii", 7]}, "training")
        >>> [case.name for case in cases], problems[0][:38]
        (['a'], 'data/dataset.json: training[1] is 7; i')
    """
    channels, root = num_channels(description), root_of(file, description)
    together = [key, *({"training": ["validation"], "validation": ["training"]}.get(key, []))]
    names = _names_of_images([entry for each in together for entry in description.get(each) or []])
    cases: list[Case] = []
    malformed: list[str] = []
    for name, number, entry in _entries(file, description, key):
        try:
            checked = _checked(file.path, key, name, number, entry)
            case = _listed_case(root, name, checked, channels)
        except DataError as error:
            malformed.append(str(error))
            continue
        prefix = "" if name is not None else names.get(checked["image"][0], "")
        cases.append(replace(case, name=prefix + case.name))
    return cases, malformed


def is_nnunet_v1(root: Path, description: Mapping[str, Any]) -> bool:
    """Return whether a dataset lists its images as nnU-Net v1 does, by its first training entry.

    nnU-Net v1 lists `case.nii.gz`, which does not exist, for the channel files `case_0000.nii.gz`,
    `case_0001.nii.gz`, ...

    Args:
        root: folder that paths are relative to.
        description: content of `dataset.json`.

    Example:
        >>> is_nnunet_v1(Path("data"), {"training": [{"image": "a.nii"}]})
        False
    """
    first = next(iter(description.get("training") or []), None)
    written = first.get("image") if isinstance(first, dict) else first
    if not isinstance(written, str) or not written:
        return False
    path = _resolve_path(root, written)
    return not os.path.lexists(path) and _channels_of(path, 1) != (path,)


def _names_of_images(entries: Sequence[Any]) -> dict[str, str]:
    """Return the folders that precede the case names of images with equal names: as few as tell these apart."""
    written = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    firsts = [path[0] if isinstance(path, list) and path else path for path in written]
    paths = list(dict.fromkeys(path for path in firsts if isinstance(path, str)))
    parts = {
        path: [part for part in PurePath(path.replace("\\", "/")).parts if part not in ("..", "/")] for path in paths
    }
    count = Counter(stem(path) for path in paths)
    prefixes: dict[str, str] = {}
    for name in (name for name, number in count.items() if number > 1):
        same = [path for path in paths if stem(path) == name]
        for depth in range(1, max(len(parts[path]) for path in same)):
            found = {path: "".join(f"{part}_" for part in parts[path][-1 - depth : -1]) for path in same}
            if len(set(found.values())) == len(same):
                prefixes |= found
                break
    return prefixes


def unlisted_in_words(file: DescriptionFile, description: Mapping[str, Any]) -> str | None:
    """Return a message about cases of `imagesTr` and `labelsTr` that `dataset.json` does not list; None without any.

    Args:
        file: file of the description.
        description: content of the file.

    Raises:
        DataError: both `training` and `dataset` list cases, or the folder `dataroot` does not exist.

    Example:
        >>> unlisted_in_words(DescriptionFile(Path("data/dataset.json"), Path("data")), {}) is None
        True
    """
    if not has_list(description, "training"):
        return None
    root = root_of(file, description)
    images, labels = root / "imagesTr", root / "labelsTr"
    if not (images.is_dir() and labels.is_dir()):
        return None
    used = {real_path(path) for case in _all_listed(file, description) for path in case.image}
    tree, labeled = list_tree(images), {label_stem(path) for path in list_tree(labels).files}
    found = {case: path for path in tree.files for case in (stem(path), case_of_channel(path)) if case in labeled}
    found |= {path_name(path, images): path for path in tree.dicom if path_name(path, images) in labeled}
    unlisted = sorted(case for case, path in found.items() if real_path(path) not in used)
    if not unlisted:
        return None
    count = f"{len(unlisted)} case{'s' * (len(unlisted) > 1)}"
    return f"{file.path}: does not list {count} of imagesTr and labelsTr, which will not be used: {some(unlisted)}"


def _all_listed(file: DescriptionFile, description: Mapping[str, Any]) -> Iterator[Case]:
    for key in ("training", *(key for key, value in description.items() if key != "training")):
        if has_list(description, key):
            yield from listed_cases(file, description, key)[0]


def num_channels(description: Mapping[str, Any]) -> int:
    """Return the number of channels named in `dataset.json`; 1 if no channels are named.

    Args:
        description: content of `dataset.json`.

    Example:
        >>> num_channels({"channel_names": ["T1", "T2"]}), num_channels({})
        (2, 1)
    """
    return len(description.get("channel_names") or description.get("modality") or [None])


def _entries(file: DescriptionFile, description: Mapping[str, Any], key: str) -> list[tuple[str | None, int, Any]]:
    """Return the entries of a list, each with its name (or None) and index."""
    entries = description.get(key, description.get(_ALIASES.get(key, key))) or []
    mapping = description.get("dataset", {}) if key == "training" else {}
    if mapping and entries:
        raise DataError(f"{file.path}: has both `training` and `dataset`. Remove one of them.")
    named = [(name, number, entry) for number, (name, entry) in enumerate(mapping.items())]
    return named or [(None, number, entry) for number, entry in enumerate(entries)]


def _checked(path: Path, key: str, name: str | None, number: int, entry: Any) -> ListedCase:
    return listed_case(path, key, number, entry) if name is None else mapped_case(path, name, entry)


def _listed_case(folder: Path, name: str | None, entry: ListedCase, channels: int) -> Case:
    """Return the case of an entry; nnU-Net allows environment variables in the paths of its `dataset` mapping."""
    label_name = entry.get("label")
    if name is not None:
        entry = {**entry, "image": [os.path.expandvars(path) for path in entry["image"]]}
        label_name = os.path.expandvars(label_name) if label_name else None
    paths = tuple(_resolve_path(folder, part) for part in entry["image"])
    label = _resolve_path(folder, label_name) if label_name else None
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
        properties=_properties(entry),
    )


def _properties(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of an entry that segbundle does not interpret, if their values are text or numbers."""
    others = {key: value for key, value in entry.items() if key not in ListedCase.__annotations__}
    return {key: str(value) for key, value in others.items() if isinstance(value, str | int | float)}


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
