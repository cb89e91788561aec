"""Scores of labeled cases, including cases that an earlier run has scored."""

import json
import logging
import os

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader

from segbundle import distributed as ranks
from segbundle.datasets.datalist import labeled_data
from segbundle.errors import OutputError, ScansFailedError
from segbundle.files.output_folders import claim
from segbundle.inference.scan_pipeline import ScanDataset, ScanEvaluator
from segbundle.inference.scan_records import ScanRecords, report_failures
from segbundle.inference.scoring import MeanDice, ScoreReport
from segbundle.results.scores import read_rows
from segbundle.transforms import SaveLabelsd, postprocessing, preprocessing
from tiny import write_nifti

NAMES = ["background", "bright", "dark"]
RESULTS = ("metrics.csv", "summary.json")


class Network(torch.nn.Module):
    """Network of three classes by thresholds that counts scans. No voxel has the last class."""

    def __init__(self):
        super().__init__()
        self.scans = 0

    def forward(self, image):
        self.scans += 1
        return torch.cat([0.3 - image, image - 0.3, torch.full_like(image, -9.0)], dim=1)


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for case in "abcd":
        scan = rng.random((7, 6, 5)).astype(np.float32)
        affine = np.diag([*(0.5 + rng.random(3)), 1.0])
        write_nifti(tmp_path / "data" / "imagesTr" / f"{case}.nii.gz", scan, affine)
        write_nifti(tmp_path / "data" / "labelsTr" / f"{case}.nii.gz", (scan > 0.5).astype(np.uint8), affine)
    return tmp_path / "data"


def evaluate(dataset, out, tolerance=1.0, network=None, annotated=None, cases="abcd", **options):
    """Evaluate as `evaluate.yaml` does, and return the records."""
    claim(out)
    settings = {"class_names": NAMES, "nsd_tolerance_mm": tolerance}
    records = ScanRecords(out, settings=settings, scored_classes=NAMES, **options)
    data = [entry for entry in labeled_data(dataset, NAMES) if entry["case"] in cases]
    for entry in data:
        entry["annotated"] = (annotated or {}).get(entry["case"], entry["annotated"])
    transform = preprocessing({"method": "zscore"}, class_names=NAMES, num_channels=1, label=True)
    metric = MeanDice(NAMES, tolerance, records)
    ScanEvaluator(
        records=records,
        saving=SaveLabelsd(out),
        device=torch.device("cpu"),
        val_data_loader=DataLoader(ScanDataset(records.remaining(data), transform), batch_size=1),
        network=network or Network(),
        postprocessing=postprocessing(),
        key_val_metric={"mean_dice": metric},
        val_handlers=[ScoreReport(str(out), metric)],
    ).run()
    report_failures(records)
    return records


def results(out):
    return {name: (out / name).read_bytes() for name in RESULTS}


def stop_after(out, cases):
    """Reduce a finished evaluation to the files of a run that was killed after these cases."""
    records = {record["case"]: record for record in json.loads((out / "predictions.json").read_text())}
    for case in records.keys() - set(cases):
        (out / f"{case}_seg.nii.gz").unlink()
    for name in (*RESULTS, "predictions.json"):
        (out / name).unlink()
    claim(out).record(out / "predictions.jsonl")  # as a journal that grows
    (out / "predictions.jsonl").write_text("".join(f"{json.dumps(records[case])}\n" for case in cases))


def test_record_contains_scores_of_its_case(dataset, tmp_path):
    first, *_ = evaluate(dataset, tmp_path / "out").all
    bright = first["scores"]["classes"][1]
    row = read_rows(tmp_path / "out" / "metrics.csv")[0]
    assert (row.case, row.name) == ("a", "bright")
    assert 0 < bright["dice"] < 1 and row.dice == pytest.approx(bright["dice"], abs=1e-6)
    assert first["scores"]["classes"][2] == {
        "status": "true_absent", "dice": None, "voxels_ref": 0, "voxels_pred": 0, "hd95_mm": None, "nsd": None,
        "components_ref": 0, "components_pred": 0,
    }  # fmt: skip


@pytest.mark.parametrize("done", ["b", "da", "abcd"])
def test_resumed_evaluation_equals_uninterrupted_evaluation(dataset, tmp_path, capsys, done):
    out, network = tmp_path / "out", Network()
    records = evaluate(dataset, out).all
    undisturbed, table = results(out), capsys.readouterr().out
    assert "4 cases, Dice per class" in table
    stop_after(out, done)
    again = evaluate(dataset, out, network=network, resume=True)
    assert network.scans == 4 - len(done)
    assert results(out) == undisturbed
    assert capsys.readouterr().out == table
    assert [record["scores"] for record in again.all] == [record["scores"] for record in records]


def test_resume_of_complete_evaluation_writes_scores_again(dataset, tmp_path):
    out, network = tmp_path / "out", Network()
    evaluate(dataset, out)
    undisturbed = results(out)
    assert evaluate(dataset, out, network=network, resume=True).nothing_left
    assert network.scans == 0 and results(out) == undisturbed
    (out / "metrics.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"metrics\.csv was not written by segbundle, or has changed since"):
        evaluate(dataset, out, resume=True)


def test_without_resume_every_case_is_scored_again(dataset, tmp_path):
    network = Network()
    evaluate(dataset, tmp_path / "out")
    evaluate(dataset, tmp_path / "out", network=network)
    assert network.scans == 4


OTHER_SETTINGS = "4 scan(s) had other settings or weights; these scans are processed again"
OTHER_FILES = "the scan or reference of 1 case(s) has changed; these cases are processed again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "scans", "warning"),
    [
        ("tolerance", 4, OTHER_SETTINGS),
        ("settings of an earlier version", 4, OTHER_SETTINGS),
        ("reference", 1, OTHER_FILES),
        ("annotation", 1, OTHER_FILES),
        ("scores lost", 1, None),
        ("scores of fewer classes", 1, None),
        ("label map lost", 1, None),
    ],
)
def test_changed_settings_or_inputs_score_a_case_again(dataset, tmp_path, caplog, change, scans, warning):
    out, options = tmp_path / "out", {}
    evaluate(dataset, out)
    records = json.loads((out / "predictions.json").read_text())
    if change == "tolerance":
        options["tolerance"] = 2.0
    elif change == "settings of an earlier version":
        records = [{**one, "settings": "0123456789ab", "scores": None} for one in records]
    elif change == "reference":
        path = dataset / "labelsTr" / "b.nii.gz"
        os.utime(path, (path.stat().st_mtime + 60,) * 2)
    elif change == "annotation":
        options["annotated"] = {"b": [True, True, False]}
    elif change == "scores lost":
        del records[1]["scores"]
    elif change == "scores of fewer classes":
        del records[1]["scores"]["classes"][2]
    else:
        (out / "b_seg.nii.gz").unlink()
    (out / "predictions.json").write_text(json.dumps(records))
    (out / ".segbundle-files.jsonl").unlink()  # it does not list the changed records
    caplog.set_level(logging.WARNING, "segbundle")
    network = Network()
    evaluate(dataset, out, network=network, resume=True, **options)
    assert network.scans == scans
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ([] if warning is None else [warning])
    evaluate(dataset, tmp_path / "fresh", **options)
    assert results(out) == results(tmp_path / "fresh")


def test_other_cases_keep_scores_and_lose_failures(dataset, tmp_path):
    out, network = tmp_path / "out", Network()
    (dataset / "imagesTr" / "b.nii.gz").write_text("broken")
    with pytest.raises(ScansFailedError, match="1 of 3 scans failed"):
        evaluate(dataset, out, cases="abd")
    evaluate(dataset, out, cases="cd", network=network, resume=True)
    assert network.scans == 1
    assert [row.case for row in read_rows(out / "metrics.csv")] == ["c", "c", "d", "d"]
    records = json.loads((out / "predictions.json").read_text())
    assert [(record["case"], record["status"]) for record in records] == [("a", "ok"), ("c", "ok"), ("d", "ok")]


def test_earlier_cases_are_counted_once_by_two_ranks(dataset, tmp_path, monkeypatch):
    records = evaluate(dataset, tmp_path / "out")
    records = ScanRecords(tmp_path / "out", True, records.settings, scored_classes=NAMES)
    assert records.remaining(labeled_data(dataset, NAMES)) == []
    metric = MeanDice(NAMES, 1.0, records)
    a, b, c, d = records.earlier_scores
    records.earlier_scores, metric.cases = [a, c], [b]

    def gather(shares, own):
        shares[:] = [own, [d]]

    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "all_gather_object", gather)
    metric.completed(Engine(lambda *_: None), "mean_dice")
    assert metric.cases == [a, b, c, d]
