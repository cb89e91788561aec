import csv
import json

import pandas
import pytest
import torch

from segbundle.errors import OutputError
from segbundle.metrics import score_case
from segbundle.reports import CaseScores, print_summary, read_scores, summarize, write_scores

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
        case("d", [1, 1, 2, 0], [1, 1, 0, 0], [True, True, False]),  # liver 1, lesion not looked for
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


def test_interval_holds_the_mean_and_is_the_same_every_time(cases):
    low, high = summarize(cases, NAMES)["classes"]["liver"]["dice_ci95"]
    assert 2 / 3 <= low < 11 / 12 < high <= 1
    assert [low, high] == summarize(cases, NAMES)["classes"]["liver"]["dice_ci95"]


def test_the_interval_of_the_mean_draws_cases_with_all_of_their_classes():
    same = [case(name, [1, 2, 2, 0], [1, 2, 2, 2]) for name in "abc"]  # liver 1, lesion 0.8
    assert summarize(same, NAMES)["mean_dice_ci95"] == pytest.approx([0.9, 0.9])
    # classes that make up for each other in every case leave the mean as it is, whatever is drawn
    opposite = [case("a", [1, 2, 2, 2], [1, 2, 2, 0]), case("b", [1, 1, 1, 2], [1, 1, 0, 2])]
    liver_and_lesion = [(1 + 0.8) / 2, (0.8 + 1) / 2]
    assert summarize(opposite, NAMES)["mean_dice_ci95"] == pytest.approx(liver_and_lesion)
    assert summarize(same[:1], NAMES)["mean_dice_ci95"] == [None, None]


def test_nothing_to_score_is_null_not_nan():
    summary = summarize([case("c", [0, 0], [0, 0])], NAMES)
    assert summary["mean_dice"] is None
    assert summary["classes"]["liver"]["dice_mean"] is None
    assert summary["classes"]["liver"]["dice_ci95"] == summary["mean_dice_ci95"] == [None, None]
    assert summarize([], NAMES)["cases"] == 0


def test_files(cases, tmp_path):
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


def test_pandas_reads_it_and_finds_the_same_means(tmp_path):
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
    # one voxel further: half of both surfaces lies on each other, the rest 2 mm away
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


def test_a_table_with_surfaces_fits_a_terminal(cases_with_surfaces, capsys):
    print_summary(summarize(*cases_with_surfaces[:1], NAMES, cases_with_surfaces[1]), "3 cases")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if "liver" in line).split()[:4] == ["liver", "0.3333", "1.00", "0.500"]


def test_table_has_a_row_per_class(cases, capsys):
    print_summary(summarize(cases, NAMES), "4 cases")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    liver = next(line for line in lines if "liver" in line)
    assert liver.split()[1] == "0.9167"


def test_what_was_written_is_read(cases, tmp_path):
    summary = write_scores(tmp_path / "one", cases, NAMES)
    read = read_scores(tmp_path / "one", NAMES)
    again = write_scores(tmp_path / "two", read, NAMES)
    assert (tmp_path / "one" / "metrics.csv").read_text() == (tmp_path / "two" / "metrics.csv").read_text()
    for name, row in summary["classes"].items():
        assert again["classes"][name]["dice_mean"] == pytest.approx(row["dice_mean"], abs=1e-6)
    assert again["mean_dice_present"] == pytest.approx(summary["mean_dice_present"], abs=1e-6)


def test_scores_of_other_classes_and_none_at_all_are_refused(cases, tmp_path):
    write_scores(tmp_path, cases, NAMES)
    with pytest.raises(OutputError, match="'liver' where 'spleen'"):
        read_scores(tmp_path, ["background", "spleen", "lesion"])
    with pytest.raises(OutputError, match="no such file"):
        read_scores(tmp_path / "nothing", NAMES)
