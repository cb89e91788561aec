"""Classes with similar names are grouped on pages of many classes."""

from runs_by_hand import write_many
from segbundle.report.class_groups import MANY, ClassGroup, group_classes
from segbundle.report.page import write_report


def dice(names):
    return {name: {"dice_mean": value} for name, value in names.items()}


def test_few_classes_are_one_group():
    names = dice({f"rib_{number}": 0.9 for number in range(MANY)})
    assert group_classes(names) == [ClassGroup("", list(names))]


def test_names_without_sides_and_numbers_are_compared():
    names = {"liver": 0.9, "Left_Kidney": 0.8, "spleen": 0.7, "kidney_right": 0.6, "07": None, "R 8": 0.5}
    ribs = {f"rib_{side}_{number}": 0.25 for side in ("left", "right") for number in range(1, 5)}
    groups = group_classes(dice({**names, **ribs, "rib_left_9": None}))
    assert [(group.name, list(group.classes)) for group in groups] == [
        ("", ["liver"]),
        ("kidney", ["Left_Kidney", "kidney_right"]),
        ("", ["spleen"]),
        ("", ["07", "R 8"]),
        ("rib", [*ribs, "rib_left_9"]),
    ]
    assert groups[1].dice_mean == (0.8 + 0.6) / 2 and groups[1].worst == "kidney_right"
    assert groups[4].dice_mean == 0.25 and groups[4].worst == "rib_left_1"


def test_group_without_any_dice():
    groups = group_classes(dice({f"rib_{number}": None for number in range(13)}))
    assert groups == [ClassGroup("rib", [f"rib_{number}" for number in range(13)])]


def test_page_of_many_classes(tmp_path):
    folder = write_many(tmp_path, 41)
    text = write_report(folder).read_text(encoding="utf-8")
    assert text.count('<tr class="group">') == 3 and text.count('<tr class="member">') == 39
    # classes in fewer than three cases have no volume plot: the last is absent everywhere
    assert "40 plots, one for each class with at least three cases" in text
    assert "Volume differences of cyst" not in text
    assert text.count("<details><summary><span") == 40
    assert len(text) < 10e6


def test_page_of_few_classes_is_not_collapsed(tmp_path):
    text = write_report(write_many(tmp_path, 12)).read_text(encoding="utf-8")
    assert "<details><summary>" not in text and '<tr class="group">' not in text
