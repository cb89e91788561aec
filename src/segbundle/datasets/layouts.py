"""Recognize the layout of a dataset, and list its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.datasets.bids import BidsFile, bids_cases, is_bids
from segbundle.datasets.case import Case
from segbundle.datasets.description_file import FILE_NAME, DescriptionFile, root_of
from segbundle.datasets.listed import has_list, is_nnunet_v1, listed_cases, num_channels
from segbundle.datasets.monai_label import is_study, study_cases
from segbundle.datasets.paired import paired_cases

FoundCases = tuple[list[Case], list[str]]
"""Cases, and messages about entries or files that do not make a case."""
_SECTIONS = {"training": "Tr", "test": "Ts"}


class Layout(NamedTuple):
    """Layout of a dataset.

    Attributes:
        title: name of the layout, with the names of the files by which the layout was recognized.
        cases: function that takes `training` or `test`, and returns the cases in the folders of the dataset, with
            messages about files that do not make a case. It does not read lists of cases in the description.

    Example:
        >>> Layout("MONAI Label study (labels/final)", lambda key: ([], [])).cases("training")
        ([], [])
    """

    title: str
    cases: Callable[[str], FoundCases]


def recognize(file: DescriptionFile, description: Mapping[str, Any]) -> Layout:
    """Return the layout of a dataset.

    Lists of cases in the description take precedence over files in folders, and `imagesTr` over other folders.

    Args:
        file: file of the description.
        description: content of the file; empty if the file does not exist or is invalid.

    Raises:
        DataError: the folder `dataroot` of the description does not exist.

    Example:
        >>> file = DescriptionFile(Path("data/dataset.json"), Path("data"))
        >>> recognize(file, {"file_ending": ".nii.gz", "labels": {"background": 0}}).title
        'nnU-Net raw (dataset.json, imagesTr, labelsTr)'
        >>> recognize(file, {}).title
        'folders imagesTr and labelsTr'
    """
    root = root_of(file, description)
    if any(has_list(description, key) for key in ("training", "validation", "test")):
        return Layout(_title_of_lists(file, description), lambda key: _paired(root, description, key))
    plain = (root / "imagesTr").is_dir()
    if description.get("bids") is not None or (is_bids(root) and not plain):
        choice = description.get("bids") or {}
        return Layout("BIDS (sub-*, derivatives)", lambda key: _training_only(key, lambda: bids_cases(root, choice)))
    if is_study(root) and not plain:
        return Layout("MONAI Label study (labels/final)", lambda key: _training_only(key, lambda: study_cases(root)))
    nnunet = description.get("file_ending") or description.get("channel_names")
    title = f"nnU-Net raw ({file.path.name}, imagesTr, labelsTr)" if nnunet else "folders imagesTr and labelsTr"
    return Layout(title, lambda key: _paired(root, description, key))


def is_label_map(root: Path, file: Path) -> bool:
    """Return whether a file is a label map by the layout of its folder: a BIDS dataset, or a study of MONAI Label.

    Args:
        root: folder of a dataset, or of scans.
        file: scan file in this folder or a subfolder.

    Example:
        >>> is_label_map(Path("/nowhere"), Path("/nowhere/sub-1_dseg.nii"))
        False
    """
    if is_study(root):
        return file.relative_to(root).parts[0] == "labels"
    return is_bids(root) and BidsFile.of(file).is_label


def _title_of_lists(file: DescriptionFile, description: Mapping[str, Any]) -> str:
    name = file.path.name
    if file.input is not None:
        return f"Auto3DSeg ({file.input.name}, datalist {name})"
    if description.get("dataset"):
        return f"nnU-Net raw (`dataset` mapping of {name})"
    if is_nnunet_v1(root_of(file, description), description):
        return f"nnU-Net v1 ({name})"
    return f"Decathlon ({name})" if name == FILE_NAME else f"MONAI datalist ({name})"


def _paired(root: Path, description: Mapping[str, Any], key: str) -> FoundCases:
    ending = description.get("file_ending")
    return paired_cases(root, _SECTIONS[key], num_channels(description), ending), []


def _training_only(key: str, cases: Callable[[], FoundCases]) -> FoundCases:
    return cases() if key == "training" else ([], [])


def cases_of(file: DescriptionFile, description: Mapping[str, Any], key: str) -> FoundCases | None:
    """Return the cases of a list, and messages about invalid entries; None if the dataset cannot have this list.

    Args:
        file: file of the description.
        description: content of the file.
        key: `training`, `test`, or the key of another list in the description.

    Raises:
        DataError: both `training` and `dataset` list cases, or the folder `dataroot` does not exist.

    Example:
        >>> cases_of(DescriptionFile(Path("data/dataset.json"), Path("data")), {}, "validation") is None
        True
    """
    if has_list(description, key):
        return listed_cases(file, description, key)
    return recognize(file, description).cases(key) if key in _SECTIONS else None
