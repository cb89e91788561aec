"""Folds of a run: lines of the log and `splits_final.json`."""

import json

from segbundle.datasets.folds import Split
from segbundle.datasets.given_folds import read_splits
from segbundle.workflow.fold_records import folds_in_words, record_folds, write_folds

SPLIT = Split.of("here", [["a", "b"], ["c"]], classes={"a": ["c1"], "b": ["c1", "c2"], "c": ["c2"]})


def test_written_folds_are_read_again(tmp_path):
    path = write_folds(tmp_path, SPLIT)
    assert json.loads(path.read_text()) == [
        {"train": ["c"], "val": ["a", "b"]},
        {"train": ["a", "b"], "val": ["c"]},
    ]
    assert read_splits(path, "abc").folds == SPLIT.folds


def test_lines_count_classes_of_held_out_cases():
    assert folds_in_words(SPLIT, ["background", "c1", "c2", "c3"]) == [
        "fold 0: 1 training, 2 validation: c1 2, c2 1, c3 0",
        "fold 1: 2 training, 1 validation: c1 0, c2 1, c3 0",
    ]
    many = ["background", *(f"c{index}" for index in range(1, 13))]
    classes = {"a": many[1:], "b": [], "c": many[1:3]}
    lines = folds_in_words(Split.of("here", [["a", "b"], ["c"]], classes), many)
    assert lines[0] == "fold 0: 1 training, 2 validation: all 12 classes"
    assert lines[1].startswith("fold 1: 2 training, 1 validation: without c3, c4, c5")
    assert folds_in_words(Split.of("here", ["a", "b"]), many) == [
        "fold 0: 1 training, 1 validation",
        "fold 1: 1 training, 1 validation",
    ]


def test_without_a_validation_fold_nothing_is_written(tmp_path):
    record_folds({"fold": None, "output_dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())
