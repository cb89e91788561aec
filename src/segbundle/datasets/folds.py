"""Split a dataset into the folds of a cross-validation: at random, or as the dataset defines."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import TypedDict

from segbundle.datasets.case import Case
from segbundle.datasets.description import other_spellings
from segbundle.datasets.description_file import DescriptionFile
from segbundle.datasets.folders import log_once, some
from segbundle.errors import ConfigError, DataError
from segbundle.files.documents import read_json
from segbundle.terminal import escaped

DEFAULT_NUM_FOLDS = 5
"""Default `num_folds` of the bundle. Folds that the dataset defines replace it, and must match any other value."""
SPLITS = "splits_final.json"
_SPLIT_FILES = frozenset(
    f"{name}{ending}"
    for name in ("splitsfinal", "splitfinal", "finalsplits", "splits", "split", "folds")
    for ending in ("json", "pkl", "pickle", "yaml", "yml")
)
"""Files with folds of other programs, in lower case; nnU-Net v1 writes `splits_final.pkl`."""


class _Fold(TypedDict):
    train: list[str]
    val: list[str]


@dataclass(frozen=True)
class Split:
    """Folds that a dataset defines.

    Attributes:
        origin: source of the folds, for messages.
        folds: for each fold, a pair of sets: names of the training cases, and names of the held-out cases.

    Example:
        >>> split = Split("splits_final.json", ((frozenset({"a"}), frozenset({"b"})),))
        >>> len(split.folds)
        1
    """

    origin: str
    folds: tuple[tuple[frozenset[str], frozenset[str]], ...]


def fold_names(
    names: Iterable[str], fold: int, num_folds: int, split_seed: int = 0, subjects: Mapping[str, str] | None = None
) -> set[str]:
    """Return the names of the held-out cases of one fold of a random split.

    Names are sorted, shuffled and distributed over the folds in turn. Fold sizes differ by at most one, and every case
    is held out in exactly one fold. With `subjects`, this applies to the subjects, whose cases stay together.

    Args:
        names: names of all labeled cases.
        fold: validation fold, in [0, num_folds).
        num_folds: number of folds.
        split_seed: seed of the random split (default 0).
        subjects: subject of each case by name; other cases, or None (default) for all, are subjects of their own.

    Raises:
        ConfigError: the fold does not exist, or `num_folds` is not between 2 and the number of cases or subjects.

    Example:
        >>> sorted(fold_names(["a", "b", "c", "d"], fold=0, num_folds=2))
        ['b', 'c']
    """
    subject_of = {name: (subjects or {}).get(name, name) for name in names}
    ordered = sorted(set(subject_of.values()))
    units = "subject" if subjects else "labeled case"
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold is {fold}; it must be from 0 to {num_folds - 1} (num_folds is {num_folds}).")
    if len(ordered) < 2:
        raise ConfigError(
            f"fold is {fold}, but the dataset has only one {units}, so no case would be left for training. "
            f"Use --fold null to train and validate on this {units.split()[-1]}."
        )
    if not 2 <= num_folds <= len(ordered):
        raise ConfigError(
            f"num_folds is {num_folds}; it must be between 2 and the number of {units}s, {len(ordered)}. "
            "Use --fold null to train on every case."
        )
    order = np.random.RandomState(split_seed).permutation(len(ordered))
    held_out = {ordered[index] for index in order[fold::num_folds]}
    return {name for name, subject in subject_of.items() if subject in held_out}


def given_split(file: DescriptionFile, training: Sequence[Case], validation: Sequence[Case]) -> Split | None:
    """Return the folds that a dataset defines, or None for a random split.

    A dataset defines folds by `fold` keys in its training list (as in MONAI), by a `validation` list, or by nnU-Net's
    `splits_final.json`, beside the description of the dataset.

    Args:
        file: file that describes the dataset.
        training: labeled cases of the training list.
        validation: labeled cases of the `validation` list.

    Raises:
        DataError: the dataset defines folds in several ways or in an unsupported file, or the folds contradict each
            other or the cases.

    Example:
        >>> cases = [Case("a", (Path("a.nii"),), fold=0), Case("b", (Path("b.nii"),), fold=1)]
        >>> given_split(DescriptionFile(Path("/nowhere/folds.json"), Path("/nowhere")), cases, []).folds[0]
        (frozenset({'b'}), frozenset({'a'}))
    """
    path = file.folder / SPLITS
    _refuse_other_files(file)
    found = {
        f"the `fold` keys of {file.path.name}": any(case.fold is not None for case in (*training, *validation)),
        f"the `validation` list of {file.path.name}": bool(validation),
        SPLITS: os.path.lexists(path),
    }
    given = [origin for origin, present in found.items() if present]
    if len(given) > 1:
        raise DataError(f"{file.folder}: {' and '.join(given)} both define folds. Remove one of them.")
    if given == [SPLITS]:
        return Split(SPLITS, tuple(_read_splits(path, {case.name for case in training})))
    if validation:
        held_out = frozenset(case.name for case in validation)
        return Split(given[0], ((frozenset(case.name for case in training), held_out),))
    return Split(given[0], tuple(_folds_by_key(file.path, training))) if given else None


def _refuse_other_files(file: DescriptionFile) -> None:
    """Raise an error if the dataset has folds in an unsupported file and no `splits_final.json`."""
    folder = file.folder
    present = [path.name for path in folder.iterdir() if path != file.path] if folder.is_dir() else []
    for name in other_spellings(present, _SPLIT_FILES, SPLITS):
        if os.path.lexists(folder / SPLITS):
            log_once(f"{escaped(folder / name)}: is not used; folds come from {SPLITS}", logging.WARNING)
        else:
            raise DataError(
                f"{escaped(folder / name)}: is not used: did you mean {SPLITS}? Convert it to the format of nnU-Net "
                'v2, [{"train": [names], "val": [names]}, ...], or move it away.'
            )


def _folds_by_key(path: Path, cases: Sequence[Case]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    without = [case.name for case in cases if case.fold is None]
    if without:
        raise DataError(
            f"{path}: {len(without)} of {len(cases)} labeled cases have no `fold` "
            f"({some(without)}), but the others have one. Add `fold` to every case."
        )
    numbers = sorted({case.fold for case in cases if case.fold is not None})
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        raise DataError(
            f"{path}: the `fold` keys are {some(numbers)}; they must be 0, 1, 2, ... without a gap, "
            "for at least two folds."
        )
    names = frozenset(case.name for case in cases)
    for number in numbers:
        held_out = frozenset(case.name for case in cases if case.fold == number)
        yield names - held_out, held_out


def _read_splits(path: Path, names: set[str]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    folds: list[_Fold] = read_json(path, list[_Fold])
    if not folds:
        raise DataError(f"{path}: contains no folds. Remove the file, or write folds as nnU-Net does.")
    never = sorted(names.difference(*(fold["val"] for fold in folds)))
    if never and len(folds) > 1:
        log_once(
            f"{path}: {len(never)} of {len(names)} labeled cases ({some(never)}) are in no validation fold, so a "
            "cross-validation never scores them",
            logging.WARNING,
        )
    for number, fold in enumerate(folds):
        training, held_out = frozenset(fold["train"]), frozenset(fold["val"])
        unknown = sorted((training | held_out) - names)
        if unknown:
            raise DataError(
                f"{path}: fold {number} names {len(unknown)} case(s) that are not labeled cases of the dataset "
                f"({some(unknown)}). Correct the names, or remove the file."
            )
        both = sorted(training & held_out)
        if both:
            raise DataError(f"{path}: fold {number} has {some(both)} in both `train` and `val`. Remove them from one.")
        if not training or not held_out:
            raise DataError(f"{path}: fold {number} has no cases in `{'train' if held_out else 'val'}`. Add cases.")
        left = sorted(names - training - held_out)
        if left:
            log_once(
                f"{path}: fold {number} does not use {len(left)} of {len(names)} labeled cases ({some(left)})",
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
    subjects: Mapping[str, str] | None = None,
) -> tuple[set[str], set[str]]:
    """Return the names of the training cases and of the held-out cases of a fold.

    Args:
        folder: folder of the dataset, for messages.
        split: folds that the dataset defines; None for a random split.
        names: names of all labeled cases.
        fold: validation fold, from 0.
        num_folds: number of folds of a random split; ignored if the dataset defines folds.
        split_seed: seed of the random split (default 0).
        subjects: see `fold_names`.

    Raises:
        ConfigError: the fold does not exist, or see `fold_names`.

    Example:
        >>> split = Split("splits_final.json", ((frozenset({"a"}), frozenset({"b"})),))
        >>> choose_fold(Path("data"), split, ["a", "b"], fold=0, num_folds=5)
        ({'a'}, {'b'})
    """
    if split is None:
        held_out = fold_names(names, fold, num_folds, split_seed, subjects)
        return set(names) - held_out, held_out
    log_once(f"{folder}: {len(split.folds)} fold(s) from {split.origin}")
    if not 0 <= fold < len(split.folds):
        last = len(split.folds) - 1
        known = f"folds from {split.origin} are 0 to {last}" if last else f"only fold from {split.origin} is 0"
        raise ConfigError(f"fold is {fold}, but the {known}. Choose another fold, or use --fold null.")
    training, validation = split.folds[fold]
    return set(training), set(validation)


def count_folds(path: Path, split: Split | None, num_folds: int, described: int | None) -> int:
    """Return the number of folds that the dataset defines, or the number of the task if the dataset defines no folds.

    Args:
        path: file that describes the dataset, for messages.
        split: folds that the dataset defines; None for a random split.
        num_folds: number of folds of the task; the default, `DEFAULT_NUM_FOLDS`, is replaced by the number of folds of
            the dataset.
        described: `num_folds` in the file that describes the dataset; None if not set.

    Raises:
        ConfigError: two of the three numbers differ, or `described` is less than 2.

    Example:
        >>> count_folds(Path("data/dataset.json"), None, num_folds=5, described=3)
        3
    """
    count = described if split is None else len(split.folds)
    if split is not None and described not in (None, count):
        raise ConfigError(
            f"{path.parent}: {path.name} has num_folds {described}, but {count} fold(s) come from {split.origin}. "
            "Correct one of them."
        )
    if count is None:
        return num_folds
    if split is None and count < 2:
        raise ConfigError(f"{path}: num_folds is {count}; it must be at least 2.")
    if num_folds not in (count, DEFAULT_NUM_FOLDS) and count > 1:
        raise ConfigError(
            f"num_folds is {num_folds}, but the dataset {path.parent} has {count} folds. Use --num_folds {count}."
        )
    return count


def refuse_repeated_cases(split: Split) -> None:
    """Raise an error if a cross-validation with the folds of a dataset would score a case several times.

    Args:
        split: folds that a dataset defines.

    Raises:
        DataError: a case is held out in several folds, or there is only one fold.

    Example:
        >>> a, b = frozenset({"a"}), frozenset({"b"})
        >>> refuse_repeated_cases(Split("splits_final.json", ((a, b), (b, a))))
    """
    if len(split.folds) < 2:
        raise DataError(
            f"{split.origin} defines only fold 0, but a cross-validation needs several folds. "
            "Use `segbundle train --fold 0`, or define several folds."
        )
    counts = Counter(name for _, held_out in split.folds for name in held_out)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise DataError(
            f"{split.origin} has {len(repeated)} case(s) in several validation folds ({some(repeated)}). "
            "Keep each case in one of them."
        )
