"""Predictions without references: what is measured, and what is warned of."""

import csv
import json

import numpy as np
import pytest

from runs_by_hand import RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.reports import write_prediction_report
from segbundle.reports.measurements import Expected, Measurement, warnings_of


def report(folder):
    text = write_prediction_report(folder).read_text(encoding="utf-8")
    rows = list(csv.DictReader((folder / "measurements.csv").open(encoding="utf-8-sig")))
    return text, {(row.pop("scan"), row.pop("class")): row for row in rows}


def test_measurements_by_hand(tmp_path):
    two_parts = labels((1, 2, 2), (8, 9, 8))  # the cube ends in the last layer, at 11
    two_parts[1, 12, 12] = 1
    text, rows = report(write_predictions(tmp_path, {"two parts": two_parts, "half": labels((2, 2, 2))}))
    assert rows["two parts", "ball"] == {  # 65 voxels of 2 mm³
        "volume_ml": "0.13", "components": "2", "mean_intensity": "100.0000", "touches_edge": "false", "warnings": "",
    }  # fmt: skip
    edge = "touches the scan's edge, and may be cut off"
    assert rows["two parts", "cube"] == {
        "volume_ml": "0.128", "components": "1", "mean_intensity": "200.0000", "touches_edge": "true",
        "warnings": edge,
    }  # fmt: skip
    assert rows["half", "cube"] == {
        "volume_ml": "0", "components": "0", "mean_intensity": "", "touches_edge": "false", "warnings": "",
    }  # fmt: skip
    assert "2 scans, 1 with something to look at" in text
    assert "<strong>two parts</strong>: cube touches the scan&#39;s edge" in text
    assert text.count('<svg class="slice"') == 6


def test_what_is_expected_comes_from_the_annotated_cases_beside_the_model(tmp_path):
    write_evaluation(tmp_path / "training", {f"case {index}": (RIGHT, RIGHT) for index in range(12)})
    huge = labels((1, 2, 2), (7, 9, 8))
    huge[2:9, 2:10, 2:10] = 1
    scans = {"huge ball": huge, "no cube": labels((1, 2, 2))}
    text, rows = report(write_predictions(tmp_path / "predictions", scans, tmp_path / "training" / "model.pt"))
    source = "the 12 annotated cases beside the model"
    assert rows["huge ball", "ball"]["warnings"].endswith(f"far outside {source} (0.064 to 0.256 ml)")
    assert rows["no cube", "cube"]["warnings"] == f"is missing, and is in 100% of {source}"
    assert rows["no cube", "ball"]["warnings"] == ""
    assert source in text


def test_far_out_by_hand():
    # logarithms to base 2 of the volumes: 0, 1, ..., 12: quartiles 3 and 9, so that more than 18 beyond is far out
    expected = Expected.of([2.0**power for power in range(13)], "others")
    assert (expected.low, expected.high) == pytest.approx((2.0**-15, 2.0**27))
    assert expected.present == 1

    def found(volume):
        return warnings_of(Measurement("a", "ball", volume, 1, 1.0, False), {"ball": expected})

    assert found(2.0**26) == found(2.0**-14) == []
    assert "far outside others" in found(2.0**28)[0]
    assert "far outside others" in found(2.0**-16)[0]
    assert "is missing" in found(0.0)[0]
    alike = Expected.of([12.3] * 12, "others")
    assert (alike.low, alike.high) == pytest.approx((6.15, 24.6))  # half or twice as large, if they do not differ
    rare = Expected.of([0.0] * 9 + [1.0] * 3, "others")
    assert (rare.present, rare.low) == (0.25, None)  # too few volumes for a range
    assert warnings_of(Measurement("a", "ball", 0.0, 0, None, False), {"ball": rare}) == []


def test_scans_that_failed_or_are_gone_are_told(tmp_path):
    write_predictions(tmp_path, {"there": RIGHT, "gone": RIGHT})
    (tmp_path / "scans" / "gone.nii.gz").unlink()
    records = json.loads((tmp_path / "predictions.json").read_text())
    records.append({"case": "broken", "status": "failed", "image": "x", "prediction": None, "error": "cannot be read"})
    (tmp_path / "predictions.json").write_text(json.dumps(records))
    text, rows = report(tmp_path)
    assert {scan for scan, _ in rows} == {"there"}
    assert "broken: cannot be read" in text
    assert "gone: no measurement: " in text


def test_nothing_found_at_all(tmp_path):
    text, rows = report(write_predictions(tmp_path, {"empty": labels()}))
    assert "Nothing was found." in text
    assert [row["volume_ml"] for row in rows.values()] == ["0", "0"]


def test_names_are_escaped(tmp_path):
    text, rows = report(write_predictions(tmp_path, {"<script>alert(1)<∕script>": RIGHT}))
    assert "<script>alert" not in text
    assert ("<script>alert(1)<∕script>", "ball") in rows


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"holds no predictions\.json; give the output_dir"):
        write_prediction_report(tmp_path)


def test_too_few_annotated_cases_are_no_reason_to_be_silent(tmp_path):
    write_evaluation(tmp_path / "training", {f"case {index}": (RIGHT, RIGHT) for index in range(8)})
    scans = {f"scan {index}": RIGHT for index in range(12)} | {"no cube": labels((1, 2, 2))}
    _, rows = report(write_predictions(tmp_path / "predictions", scans, tmp_path / "training" / "model.pt"))
    assert rows["no cube", "cube"]["warnings"] == "is missing, and is in 92% of these scans themselves"


def test_scores_of_another_program_beside_the_model_are_left_alone(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss\n1,2,0.5\n")
    text, _ = report(write_predictions(tmp_path / "predictions", {"a": RIGHT}, tmp_path / "model.pt"))
    assert "too few cases" in text


def test_more_classes_than_there_are_styles_are_all_drawn(tmp_path):
    found = np.zeros((64, 64, 9), np.uint8)
    for index in range(30):
        x, y = 2 + 10 * (index % 6), 2 + 10 * (index // 6)
        found[x : x + 4, y : y + 4, 2:6] = index + 1
    write_predictions(tmp_path, {"a": found})
    made_by = json.loads((tmp_path / "run.json").read_text())
    made_by["config"]["class_names"] = ["background", *(f"class {index}" for index in range(1, 31))]
    (tmp_path / "run.json").write_text(json.dumps(made_by))
    text, _ = report(tmp_path)
    axial = text[text.index("<title>axial") :]
    assert axial[: axial.index("</svg>")].count("<path") == 30
