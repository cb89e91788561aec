"""Create MONAI datalists of the labeled cases of a dataset, for all cases or by fold."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from segbundle.config.from_settings import from_settings
from segbundle.datasets.case import Case, name_problems
from segbundle.datasets.case_pseudonyms import folder_of_pseudonyms, hide_names_below, named_by_pseudonym
from segbundle.datasets.cases import load_cases, refuse, refuse_cases
from segbundle.datasets.class_presence import class_presence
from segbundle.datasets.description import read_description
from segbundle.datasets.description_file import find_description
from segbundle.datasets.folders import log_once, some
from segbundle.datasets.folds import (
    DEFAULT_NUM_FOLDS,
    GROUPS,
    Split,
    choose_fold,
    count_folds,
    random_split,
    refuse_divided_groups,
    split_by_group,
)
from segbundle.datasets.given_folds import given_split, read_splits
from segbundle.datasets.groups import groups_of
from segbundle.datasets.label_values import dataset_labels
from segbundle.datasets.listed import unlisted_in_words
from segbundle.errors import ConfigError, DataError, suggestion


@from_settings
def labeled_data(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    section: str = "all",
    fold: int | None = None,
    num_folds: int | str = DEFAULT_NUM_FOLDS,
    split_seed: int = 0,
    data_list_key: str = "training",
    splits: str | None = None,
    groups: str | None = None,
    stratify: bool = True,
    case_names: str = "path",
    output_dir: str | Path | None = None,
    classes: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return a MONAI datalist of the labeled cases for training, validation or evaluation.

    Args:
        dataset_dir: see `load_cases`.
        class_names: classes of the task, background first.
        section: `training` for all cases outside the validation fold, `validation` for the cases of the validation
            fold, `all` (default) for the cases of `training` and `validation`.
        fold: validation fold, in [0, num_folds). With None (default), `training` and `validation` each contain every
            case.
        num_folds: see `dataset_folds`. Default: 5.
        split_seed: see `dataset_folds`. Default: 0.
        data_list_key: list of the dataset, `training` (default) or `test`.
        splits: see `dataset_folds`. Default: None.
        groups: see `dataset_folds`. Default: None.
        stratify: see `dataset_folds`. Default: True.
        case_names: see `find_scans`. Default: `path`.
        output_dir: see `find_scans`. Default: None.
        classes: see `segbundle.datasets.label_values.dataset_labels`. Default: None.

    Returns:
        entries with `case`, `image`, `label` and `annotated` (one bool per class), sorted by name; also with
        `ignore_label` if the dataset has an ignore label, and with `label_values` (class index by label value) if the
        label values are not the class indices

    Raises:
        DataError: no case is labeled, files are missing, folds contradict each other, or `annotated` or
            `dataset.json` contain names that are not classes of the task.
        ConfigError: `section`, `data_list_key` or the fold does not exist, `num_folds` contradicts the dataset, or a
            name in `class_names` is invalid.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("image.nii", "label.nii"):
        ...         (Path(folder) / name).touch()
        ...     content = {"training": [{"image": "image.nii", "label": "label.nii"}]}
        ...     _ = (Path(folder) / "dataset.json").write_text(json.dumps(content))
        ...     (entry,) = labeled_data(folder, ["background", "liver"])
        >>> entry["case"], entry["annotated"]
        ('image', [True, True])
    """
    if section not in ("training", "validation", "all"):
        raise ConfigError(f"section is {section!r}{suggestion(section, ('training', 'validation', 'all'))}")
    if hidden_in := folder_of_pseudonyms(case_names, output_dir):
        hide_names_below([dataset_dir], hidden_in)
    labels = dataset_labels(dataset_dir, class_names, classes)
    folder = Path(dataset_dir)
    listed, validation = _labeled(folder, data_list_key)
    cases = [*listed, *validation]
    if section != "validation":
        refuse_cases(cases)
    if section != "all" and fold is not None:
        own = (class_names, classes)
        split = _split(folder, own, listed, validation, num_folds, split_seed, splits, groups, stratify)
        training, held_out = choose_fold(folder, split, fold)
        chosen = held_out if section == "validation" else training
        cases = [case for case in cases if case.name in chosen]
    refuse_cases(cases)
    items = [labels.entry(case) for case in sorted(cases, key=lambda case: case.name)]
    return named_by_pseudonym(items, hidden_in) if hidden_in else items


@from_settings
def dataset_folds(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    num_folds: int | str = DEFAULT_NUM_FOLDS,
    split_seed: int = 0,
    data_list_key: str = "training",
    splits: str | None = None,
    groups: str | None = None,
    stratify: bool = True,
    classes: Mapping[str, Any] | None = None,
) -> Split:
    """Return the folds of a cross-validation.

    Args:
        dataset_dir: see `load_cases`.
        class_names: classes of the task, background first.
        num_folds: number of folds of a random split (default 5), or `groups` for one fold per group. Folds that the
            dataset defines take precedence: see `given_split` in `segbundle.datasets.given_folds`.
        split_seed: seed of the random split (default 0). The same cases and seed give the same split everywhere.
        data_list_key: list of the dataset, `training` (default) or `test`.
        splits: file with folds in the format of nnU-Net's `splits_final.json`, which replaces folds of the dataset and
            random folds. Default: None.
        groups: property of the cases, such as the patient or the site; cases with the same value stay in one fold. See
            `groups_of` in `segbundle.datasets.groups`. Default: None.
        stratify: whether to exchange cases between random folds until, if possible, no fold lacks a class (see
            `balance_folds`; default True). This reads all label maps.
        classes: see `segbundle.datasets.label_values.dataset_labels`. Default: None.

    Returns:
        for each fold, the names of the training cases and of the held-out cases, see `Split`

    Raises:
        DataError: see `labeled_data`; or the folds divide a group.
        ConfigError: see `labeled_data`; or `groups` is invalid.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.nii", "a_seg.nii", "b.nii", "b_seg.nii"):
        ...         (Path(folder) / name).touch()
        ...     cases = [{"image": f"{n}.nii", "label": f"{n}_seg.nii", "fold": i} for i, n in enumerate("ab")]
        ...     _ = (Path(folder) / "dataset.json").write_text(json.dumps({"training": cases}))
        ...     len(dataset_folds(folder, ["background", "liver"]).folds)
        2
    """
    folder = Path(dataset_dir)
    listed, validation = _labeled(folder, data_list_key)
    own = (class_names, classes)
    return _split(folder, own, listed, validation, num_folds, split_seed, splits, groups, stratify)


def folds_of_task(settings: Mapping[str, Any]) -> Split:
    """Return the folds of a task, see `dataset_folds`.

    Args:
        settings: settings with the arguments of `dataset_folds`; others are ignored.

    Raises:
        DataError: see `dataset_folds`.
        ConfigError: see `dataset_folds`.

    Example:
        >>> folds_of_task({"dataset_dir": "data_samples", "class_names": names, "stratify": False})  # doctest: +SKIP
    """
    split: Split = cast(Any, dataset_folds)(settings=settings)
    return split


def _labeled(folder: Path, key: str) -> tuple[list[Case], list[Case]]:
    """Return the labeled cases of a list and, for the training list, those of the `validation` list."""
    cases = load_cases(folder, key)
    validation = load_cases(folder, "validation") if key == "training" and has_validation(folder) else []
    refuse(name_problems([*cases, *validation]))
    unlabeled = [case.name for case in (*cases, *validation) if case.label is None]
    if len(unlabeled) == len(cases) + len(validation):
        raise DataError(
            f"{folder}: no case under {key!r} has a label map. Add label maps: as `label` in dataset.json, or as "
            "files in labelsTr (labelsTs for test; labels/final for MONAI Label; derivatives/*/ for BIDS)."
        )
    if validation and all(case.label is None for case in validation):
        raise DataError(
            f"{folder}: no case of the `validation` list has a label map. Add label maps, or remove the list."
        )
    refuse_cases([case for case in (*cases, *validation) if case.label is None])
    file = find_description(folder)
    unlisted = unlisted_in_words(file, read_description(folder)) if key == "training" else None
    if unlisted:
        log_once(unlisted, logging.WARNING)
    if unlabeled:
        log_once(unlabeled_in_words(folder, unlabeled, len(cases) + len(validation)), logging.WARNING)
    return [case for case in cases if case.label], [case for case in validation if case.label]


def has_validation(folder: Path) -> bool:
    """Return whether the description of a dataset has a `validation` list with entries.

    Args:
        folder: see `load_cases`.

    Raises:
        DataError: `dataset.json` is invalid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     has_validation(Path(folder))
        False
    """
    return bool(read_description(folder).get("validation"))


def unlabeled_in_words(folder: Path, names: Sequence[str], total: int) -> str:
    """Return a one-line summary of the cases without a label map.

    Args:
        folder: folder of the dataset.
        names: names of the cases without a label map.
        total: number of all cases.

    Example:
        >>> unlabeled_in_words(Path("data"), ["c"], 3)
        'data: 1 of 3 cases have no label map and are not used: c'
    """
    return f"{folder}: {len(names)} of {total} cases have no label map and are not used: {some(names)}"


def _split(
    folder: Path,
    classes: tuple[Sequence[str], Mapping[str, Any] | None],
    listed: Sequence[Case],
    validation: Sequence[Case],
    num_folds: int | str,
    split_seed: int,
    splits: str | None,
    groups: str | None,
    stratify: bool,
) -> Split:
    """Return the folds of labeled cases, see `dataset_folds`; `classes` are `class_names` and `classes`."""
    cases = [*listed, *validation]
    names = [case.name for case in cases]
    file = find_description(folder)
    group_of = groups_of(cases, groups, file.folder)
    if splits is not None:
        split: Split | None = read_splits(Path(splits), names)
    else:
        split = given_split(file, listed, validation)
    if num_folds != GROUPS:
        described = read_description(folder).get("num_folds") if splits is None else None
        num_folds = count_folds(file.path, split, int(num_folds), described)
    if split is not None:
        if groups is not None:
            refuse_divided_groups(split, group_of)
        return split
    if num_folds == GROUPS:
        return split_by_group(names, group_of)
    present = class_presence(cases, dataset_labels(folder, *classes)) if stratify else None
    return random_split(names, int(num_folds), split_seed, group_of, present)
