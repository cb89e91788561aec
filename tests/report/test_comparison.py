import itertools
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from runs_by_hand import AFFINE, CASES, RIGHT, labels, write_evaluation
from segbundle.errors import OutputError
from segbundle.report import changes
from segbundle.report.changes import largest_changes, pictures_of_changes
from segbundle.report.comparison import paired, write_comparison
from segbundle.report.pairing import DICE, MEAN, Pairing, signed_rank_test
from segbundle.report.slices import CaseVolumes, changed_slices
from segbundle.results.runs import read_run
from tiny import write_nifti

BALL = '<span class="named k0">ball</span>'


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


def pairings(runs, cases, classes=("ball", "cube")):
    """By name and measure."""
    found = paired(*map(read_run, runs), classes, cases)
    return {(one.name, one.measure.key): one for one in found}


def test_pairs_by_hand(runs):
    found = pairings(runs, {"a", "b", "c", "d"})
    ball, cube = found["ball", "dice"], found["cube", "dice"]
    assert ball.pairs == {"a": (1.0, 0.75), "b": (0.75, 0.5), "c": (0.5, 1.0), "d": (1.0, 1.0)}
    assert ball.difference == 0
    assert (ball.better, ball.worse) == (1, 2)
    assert ball.p_value == 1  # ranks -1.5, -1.5, 3: either sum is 3
    assert ball.is_too_small  # of three pairs that differ, p is 0.25 at least
    assert pairings(runs, {"a", "c"})["ball", "dice"].pairs.keys() == {"a", "c"}
    assert cube.difference == 0
    assert cube.p_value is None  # nothing differs


def test_mean_over_classes_is_computed_per_case(runs):
    mean = pairings(runs, {"a", "b"})[MEAN, "dice"]
    assert mean.pairs == {"a": (1.0, 0.875), "b": (0.875, 0.75)}  # of the cube it is 1
    assert mean.difference == -0.125
    assert (MEAN, "dice") not in pairings(runs, {"a", "b"}, ["ball"])


def test_p_can_fall_below_5_percent_from_six_pairs():
    def pairing(count):
        values = {str(place): 0.1 * (place + 1) for place in range(count)}
        return Pairing.of("ball", DICE, dict.fromkeys(values, 0.0), values)

    assert (pairing(5).p_value, pairing(5).is_too_small) == (0.0625, True)
    assert (pairing(6).p_value, pairing(6).is_too_small) == (0.03125, False)


def test_settings_that_differ_are_listed(runs, tmp_path):
    made_by = json.loads((runs[1] / "run.json").read_text())
    made_by["config"] = {"fold": 0, "network_def": {"filters": [8, 16]}}
    (runs[1] / "run.json").write_text(json.dumps(made_by))
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    row = '<th scope="row">network_def#filters</th><td class="words">–</td><td class="words">[8, 16]</td>'
    assert row in text
    assert '<th scope="row">fold</th>' not in text


def test_smaller_distances_are_better(runs):
    ball = pairings(runs, {"a", "b", "c", "d"})["ball", "hd95_mm"]
    assert ball.pairs["a"][0] == 0 < ball.pairs["a"][1]
    assert (ball.better, ball.worse) == (1, 2)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=10))
def test_signed_rank_test_matches_enumeration(differences):
    p_value = signed_rank_test(differences)
    counted = np.array([one for one in differences if one != 0])
    if len(counted) == 0:
        assert p_value is None
        return
    ranks = rankdata(np.abs(counted))
    signs = np.array(list(itertools.product((0, 1), repeat=len(counted))))
    sums, positive = signs @ ranks, ranks[counted > 0].sum()
    assert p_value == pytest.approx(min(1, 2 * min((sums <= positive).mean(), (sums >= positive).mean())))


def test_signed_rank_test_without_ties_matches_scipy():
    rng = np.random.default_rng(0)
    for size in (1, 5, 20, 50):
        differences = rng.normal(0.3, 1, size)
        assert signed_rank_test(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-9)
    many = rng.normal(0.1, 1, 51)
    assert signed_rank_test(many) == pytest.approx(wilcoxon(many, method="exact").pvalue, rel=0.05)


def test_three_runs_are_compared_on_common_cases(tmp_path):
    shapes = {"a": (shifted(0), RIGHT), "b": (shifted(1), RIGHT), "c": (shifted(2), RIGHT)}
    runs = [
        write_evaluation(tmp_path / name, {case: shapes[case] for case in cases})
        for name, cases in (("one", "abc"), ("two", "abc"), ("three", "ab"))
    ]
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Over the 2 cases" in text
    assert set(re.findall(rf'<th scope="row">{BALL}</th><td>(.*?)</td><td>(\d)</td>', text)) == {
        ("Dice", "2"), ("HD95 (mm)", "2"), ("NSD", "2"),
    }  # fmt: skip


def test_different_references_and_classes_are_reported(runs, tmp_path):
    small = labels((1, 2, 2), (7, 9, 8))
    small[1] = 0
    other = write_evaluation(tmp_path / "other", {"a": (shifted(0), small), "b": (shifted(1), RIGHT)})
    text = write_comparison([runs[0], other], tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "The references of 1 case differ between the runs</strong>, so the scores are not comparable: a<" in text
    renamed = (other / "metrics.csv").read_text(encoding="utf-8-sig").replace("cube", "box")
    (other / "metrics.csv").write_text(renamed)
    (other / "summary.json").write_text((other / "summary.json").read_text().replace("cube", "box"))
    text = write_comparison([runs[0], other], tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "<br>run has cube" in text
    assert "<br>other has box" in text


def test_runs_without_pairs_have_no_plot(tmp_path):
    nothing = labels()
    runs = [write_evaluation(tmp_path / name, {"a": (nothing, nothing)}) for name in ("one", "two")]
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "No class could be scored in both runs." in text


def test_unshared_cases_are_listed(runs, tmp_path):
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "<br>x/run has only here" in text
    assert "<br>y/run has only there" in text
    assert "Over the 4 cases" in text
    # (1 + 0.75 + 0.5 + 1) / 4 of the ball and 1 of the cube, without the case that only one has
    assert re.findall(r'<th scope="row">./run</th><td>(.*?)</td>', text) == ["0.9062", "0.9062"]
    assert re.findall(
        r'<tr data-status="scored"><th scope="row">(?:<a .*?>)?(.)(?:</a>)?</th><td><span class="named k0">ball', text
    ) == [
        "a",
        "b",
        "d",
        "c",
    ]


def test_class_scored_in_one_run_has_no_pair(tmp_path):
    nowhere = labels((1, 2, 2))
    runs = [
        write_evaluation(tmp_path / "a", {"case": CASES["invented"]}),
        write_evaluation(tmp_path / "b", {"case": (nowhere, nowhere)}),
    ]
    assert pairings(runs, {"case"})["cube", "dice"].pairs == {}
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "false positive → absent" in text
    assert 'data-status="false_positive true_absent"' in text  # found by either filter


def test_row_missing_in_one_run_is_skipped(runs, tmp_path):
    lines = (runs[1] / "metrics.csv").read_text().splitlines()
    (runs[1] / "metrics.csv").write_text("\n".join(line for line in lines if not line.startswith("a,cube")))
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert text.count("<tr data-status") == 7


def test_runs_that_cannot_be_compared_raise(tmp_path):
    one = write_evaluation(tmp_path / "one", {"a": (RIGHT, RIGHT)})
    other = write_evaluation(tmp_path / "other", {"b": (RIGHT, RIGHT)})
    with pytest.raises(OutputError, match="no case in common"):
        write_comparison([one, other], tmp_path / "comparison.html")
    with pytest.raises(OutputError, match="cannot be compared with itself"):
        write_comparison([one, one], tmp_path / "comparison.html")
    with pytest.raises(OutputError, match="nothing is not a folder"):
        write_comparison([one, tmp_path / "nothing"], tmp_path / "comparison.html")


def test_better_worse_and_p_use_the_same_rounding():
    pairing = Pairing.of("ball", DICE, {"a": 0.1, "b": 0.5}, {"a": 0.1 + 1e-9, "b": 0.5})
    assert (pairing.better, pairing.worse, pairing.p_value) == (0, 0, None)


def test_statuses_of_three_runs_are_listed_in_order(tmp_path):
    runs = [write_evaluation(tmp_path / name, {"case": CASES[what]}) for name, what in
            (("a", "perfect"), ("b", "missed"), ("c", "perfect"))]  # fmt: skip
    assert "scored → missed → scored" in write_comparison(runs, tmp_path / "c.html").read_text(encoding="utf-8")


def test_duplicate_run_error_names_the_run(tmp_path):
    runs = [write_evaluation(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(OutputError, match=r"b was given twice: a run cannot be compared with itself"):
        write_comparison([*runs, runs[1]], tmp_path / "c.html")


def test_zero_line_is_inside_the_chart(tmp_path):
    better = dict.fromkeys("abc", (RIGHT, RIGHT))
    runs = [
        write_evaluation(tmp_path / "worse", {name: (shifted(2), RIGHT) for name in better}),
        write_evaluation(tmp_path / "better", better),
    ]
    text = write_comparison(runs, tmp_path / "c.html").read_text(encoding="utf-8")
    place = float(re.search(r'<line class="limit" x1="([-0-9.]+)"', text)[1])
    assert 0 < place < 480


def test_run_without_run_json_has_unknown_provenance(tmp_path):
    runs = [write_evaluation(tmp_path / "a"), write_evaluation(tmp_path / "b", files=False)]
    assert "Unknown: the folder has no run.json." in write_comparison(runs, tmp_path / "c.html").read_text(
        encoding="utf-8"
    )


def changes_of(runs, cases, classes=("ball", "cube")):
    found = largest_changes(*map(read_run, runs), classes, cases)
    return [(one.before.case, one.before.name, one.gain) for one in found]


def test_largest_loss_and_gain_of_each_class(runs):
    everything = {"a", "b", "c", "d"}
    assert changes_of(runs, everything) == [("c", "ball", 0.5), ("a", "ball", -0.25)]  # of a and b, equal, the first
    assert changes_of(runs, {"d"}) == []
    assert changes_of(reversed(runs), everything) == [("c", "ball", -0.5), ("a", "ball", 0.25)]


def test_new_false_positive_is_a_change(tmp_path):
    without = labels((1, 2, 2))
    runs = [
        write_evaluation(tmp_path / "right", {"x": (without, without)}),
        write_evaluation(tmp_path / "wrong", {"x": (RIGHT, without)}),
    ]
    assert changes_of(runs, {"x"}) == [("x", "cube", -1.0)]
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<strong>worsened</strong>: x, cube, absent → Dice 0.000, false positive" in text


def test_largest_changes_have_slices_and_links(runs, tmp_path):
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.findall(r'<figure id="change-0-\d" class="case"><figcaption><strong>(.*?)</strong>: (.*?)<br>', text)
    assert shown == [("improved", "c, ball, Dice 0.500 → 1.000"), ("worsened", "a, ball, Dice 1.000 → 0.750")]
    assert text.count('<svg class="slice"') == 6
    assert text.count('<path class="other k0"') == 6 + 2  # in slices and in their legends
    assert f'<th scope="row"><a href="#change-0-0">c</a></th><td>{BALL}</td>' in text
    assert "have been moved" not in text


def test_slices_show_where_predictions_differ():
    """The first prediction has x 1 to 4, the other 2 to 5: they differ at x 1 and 5, and at all y and z of the cube."""
    volumes = CaseVolumes(np.zeros((12, 16, 14), np.float32), RIGHT, shifted(0), np.ones((12, 16, 14), bool), np.eye(4))
    titles = [re.search("<title>(.*?)</title>", picture)[1] for picture in changed_slices(volumes, 1, shifted(1) == 1)]
    assert titles == ["axial, S 4.0 mm", "coronal, A 4.0 mm", "sagittal, R 5.0 mm"]
    assert list(changed_slices(volumes, 1, shifted(0) == 1)) == []


def test_runs_with_different_class_order_are_matched_by_name(tmp_path):
    """Class 1 of the second run is the cube, and class 2 is the ball."""
    first = write_evaluation(tmp_path / "first", {"x": (shifted(0), RIGHT)})
    other = write_evaluation(tmp_path / "other", {"x": (shifted(1), RIGHT)})
    summary = json.loads((other / "summary.json").read_text())
    summary["classes"] = {name: summary["classes"][name] for name in ("cube", "ball")}
    (other / "summary.json").write_text(json.dumps(summary))
    swapped = np.array([0, 2, 1], np.uint8)[shifted(1)]
    write_nifti(other / "x_seg.nii.gz", swapped, AFFINE)
    runs = [read_run(folder) for folder in (first, other)]
    (found,) = pictures_of_changes(runs[0], {"other": runs[1]}, ["ball", "cube"], {"x"})["other"].shown
    same = write_evaluation(tmp_path / "same", {"x": (shifted(1), RIGHT)})
    (expected,) = pictures_of_changes(runs[0], {"other": read_run(same)}, ["ball", "cube"], {"x"})["other"].shown
    assert found["slices"] == expected["slices"] != []


def test_prediction_on_another_grid_has_an_error_message(runs, tmp_path):
    write_nifti(runs[1] / "c_seg.nii.gz", shifted(0), np.diag([1.0, 1.0, 1.0, 1.0]))
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "c_seg.nii.gz and the prediction of the first run are on different grids" in text
    assert text.count('<svg class="slice"') == 3


def test_moved_scans_are_reported_and_found(runs, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("scans", "labels"):
        (runs[0] / name).rename(moved / name)
        shutil.rmtree(runs[1] / name)
    page = tmp_path / "page.html"
    text = write_comparison(runs, page).read_text(encoding="utf-8")
    assert "have been moved</strong>, for instance " in text
    assert '<svg class="slice"' not in text
    text = write_comparison(runs, page, moved).read_text(encoding="utf-8")
    assert "have been moved" not in text
    assert text.count('<svg class="slice"') == 6
    with pytest.raises(OutputError, match="does not contain scans/"):
        write_comparison(runs, page, tmp_path / "x")


def test_each_of_three_runs_has_its_own_slices(runs, tmp_path):
    """The ball of a is moved by 1 in the second and by 2 in the third run."""
    third = {"a": (shifted(2), RIGHT), "b": (shifted(1), RIGHT), "c": (shifted(2), RIGHT), "d": (RIGHT, RIGHT)}
    runs = [read_run(one) for one in (*runs, write_evaluation(tmp_path / "z" / "run", third))]
    found = pictures_of_changes(runs[0], {"y": runs[1], "z": runs[2]}, ["ball"], {"a", "b"})
    shown = {name: {one["case"]: one for one in each.shown} for name, each in found.items()}
    assert {name: {case: one["scores"] for case, one in cases.items()} for name, cases in shown.items()} == {
        "y": {"a": "Dice 1.000 → 0.750"}, "z": {"a": "Dice 1.000 → 0.500"},
    }  # fmt: skip
    outlines = [re.findall('class="other k0" d="(.*?)"', each["a"]["slices"][0])[0] for each in shown.values()]
    assert outlines[0] != outlines[1]
    text = write_comparison([run.folder for run in runs], tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'<a href="#change-0-1">a</a></th><td>{BALL}' in text  # the second run's, by which the table is sorted


def test_contours_have_the_right_css_classes():
    """In the axial slice the reference has x 1 to 4, the prediction 2 to 5, and the other one 3 to 6, to the left."""
    shape = (12, 16, 14)
    volumes = CaseVolumes(np.zeros(shape, np.float32), shifted(0), shifted(1), np.ones(shape, bool), np.eye(4))
    axial = next(changed_slices(volumes, 1, shifted(2) == 1))
    columns = {}
    for kind in ("ref", "pred k0", "other k0"):
        path = re.search(f'class="{kind}" d="(.*?)"', axial)[1]
        columns[kind.removesuffix(" k0")] = min(float(x) for x in re.findall(r"[ML]([\d.]+) ", path))
    assert columns["pred"] == columns["ref"] - 1
    assert columns["other"] == columns["ref"] - 2


def test_unknown_voxels_are_not_a_change():
    known = np.ones((12, 16, 14), bool)
    known[:3] = False
    volumes = CaseVolumes(np.zeros(known.shape, np.float32), RIGHT, shifted(0), known, np.eye(4))
    (sagittal,) = [one for one in changed_slices(volumes, 1, shifted(1) == 1) if "sagittal" in one]
    assert "R 5.0 mm" in sagittal  # x 1 differs as well, and is unknown


def test_cases_with_different_references_have_no_slices(tmp_path):
    runs = [
        write_evaluation(tmp_path / "first", {"x": (RIGHT, RIGHT), "y": (RIGHT, RIGHT)}),
        write_evaluation(tmp_path / "other", {"x": (RIGHT, labels((1, 2, 2))), "y": (shifted(1), RIGHT)}),
    ]
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"<strong>(?:improved|worsened)</strong>: (\w)", text) == ["y"]


def test_changes_below_three_digits_are_ignored(runs):
    first = read_run(runs[0])
    row = first.rows_of("ball")[0]
    almost = replace(first, rows=[replace(row, dice=row.dice - 0.0004)])
    assert largest_changes(replace(first, rows=[row]), almost, ["ball"], {row.case}) == []


def test_runs_without_files_explain_missing_slices(runs, tmp_path):
    (runs[1] / "run.json").unlink()
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Not shown, because the files are unknown or were moved: 2 of the largest changes." in text
    assert '<svg class="slice"' not in text


def test_scans_of_either_run_are_used(runs, tmp_path):
    (runs[0] / "scans").rename(tmp_path / "away")
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count('<svg class="slice"') == 6


def test_changes_beyond_the_budget_are_counted(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "room_for_pictures", lambda _: 7000)
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count('<svg class="slice"') == 3
    assert "Not shown, to limit the size of the page: 1 smaller change." in text
    assert "<strong>improved</strong>: c, ball" in text  # the largest


def test_names_of_cases_and_runs_are_escaped(tmp_path):
    name = """Mr "O'Neil" <script>alert(1)<"""
    runs = [
        write_evaluation(tmp_path / "<b>first", {name: (RIGHT, RIGHT)}),
        write_evaluation(tmp_path / "<b>other", {name: (shifted(1), RIGHT)}),
    ]
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<strong>worsened</strong>" in text
    assert "<script>alert" not in text
    assert "<b>" not in text
