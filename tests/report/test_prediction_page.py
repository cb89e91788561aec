"""Predictions without references: measurements and warnings."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from runs_by_hand import AFFINE, NAMES, RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.files.atomic import write_json
from segbundle.report import prediction_page
from segbundle.report.prediction_page import write_prediction_report
from segbundle.results.expectations import Expectations, Expected, of_all_scans, unchecked, warnings_of
from segbundle.results.runs import holds_scores
from segbundle.results.structures import Structure, training_cases_of, write_training_cases
from tiny import write_nifti


def report(folder):
    text = write_prediction_report(folder).read_text(encoding="utf-8")
    rows = list(csv.DictReader((folder / "measurements.csv").open(encoding="utf-8-sig")))
    return text, {(row.pop("case"), row.pop("class")): row for row in rows}


def test_measurements_by_hand(tmp_path):
    two_parts = labels((1, 2, 2), (8, 9, 8))  # the cube ends in the last layer, at 11
    two_parts[1, 12, 12] = 1
    text, rows = report(write_predictions(tmp_path, {"two parts": two_parts, "half": labels((2, 2, 2))}))
    assert rows["two parts", "ball"] == {  # 65 voxels of 2 mm³
        "status": "measured", "volume_ml": "0.13", "touches_edge": "false", "components": "2",
        "mean_intensity": "100.0000", "num_warnings": "0", "warnings": "", "error": "",
    }  # fmt: skip
    edge = "touches the edge of the scan and may be cut off"
    assert rows["two parts", "cube"] == {
        "status": "measured", "volume_ml": "0.128", "touches_edge": "true", "components": "1",
        "mean_intensity": "200.0000", "num_warnings": "1", "warnings": edge, "error": "",
    }  # fmt: skip
    assert rows["half", "cube"] == {
        "status": "measured", "volume_ml": "0", "touches_edge": "false", "components": "0",
        "mean_intensity": "", "num_warnings": "0", "warnings": "", "error": "",
    }  # fmt: skip
    assert "2 scans predicted. 1 scan has warnings." in text
    assert '<strong><a href="#scan-0">two parts</a></strong>: cube touches the edge of the scan' in text
    assert text.count('<svg class="slice"') == 6


def training(folder, volumes, touching=0):
    """Write the files next to a trained model: `ball` of 0.128 ml and `cube` of these volumes, some at the edge."""
    folder.mkdir(parents=True)
    balls = [Structure(f"case {index}", "ball", 0.128, False) for index in range(len(volumes))]
    cubes = [
        Structure(f"case {index}", "cube", volume, index < touching) for index, volume in enumerate(volumes)
    ]  # fmt: skip
    write_training_cases(folder, balls + cubes)
    return folder / "model.pt"


def expected_of(volumes):
    cases = [Structure("a", "ball", volume) for volume in volumes]
    return Expected.of(cases, "training cases", intensities=True)


def test_outlier_limits_by_hand():
    # logarithms to base 2 of the volumes: 0, 1, ..., 12: quartiles 3 and 9, so that more than 18 beyond is far out
    expected = expected_of([2.0**power for power in range(13)])
    assert (expected.volume_ml.low, expected.volume_ml.high) == pytest.approx((2.0**-15, 2.0**27))
    assert expected.present == 1

    def found(volume, expected=expected):
        return warnings_of(Structure("a", "ball", volume), expected).unusual

    assert found(2.0**26) == found(2.0**-14) == []
    assert found(2.0**28) == ["has a volume of 268435456 ml, above all of the 13 training cases (1 to 4096 ml)"]
    assert found(2.0**-16) == ["has a volume of 1.53e-05 ml, below all of the 13 training cases (1 to 4096 ml)"]
    assert found(0.0) == ["is missing, but present in 100% of the 13 training cases"]
    alike = expected_of([12.3] * 11 + [40.0])
    assert (alike.volume_ml.low, alike.volume_ml.high) == pytest.approx((6.15, 24.6))  # at least half, or twice
    assert found(24.6, alike) == []  # twice as large is not more than twice as large
    assert found(30.0, alike) == ["has a volume of 30 ml, above all but 1 of the 12 training cases (12.3 to 40 ml)"]
    rare = expected_of([0.0] * 9 + [1.0, 2.0, 3.0])  # too few volumes for quartiles
    assert (rare.present, rare.volume_ml.low, rare.volume_ml.high) == pytest.approx((0.25, 0.5, 6))
    assert found(0.0, rare) == []
    assert found(0.4, rare) == ["has a volume of 0.4 ml, below all of the 3 training cases that have it (1 to 3 ml)"]
    assert expected_of([0.0] * 12).volume_ml is None


def of_every_case(**measures):
    return [Structure(f"case {index}", "ball", 1.0, **measures) for index in range(12)]


def expected_from(training=(), found=(), intensities=True):
    return Expectations(training, found, ["ball"], intensities)


@pytest.mark.parametrize("usual", range(1, 30))
def test_outlier_limits_of_component_counts(usual):
    expected = expected_from(of_every_case(components=usual))

    def warned(parts):
        one = Structure("a", "ball", 1.0, components=parts)
        return warnings_of(one, expected.of(one)).words

    assert warned(3 * usual) == warned(usual // 2 + 1) == []
    assert warned(3 * usual + 1) == [f"has {3 * usual + 1} components, above all of the 12 training cases ({usual})"]
    if usual >= 2:  # one of two kidneys
        words = f"has {usual // 2} component{'s' * (usual > 3)}, below all of the 12 training cases ({usual})"
        assert warned(usual // 2) == [words]


@pytest.mark.parametrize(("mean", "warned"), [(40.0, False), (63.0, False), (-13.0, True), (1063.0, True)])
def test_intensity_outliers_by_hand(mean, warned):
    # 40, 42, ..., 62: the quartiles are 45.5 and 56.5, the range 22: far out is below 12.5 and above 89.5
    cases = [Structure(f"case {index}", "ball", 1.0, mean_intensity=40.0 + 2 * index) for index in range(12)]
    one = Structure("a", "ball", 1.0, mean_intensity=mean)
    for expected in (expected_from(cases), expected_from(found=[*cases, one])):
        words = warnings_of(one, expected.of(one)).words
        assert len(words) == warned and all("a mean intensity of" in each for each in words)
    assert warnings_of(one, expected_from(cases, intensities=False).of(one)).words == []


def test_scan_is_compared_with_other_scans_only():
    found = [Structure(f"scan {index}", "ball", 1.0 + 0.01 * index) for index in range(12)] + [
        Structure("a", "ball", 9)
    ]
    expected = expected_from(found=found)
    assert warnings_of(found[-1], expected.of(found[-1])).words == [
        "has a volume of 9 ml, above all of the 12 other scans (1 to 1.11 ml)"
    ]
    assert warnings_of(found[0], expected.of(found[0])).words == []
    few = expected_from(found=found[3:])  # nine others
    assert few.of(found[-1]) is None and few.of_class("ball") is None
    assert expected_from(found=found[2:]).of_class("ball") is not None


def test_class_absent_from_all_training_cases_is_reported():
    expected = expected_from([Structure(f"case {index}", "ball", 0.0) for index in range(12)])
    one = Structure("a", "ball", 1.0)
    assert warnings_of(one, expected.of(one)).words == ["is present, but in none of the 12 training cases"]


def test_batch_warning_needs_more_than_half_of_the_scans():
    usual = expected_from([Structure(f"case {index}", "ball", 1.0) for index in range(12)]).of_training
    volumes = [1.0, 1.0, 1.0, 1.5, 1.5, 1.5]
    assert list(of_all_scans([Structure(str(place), "ball", one) for place, one in enumerate(volumes)], usual)) == []
    volumes[0] = 1.5
    told = list(of_all_scans([Structure(str(place), "ball", one) for place, one in enumerate(volumes)], usual))
    median = "median 1.5 ml; training cases 1 ml"
    assert told == [f"4 of 6 volumes of ball are above all of the 12 training cases ({median})."]


@pytest.mark.parametrize(("touching", "warned"), [(1, True), (2, False)])
def test_edge_warning_up_to_ten_percent_of_training_cases(touching, warned):
    cases = [Structure(f"case {index}", "ball", 1.0, index < touching) for index in range(10)]
    one = Structure("a", "ball", 1.0, True)
    assert warnings_of(one, expected_from(cases).of(one)).at_edge is warned


def test_skipped_checks_are_listed():
    whole = Structure("a", "ball", 1.0, components=1, mean_intensity=3.0)
    for cases, intensities, words in (
        ([whole] * 12, True, []),
        ([whole] * 12, False, ["Intensities were not compared: they have no common scale, because"]),
        ([replace(whole, components=None)] * 12, True, ["Components were not checked for ball"]),
        ([replace(whole, mean_intensity=None)] * 12, True, ["Intensities were not compared for ball"]),
        ([whole] * 9, True, ["Presence, volume and components were not checked for ball"]),
    ):
        expected = expected_from(cases, intensities=intensities)
        told = list(unchecked({"ball": expected.of_class("ball")}, intensities))
        assert [one.startswith(start) for one, start in zip(told, words, strict=True)] == [True] * len(words)


def predictions(folder, scans, model):
    """Write the output of a prediction with that model."""
    write_training_cases(write_predictions(folder, scans), training_cases_of(model))
    return folder


def test_expected_values_come_from_training_cases(tmp_path):
    huge = labels((1, 2, 2), (7, 9, 8))
    huge[2:9, 2:10, 2:10] = 1
    scans = {"huge ball": huge, "no cube": labels((1, 2, 2))}
    model = training(tmp_path / "training", [0.128] * 12)
    text, rows = report(predictions(tmp_path / "predictions", scans, model))
    source = "the 12 training cases"
    found = rows["huge ball", "ball"]["warnings"]
    assert found == f"has a volume of 0.928 ml, above all of {source} (0.128 ml)"
    assert rows["no cube", "cube"]["warnings"] == f"is missing, but present in 100% of {source}"
    assert rows["no cube", "ball"]["warnings"] == ""
    assert source in text
    assert "<td>0.128 to 0.128</td><td>0.064</td><td>0.256</td>" in text
    assert "ball, training" in text  # a row of dots
    assert "Most predictions deviate" not in text  # two of four structures
    text, _ = report(predictions(tmp_path / "worse", {"huge ball": huge, "nothing": labels()}, model))
    assert "Most predictions deviate" in text  # three of four structures


@pytest.mark.parametrize(("touching", "warned"), [(1, True), (2, False)])
def test_no_edge_warning_if_training_cases_touch_the_edge(tmp_path, touching, warned):
    model = training(tmp_path / "training", [0.128] * 12, touching)
    at_edge = {"a": labels((1, 2, 2), (8, 9, 8))}
    _, rows = report(predictions(tmp_path / "predictions", at_edge, model))
    assert rows["a", "cube"]["touches_edge"] == "true"
    assert bool(rows["a", "cube"]["warnings"]) is warned


def test_training_cases_of_an_ensemble_have_no_duplicates(tmp_path):
    models = [training(tmp_path / "folds" / f"fold_{fold}", [0.128] * 12) for fold in range(2)]
    for given in (models, [str(model) for model in models], tmp_path / "folds", str(tmp_path / "folds")):
        assert len(training_cases_of(given)) == 24
    assert training_cases_of(None) == training_cases_of(tmp_path / "nothing" / "model.pt") == []


def test_failed_and_missing_scans_are_listed(tmp_path):
    write_predictions(tmp_path, {"there": RIGHT, "gone": RIGHT})
    (tmp_path / "scans" / "gone.nii.gz").unlink()
    records = json.loads((tmp_path / "predictions.json").read_text())
    records.append({"case": "broken", "status": "failed", "image": "x", "prediction": None, "error": "cannot be read"})
    (tmp_path / "predictions.json").write_text(json.dumps(records))
    text, rows = report(tmp_path)
    broken = rows["broken", "ball"]
    assert (broken["status"], broken["error"], broken["volume_ml"]) == ("failed", "cannot be read", "")
    assert {scan for scan, _ in rows} == {"there", "gone", "broken"}
    assert "broken: cannot be read" in text
    assert "gone: not measured: " in text


def test_formats_that_were_not_written_are_listed(tmp_path, monkeypatch):
    """One of two scans lacks RTSTRUCT and DICOM SEG; both reasons are on the page, with markup escaped."""
    write_predictions(tmp_path, {"whole": RIGHT, "part": RIGHT})
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert "Output formats" not in report(tmp_path)[0]
    next(record for record in records if record["case"] == "part")["failed_formats"] = {
        "dicom_seg": "<no> FrameOfReferenceUID", "rtstruct": "no StudyInstanceUID",
    }  # fmt: skip
    (tmp_path / "predictions.json").write_text(json.dumps(records))
    text = report(tmp_path)[0]
    assert "2 scans predicted. 1 scan lacks an output format. No scan has warnings." in text
    table = re.search(r'<table id="failed-formats">.*?</table>', text, re.S)[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", table)]
    assert rows[1:] == [
        ["part", "dicom_seg", "&lt;no&gt; FrameOfReferenceUID"], ["part", "rtstruct", "no StudyInstanceUID"],
    ]  # fmt: skip
    monkeypatch.setattr(prediction_page, "_MOST_UNWRITTEN", 1)
    text = report(tmp_path)[0]
    assert text.count("<td>dicom_seg</td>") == 1 and "<td>rtstruct</td>" not in text
    assert "1 more in predictions.json." in text


def test_prediction_without_foreground(tmp_path):
    text, rows = report(write_predictions(tmp_path, {"empty": labels()}))
    assert "(no foreground predicted)" in text and text.count('<svg class="slice"') == 3
    assert [rows["empty", name]["volume_ml"] for name in NAMES[1:]] == ["0", "0"]


def test_names_are_escaped(tmp_path):
    text, rows = report(write_predictions(tmp_path, {"<script>alert(1)<∕script>": RIGHT}))
    assert "<script>alert" not in text
    assert ("<script>alert(1)<∕script>", "ball") in rows


def test_folder_without_predictions_raises(tmp_path):
    with pytest.raises(OutputError, match=r"contains neither metrics\.csv nor predictions\.json\. Give the"):
        write_prediction_report(tmp_path)


def test_too_few_training_cases_fall_back_to_other_scans(tmp_path):
    model = training(tmp_path / "training", [0.128] * 8)
    scans = {f"scan {index}": RIGHT for index in range(12)} | {"no cube": labels((1, 2, 2))}
    _, rows = report(predictions(tmp_path / "predictions", scans, model))
    assert rows["no cube", "cube"]["warnings"] == "is missing, but present in 100% of the 12 other scans"


def test_edge_warning_if_all_scans_are_cut_off(tmp_path):
    scans = {f"scan {index}": labels((1, 2, 2), (8, 9, 8)) for index in range(12)}
    _, rows = report(write_predictions(tmp_path, scans))
    assert all("touches the edge of the scan" in rows[scan, "cube"]["warnings"] for scan in scans)


@pytest.mark.parametrize(
    "text",
    [
        "epoch,step,loss\n1,2,0.5\n",
        "case,class,volume_ml,touches_edge\na,ball,x,true\n",
        "case,class,volume_ml,touches_edge\na,ball,inf,true\n",
    ],
)
def test_foreign_training_cases_csv_is_ignored(tmp_path, text):
    write_predictions(tmp_path, {"a": RIGHT})
    (tmp_path / "training_cases.csv").write_text(text)
    page, _ = report(tmp_path)
    assert "too few cases" in page
    assert "Presence, volume and components were not checked for ball, cube" in page


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [(9, "the label map contains 9"), (-1, "the label map contains -1"), (0.5, "it contains non-integer values")],
)
def test_invalid_label_map_fails_one_scan_only(tmp_path, spoilt, problem):
    write_predictions(tmp_path, {"fine": RIGHT, "spoilt": RIGHT, "as floats": RIGHT})
    write_nifti(tmp_path / "as floats_seg.nii.gz", RIGHT.astype(np.float32), AFFINE)
    array = RIGHT.astype(np.float32 if spoilt == 0.5 else np.int16)
    array[0, 0, 0] = spoilt
    write_nifti(tmp_path / "spoilt_seg.nii.gz", array, AFFINE)
    text, rows = report(tmp_path)
    assert {scan for (scan, _), row in rows.items() if row["volume_ml"]} == {"fine", "as floats"}
    assert "spoilt: not measured: " in text and problem in text


def test_mean_intensity_skips_nan(tmp_path):
    write_predictions(tmp_path, {"a": RIGHT})
    scan = np.full(RIGHT.shape, 3.0, np.float32)
    scan[1:4] = np.nan
    write_nifti(tmp_path / "scans" / "a.nii.gz", scan, AFFINE)
    _, rows = report(tmp_path)
    assert rows["a", "ball"]["mean_intensity"] == "3.0000"


def test_measurements_are_written_next_to_the_page(tmp_path):
    folder = write_predictions(tmp_path / "run", {"a": RIGHT})
    write_prediction_report(folder, tmp_path / "page.html")
    assert (tmp_path / "measurements.csv").exists() and not (folder / "measurements.csv").exists()


def test_slice_with_most_classes_is_shown(tmp_path):
    found = np.zeros((12, 16, 14), np.uint8)
    found[1:-1, 1:-1, 3] = 1  # most of a layer is one class
    found[4, 4, 8], found[6, 6, 8] = 1, 2  # little of two
    text, _ = report(write_predictions(tmp_path, {"a": found}))
    assert "axial, S 8.0 mm" in text


def test_slices_show_structures_with_warnings(tmp_path):
    found = np.zeros((12, 16, 14), np.uint8)
    found[2:8, 2:8, 6] = 1
    found[9:, 3, 3] = 2  # reaches the edge to the right, at 11 of 2 mm
    text, _ = report(write_predictions(tmp_path, {"a": found}))
    assert re.findall("<title>(.*? mm)</title>", text) == [
        "axial, S 3.0 mm",
        "coronal, A 3.0 mm",
        "sagittal, R 22.0 mm",
    ]
    assert "<strong>a</strong>: cube touches" in text


@pytest.mark.parametrize(("value", "told"), [(3.0, "has the same value everywhere"), (np.nan, "has no finite value")])
def test_constant_scan_is_reported(tmp_path, value, told):
    write_predictions(tmp_path, {"a": RIGHT})
    write_nifti(tmp_path / "scans" / "a.nii.gz", np.full(RIGHT.shape, value, np.float32), AFFINE)
    text, rows = report(tmp_path)
    assert rows["a", ""]["warnings"] == f"the scan {told}"
    assert rows["a", "ball"]["warnings"] == ""
    assert "1 scan predicted. 1 scan has warnings." in text


def test_slices_have_scale_bar_and_orientation_labels(tmp_path):
    text, _ = report(write_predictions(tmp_path, {"a": RIGHT}))
    assert text.count(">5 mm</text>") == 3  # of 14 to 24 mm
    assert all(f">{letter}</text>" in text for letter in "RLAPSI")


def test_scans_with_warnings_come_first_within_budget(tmp_path, monkeypatch):
    folder = write_predictions(tmp_path, {"a": RIGHT, "b": RIGHT, "c": labels((1, 2, 2), (8, 9, 8))})
    monkeypatch.setattr(prediction_page, "room_for_pictures", lambda _: 8000)
    text, _ = report(folder)
    shown = re.findall(r'class="case"><figcaption><strong>(.*?)</strong>', text)
    assert 0 < len(shown) < 3 and shown[0] == "c"
    more, verb = ("1 more scan", "is") if len(shown) == 2 else ("2 more scans", "are")
    assert f"{more} with fewer or no warnings {verb} not shown" in text


def test_unfinished_runs_are_not_predictions(tmp_path):
    folder = write_evaluation(tmp_path / "evaluation")
    write_json(folder / "predictions.json", [])
    (folder / "metrics.csv").unlink()
    with pytest.raises(OutputError, match=r"is an evaluation without metrics\.csv\. Evaluate again"):
        holds_scores(folder)
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(OutputError, match=r"has no metrics\.csv yet: no epoch has been validated\. Wait for"):
        holds_scores(tmp_path)


def test_more_classes_than_styles_are_drawn(tmp_path):
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
    assert axial[: axial.index("</svg>")].count('<path class="k') == 30


def test_slices_show_deviations_from_other_scans(tmp_path):
    """Without training cases it is known only when all scans are measured."""
    usual = np.zeros((12, 16, 14), np.uint8)
    usual[2:6, 2:6, 2:4] = 1
    usual[8, 8, 5] = 2
    odd = usual.copy()
    odd[7:11, 7:12, 10:13] = 2
    text, rows = report(write_predictions(tmp_path, {**{f"scan {index}": usual for index in range(12)}, "odd": odd}))
    assert "above all of the 12 other scans" in rows["odd", "cube"]["warnings"]
    first = text[text.index('<figure id="scan-0"') :]
    places = re.findall("<title>(.*? mm)</title>", first)[:3]
    assert places == ["axial, S 11.0 mm", "coronal, A 8.0 mm", "sagittal, R 16.0 mm"]  # one voxel of it is at 8, 8, 5


def test_volume_of_sheared_scan(tmp_path):
    write_predictions(tmp_path, {"a": RIGHT})
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.0  # of a tilted gantry: a voxel keeps its 2 mm³
    for path in (tmp_path / "scans" / "a.nii.gz", tmp_path / "a_seg.nii.gz"):
        write_nifti(path, RIGHT if "seg" in path.name else RIGHT.astype(np.float32), tilted)
    _, rows = report(tmp_path)
    assert rows["a", "ball"]["volume_ml"] == "0.128"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "predictions.json",
            "{}",
            r"predictions\.json: cannot be read \(the content is \{\}: input should be a valid list\)",
        ),
        (
            "predictions.json",
            "[{}]",
            r"predictions\.json: cannot be read \(\[0\]\.case is missing; \[0\]\.status is missing\)",
        ),
        ("predictions.json", "[", r"predictions\.json: cannot be read .*\. Predict or evaluate again"),
        ("run.json", "[]", r"run\.json: cannot be read \(the content is \[\]: input should be a valid dictionary"),
        ("run.json", '{"config": null}', r"run\.json has no class_names"),
    ],
)
def test_damaged_file_error_names_the_file(tmp_path, name, content, told):
    write_predictions(tmp_path, {"a": RIGHT})
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match=told):
        write_prediction_report(tmp_path)


def test_warnings_about_the_whole_batch(tmp_path):
    """Each may pass, and yet together they are not as in training."""
    model = training(tmp_path / "training", [0.07] * 12)  # cubes are 0.128 ml, less than twice as much
    scans = {f"scan {index}": labels(None, (7, 9, 8)) for index in range(5)}
    text, rows = report(predictions(tmp_path / "predictions", scans, model))
    assert {row["warnings"] for (_, name), row in rows.items() if name == "cube"} == {""}
    told = "5 of 5 volumes of cube are above all of the 12 training cases"
    assert f"{told} (median 0.128 ml; training cases 0.07 ml)." in text
    assert "ball is missing in 5 of 5 scans, but present in 100% of the 12 training cases." in text
    assert "5 scans predicted. 5 scans have warnings; the batch as a whole looks unusual (see below)." in text


def test_many_scans_without_warnings_are_collapsed(tmp_path):
    scans = {f"scan {index:02}": RIGHT for index in range(11)} | {"odd": labels((1, 2, 2), (8, 9, 8))}
    text, _ = report(write_predictions(tmp_path, scans))
    assert "<details><summary>11 scans without warnings</summary>" in text
    places = [
        text.index(words) for words in (">odd</strong>: cube touches", "11 scans without warnings", "<strong>scan 00<")
    ]
    assert places == sorted(places)


def test_page_is_kept_if_all_scans_were_moved(tmp_path):
    run = write_predictions(tmp_path / "run", {"a": RIGHT, "b": RIGHT})
    page, _ = report(run)
    (run / "scans").rename(tmp_path / "moved")
    with pytest.raises(
        OutputError, match=r"scans/a\.nii\.gz does not exist\. Give the folder of the scans with --dataset_dir"
    ):
        report(run)
    with pytest.raises(OutputError, match=r"nowhere does not contain scans/a\.nii\.gz\. Give the folder"):
        write_prediction_report(run, dataset_dir=tmp_path / "nowhere")
    assert (run / "report.html").read_text(encoding="utf-8") == page
    assert write_prediction_report(run, dataset_dir=tmp_path / "moved").read_text(encoding="utf-8") == page


def test_drawing_errors_are_listed(tmp_path, monkeypatch):
    folder = write_predictions(tmp_path, {"a": RIGHT, "b": RIGHT})

    def spoilt(volumes, *_):
        raise ValueError("no room")

    monkeypatch.setattr(prediction_page, "overview_slices", spoilt)
    text, rows = report(folder)
    assert "a cannot be drawn: " in text and "b cannot be drawn: " in text
    assert "not shown" not in text and rows["a", "ball"]["status"] == "measured"
