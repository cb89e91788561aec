"""Colors of classes on pages: those of the run, the same in tables, charts and slices."""

import re

import pytest

from runs_by_hand import RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.report.charts import Line, curves
from segbundle.report.comparison import write_comparison
from segbundle.report.page import write_report
from segbundle.report.prediction_page import write_prediction_report
from segbundle.report.trainings import drawn

CASES = {"a": (labels((2, 2, 2), (7, 9, 8)), RIGHT), "b": (RIGHT, RIGHT)}
PINK = {"class_colors": {"cube": "#ff0080"}}
"""The ball has the first color of the palette."""
RULES = [("k0", "rgb(230,159,0)"), ("k1", "rgb(255,0,128)")]


def rules(text):
    return re.findall(r"\.(k\d+)\{--color:(.*?)\}", text)


def test_report_has_the_colors_of_the_run(tmp_path):
    text = write_report(write_evaluation(tmp_path, CASES, config=PINK)).read_text("utf-8")
    assert rules(text) == RULES
    assert set(re.findall(r'<span class="named (k\d)">(\w+)</span>', text)) == {("k0", "ball"), ("k1", "cube")}
    assert text.count('<circle class="dot k1"') == 4 * 2  # in four charts: Dice, HD95, NSD, volumes


def test_comparison_has_the_colors_of_the_baseline(tmp_path):
    first = write_evaluation(tmp_path / "first", CASES, config=PINK)
    other = write_evaluation(tmp_path / "other", {"a": CASES["b"], "b": CASES["b"]})
    text = write_comparison([first, other], tmp_path / "page.html").read_text("utf-8")
    assert rules(text) == RULES
    assert set(re.findall(r'<span class="named (k\d)">(\w+)</span>', text)) == {("k0", "ball"), ("k1", "cube")}
    assert text.count('<circle class="dot k1"') == 2
    assert text.count('<circle class="dot"') == 2  # means over the classes of a case
    text = write_comparison([other, first], tmp_path / "page.html").read_text("utf-8")
    assert rules(text) == [RULES[0], ("k1", "rgb(86,180,233)")]


def test_prediction_page_has_the_same_colors_in_its_charts(tmp_path):
    text = write_prediction_report(write_predictions(tmp_path, {"a": RIGHT})).read_text("utf-8")
    assert text.count('<circle class="dot k0"') == text.count('<circle class="dot k1"') == 1
    assert '<th scope="row"><span class="named k1">cube</span></th>' in text


def test_invalid_color_names_the_file(tmp_path):
    run = write_evaluation(tmp_path, CASES, config={"class_colors": {"cube": "pink"}})
    with pytest.raises(OutputError, match=r"run\.json: class_colors: the color of 'cube' is 'pink'"):
        write_report(run)


def test_curves_per_class_have_the_colors_of_the_classes():
    scalars = {f"validation/dice/{name}": [(1, 0.1), (2, 0.2)] for name in ("cube", "ball")}
    loss, dice = drawn({"": {"train/loss": [(1, 0.9), (2, 0.5)], **scalars}}, {"ball": "k0", "cube": "k1"})
    assert re.findall('polyline class="curve (.*?)"', loss) == ["c0 d0"]
    assert re.findall('polyline class="curve (.*?)"', dice) == ["k1 d0", "k0 d1"]


def test_curves_of_many_classes_keep_their_colors():
    names = [str(index) for index in range(117)]
    chart = curves(
        "Dice", [Line(name, name, [(1, 0.1), (2, 0.2)]) for name in names], {name: f"k{name}" for name in names}
    )
    assert re.findall('polyline class="curve (.*?)"', chart) == [f"k{name}" for name in names]
