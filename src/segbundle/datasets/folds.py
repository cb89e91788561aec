"""Split a dataset into the folds of a cross-validation, at random or by groups of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.datasets.balanced_folds import balance_folds
from segbundle.datasets.folders import log_once, some
from segbundle.errors import ConfigError, DataError

DEFAULT_NUM_FOLDS = 5
"""Default `num_folds` of the bundle. Folds that the dataset defines replace it, and must match any other value."""
GROUPS = "groups"
"""Value of `num_folds` for one fold per group."""


@dataclass(frozen=True)
class Split:
    """Folds of a dataset.

    Attributes:
        origin: source of the folds, for messages.
        folds: for each fold, a pair of sets: names of the training cases, and names of the held-out cases.
        classes: features of each case by which the folds were balanced, see `class_presence`; None (default) without
            balancing.

    Example:
        >>> split = Split("splits_final.json", ((frozenset({"a"}), frozenset({"b"})),))
        >>> len(split.folds)
        1
    """

    origin: str
    folds: tuple[tuple[frozenset[str], frozenset[str]], ...]
    classes: Mapping[str, Collection[Any]] | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, origin: str, held_out: Iterable[Iterable[str]], classes: Mapping[str, Collection[Any]] | None = None
    ) -> Split:
        """Return folds that use every case: each fold trains on the cases that it does not hold out.

        Args:
            origin: source of the folds, for messages.
            held_out: names of the held-out cases of each fold.
            classes: see the attribute. Default: None.

        Example:
            >>> Split.of("here", ["a", "b"]).folds[0]
            (frozenset({'b'}), frozenset({'a'}))
        """
        parts = [frozenset(names) for names in held_out]
        names: frozenset[str] = frozenset().union(*parts)
        return cls(origin, tuple((names - part, part) for part in parts), classes)


def random_split(
    names: Iterable[str],
    num_folds: int,
    split_seed: int = 0,
    groups: Mapping[str, str] | None = None,
    classes: Mapping[str, Collection[Any]] | None = None,
) -> Split:
    """Split cases into folds at random.

    Names are sorted, shuffled and distributed over the folds in turn. Fold sizes differ by at most one, and every case
    is held out in exactly one fold. With `groups`, this applies to the groups, whose cases stay together. The names of
    groups do not matter. Groups of one case each give the same folds as no groups. With `classes`, cases are then
    exchanged between folds until, if possible, no fold lacks a class (see `balance_folds`).

    Args:
        names: names of all labeled cases.
        num_folds: number of folds.
        split_seed: seed of the random split (default 0).
        groups: group of each case by name, such as a patient or a site. A case that is not listed is its own group.
            Default: None (no groups).
        classes: features of each case by name, such as the label values of its classes; None (default) does not
            exchange cases.

    Raises:
        ConfigError: `num_folds` is not between 2 and the number of cases or groups.

    Example:
        >>> [sorted(held_out) for _, held_out in random_split(["a", "b", "c", "d"], num_folds=2).folds]
        [['b', 'c'], ['a', 'd']]
        >>> split = random_split(["a", "b", "c", "d"], num_folds=2, classes={"b": [1], "c": [1]})
        >>> [sorted(held_out) for _, held_out in split.folds]
        [['b', 'd'], ['a', 'c']]
    """
    members = _members(names, groups)
    _check_num_folds(num_folds, len(members), bool(groups))
    order = np.random.RandomState(split_seed).permutation(len(members))
    units = list(members.values())
    folds = [[units[index] for index in order[fold::num_folds]] for fold in range(num_folds)]
    if classes is not None:
        folds = balance_folds(folds, lambda unit: {each for name in unit for each in classes.get(name, ())})
    origin = f"a random split with seed {split_seed}"
    return Split.of(origin, ([name for unit in fold for name in unit] for fold in folds), classes)


def split_by_group(names: Iterable[str], groups: Mapping[str, str]) -> Split:
    """Split cases into one fold per group: leave-one-site-out, if the groups are sites.

    Args:
        names: names of all labeled cases.
        groups: group of each case by name. A case that is not listed is its own group.

    Raises:
        ConfigError: there are fewer than two groups.

    Example:
        >>> split = split_by_group(["a", "b", "c"], {"a": "Bern", "b": "Ulm", "c": "Bern"})
        >>> [sorted(held_out) for _, held_out in split.folds]
        [['a', 'c'], ['b']]
    """
    members = dict(sorted(_members(names, groups).items()))
    if len(members) < 2:
        raise ConfigError(
            f"num_folds is {GROUPS}, but all cases are in one group. Set `groups` to a key that differs between cases."
        )
    return Split.of(f"one fold for each of the groups {some(list(members))}", members.values())


def fold_names(
    names: Iterable[str], fold: int, num_folds: int, split_seed: int = 0, groups: Mapping[str, str] | None = None
) -> set[str]:
    """Return the names of the held-out cases of one fold of a random split.

    Args:
        names: names of all labeled cases.
        fold: validation fold, in [0, num_folds).
        num_folds: number of folds.
        split_seed: seed of the random split (default 0).
        groups: see `random_split`. Default: None.

    Raises:
        ConfigError: the fold does not exist, or see `random_split`.

    Example:
        >>> sorted(fold_names(["a", "b", "c", "d"], fold=0, num_folds=2))
        ['b', 'c']
    """
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold is {fold}; it must be from 0 to {num_folds - 1} (num_folds is {num_folds}).")
    return set(random_split(names, num_folds, split_seed, groups).folds[fold][1])


def _members(names: Iterable[str], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Return the cases of each group, in the order of their first cases; a case without a group is a group.

    The order of the names of the groups must not matter, because names of patients are hashes with a random salt.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(names):
        members.setdefault((groups or {}).get(name, name), []).append(name)
    return members


def _check_num_folds(num_folds: int, count: int, grouped: bool) -> None:
    unit = "group of cases" if grouped else "labeled case"
    if count < 2:
        raise ConfigError(
            f"the dataset has only one {unit}, so no case would be left for training. "
            "Use --fold null to train and validate on every case."
        )
    if not 2 <= num_folds <= count:
        units = "groups of cases" if grouped else "labeled cases"
        raise ConfigError(
            f"num_folds is {num_folds}; it must be between 2 and the number of {units}, {count}. "
            "Use --fold null to train on every case."
        )


def choose_fold(folder: Path, split: Split, fold: int) -> tuple[set[str], set[str]]:
    """Return the training cases and the held-out cases of a fold, and log the origin of the folds once.

    Args:
        folder: folder of the dataset, for messages.
        split: folds of the dataset.
        fold: validation fold, from 0.

    Returns:
        a pair of sets: names of the training cases, and names of the held-out cases

    Raises:
        ConfigError: the fold does not exist.

    Example:
        >>> choose_fold(Path("data"), Split("splits_final.json", ((frozenset({"a"}), frozenset({"b"})),)), fold=0)
        ({'a'}, {'b'})
    """
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
        ConfigError: `described` differs from the number of folds in `split`, or is less than 2 without a `split`; or
            `num_folds` is not the default, and differs from the number of folds of the dataset (unless this is 1).

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


def refuse_divided_groups(split: Split, groups: Mapping[str, str]) -> None:
    """Raise an error if a fold trains on cases of a group, and holds out other cases of the group.

    Args:
        split: folds of the dataset.
        groups: group of each case by name. Cases that are not listed are ignored.

    Raises:
        DataError: a group is divided.

    Example:
        >>> refuse_divided_groups(Split.of("here", ["a", "b"]), {"a": "Bern", "b": "Ulm"})
    """
    for number, (training, held_out) in enumerate(split.folds):
        both = {groups[name] for name in training if name in groups} & {
            groups[name] for name in held_out if name in groups
        }
        if both:
            group = min(both)
            names = [some(sorted(n for n in part if groups.get(n) == group)) for part in (training, held_out)]
            raise DataError(
                f"{split.origin}: fold {number} trains on {names[0]} and holds out {names[1]}, but these cases are all "
                f"in the group {group!r}. Move them all to one side, or set groups to null."
            )
