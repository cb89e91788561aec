"""Load the cases of a dataset in any supported layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.datasets.case import Case, name_problems
from segbundle.datasets.description import LISTS, read_description
from segbundle.datasets.description_file import DescriptionFile, datalists_in, find_description
from segbundle.datasets.folders import first_of, log_once, some
from segbundle.datasets.layouts import cases_of
from segbundle.errors import ConfigError, DataError, suggestion
from segbundle.io.scan_files import SUFFIXES
from segbundle.terminal import escaped

_SHOWN_NAMES = 25


def load_cases(dataset_dir: str | Path, data_list_key: str = "training") -> list[Case]:
    """Return the cases of one list of a dataset, sorted by name.

    Args:
        dataset_dir: folder of the dataset, or a file that lists its cases: a MONAI datalist, or an Auto3DSeg input.
            The layouts of folders are: a Decathlon `dataset.json` with lists of cases; nnU-Net's raw layout (a
            `dataset.json` without lists and channel files such as `case_0000.nii.gz`, or a `dataset.json` with a
            `dataset` mapping); BIDS with label maps in `derivatives`; a study of MONAI Label; or `imagesTr` and
            `labelsTr` without a `dataset.json`.
        data_list_key: key of a list in `dataset.json`. Without a `dataset.json` or without lists, `training` (default)
            selects the cases of `imagesTr`, and `test` those of `imagesTs`.

    Returns:
        the cases; missing files do not raise an error, but are reported in the `problems` of the case

    Raises:
        DataError: the folder does not exist, `dataset.json` or one of its entries is invalid, no case was found, or two
            cases have the same name or share a file.
        ConfigError: the dataset does not have `data_list_key`.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     content = {"training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz"}]}
        ...     _ = (Path(folder) / "dataset.json").write_text(json.dumps(content))
        ...     [case.name for case in load_cases(folder)]
        ['a']
    """
    cases, malformed = list_cases(dataset_dir, data_list_key)
    if not cases and not malformed:
        raise DataError(
            f"{dataset_dir}: has no case under {data_list_key!r}. {_advice(Path(dataset_dir), data_list_key)}"
        )
    refuse([*malformed, *name_problems(cases)])
    return cases


def list_cases(
    dataset_dir: str | Path, data_list_key: str, description: Mapping[str, Any] | None = None
) -> tuple[list[Case], list[str]]:
    """Return the cases of one list of a dataset, and messages about its invalid entries.

    Args:
        dataset_dir: see `load_cases`.
        data_list_key: see `load_cases`. The list may be empty or contain duplicate names.
        description: content of `dataset.json`; None (default) reads the file.

    Returns:
        the cases, sorted by name, and one message per invalid entry

    Raises:
        DataError: the folder does not exist, or `dataset.json` is invalid.
        ConfigError: the dataset does not have `data_list_key`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cases, problems = list_cases(folder, "training", {"training": ["a.nii.gz", 7]})
        >>> [case.name for case in cases], len(problems)
        (['a'], 1)
    """
    file = find_description(dataset_dir)
    if description is None:
        description = read_description(dataset_dir)
    _log_unused_lists(file, description, data_list_key)
    found = cases_of(file, description, data_list_key)
    if found is None:
        known = sorted({key for key in LISTS if description.get(key)} | {"training", "test"})
        raise ConfigError(
            f"data_list_key: {dataset_dir} has no list {data_list_key!r}{suggestion(data_list_key, known)}"
        )
    cases, malformed = found
    return sorted(cases, key=lambda case: case.name), malformed


def _advice(dataset_dir: Path, key: str) -> str:
    """Return advice for a dataset without cases."""
    datalists = datalists_in(dataset_dir) if dataset_dir.is_dir() else []
    if datalists:
        names = some([path.name for path in datalists])
        return (
            f"It contains a datalist ({names}); to use it, set dataset_dir to the file, as in {escaped(datalists[0])}."
        )
    suffix = read_description(dataset_dir).get("file_ending")
    if suffix and not suffix.lower().endswith(SUFFIXES):
        return f"Its file_ending is {escaped(suffix)}, but segbundle reads 3D scans ({', '.join(SUFFIXES)})."
    ending = {"training": "Tr", "test": "Ts"}.get(key)
    folders = f", or scans in images{ending} with label maps of the same name in labels{ending}" if ending else ""
    return f"A dataset needs a dataset.json with a {key!r} list{folders}."


def refuse(messages: list[str]) -> None:
    """Raise an error with the first three problems of a dataset; do nothing without problems.

    Args:
        messages: messages about the problems.

    Raises:
        DataError: `messages` is not empty.

    Example:
        >>> refuse([])
    """
    if messages:
        raise DataError("\n".join(first_of(messages)))


def refuse_cases(cases: list[Case]) -> None:
    """Raise an error if cases have problems.

    The message lists up to three problems. If there are more problems, the message contains the first problem, and the
    names of cases with problems.

    Args:
        cases: cases of a dataset.

    Raises:
        DataError: a case has a problem.

    Example:
        >>> refuse_cases([Case("a", (Path("a.nii"),))])
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


def _log_unused_lists(file: DescriptionFile, description: Mapping[str, Any], data_list_key: str) -> None:
    for key, value in description.items():
        is_list = isinstance(value, list) and value and isinstance(value[0], dict) and "image" in value[0]
        if is_list and key not in (*LISTS, data_list_key):
            log_once(
                f"{file.path}: list {key!r} is not used; supported lists are {', '.join(LISTS)}; rename the "
                "list to use it",
                logging.WARNING,
            )
