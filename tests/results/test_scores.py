import csv
import json
import math

import numpy as np
import pandas
import pytest
import torch

from segbundle.errors import OutputError
from segbundle.files.documents import validate
from segbundle.metrics import ClassScore, Status, score_case
from segbundle.results.schemas import Scores
from segbundle.results.scores import (
    COLUMNS,
    CaseScores,
    Row,
    metrics_rows,
    read_rows,
    read_scores,
    scores_from_json,
    scores_to_json,
)
from segbundle.results.summary import bootstrap_interval, mean_dice, print_summary, summarize, write_scores

NAMES = ["background", "liver", "lesion"]


def case(name, pred, ref, annotated=None):
    scores = score_case(torch.tensor(pred), torch.tensor(ref), 3, annotated)
    return CaseScores(name, scores, voxel_ml=0.5)


@pytest.fixture
def cases():
    return [
        case("a", [1, 1, 2, 0], [1, 1, 2, 2]),  # liver 1, lesion 2*1/(1+2) = 2/3
        case("b", [1, 0, 2, 0], [1, 1, 0, 0]),  # liver 2/3, lesion predicted only: 0
        case("c", [1, 1, 0, 0], [1, 1, 0, 0]),  # liver 1, lesion in neither
        case("d", [1, 1, 2, 0], [1, 1, 0, 0], [True, True, False]),  # liver 1, lesion not annotated
    ]


def test_summary_by_hand(cases):
    summary = summarize(cases, NAMES)
    liver, lesion = summary["classes"]["liver"], summary["classes"]["lesion"]
    assert liver["dice_mean"] == pytest.approx((1 + 2 / 3 + 1 + 1) / 4)
    assert lesion["dice_mean"] == pytest.approx((2 / 3 + 0) / 2)
    assert summary["mean_dice"] == pytest.approx((11 / 12 + 1 / 3) / 2)
    assert summary["mean_dice_present"] == pytest.approx((11 / 12 + 2 / 3) / 2)
    assert summary["cases"] == 4
    counts = {key: value for key, value in lesion.items() if key.startswith("n_")}
    assert counts == {"n_scored": 1, "n_missed": 0, "n_false_positive": 1, "n_true_absent": 1, "n_unannotated": 1}


def test_scores_to_json_round_trip():
    ball, cube = torch.zeros(2, 9, 9, 9, dtype=torch.long)
    ball[2:6, 2:6, 2:5], cube[2:6, 3:7, 2:5] = 1, 1
    spacing = (0.1, 0.7, 1 / 3)
    scores = score_case(ball, cube, 3, [True, True, False], spacing=spacing, nsd_tolerance_mm=0.5)
    case = CaseScores("a", scores, voxel_ml=0.1 * 0.7 / 3 / 1000)
    content = json.loads(json.dumps(scores_to_json(case), allow_nan=False))
    validate(content, Scores, "record", OutputError)
    again = scores_from_json("a", content)
    assert repr(again) == repr(case)  # NaN is not equal to itself
    assert again.scores[1].hd95_mm > 0 and 0 < again.scores[1].nsd < 1
    assert math.isnan(again.scores[2].dice) and again.scores[2].components_ref is None


def test_missing_dice_in_a_record_raises():
    content = scores_to_json(case("a", [1, 1, 2, 0], [1, 1, 2, 2]))
    content["classes"][2]["dice"] = None
    with pytest.raises(OutputError, match=r"classes\[2\] is .*: dice must be a number for a class with status scored"):
        validate(content, Scores, "record", OutputError)


@pytest.mark.parametrize(
    ("key", "value"),
    [("status", "good"), ("dice", 1.5), ("dice", "0.5"), ("hd95_mm", -1), ("nsd", 2), ("voxels_ref", None)],
)
def test_invalid_scores_in_a_record_raise(key, value):
    content = scores_to_json(case("a", [1, 1, 2, 0], [1, 1, 2, 2]))
    content["classes"][1][key] = value
    with pytest.raises(OutputError, match=rf"record: classes\[1\]\.{key} is "):
        validate(content, Scores, "record", OutputError)


def test_interval_contains_the_mean_and_is_deterministic(cases):
    low, high = summarize(cases, NAMES)["classes"]["liver"]["dice_ci95"]
    assert 2 / 3 <= low < 11 / 12 < high <= 1
    assert [low, high] == summarize(cases, NAMES)["classes"]["liver"]["dice_ci95"]


def test_mean_interval_resamples_cases_with_all_classes():
    same = [case(name, [1, 2, 2, 0], [1, 2, 2, 2]) for name in "abc"]  # liver 1, lesion 0.8
    assert summarize(same, NAMES)["mean_dice_ci95"] == pytest.approx([0.9, 0.9])
    # classes that make up for each other in every case leave the mean as it is, whatever is drawn
    opposite = [case("a", [1, 2, 2, 2], [1, 2, 2, 0]), case("b", [1, 1, 1, 2], [1, 1, 0, 2])]
    liver_and_lesion = [(1 + 0.8) / 2, (0.8 + 1) / 2]
    assert summarize(opposite, NAMES)["mean_dice_ci95"] == pytest.approx(liver_and_lesion)
    assert summarize(same[:1], NAMES)["mean_dice_ci95"] == [None, None]


def test_summary_without_scores_has_null_not_nan():
    summary = summarize([case("c", [0, 0], [0, 0])], NAMES)
    assert summary["mean_dice"] is None
    assert summary["classes"]["liver"]["dice_mean"] is None
    assert summary["classes"]["liver"]["dice_ci95"] == summary["mean_dice_ci95"] == [None, None]
    assert summarize([], NAMES)["cases"] == 0


def test_metrics_csv_and_summary_json(cases, tmp_path):
    summary = write_scores(tmp_path, cases, NAMES)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert len(rows) == 8
    assert ",".join(rows[0]) == (
        "case,class,status,dice,hd95_mm,nsd,volume_ref_ml,volume_pred_ml,components_ref,components_pred"
    )
    by_key = {(row["case"], row["class"]): row for row in rows}
    assert by_key["b", "lesion"] == {
        "case": "b",
        "class": "lesion",
        "status": "false_positive",
        "dice": "0.000000",
        "hd95_mm": "",
        "nsd": "",
        "volume_ref_ml": "0",
        "volume_pred_ml": "0.5",
        "components_ref": "",
        "components_pred": "",
    }
    assert by_key["c", "lesion"]["status"] == "true_absent"
    assert by_key["c", "lesion"]["dice"] == ""
    assert by_key["d", "lesion"]["status"] == "unannotated"
    assert by_key["d", "lesion"]["volume_ref_ml"] == ""
    assert by_key["a", "liver"]["volume_ref_ml"] == "1"


def test_pandas_reads_metrics_csv(tmp_path):
    told = [case("001", [1, 2, 2, 0], [1, 1, 2, 0]), case("Größe", [1, 1, 0, 0], [1, 1, 2, 0])]
    summary = write_scores(tmp_path, told, NAMES)
    table = pandas.read_csv(tmp_path / "metrics.csv", dtype={"case": str})
    assert list(table["case"]) == ["001", "001", "Größe", "Größe"]
    assert {str(table[column].dtype) for column in ("dice", "volume_ref_ml", "volume_pred_ml")} <= {"float64", "int64"}
    means = table.groupby("class")["dice"].mean()
    assert means["liver"] == pytest.approx(summary["classes"]["liver"]["dice_mean"], abs=1e-6)
    assert means["lesion"] == pytest.approx(1 / 3, abs=1e-6)  # 2/3 and missed


@pytest.fixture
def cases_with_surfaces():
    def bar(*labels):  # voxels in a row, 2 mm apart, an empty one around
        return torch.nn.functional.pad(torch.tensor(labels, dtype=torch.uint8)[:, None, None], (1, 1, 1, 1, 1, 1))

    pairs = {
        "right": (bar(1, 0, 0, 0), bar(1, 0, 0, 0)),
        "apart": (bar(0, 1, 0, 2), bar(1, 0, 0, 0)),
        "missed": (bar(0, 0, 0, 0), bar(1, 0, 1, 0)),
    }
    spacing, tolerances = (2.0, 1.0, 1.0), [0.0, 1.0, 1.0]
    return [
        CaseScores(name, score_case(pred, ref, 3, spacing=spacing, nsd_tolerance_mm=tolerances), voxel_ml=0.002)
        for name, (pred, ref) in pairs.items()
    ], tolerances


def test_surfaces_and_components_by_hand(cases_with_surfaces, tmp_path):
    cases, tolerances = cases_with_surfaces
    summary = write_scores(tmp_path, cases, NAMES, tolerances)
    rows = {(row["case"], row["class"]): row for row in csv.DictReader((tmp_path / "metrics.csv").open())}
    # one voxel further: half of both surfaces coincides, the rest is 2 mm apart
    found = {key: rows["apart", "liver"][key] for key in ("dice", "hd95_mm", "nsd")}
    assert found == {"dice": "0.000000", "hd95_mm": "2.0000", "nsd": "0.500000"}
    assert (rows["missed", "liver"]["hd95_mm"], rows["missed", "liver"]["nsd"]) == ("", "0.000000")
    assert (rows["missed", "liver"]["components_ref"], rows["missed", "liver"]["components_pred"]) == ("2", "0")
    liver = summary["classes"]["liver"]
    assert liver["hd95_mm_mean"] == 1  # of 0 and 2
    assert liver["nsd_mean"] == 0.5  # of 1, 0.5 and 0
    assert liver["nsd_tolerance_mm"] == 1
    again = write_scores(tmp_path / "again", read_scores(tmp_path, NAMES), NAMES, tolerances)
    assert again["classes"]["liver"] == liver
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (tmp_path / "metrics.csv").read_bytes()


def test_printed_table_with_surfaces_fits_80_columns(cases_with_surfaces, capsys):
    print_summary(summarize(*cases_with_surfaces[:1], NAMES, cases_with_surfaces[1]), "3 cases")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if "liver" in line).split()[:4] == ["liver", "0.3333", "1.00", "0.500"]


def test_printed_table_has_a_row_per_class(cases, capsys):
    print_summary(summarize(cases, NAMES), "4 cases")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    liver = next(line for line in lines if "liver" in line)
    assert liver.split()[1] == "0.9167"


def test_read_scores_round_trip(cases, tmp_path):
    summary = write_scores(tmp_path / "one", cases, NAMES)
    read = read_scores(tmp_path / "one", NAMES)
    again = write_scores(tmp_path / "two", read, NAMES)
    assert (tmp_path / "one" / "metrics.csv").read_text() == (tmp_path / "two" / "metrics.csv").read_text()
    for name, row in summary["classes"].items():
        assert again["classes"][name]["dice_mean"] == pytest.approx(row["dice_mean"], abs=1e-6)
    assert again["mean_dice_present"] == pytest.approx(summary["mean_dice_present"], abs=1e-6)


def test_read_scores_with_other_classes_or_no_file_raises(cases, tmp_path):
    write_scores(tmp_path, cases, NAMES)
    with pytest.raises(OutputError, match="class 'liver' instead of 'spleen'"):
        read_scores(tmp_path, ["background", "spleen", "lesion"])
    with pytest.raises(OutputError, match=r"metrics\.csv does not exist"):
        read_scores(tmp_path / "nothing", NAMES)


SPARSE = [
    # liver scored and not annotated, lesion in one case only; the third class in none
    ("a", [1, 1, 2, 0], [1, 0, 2, 2], [True, True, True]),
    ("b", [1, 0, 0, 0], [1, 0, 0, 0], [True, False, True]),
    ("c", [0, 0, 0, 0], [0, 0, 0, 0], [True, True, True]),
    ("d", [1, 2, 2, 0], [1, 1, 0, 0], [True, True, True]),
]


def test_intervals_match_an_independent_computation():
    """Cases are drawn with all of their classes, those without any score never; the mean is over classes first."""
    summary = summarize([case(*one) for one in SPARSE], NAMES)
    dice = np.array([[2 / 3, np.nan, 2 / 3], [2 / 3, np.nan, 0]])  # cases a, b and d; c has nothing to score
    assert summary["mean_dice"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    dice = dice[:, [0, 2]]
    means = []
    for times in np.random.default_rng(0).multinomial(2, [0.5, 0.5], 2000):
        means.append(np.nanmean((dice * times).sum(axis=1) / times.sum()))
    assert summary["mean_dice_ci95"] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist())
    drawn = np.random.default_rng(0).choice([2 / 3, 0], size=(2000, 2)).mean(axis=1)
    assert summary["classes"]["lesion"]["dice_ci95"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())


def test_bootstrap_interval_matches_numpy():
    values = [0.0, 0.25, 0.5, 1.0, 0.75, 0.125]
    means = np.random.default_rng(0).choice(values, size=(2000, 6)).mean(axis=1)
    assert bootstrap_interval(values) == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist())
    assert bootstrap_interval([0.5]) == bootstrap_interval([]) == [None, None]
    assert bootstrap_interval([0.5, 0.5]) == [0.5, 0.5]


def test_mean_interval_matches_numpy():
    values = np.array([0.91, 0.13, 0.57, 0.772, 0.3331, 0.0123])
    background = ClassScore(Status.SCORED, 1.0, 1, 1)
    cases = [CaseScores(str(dice), [background, ClassScore(Status.SCORED, dice, 1, 1)], 1.0) for dice in values]
    means = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, 2000) @ values / 6
    expected = np.percentile(means, [2.5, 97.5]).tolist()
    assert summarize(cases, NAMES[:2])["mean_dice_ci95"] == pytest.approx(expected, abs=1e-9)
    one = [CaseScores("a", [background, cases[0].scores[1]], 1.0)]
    assert summarize(one, NAMES[:2])["mean_dice_ci95"] == [None, None]


def test_interval_of_classes_scored_in_different_cases():
    """A draw without any case that scores a class leaves the class out of that draw's mean."""
    apart = [case("a", [1, 0], [1, 0], [True, True, False]), case("b", [2, 0], [2, 2], [True, False, True])]
    draws = np.random.default_rng(0).multinomial(2, [0.5, 0.5], 2000)
    means = [np.mean([dice for dice, count in zip((1, 2 / 3), times, strict=True) if count]) for times in draws]
    assert summarize(apart, NAMES)["mean_dice_ci95"] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist())


def test_metrics_rows_by_hand(tmp_path):
    score = ClassScore(Status.SCORED, 0.12345678, 10, 30, 1.23456, 0.87654321, 2, 0)
    missed = ClassScore(Status.UNANNOTATED, math.nan, 10, 30, math.nan, math.nan, None, 4)
    background = ClassScore(Status.SCORED, 1.0, 5, 5)
    cases = [CaseScores("a", [background, score, missed], voxel_ml=0.123456789)]
    assert [list(row.values()) for row in metrics_rows(cases, NAMES)] == [
        ["a", "liver", "scored", "0.123457", "1.2346", "0.876543", "1.2345679", "3.7037037", "2", "0"],
        ["a", "lesion", "unannotated", "", "", "", "", "3.7037037", "", "4"],
    ]
    assert [tuple(row) for row in metrics_rows(cases, NAMES)] == [COLUMNS] * 2
    with pytest.raises(ValueError, match="zip"):
        metrics_rows(cases, NAMES[:2])
    summary = write_scores(tmp_path / "new" / "folder", cases, NAMES, epoch=0)
    assert summary["epoch"] == 0
    assert json.loads((tmp_path / "new" / "folder" / "summary.json").read_text()) == summary
    assert "epoch" not in write_scores(str(tmp_path), cases, NAMES)
    assert read_rows(tmp_path / "metrics.csv") == [
        Row("a", "liver", Status.SCORED, 0.123457, 1.2346, 0.876543, 1.2345679, 3.7037037, 2.0, 0.0),
        Row("a", "lesion", Status.UNANNOTATED, None, None, None, None, 3.7037037, None, 4.0),
    ]
    (read,) = read_scores(str(tmp_path), NAMES)
    assert (read.case, read.voxel_ml) == ("a", 1.0)
    assert read.scores[1] == ClassScore(Status.SCORED, 0.123457, 1.2345679, 3.7037037, 1.2346, 0.876543, 2, 0)
    nothing, unannotated = read.scores[0], read.scores[2]
    assert (nothing.status, nothing.voxels_ref, nothing.voxels_pred) == (Status.UNANNOTATED, 0, 0)
    assert math.isnan(nothing.dice)
    assert (unannotated.status, unannotated.voxels_ref, unannotated.voxels_pred) == (Status.UNANNOTATED, 0, 3.7037037)
    assert (unannotated.components_ref, unannotated.components_pred) == (None, 4)
    assert all(math.isnan(value) for value in (unannotated.dice, unannotated.hd95_mm, unannotated.nsd))


def test_mean_dice_of_rows_equals_summary(cases, tmp_path):
    summary = write_scores(tmp_path, cases, NAMES)
    rows = read_rows(tmp_path / "metrics.csv")
    assert mean_dice(rows, NAMES[1:]) == pytest.approx(summary["mean_dice"], abs=1e-6)
    assert mean_dice(rows, ["spleen"]) is None
    assert mean_dice([], NAMES[1:]) is None


def test_summary_has_tolerances_of_foreground_classes(cases):
    classes = summarize(cases, NAMES, [0, 1, 2])["classes"]
    assert [classes[name]["nsd_tolerance_mm"] for name in NAMES[1:]] == [1.0, 2.0]
    assert isinstance(classes["liver"]["nsd_tolerance_mm"], float)
    assert [row["nsd_tolerance_mm"] for row in summarize(cases, NAMES)["classes"].values()] == [None, None]


def printed(capsys, monkeypatch, summary, width):
    monkeypatch.setenv("COLUMNS", str(width))
    print_summary(summary, "a title")
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]


def test_printed_table_by_hand(cases, cases_with_surfaces, capsys, monkeypatch):
    summary = summarize(cases, NAMES)
    liver, lesion = ([f"{value:.3f}" for value in row["dice_ci95"]] for row in summary["classes"].values())
    assert printed(capsys, monkeypatch, summary, 80) == [
        "a title",
        "class Dice 95 % interval scored missed false+ absent unann.",
        f"liver 0.9167 {liver[0]}–{liver[1]} 4 0 0 0 0",
        f"lesion 0.3333 {lesion[0]}–{lesion[1]} 1 0 1 1 1",
        "mean 0.6250",
        "mean without false+ 0.7917",
    ]
    surfaces = summarize(cases_with_surfaces[0], NAMES, cases_with_surfaces[1])
    assert printed(capsys, monkeypatch, surfaces, 99)[1:4] == [
        "class Dice HD95 mm NSD scored missed false+ absent unann.",
        "liver 0.3333 1.00 0.500 2 1 0 0 0",
        "lesion 0.0000 - 0.000 0 0 1 2 0",
    ]
    wide = printed(capsys, monkeypatch, surfaces, 100)
    assert wide[1] == "class Dice 95 % interval HD95 mm NSD scored missed false+ absent unann."
    assert wide[3] == "lesion 0.0000 - - 0.000 0 0 1 2 0"


TABLE = """\
2 cases

 class              Dice 95 % interval scored missed false+ absent unann.
 ────────────────────────────────────────────────────────────────────────
 liver            0.5000   0.500–0.500      2      0      0      0      0
 a_structure_with 0.5000   0.500–0.500      2      0      0      0      0
 _a_long_name

 mean             0.5000
 mean without     0.5000
 false+

"""


def test_printed_table_exact_layout(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "74")
    score = ClassScore(Status.SCORED, 0.5, 1, 1)
    names = ["background", "liver", "a_structure_with_a_long_name"]
    cases = [CaseScores(name, [score] * 3, voxel_ml=1.0) for name in "ab"]
    print_summary(summarize(cases, names), "2 cases")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == TABLE.splitlines()


def test_surface_columns_are_printed_if_any_class_has_them(capsys, monkeypatch):
    with_surface = ClassScore(Status.SCORED, 0.5, 1, 1, 2.0, 0.75, 1, 1)
    without = ClassScore(Status.TRUE_ABSENT, math.nan, 0, 0)
    for scores in ([with_surface, without], [without, with_surface]):
        cases = [CaseScores("a", [without, *scores], voxel_ml=1.0)]
        assert "HD95" in printed(capsys, monkeypatch, summarize(cases, NAMES), 80)[1]
