"""MONAI datalists of labeled cases, whole or by folds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.data.case import Case, name_problems
from segbundle.data.cases import load_cases, refuse, refuse_cases
from segbundle.data.description import check_class_names, described_labels, read_description
from segbundle.data.folders import log_once, some
from segbundle.data.folds import DEFAULT_NUM_FOLDS, Split, choose_fold, count_folds, given_split, refuse_repeated_cases
from segbundle.data.listed import unlisted_in_words
from segbundle.errors import ConfigError, DataError, suggestion


def labelled_data(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    section: str = "all",
    fold: int | None = None,
    num_folds: int = DEFAULT_NUM_FOLDS,
    split_seed: int = 0,
    data_list_key: str = "training",
) -> list[dict[str, Any]]:
    """Return a MONAI datalist of the labeled cases to train on, to validate on, or to evaluate.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first.
        section: `training` for all cases outside `fold`, `validation` for those of `fold`, `all` for both.
        fold: which fold is held out, in [0, num_folds); None puts every case into both sections.
        num_folds: number of folds. The dataset's own folds come first: see `given_split` in `segbundle.data.folds`.
        split_seed: decides a random split. The same cases and seed give the same split everywhere.
        data_list_key: which list of the dataset, `training` or `test`.

    Returns:
        entries with `case`, `image`, `label` and `annotated` (one bool per class), and `ignore_label` where the
        dataset has one, sorted by name.

    Raises:
        DataError: no labeled case, files that are missing, folds that contradict each other, or names in `annotated` or
            `dataset.json` that are no classes of the task.
        ConfigError: an impossible fold.
    """
    if section not in ("training", "validation", "all"):
        raise ConfigError(f"section is {section!r}{suggestion(section, ('training', 'validation', 'all'))}")
    check_class_names(dataset_dir, class_names)
    folder = Path(dataset_dir)
    listed, validation = _labeled(folder, data_list_key)
    cases = [*listed, *validation]
    if section != "validation":
        refuse_cases(cases)
    if section != "all" and fold is not None:
        split, num_folds = _split(folder, listed, validation, num_folds)
        training, held_out = choose_fold(folder, split, [case.name for case in cases], fold, num_folds, split_seed)
        chosen = held_out if section == "validation" else training
        cases = [case for case in cases if case.name in chosen]
    refuse_cases(cases)
    ignore_label = described_labels(folder).ignore_label
    unknown = {} if ignore_label is None else {"ignore_label": ignore_label}
    return [{**case.item(class_names), **unknown} for case in sorted(cases, key=lambda case: case.name)]


def num_folds_of(dataset_dir: str | Path, num_folds: int, data_list_key: str = "training") -> int:
    """Return the number of folds of a cross-validation: those that a dataset defines, or else the task's.

    Args:
        dataset_dir, num_folds, data_list_key: as in `labelled_data`.

    Raises:
        DataError: by the dataset's folds a case would be scored several times, or others as `labelled_data`.
        ConfigError: `num_folds` contradicts the dataset.
    """
    folder = Path(dataset_dir)
    split, count = _split(folder, *_labeled(folder, data_list_key), num_folds)
    if split is not None:
        refuse_repeated_cases(split)
    return count


def _labeled(folder: Path, key: str) -> tuple[list[Case], list[Case]]:
    """The labeled cases of a list, and those of the `validation` list where the training list is asked for."""
    cases = load_cases(folder, key)
    validation = load_cases(folder, "validation") if key == "training" and has_validation(folder) else []
    refuse(name_problems([*cases, *validation]))
    unlabeled = [case.name for case in (*cases, *validation) if case.label is None]
    if len(unlabeled) == len(cases) + len(validation):
        raise DataError(f"{folder}: no case under {key!r} has a label map.")
    if validation and all(case.label is None for case in validation):
        raise DataError(f"{folder}: no case of the `validation` list has a label map. Add them, or remove the list.")
    refuse_cases([case for case in (*cases, *validation) if case.label is None])
    unlisted = unlisted_in_words(folder, read_description(folder)) if key == "training" else None
    if unlisted:
        log_once(unlisted, logging.WARNING)
    if unlabeled:
        log_once(unlabeled_in_words(folder, unlabeled, len(cases) + len(validation)), logging.WARNING)
    return [case for case in cases if case.label], [case for case in validation if case.label]


def has_validation(folder: Path) -> bool:
    """Return whether a `dataset.json` has a `validation` list that is not empty."""
    return bool(read_description(folder).get("validation"))


def unlabeled_in_words(folder: Path, names: Sequence[str], total: int) -> str:
    """Return a line that names the cases without a label map."""
    return f"{folder}: {len(names)} of {total} cases have no label map and are not used: {some(names)}"


def _split(folder: Path, cases: Sequence[Case], validation: Sequence[Case], num_folds: int) -> tuple[Split | None, int]:
    """The folds that a dataset defines, and the number of folds."""
    split = given_split(folder, cases, validation)
    return split, count_folds(folder, split, num_folds, read_description(folder).get("num_folds"))
