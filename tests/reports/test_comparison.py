import re

import pytest
from scipy.stats import wilcoxon

from runs_by_hand import CASES, RIGHT, labels, write_evaluation
from segbundle.errors import OutputError
from segbundle.reports import read_run, write_comparison
from segbundle.reports.comparison import Pairing


def shifted(by):
    return labels((1 + by, 2, 2), (7, 9, 8))


@pytest.fixture
def runs(tmp_path):
    """Ball's Dice: 1 against 0.75 (a), 0.75 against 0.5 (b), 0.5 against 1 (c), 1 against 1 (d); and one case each."""
    first = {"a": (shifted(0), RIGHT), "b": (shifted(1), RIGHT), "c": (shifted(2), RIGHT), "d": (RIGHT, RIGHT)}
    other = {"a": (shifted(1), RIGHT), "b": (shifted(2), RIGHT), "c": (shifted(0), RIGHT), "d": (RIGHT, RIGHT)}
    return (
        write_evaluation(tmp_path / "x" / "run", {**first, "only here": (RIGHT, RIGHT)}),
        write_evaluation(tmp_path / "y" / "run", {**other, "only there": (RIGHT, RIGHT)}),
    )


def test_pairs_by_hand(runs):
    ball = Pairing.of(*map(read_run, runs), "ball")
    assert ball.pairs == {"a": (1.0, 0.75), "b": (0.75, 0.5), "c": (0.5, 1.0), "d": (1.0, 1.0)}
    assert ball.difference == 0
    assert (ball.better, ball.worse) == (1, 2)
    assert ball.p_value == wilcoxon([-0.25, -0.25, 0.5, 0]).pvalue
    cube = Pairing.of(*map(read_run, runs), "cube")
    assert cube.difference == 0
    assert cube.p_value is None  # nothing differs


def test_the_page_names_what_only_one_run_has(runs, tmp_path):
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "only in x/run: only here" in text
    assert "only in y/run: only there" in text
    assert "Over the 4 cases" in text
    # (1 + 0.75 + 0.5 + 1) / 4 of the ball and 1 of the cube, without the case that only one has
    assert re.findall(r'<th scope="row">./run</th><td>(.*?)</td>', text) == ["0.9062", "0.9062"]
    assert re.findall(r'<tr data-status="scored"><th scope="row">(.)</th><td>ball', text) == ["a", "b", "d", "c"]


def test_a_class_that_only_one_run_can_score_has_no_pair(tmp_path):
    nowhere = labels((1, 2, 2))
    runs = [
        write_evaluation(tmp_path / "a", {"case": CASES["invented"]}),
        write_evaluation(tmp_path / "b", {"case": (nowhere, nowhere)}),
    ]
    assert Pairing.of(*map(read_run, runs), "cube").pairs == {}
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "false positive → absent" in text
    assert 'data-status="false_positive true_absent"' in text  # found by either filter


def test_a_row_that_one_run_lacks_is_left_out(runs, tmp_path):
    lines = (runs[1] / "metrics.csv").read_text().splitlines()
    (runs[1] / "metrics.csv").write_text("\n".join(line for line in lines if not line.startswith("a,cube")))
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert text.count("<tr data-status") == 7


def test_what_cannot_be_compared_is_refused(tmp_path):
    one = write_evaluation(tmp_path / "one", {"a": (RIGHT, RIGHT)})
    other = write_evaluation(tmp_path / "other", {"b": (RIGHT, RIGHT)})
    with pytest.raises(OutputError, match="no case in common"):
        write_comparison([one, other], tmp_path / "comparison.html")
    with pytest.raises(OutputError, match="cannot be compared with itself"):
        write_comparison([one, one], tmp_path / "comparison.html")
    with pytest.raises(OutputError, match=r"nothing: holds no metrics\.csv"):
        write_comparison([one, tmp_path / "nothing"], tmp_path / "comparison.html")
