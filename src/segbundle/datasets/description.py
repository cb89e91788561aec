"""Read `dataset.json` or a datalist: lists of cases, channels and folds."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from segbundle.datasets.description_file import find_description
from segbundle.errors import DataError
from segbundle.files.documents import read_json, shortened, validate
from segbundle.terminal import escaped

LISTS = ("training", "validation", "test", "testing")
_SECTIONS_IN_FOLDS = ("training", "validation")
_OTHER_FOLD_KEYS = frozenset(
    ("fold", "folds", "foldid", "foldidx", "foldindex", "foldno", "foldnumber", "cvfold", "kfold", "split", "splits")
)
"""Keys of other programs for the fold of a case, in lower case and without separators."""
_OTHER_NUM_FOLDS_KEYS = frozenset(
    ("numfolds", "nfolds", "nfold", "numberoffolds", "kfolds", "cvfolds", "numsplits", "nsplits", *_OTHER_FOLD_KEYS)
)
"""Keys of other programs for the number of folds, in the same form."""
_NO_LETTER = re.compile(r"[\W_]+")
_STRICT: Any = {"strict": True, "extra": "allow"}
_ONLY_THESE: Any = {"strict": True, "extra": "forbid"}


class ListedCase(TypedDict, total=False):
    """Entry of a list of cases in `dataset.json`, as returned by `listed_case`. Only `image` is required.

    In the file, `image` may also be a single path, and an entry may be only the path of its image.

    Attributes:
        image: paths of the image, relative to the folder of the dataset: one file or DICOM folder, or one file per
            channel.
        label: path of the label map, relative to the same folder; None if the case is unlabeled.
        annotated: names of the annotated classes; None if all classes are annotated.
        fold: validation fold of the case, from 0; None if the list does not define folds.

    Example:
        >>> ListedCase(image=["imagesTr/a.nii.gz"], label="labelsTr/a.nii.gz", fold=0)["fold"]
        0
    """

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    image: list[str]
    label: str | None
    annotated: list[str] | None
    fold: int | None


_ENTRY_KEYS = frozenset(ListedCase.__annotations__)


class MappedCase(TypedDict):
    """Entry of nnU-Net's `dataset` mapping. The key of the entry is the name of the case.

    Attributes:
        images: paths of the channel files, relative to the folder of the dataset.
        label: path of the label map, relative to the same folder; None if the case is unlabeled.

    Example:
        >>> MappedCase(images=["imagesTr/a_0000.nii.gz"], label=None)["label"] is None
        True
    """

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    images: list[str]
    label: str | None


class BidsFilter(TypedDict, total=False):
    """Choice of the images and label maps of a BIDS dataset, as parts of file names: `T1w`, `ce-gad_T1w`.

    Attributes:
        images: part of the names of the images, or one part per channel.
        label: part of the names of the label maps, such as `dseg` or `label-lesion_mask`.
        derivatives: name of the folder in `derivatives` that contains the label maps.

    Example:
        >>> BidsFilter(images=["T1w"], label="dseg")["label"]
        'dseg'
    """

    __pydantic_config__ = _ONLY_THESE  # type: ignore[misc]
    images: list[str]
    label: str
    derivatives: str


class _Description(TypedDict, total=False):
    """Keys of `dataset.json` that are used. Entries of lists are checked one by one."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    training: list[Any] | None
    validation: list[Any] | None
    test: list[Any] | None
    testing: list[Any] | None
    dataset: dict[str, Any] | None
    channel_names: list[str] | None
    modality: list[str] | None
    num_folds: int | None
    file_ending: str | None
    dataroot: str | None
    bids: BidsFilter | None


def read_description(dataset_dir: str | Path) -> dict[str, Any]:
    """Return the content of `dataset.json` or of a datalist, or an empty dict if a folder has no `dataset.json`.

    `channel_names` and `modality` are returned as lists. Keys with the value null are left out.

    Args:
        dataset_dir: see `find_description`.

    Raises:
        DataError: the file cannot be read or is not valid JSON, a key is misspelled, or a value has a wrong type.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "dataset.json").write_text('{"modality": {"0": "CT"}}')
        ...     read_description(Path(folder))["modality"]
        ['CT']
    """
    path = find_description(dataset_dir).path
    if not os.path.lexists(path):
        return {}
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: must contain a JSON object with keys such as `labels`, found {shortened(content)}.")
    for key in ("channel_names", "modality"):
        content[key] = _as_list(content.get(key))
    if isinstance(content.get("bids"), dict) and isinstance(content["bids"].get("images"), str):
        content["bids"] = {**content["bids"], "images": [content["bids"]["images"]]}
    if isinstance(content.get("dataset"), str):  # a name, as some programs write
        del content["dataset"]
    description: dict[str, Any] = validate(content, _Description, str(path))
    for key, known in _misspelled(description, frozenset({*LISTS, "labels", "channel_names"})):
        raise DataError(f"{path}: unknown key {key!r}: did you mean {known!r}?")
    for key in other_spellings(content, _OTHER_NUM_FOLDS_KEYS, "num_folds"):
        raise DataError(
            f"{path}: unknown key {key!r}: did you mean 'num_folds'? Folds can also be set by a `fold` key of each "
            "case, or by nnU-Net's splits_final.json."
        )
    return {key: value for key, value in description.items() if value is not None}


def _as_list(value: Any) -> Any:
    """Return channel names as a list: nnU-Net and the Decathlon use a mapping, or a string for one channel."""
    if isinstance(value, Mapping):
        return list(value.values())
    return [value] if isinstance(value, str) else value


def _misspelled(content: Mapping[str, Any], known: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield keys that closely match a missing known key, with that key."""
    missing = known.difference(content)
    for key in content.keys() - known:
        near = _nearest(key, missing)
        if near is not None:
            yield key, near


def other_spellings(names: Iterable[str], meant: Collection[str], known: str) -> list[str]:
    """Return the names that are other spellings of a known name.

    Args:
        names: for instance the keys of a mapping.
        meant: other spellings, in lower case, with letters and digits only.
        known: the supported name, which is never returned.

    Example:
        >>> other_spellings(["Fold-ID", "fold", "image"], {"foldid"}, "fold")
        ['Fold-ID']
    """
    return sorted(name for name in names if name != known and _NO_LETTER.sub("", name.lower()) in meant)


@lru_cache(maxsize=1000)
def _nearest(key: str, known: frozenset[str]) -> str | None:
    return next(iter(get_close_matches(key, known, n=1, cutoff=0.8)), None)


def listed_case(path: Path, key: str, number: int | str, entry: Any) -> ListedCase:
    """Validate an entry of a list of cases, and return it with `image` as a list.

    Args:
        path: path of `dataset.json`.
        key: key of the list.
        number: index or name of the entry.
        entry: `{"image": ..., "label": ..., "annotated": [...], "fold": 0}`, or a path.

    Raises:
        DataError: a value has a wrong type, `image` is missing, or a key is misspelled.

    Example:
        >>> listed_case(Path("dataset.json"), "training", 0, "imagesTr/a.nii.gz")
        {'image': ['imagesTr/a.nii.gz']}
    """
    place = f"{path}: {key}[{number}]" if isinstance(number, int) else f"{path}: {key}.{escaped(number)}"
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise DataError(f'{place} is {shortened(entry)}; it must be {{"image": path, "label": path}} or a path.')
    entry = dict(entry)
    for name, known in _misspelled(entry, _ENTRY_KEYS):
        raise DataError(f"{place} has the unknown key {name!r}: did you mean {known!r}?")
    for name in other_spellings(entry, _OTHER_FOLD_KEYS, "fold") if key in _SECTIONS_IN_FOLDS else ():
        raise DataError(f"{place} has the unknown key {name!r}: did you mean 'fold', with the values 0, 1, 2, ...?")
    if isinstance(entry.get("image"), str):
        entry["image"] = [entry["image"]]
    if isinstance(entry.get("label"), list):
        entry["label"] = _only_label(place, entry["label"])
    if not entry.get("image") or entry["image"] == [""]:
        raise DataError(f"{place} has no `image`: {shortened(entry)}. Add the path of the scan.")
    schema = dict[str, dict[Any, ListedCase]]
    checked: ListedCase = validate({key: {number: entry}}, schema, str(path))[key][number]
    return checked


def _only_label(place: str, paths: list[Any]) -> Any:
    """Return the path of a label map from a list; MONAI reads the files of a longer list as channels."""
    if len(paths) > 1 and all(isinstance(path, str) for path in paths):
        raise DataError(
            f"{place}.label lists {len(paths)} files, but a case needs one label map. Merge them into one file of "
            "class indices."
        )
    return paths[0] if len(paths) == 1 and isinstance(paths[0], str) else paths


def mapped_case(path: Path, name: str, entry: Any) -> ListedCase:
    """Validate an entry of nnU-Net's `dataset` mapping, and return it in the form of `listed_case`.

    Args:
        path: path of `dataset.json`.
        name: key of the entry.
        entry: `{"images": [...], "label": ...}`.

    Raises:
        DataError: `images` or `label` is missing; or see `listed_case`.

    Example:
        >>> mapped_case(Path("dataset.json"), "a", {"images": "a_0000.nii.gz", "label": None})["image"]
        ['a_0000.nii.gz']
    """
    if isinstance(entry, dict) and isinstance(entry.get("images"), str):
        entry = {**entry, "images": [entry["images"]]}
    validate({"dataset": {name: entry}}, dict[str, dict[str, MappedCase]], str(path))
    return listed_case(path, "dataset", name, {**entry, "image": entry["images"]})
