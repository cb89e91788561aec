"""Exchange cases between folds, so that no fold lacks a class."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

_Unit = TypeVar("_Unit")
_STARTS = 10


def balance_folds(
    folds: Sequence[Sequence[_Unit]], features: Callable[[_Unit], Iterable[Hashable]]
) -> list[list[_Unit]]:
    """Exchange units between folds until every feature is in as many folds as possible.

    A feature that `n` units have can be in at most `n` folds. While a feature is in fewer folds, the two units
    are exchanged that add the most features to folds; ties are broken by the order of folds and units. If a feature is
    then still in too few folds, the search starts again from shuffled units, up to nine times. The sizes of the folds
    do not change. If every feature is in as many folds as possible, the folds are returned unchanged.

    Args:
        folds: units of each fold: the items to distribute, for instance cases or groups of cases.
        features: function that returns the features of a unit, for instance the classes of a case.

    Returns:
        units of each fold, in the same order where no unit was exchanged

    Example:
        >>> balance_folds([["liver", "liver lesion"], ["lesion", "liver"]], str.split)
        [['liver', 'liver lesion'], ['lesion', 'liver']]
        >>> balance_folds([["liver", "liver"], ["lesion", "lesion"]], str.split)
        [['lesion', 'liver'], ['liver', 'lesion']]
    """
    units = [unit for fold in folds for unit in fold]
    place = np.repeat(np.arange(len(folds)), [len(fold) for fold in folds])
    found = [frozenset(features(unit)) for unit in units]
    names = sorted(frozenset().union(*found), key=str)
    if not names:
        return [list(fold) for fold in folds]
    has = np.array([[name in each for name in names] for each in found])
    possible = np.minimum(has.sum(0), len(folds))
    random = np.random.RandomState(0)
    best, most = np.arange(len(units)), -1
    for start in range(_STARTS):
        order = np.arange(len(units)) if start == 0 else random.permutation(len(units))
        spread = _exchange(order, has, place, possible)
        if spread > most:
            best, most = order, spread
        if most == possible.sum():
            break
    return [[units[index] for index in best[place == fold]] for fold in range(len(folds))]


def _exchange(order: np.ndarray, has: np.ndarray, place: np.ndarray, possible: np.ndarray) -> int:
    """Exchange units until no exchange helps, and return the number of pairs of a feature and a fold that has it.

    Args:
        order: unit at each position (units,), changed in place.
        has: whether a unit has a feature (units, features).
        place: fold of each position (units,), in ascending order.
        possible: number of folds that each feature can be in (features,).
    """
    counts = np.stack([has[order[place == fold]].sum(0) for fold in range(place.max() + 1)])
    while (swap := _best_swap(has[order], place, counts, possible)) is not None:
        first, second = swap
        change = has[order[second]].astype(int) - has[order[first]]
        counts[place[first]] += change
        counts[place[second]] -= change
        order[[first, second]] = order[[second, first]]
    return int((counts > 0).sum())


def _best_swap(has: np.ndarray, place: np.ndarray, counts: np.ndarray, possible: np.ndarray) -> tuple[int, int] | None:
    """Return the positions of the two units whose exchange adds the most features to folds; None if no exchange helps.

    Args:
        has: whether a unit has a feature (units, features).
        place: fold of each unit (units,).
        counts: number of units with a feature in each fold (folds, features).
        possible: number of folds that each feature can be in (features,).
    """
    lacking = np.flatnonzero((counts > 0).sum(0) < possible)
    best, swap = 0, None
    for first in np.flatnonzero(has[:, lacking].any(1)):
        rest = counts[place[first]] - has[first]
        others = np.flatnonzero(place != place[first])
        if not others.size:
            continue
        here = (rest + has[others] > 0).astype(int) - (counts[place[first]] > 0)
        there = (counts[place[others]] - has[others] + has[first] > 0).astype(int) - (counts[place[others]] > 0)
        gain = (here + there).sum(1)
        index = int(gain.argmax())
        if gain[index] > best:
            best, swap = int(gain[index]), (int(first), int(others[index]))
    return swap
