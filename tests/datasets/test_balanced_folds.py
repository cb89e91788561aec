"""Exchange of cases between folds: no fold lacks a class if that is possible, and nothing else changes."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segbundle.datasets.balanced_folds import balance_folds
from segbundle.datasets.folds import random_split


def test_folds_that_lack_nothing_are_not_changed():
    folds = [["a", "ab"], ["b", "a"], ["ab", "a"]]
    assert balance_folds(folds, set) == folds


def test_rare_class_is_spread_over_the_folds():
    folds = [["ar", "ar", "ar"], ["a", "a", "a"], ["a", "a", "a"]]
    balanced = balance_folds(folds, set)
    assert [Counter("".join(fold))["r"] for fold in balanced] == [1, 1, 1]
    assert [len(fold) for fold in balanced] == [3, 3, 3]


def test_class_of_two_cases_is_in_two_of_three_folds():
    balanced = balance_folds([["r", "r"], ["", ""], ["", ""]], set)
    assert sorted("".join(fold) for fold in balanced) == ["", "r", "r"]


def test_exchange_does_not_take_another_class_away():
    balanced = balance_folds([["xy", "x"], ["", "y"]], set)
    assert [set("".join(fold)) for fold in balanced] == [{"x", "y"}] * 2


def test_no_features_and_no_cases():
    assert balance_folds([["a"], ["b"]], lambda unit: ()) == [["a"], ["b"]]
    assert balance_folds([[], []], set) == [[], []]


@given(
    st.lists(st.lists(st.sets(st.integers(0, 4)), max_size=6), min_size=2, max_size=5),
)
def test_exchanges_keep_the_units_and_lose_no_feature(folds):
    numbered = [[(fold, index) for index in range(len(units))] for fold, units in enumerate(folds)]
    balanced = balance_folds(numbered, lambda unit: folds[unit[0]][unit[1]])
    assert [len(fold) for fold in balanced] == [len(fold) for fold in numbered]
    assert sorted(unit for fold in balanced for unit in fold) == sorted(unit for fold in numbered for unit in fold)

    def spread(chosen):
        found = [set().union(*(folds[a][b] for a, b in fold)) for fold in chosen]
        return sum(len(features) for features in found)

    assert spread(balanced) >= spread(numbered)


def test_one_rare_class_is_in_every_fold_of_any_random_split():
    names = [f"c{index:02d}" for index in range(40)]
    for seed in range(20):
        rare = np.random.default_rng(seed).choice(names, 5, replace=False)
        split = random_split(names, 5, seed, classes={name: ["rare"] for name in rare})
        assert [len(held_out & set(rare)) for _, held_out in split.folds] == [1] * 5


def test_groups_stay_together_when_they_are_exchanged():
    groups = {f"p{p}_{i}": f"p{p}" for p in range(6) for i in range(3)}
    classes = {name: ["lesion"] if group in ("p0", "p1", "p2") else [] for name, group in groups.items()}
    for seed in range(10):
        split = random_split(groups, 3, seed, groups, classes)
        for training, held_out in split.folds:
            assert not {groups[name] for name in training} & {groups[name] for name in held_out}
            assert sum(len(classes[name]) for name in held_out) == 3
