"""The report as text; tests/report/test_page_in_browser.py opens it."""

import base64
import json
import re
import shutil
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from runs_by_hand import AFFINE, CASES, NAMES, RIGHT, labels, write_evaluation
from segbundle.errors import OutputError
from segbundle.metrics import score_case
from segbundle.report import gallery
from segbundle.report.charts import Line, Point, bland_altman, curves, strip_plot
from segbundle.report.comparison import write_comparison
from segbundle.report.page import write_report
from segbundle.report.rendering import room_for_pictures
from segbundle.report.slices import CaseVolumes
from segbundle.results.runs import read_run
from segbundle.results.scores import CaseScores
from segbundle.results.summary import write_scores


def text_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def rows_of(text):
    table = text[text.index('<table id="table">') :]
    rows = re.findall(r"<tr data-status=.*?</tr>", table, re.S)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_table_lists_every_status_worst_case_first(tmp_path):
    annotated = {"perfect": [True, True, False]}
    rows = rows_of(text_of(write_evaluation(tmp_path, annotated=annotated)))
    # ball and cube of 64 voxels; the ball shifted by one of four layers of 2 mm
    assert [[*row[:5], *row[6:8]] for row in rows] == [
        ["invented", "cube", "false positive", "0.0000", "–", "0.000", "0.128"],
        ["missed", "cube", "missed", "0.0000", "–", "0.128", "0.000"],
        ["shifted", "ball", "scored", "0.7500", "2.00", "0.128", "0.128"],
        ["invented", "ball", "scored", "1.0000", "0.00", "0.128", "0.128"],
        ["missed", "ball", "scored", "1.0000", "0.00", "0.128", "0.128"],
        ["perfect", "ball", "scored", "1.0000", "0.00", "0.128", "0.128"],
        ["shifted", "cube", "scored", "1.0000", "0.00", "0.128", "0.128"],
        ["perfect", "cube", "not annotated", "–", "–", "–", "0.128"],
    ]


def test_page_has_no_external_resources(tmp_path):
    text = text_of(write_evaluation(tmp_path))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r"url\((.*?)\)", text)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "://" not in text


def test_slices_show_the_errors(tmp_path):
    text = text_of(write_evaluation(tmp_path))
    worst = text[text.index('<h3><span class="named k0">ball</span></h3>', text.index('id="pictures"')) :]
    worst = worst[: worst.index("</div></figure>")].replace("<figcaption><strong>", "<strong>")
    assert "<strong>worst</strong>: shifted, Dice 0.750" in worst
    # along x the ball is in layers 1 to 4, predicted in 2 to 5: layers 1 and 5, of 2 mm, are wrong
    places = ["axial, S 4.0 mm", "coronal, A 4.0 mm", "sagittal, R 10.0 mm"]
    assert re.findall("<title>(.*?)</title>", worst) == re.findall("<figcaption>(.*?)</figcaption>", worst) == places
    assert worst.count('class="ref" d="M') == 1 + 2  # legend; layer 5 has no reference
    assert worst.count('class="pred k0" d="M') == 1 + 3


def test_names_are_escaped(tmp_path):
    name = """Mr "O'Neil" <script>alert(1)</script> größe 図"""
    text = text_of(write_evaluation(tmp_path, {name.replace("/", "∕"): (RIGHT, RIGHT)}))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "größe 図" in text


def test_reference_on_another_grid_is_reported(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 7
    text = text_of(write_evaluation(tmp_path, affine_ref=moved))
    assert "are on different grids" in text
    assert "affines that put corner voxels up to 7 mm apart" in text
    assert len(rows_of(text)) == 8


def test_reference_with_other_axes_is_drawn(tmp_path):
    folder = write_evaluation(tmp_path / "right")
    other = shutil.copytree(folder, tmp_path / "other")
    for path in (other / "labels").iterdir():
        nib.save(nib.load(path).as_reoriented([[2, -1], [0, 1], [1, -1]]), path)
    recorded = (other / "run.json").read_text().replace(str(folder), str(other))
    (other / "run.json").write_text(recorded)
    assert nib.load(other / "labels" / "shifted.nii.gz").shape == (16, 14, 12)
    right, found = (CaseVolumes.read(read_run(each).files["shifted"]) for each in (folder, other))
    np.testing.assert_array_equal(found.reference, right.reference)
    assert "are on different grids" not in text_of(other)


def test_unknown_voxels_are_not_drawn_as_errors(tmp_path):
    ref = RIGHT.copy()
    ref[8:] = 255  # most of the cube
    text = text_of(write_evaluation(tmp_path, {"a": (labels((1, 2, 2), (7, 9, 8)), ref)}))
    cube = text[text.index('<h3><span class="named k1">cube</span></h3>', text.index('id="pictures"')) :]
    assert "sagittal, R 14.0 mm" in cube  # the only known layer
    assert "Dice 1.000" in cube


def test_scores_without_files_have_no_slices(tmp_path):
    text = text_of(write_evaluation(tmp_path, files=False))
    assert 'id="pictures"' not in text
    assert "Unknown: the folder has no run.json." in text
    assert len(rows_of(text)) == 8


def test_failed_cases_are_listed(tmp_path):
    write_evaluation(tmp_path)
    record = {"case": "broken", "status": "failed", "error": "broken.nii.gz: cannot be read"}
    (tmp_path / "predictions.json").write_text(json.dumps([record]))
    assert "broken: broken.nii.gz: cannot be read" in text_of(tmp_path)


def test_two_cases_are_worst_and_best(tmp_path):
    text = text_of(write_evaluation(tmp_path, {name: CASES[name] for name in ("perfect", "shifted")}))
    assert re.findall("<strong>(.*?)</strong>: (.*?),", text[text.index('id="pictures"') :])[:2] == [
        ("worst", "shifted"),
        ("best", "perfect"),
    ]


def test_ragged_contours_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    ref = np.zeros((200, 200, 4), np.uint8)
    ref[5:195, 5:195, 1:3] = 1
    pred = ref * (rng.random(ref.shape) < 0.5)
    path = write_report(write_evaluation(tmp_path, {"ragged": (pred.astype(np.uint8), ref)}))
    assert path.stat().st_size < 500_000


def test_case_without_scores(tmp_path):
    nothing = labels()
    text = text_of(write_evaluation(tmp_path, {"empty": (nothing, nothing)}))
    assert "No class could be scored (1 case)" in text
    assert [row[2] for row in rows_of(text)] == ["absent", "absent"]


def test_folder_without_scores_raises(tmp_path):
    with pytest.raises(OutputError, match=r"contains neither metrics\.csv nor predictions\.json\. Give the output_dir"):
        write_report(tmp_path)
    write_evaluation(tmp_path, files=False)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(OutputError, match=r"summary\.json: cannot be read .*\. Predict or evaluate again"):
        write_report(tmp_path)
    shutil.copy(write_evaluation(tmp_path / "whole", files=False) / "summary.json", tmp_path)
    (tmp_path / "metrics.csv").write_text("case,class\na,ball\n")
    with pytest.raises(OutputError, match=r"metrics\.csv: has no column 'status'"):
        write_report(tmp_path)


@pytest.mark.slow
def test_100_cases_stay_below_10_mb(tmp_path):
    shape, rng = (128, 128, 96), np.random.default_rng(0)
    cases = {}
    for number in range(100):
        ref = np.zeros(shape if number in (0, 49, 99) else (12, 16, 14), np.uint8)
        ref[2:9, 2:12, 3:9] = 1
        pred = ref.copy()
        pred[rng.random(ref.shape) < 0.001 * number] = 0
        cases[f"case_{number:03}"] = (pred, ref)
    path = write_report(write_evaluation(tmp_path, cases))
    assert path.stat().st_size < 10e6


@pytest.mark.slow
def test_100_cases_with_60_classes_leave_room_for_slices(tmp_path):
    rng, classes = np.random.default_rng(0), [f"structure number {index}" for index in range(60)]
    label = torch.from_numpy(rng.integers(0, 61, (8, 8, 8), dtype=np.uint8))
    values = score_case(label, label.roll(1, 0), 61, None, 255, (1.0, 1.0, 1.0), 1.0)
    scores = [CaseScores(f"a case of a study {number:03}", values, 0.001) for number in range(100)]
    write_scores(tmp_path, scores, ["background", *classes], [0.0] + [1.0] * 60)
    size = write_report(tmp_path).stat().st_size
    assert size + room_for_pictures(6000) < 10e6
    assert room_for_pictures(100) == 7e6
    assert room_for_pictures(10**6) == 1e6


def test_strip_plot_of_many_values_draws_outliers_only():
    values = [Point(f"case {number}", 0.5 + number / 10000) for number in range(1000)]  # quartiles 0.525 and 0.575
    groups = {f"class {index}": [*values, Point("far <below>", 0.4), Point("just inside", 0.46)] for index in range(7)}
    plot = strip_plot("Dice", "Dice", groups)
    assert plot.svg.count("<circle") == plot.svg.count("far &lt;below&gt;: 0.4<") == 7
    assert "Each dot is a case more than 1.5 interquartile ranges beyond the quartiles" in plot.caption
    few = strip_plot("Dice", "Dice", {"class": values})
    assert few.svg.count("<circle") == 1000
    assert few.caption.startswith("Each dot is a case; boxes")


def test_limits_of_agreement_by_hand():
    points = [Point(f"case {index}", value, 10.0) for index, value in enumerate((1.0, 2.0, 3.0))]
    plot = bland_altman("Volumes", points)  # mean 2, standard deviation 1
    assert plot.caption == "Mean difference 2 ml, limits of agreement 0.04 to 3.96 ml, 3 cases."
    assert plot.svg.count('class="limit"') == 2
    two = bland_altman("Volumes", points[:2])
    assert two.caption == "Mean difference 1.5 ml, 2 cases."
    assert 'class="limit"' not in two.svg


def test_strip_plot_shortens_names_and_draws_zero_line():
    plot = strip_plot("Dice", "Dice", {"x" * 150: [Point("a", 0.1), Point("b", -0.1)]}, differences=True)
    assert "x" * 31 + "…" in plot.svg and "x" * 40 not in plot.svg
    assert plot.svg.count('class="limit"') == 1


def test_largest_structure_without_overlap_is_reviewed_first(tmp_path):
    speck = labels((1, 2, 2))
    speck[10, 14, 12] = 2  # one false positive voxel of the other class
    cases = {"a speck": (speck, labels((1, 2, 2))), "b missed": (labels((1, 2, 2)), RIGHT)}
    assert "Look first at <a href" in (text := text_of(write_evaluation(tmp_path / "run", cases)))
    assert re.search(r">b missed</a>: cube, Dice 0.000", text)
    shutil.rmtree(tmp_path / "run" / "scans")
    assert "Look first at b missed: cube, Dice 0.000 (missed)" in text_of(tmp_path / "run")


def test_all_foreground_classes_are_listed(tmp_path):
    assert set(CASES) == {"perfect", "shifted", "missed", "invented"}
    text = text_of(write_evaluation(tmp_path))
    assert [
        name
        for index, name in enumerate(NAMES[1:])
        if f'<th scope="row"><span class="named k{index}">{name}</span></th>' in text
    ] == NAMES[1:]


@pytest.mark.slow
def test_training_cases_are_marked(tmp_path):
    text = text_of(write_evaluation(tmp_path / "some", trained_on=["perfect", "shifted"]))
    # in the other cases, the ball is right, and the cube is missed or a false positive
    words = "trained on 2 of these 4 cases; their scores are too optimistic. The mean Dice of the other 2 cases is"
    assert f"{words} 0.5000." in text
    assert {row[0]: row[2] for row in rows_of(text) if row[1] == "ball"} == {
        "perfect": "scored, training case", "shifted": "scored, training case",
        "missed": "scored", "invented": "scored",
    }  # fmt: skip
    text = text_of(write_evaluation(tmp_path / "all", trained_on=list(CASES)))
    assert "trained on all of these cases; their scores are too optimistic.<" in text
    assert "trained on" not in text_of(write_evaluation(tmp_path / "none"))
    assert "It is unknown whether the model was trained on" in text_of(
        write_evaluation(tmp_path / "unknown", trained_on=None)
    )


def test_comparison_warns_about_training_cases(tmp_path):
    runs = [write_evaluation(tmp_path / "a"), write_evaluation(tmp_path / "b", trained_on=["perfect"])]
    text = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "<strong>b:</strong> Judging by case names, the model was trained on 1 of these 4 cases" in text


def test_training_page_has_epoch_caveat_and_progress(tmp_path):
    write_evaluation(tmp_path, config={"max_epochs": 40})
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "epoch": 20}))
    (tmp_path / "task.json").write_text("{}")
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for epoch in range(1, 31):
            writer.add_scalar("train/loss", 1 / epoch, epoch)
    text = text_of(tmp_path)
    assert "validation during training after epoch 20, the best of all validated epochs" in text
    assert "Training has reached epoch 30 of 40." in text


@pytest.mark.parametrize(
    ("chosen_by", "told"),
    [
        (list(CASES), "The epoch of the model was selected by its Dice on these cases"),
        (["perfect", "another"], "The epoch of the model was selected by its Dice on 1 of these 4 cases"),
        ([], ""),
    ],
)
def test_cases_that_selected_the_epoch_are_reported(tmp_path, chosen_by, told):
    run = write_evaluation(tmp_path)
    made_by = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**made_by, "chosen_by": chosen_by}))
    text = text_of(run)
    assert told in text and ("was selected by its Dice" in text) == bool(told)


def test_cross_validation_page_lists_folds(tmp_path):
    every = dict(CASES)
    for fold in range(2):
        cases = {name: every[name] for name in list(every)[2 * fold : 2 * fold + 2]}
        write_evaluation(tmp_path / f"fold_{fold}" / "evaluation", cases)
    write_evaluation(tmp_path, every, files=False)
    text = text_of(tmp_path)
    assert "each case was scored by the model of the fold that held it out" in text
    folds = re.findall(r"<tr>.*?</tr>", text[text.index("<h3>Folds</h3>") : text.index("</section>")])[-2:]
    # fold 0: the ball 1 and 0.75; fold 1: the cube missed and invented
    assert [re.findall(r">([\d.]+)<", row) for row in folds] == [
        ["0", "2", "0.9375", "0.8750", "1.0000"],
        ["1", "2", "0.5000", "1.0000", "0.0000"],
    ]
    assert {row[0]: row[-1] for row in rows_of(text)} == {
        "perfect": "0",
        "shifted": "0",
        "missed": "1",
        "invented": "1",
    }


def test_fewer_than_ten_cases_cause_a_warning(tmp_path):
    assert "Intervals and limits of agreement from fewer than ten cases are rough" in text_of(
        write_evaluation(tmp_path / "few")
    )
    many = {f"case {index}": (RIGHT, RIGHT) for index in range(10)}
    assert "are rough" not in text_of(write_evaluation(tmp_path / "many", many))


def test_largest_hd95_is_reviewed_second(tmp_path):
    far = labels((1, 2, 2), (7, 9, 8))
    far[1:4, 12:15, 10:13] = 1  # Dice 128/155
    text = text_of(write_evaluation(tmp_path, {**CASES, "far": (far, RIGHT)}))
    looked_at = r"Look first at <a [^>]*>invented</a>: cube, .*; then at <a href=\"#([^\"]*)\">far</a>: ball, HD95 \d+"
    anchor = re.search(looked_at, text)[1]
    assert f'<figure id="{anchor}" class="case"><figcaption><strong>largest surface distance</strong>: far' in text


def test_slices_use_the_intensity_window_of_the_task(tmp_path):
    # all intensities are from 0 to 100
    dark, usual = (
        {"intensity": {"method": "window", "lower": 1000, "upper": 2000}},
        {"intensity": {"method": "zscore"}},
    )
    pictures = [
        Image.open(BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", text_of(folder))[1])))
        for folder in (write_evaluation(tmp_path / name, config=config) for name, config in (("a", dark), ("b", usual)))
    ]
    assert pictures[0].getextrema() == (0, 0)
    assert pictures[1].getextrema()[1] > 200


def test_moved_dataset_is_found_with_dataset_dir(tmp_path):
    run = write_evaluation(tmp_path / "run")
    for folder in ("scans", "labels"):
        shutil.move(run / folder, tmp_path / "new" / folder)
    text = text_of(run)
    assert f"for instance {run / 'scans' / 'perfect.nii.gz'}" in text and 'class="slice"' not in text
    text = write_report(run, dataset_dir=tmp_path / "new").read_text(encoding="utf-8")
    assert "have been moved" not in text and text.count('<svg class="slice"') == 18


def test_training_curves_are_found_after_a_move(tmp_path):
    run = write_evaluation(tmp_path / "mine" / "evaluation", config={"ckpt_path": "/elsewhere/mine/model.pt"})
    with SummaryWriter(str(tmp_path / "mine" / "tensorboard")) as writer:
        writer.add_scalar("train/loss", 1.0, 1)
    assert 'id="training"' in text_of(run)
    other = write_evaluation(tmp_path / "mine" / "other", config={"ckpt_path": "/elsewhere/another/model.pt"})
    assert 'id="training"' not in text_of(other)


def test_class_in_fewer_than_ten_cases_causes_a_warning(tmp_path):
    looked_for = {f"case {index}": [True, True, index < 2] for index in range(12)}
    text = text_of(write_evaluation(tmp_path, dict.fromkeys(looked_for, (RIGHT, RIGHT)), annotated=looked_for))
    assert "fewer than ten cases are rough" in text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "summary.json",
            '{"cases": 1, "mean_dice": 1, "classes": {}}',
            r"summary\.json: cannot be read \(mean_dice_present",
        ),
        ("summary.json", "[]", r"summary\.json: cannot be read \(the content is \[\]: input should"),
        ("run.json", '{"cases": []}', r"run\.json: cannot be read \(cases is \[\]: input should"),
        ("metrics.csv", "case,class,status,dice\na,sphere,scored,1\n", "metrics.csv has the class 'sphere'"),
    ],
)
def test_damaged_file_error_names_the_file(tmp_path, name, content, told):
    write_evaluation(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match=told):
        write_report(tmp_path)


def test_runs_of_earlier_versions_are_read(tmp_path):
    write_evaluation(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    del summary["mean_dice_ci95"]
    summary["classes"] = {
        name: {key: value for key, value in one.items() if not key.startswith(("hd95", "nsd"))}
        for name, one in summary["classes"].items()
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "fold_2").mkdir()  # an unfinished fold
    assert "HD95 (mm)</th>" not in text_of(tmp_path)


@pytest.mark.slow
def test_slices_of_worst_cases_come_first_within_budget(tmp_path, monkeypatch):
    run = write_evaluation(tmp_path)
    whole = re.findall("<strong>(worst|median|best)</strong>", text_of(run))
    monkeypatch.setattr(gallery, "room_for_pictures", lambda _: 20_000)
    shown = re.findall("<strong>(worst|median|best)</strong>", text_of(run))
    assert shown.count("worst") == 2 <= len(shown) < len(whole) == 6


def test_curves_of_a_class_share_a_style_over_folds():
    few = curves(
        "Dice", [Line(key, f"{fold} {key}", [(1, 0.1), (2, 0.2)]) for fold in "ab" for key in ("ball", "cube")]
    )
    assert re.findall('polyline class="curve (.*?)"', few) == ["c0 d0", "c1 d1", "c0 d0", "c1 d1"]
    assert few.count("ball</text>") == few.count("cube</text>") == 1 and "<title>b cube</title>" in few
    many = curves("Dice", [Line(str(index), f"class {index}", [(1, 0.1), (2, 0.2)]) for index in range(22)])
    assert set(re.findall('polyline class="curve (.*?)"', many)) == {""}
    assert "<title>class 21</title>" in many and "21</text>" not in many


def test_equal_scores_have_no_interval(tmp_path):
    text = text_of(write_evaluation(tmp_path, dict.fromkeys("abc", (RIGHT, RIGHT))))
    assert "1.0000</td><td>–</td>" in text and "95% interval 1" not in text


def test_page_describes_data_fold_and_model(tmp_path):
    config = {"dataset_dir": "data", "fold": 1, "num_folds": 5, "ckpt_path": "/some/where/runs/one/model.pt"}
    text = text_of(write_evaluation(tmp_path, config=config))
    assert "Data: data · Held out: fold 1 of 5 · Model: runs/one/model.pt" in text
