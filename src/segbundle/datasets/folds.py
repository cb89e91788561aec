"""Folds: which cases are held out, at random or as the dataset says."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import TypedDict

from segbundle.datasets.case import Case
from segbundle.datasets.description import other_spellings
from segbundle.datasets.folders import escaped, log_once, some
from segbundle.errors import ConfigError, DataError
from segbundle.files.documents import read_json

DEFAULT_NUM_FOLDS = 5
"""The bundle's `num_folds`, which a dataset's own folds replace; any other number must agree with them."""
SPLITS = "splits_final.json"
_SPLIT_FILES = frozenset(
    f"{name}{ending}"
    for name in ("splitsfinal", "splitfinal", "finalsplits", "splits", "split", "folds")
    for ending in ("json", "pkl", "pickle", "yaml", "yml")
)
"""Files that name folds, as other programs call them; `splits_final.pkl` is that of nnU-Net's version 1."""


class _Fold(TypedDict):
    train: list[str]
    val: list[str]


@dataclass(frozen=True)
class Split:
    """Folds that a dataset defines itself.

    Attributes:
        origin: where they are written, for messages.
        folds: per fold the names of the cases that it trains on and of those that it holds out.
    """

    origin: str
    folds: tuple[tuple[frozenset[str], frozenset[str]], ...]


def fold_names(names: Iterable[str], fold: int, num_folds: int, split_seed: int = 0) -> set[str]:
    """Return the names of the cases that one fold of a random split holds out.

    Names are sorted and shuffled by `split_seed`, then dealt out in turn, so fold sizes differ by one at most and every
    case is held out exactly once.

    Raises:
        ConfigError: `fold` is outside [0, num_folds), or there are more folds than cases.
    """
    ordered = sorted(names)
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold is {fold}, and must lie in [0, num_folds) with num_folds {num_folds}.")
    if len(ordered) < 2:
        raise ConfigError(
            f"fold is {fold}, but there is only one labeled case, and none would be left to train on. "
            "Use --fold null, which trains and validates on it."
        )
    if not 2 <= num_folds <= len(ordered):
        raise ConfigError(
            f"num_folds is {num_folds}, and must lie between 2 and the number of labeled cases, {len(ordered)}. "
            "Or use --fold null, which trains on every case."
        )
    order = np.random.RandomState(split_seed).permutation(len(ordered))
    return {ordered[index] for index in order[fold::num_folds]}


def given_split(folder: Path, training: Sequence[Case], validation: Sequence[Case]) -> Split | None:
    """Return the folds that a dataset defines, or None if it leaves them to chance.

    These are the `fold` keys of its training list (as in MONAI), its `validation` list, or nnU-Net's
    `splits_final.json` in its folder.

    Args:
        folder: the dataset's.
        training, validation: the labeled cases of the two lists.

    Raises:
        DataError: several of them, or one that contradicts itself or the cases.
    """
    path = folder / SPLITS
    _refuse_other_files(folder)
    found = {
        "the `fold` keys of dataset.json": any(case.fold is not None for case in (*training, *validation)),
        "the `validation` list of dataset.json": bool(validation),
        SPLITS: os.path.lexists(path),
    }
    given = [origin for origin, there in found.items() if there]
    if len(given) > 1:
        raise DataError(f"{folder}: {' and '.join(given)} both say which cases are held out. Remove one of them.")
    if given == [SPLITS]:
        return Split(SPLITS, tuple(_read_splits(path, {case.name for case in training})))
    if validation:
        held_out = frozenset(case.name for case in validation)
        return Split(given[0], ((frozenset(case.name for case in training), held_out),))
    return Split(given[0], tuple(_folds_by_key(folder, training))) if given else None


def _refuse_other_files(folder: Path) -> None:
    """Refuse files with folds that are not read, unless the one that is read is there as well."""
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for name in other_spellings(present, _SPLIT_FILES, SPLITS):
        if os.path.lexists(folder / SPLITS):
            log_once(f"{escaped(folder / name)}: is not read; folds come from {SPLITS}", logging.WARNING)
        else:
            raise DataError(
                f"{escaped(folder / name)}: is not read: did you mean {SPLITS}? Write that file as nnU-Net's version 2 "
                'does, [{"train": [names], "val": [names]}, ...], or move this one away.'
            )


def _folds_by_key(folder: Path, cases: Sequence[Case]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    without = [case.name for case in cases if case.fold is None]
    if without:
        raise DataError(
            f"{folder / 'dataset.json'}: {len(without)} of {len(cases)} labeled cases have no `fold` "
            f"({some(without)}), the others have one. Give every case its fold."
        )
    numbers = sorted({case.fold for case in cases if case.fold is not None})
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        raise DataError(
            f"{folder / 'dataset.json'}: the `fold` keys are {some(numbers)}; they must be 0, 1, 2, ... without a gap, "
            "and at least two."
        )
    names = frozenset(case.name for case in cases)
    for number in numbers:
        held_out = frozenset(case.name for case in cases if case.fold == number)
        yield names - held_out, held_out


def _read_splits(path: Path, names: set[str]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    folds: list[_Fold] = read_json(path, list[_Fold])
    if not folds:
        raise DataError(f"{path}: holds no fold. Remove it, or write one as nnU-Net does.")
    never = sorted(names.difference(*(fold["val"] for fold in folds)))
    if never and len(folds) > 1:
        log_once(
            f"{path}: no fold holds out {len(never)} of {len(names)} labeled cases ({some(never)}), so that a "
            "cross-validation never scores them",
            logging.WARNING,
        )
    for number, fold in enumerate(folds):
        training, held_out = frozenset(fold["train"]), frozenset(fold["val"])
        unknown = sorted((training | held_out) - names)
        if unknown:
            raise DataError(
                f"{path}: fold {number} names {len(unknown)} case(s) that the dataset does not have, with a label map "
                f"({some(unknown)}). Correct the names, or remove the file."
            )
        both = sorted(training & held_out)
        if both:
            raise DataError(f"{path}: fold {number} both trains on and holds out {some(both)}. Correct it.")
        if not training or not held_out:
            raise DataError(f"{path}: fold {number} has no case to {'train on' if held_out else 'hold out'}.")
        left = sorted(names - training - held_out)
        if left:
            log_once(
                f"{path}: fold {number} leaves out {len(left)} of {len(names)} labeled cases ({some(left)})",
                logging.WARNING,
            )
        yield training, held_out


def choose_fold(
    folder: Path,
    split: Split | None,
    names: Sequence[str],
    fold: int,
    num_folds: int,
    split_seed: int = 0,
) -> tuple[set[str], set[str]]:
    """Return the names of the cases that a fold trains on and of those that it holds out.

    Args:
        folder: the dataset's, for messages.
        split: the dataset's own folds; None for a random split.
        names: all labeled cases.
        fold, num_folds, split_seed: as in `fold_names`.

    Raises:
        ConfigError: there is no such fold, or `num_folds` contradicts the dataset.
    """
    if split is None:
        held_out = fold_names(names, fold, num_folds, split_seed)
        return set(names) - held_out, held_out
    log_once(f"{folder}: held-out cases by {split.origin}, {len(split.folds)} fold(s)")
    if fold >= len(split.folds):
        last = len(split.folds) - 1
        known = f"folds by {split.origin} are 0 to {last}" if last else f"fold by {split.origin} is 0"
        raise ConfigError(f"fold is {fold}, but the only {known}. Choose another, or --fold null.")
    trained_on, held = split.folds[fold]
    return set(trained_on), set(held)


def count_folds(folder: Path, split: Split | None, num_folds: int, described: int | None) -> int:
    """Return the number of folds: the dataset's own, else the task's.

    Args:
        folder: the dataset's, for messages.
        split: the dataset's own folds; None for a random split.
        num_folds: of the task; `DEFAULT_NUM_FOLDS` counts as not chosen.
        described: `num_folds` in dataset.json, if it is there.

    Raises:
        ConfigError: two of them disagree.
    """
    own = described if split is None else len(split.folds)
    if split is not None and described not in (None, own):
        raise ConfigError(
            f"{folder}: dataset.json has num_folds {described}, but there are {own} by {split.origin}. Correct it."
        )
    if own is None:
        return num_folds
    if split is None and own < 2:
        raise ConfigError(f"{folder / 'dataset.json'}: num_folds is {own}; a whole number from 2 is needed.")
    if num_folds not in (own, DEFAULT_NUM_FOLDS) and own > 1:
        raise ConfigError(f"num_folds is {num_folds}, but the dataset {folder} has {own} folds. Use --num_folds {own}.")
    return own


def refuse_repeated_cases(split: Split) -> None:
    """Refuse folds by which a cross-validation would score a case several times.

    Raises:
        DataError: a case is held out by several folds, or there is one fold only.
    """
    if len(split.folds) < 2:
        raise DataError(f"the only fold by {split.origin} is 0. Use `segbundle train --fold 0`, or remove the list.")
    counts = Counter(name for _, held_out in split.folds for name in held_out)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(f"{split.origin} holds out {len(twice)} case(s) in several folds ({some(twice)}). Correct it.")
