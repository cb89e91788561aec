"""The cases of a dataset: from a Decathlon `dataset.json`, from nnU-Net's raw layout, or from plain folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.datasets.case import Case, name_problems
from segbundle.datasets.description import FILE_NAME, LISTS, read_description
from segbundle.datasets.folders import escaped, first_of, log_once, some
from segbundle.datasets.listed import has_list, listed_cases, num_channels
from segbundle.datasets.paired import paired_cases
from segbundle.errors import ConfigError, DataError, suggestion

_SHOWN_NAMES = 25


def load_cases(dataset_dir: str | Path, data_list_key: str = "training") -> list[Case]:
    """Return every case of one section of a dataset, sorted by name.

    Args:
        dataset_dir: a folder with a Decathlon `dataset.json`, in nnU-Net's raw layout (a `dataset.json` without
            lists, `case_0000.nii.gz` channels, or its `dataset` mapping), or just with `imagesTr` and `labelsTr`.
        data_list_key: `training` (imagesTr) or `test` (imagesTs), or another list's key in `dataset.json`.

    Raises:
        DataError: no such folder, a `dataset.json` that cannot be used, no case at all, or two cases of one name.
        ConfigError: a `data_list_key` that the dataset does not have.
    """
    cases, malformed = list_cases(dataset_dir, data_list_key)
    if not cases and not malformed:
        raise DataError(
            f"{dataset_dir}: has no case under {data_list_key!r}. A dataset needs a dataset.json with a "
            f"{data_list_key!r} list, or scans in imagesTr with label maps of the same name in labelsTr."
        )
    refuse([*malformed, *name_problems(cases)])
    return cases


def list_cases(
    dataset_dir: str | Path, data_list_key: str, description: Mapping[str, Any] | None = None
) -> tuple[list[Case], list[str]]:
    """Return the cases of one section of a dataset, sorted by name, and problems of its list.

    Args:
        dataset_dir, data_list_key: as in `load_cases`; the list may be empty and names may appear twice.
        description: the content of its `dataset.json`, if that is known.

    Raises:
        DataError, ConfigError: as `load_cases`.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{escaped(folder)}: {kind}; set dataset_dir to the dataset's folder.")
    if description is None:
        description = read_description(folder)
    _log_unused_lists(folder, description, data_list_key)
    if has_list(description, data_list_key):
        cases, malformed = listed_cases(folder, description, data_list_key)
    elif data_list_key in ("training", "test"):
        section = "Ts" if data_list_key == "test" else "Tr"
        cases, malformed = paired_cases(folder, section, num_channels(description)), []
    else:
        known = sorted({key for key in LISTS if description.get(key)} | {"training", "test"})
        raise ConfigError(f"data_list_key: {folder} has no list {data_list_key!r}{suggestion(data_list_key, known)}")
    return sorted(cases, key=lambda case: case.name), malformed


def refuse(messages: list[str]) -> None:
    """Refuse a dataset that has problems, and show the first three of them.

    Raises:
        DataError: there is a message.
    """
    if messages:
        raise DataError("\n".join(first_of(messages)))


def refuse_cases(cases: list[Case]) -> None:
    """Refuse cases that have problems, and name all of them.

    Raises:
        DataError: a case has a problem.
    """
    bad = [case for case in cases if case.problems]
    problems = [problem for case in bad for problem in case.problems]
    if len(problems) > 3:
        names = some([case.name for case in bad], _SHOWN_NAMES)
        raise DataError(
            f"{problems[0]}\n{len(bad)} of {len(cases)} cases cannot be used: {names}. "
            "`segbundle check` prints every problem."
        )
    refuse(problems)


def _log_unused_lists(folder: Path, description: Mapping[str, Any], data_list_key: str) -> None:
    for key, value in description.items():
        is_list = isinstance(value, list) and value and isinstance(value[0], dict) and "image" in value[0]
        if is_list and key not in (*LISTS, data_list_key):
            log_once(
                f"{folder / FILE_NAME}: its list {key!r} is not used; the lists that are: {', '.join(LISTS)}",
                logging.WARNING,
            )
