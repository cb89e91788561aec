import json
import os

import pytest
import torch
from monai.data import DataLoader

from segbundle.data import find_scans
from segbundle.engines import ScanDataset, ScanEvaluator, ScanRecords, report_failures
from segbundle.errors import OutputError, ScansFailedError
from segbundle.files import write_json
from segbundle.outputs import claim
from segbundle.reports import RESULTS
from segbundle.transforms import SaveLabelsd, postprocessing, preprocessing
from tiny import write_nifti


def run(scans, out, network, num_workers=0, **records):
    kept = ScanRecords(out, **records)
    data = ScanDataset(find_scans(scans), preprocessing({"method": "zscore"}, num_channels=1), kept)
    evaluator = ScanEvaluator(
        records=kept,
        saving=SaveLabelsd(out),
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1, num_workers=num_workers),
        network=network,
        postprocessing=postprocessing(),
    )
    evaluator.run()
    return kept


class Picky(torch.nn.Module):
    """A network that cannot stand scans of six voxels."""

    def forward(self, x):
        if x.shape[2] == 6:
            raise RuntimeError("out of memory")
        return torch.cat([x, -x], dim=1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failing_scan_is_recorded_and_the_rest_go_on(tmp_path, num_workers):
    for name, size in {"a": 5, "b": 6, "d": 7}.items():
        write_nifti(tmp_path / "scans" / f"{name}.nii.gz", torch.rand(size, 4, 3).numpy())
    (tmp_path / "scans" / "c.nii.gz").write_text("broken")
    kept = run(tmp_path / "scans", tmp_path / "out", Picky(), num_workers)
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert records == kept.all
    assert [(r["case"], r["status"]) for r in records] == [("a", "ok"), ("b", "failed"), ("c", "failed"), ("d", "ok")]
    assert records[0]["prediction"] == str(tmp_path / "out" / "a_seg.nii.gz")
    assert records[1]["error"] == "RuntimeError: out of memory"
    assert "c.nii.gz: cannot be read" in records[2]["error"]
    assert records[2]["image"] == str(tmp_path / "scans" / "c.nii.gz")
    assert all(r["seconds"] >= 0 for r in records)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a_seg.nii.gz", "d_seg.nii.gz", "predictions.json"]
    with pytest.raises(ScansFailedError, match=r"2 of 4 scans failed \(b, c\); see .*predictions\.json"):
        report_failures(kept)


def test_a_label_map_of_an_earlier_run_does_not_outlive_a_failure(tmp_path):
    write_nifti(tmp_path / "scans" / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    run(tmp_path / "scans", tmp_path / "out", Picky())
    (tmp_path / "scans" / "a.nii.gz").write_text("broken")
    run(tmp_path / "scans", tmp_path / "out", Picky())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_no_failure_no_error(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    kept = run(tmp_path / "a.nii.gz", tmp_path / "out", Picky())
    report_failures(kept)
    assert kept.failures == []


def test_a_record_tells_where_time_and_memory_went(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    (record,) = run(tmp_path / "a.nii.gz", tmp_path / "out", Picky()).all
    assert list(record["stages"]) == ["load", "predict", "restore", "write"]
    assert record["seconds"] == pytest.approx(sum(record["stages"].values()), abs=0.01)
    assert 50 < record["peak_memory_mb"] < 50_000


def scans(folder, names):
    for name in names:
        write_nifti(folder / f"{name}.nii.gz", torch.rand(5, 4, 3).numpy())
    return folder


class Counting(Picky):
    def __init__(self):
        super().__init__()
        self.scans = 0

    def forward(self, x):
        self.scans += 1
        return super().forward(x)


def test_resuming_does_what_is_left_and_keeps_the_records_of_the_rest(tmp_path):
    run(scans(tmp_path / "scans", "ac"), tmp_path / "out", Picky())
    scans(tmp_path / "scans", "b")
    again = Counting()
    kept = run(tmp_path / "scans", tmp_path / "out", again, resume=True)
    assert again.scans == 1
    assert [record["case"] for record in kept.all] == ["a", "b", "c"]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == kept.all


@pytest.mark.filterwarnings("error")
def test_resuming_with_nothing_left_does_nothing_and_does_not_warn(tmp_path):
    run(scans(tmp_path / "scans", "ab"), tmp_path / "out", Picky())
    again = Counting()
    kept = run(tmp_path / "scans", tmp_path / "out", again, resume=True)
    assert again.scans == 0 and len(kept.all) == 2
    report_failures(kept)


@pytest.mark.parametrize("change", ["settings", "prediction lost", "scan newer", "checkpoint", "failed"])
def test_resuming_does_again_what_would_come_out_differently(tmp_path, change):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"one")
    settings = {"overlap": 0.5, "weights": str(weights)}
    folder = scans(tmp_path / "scans", "ab")
    run(folder, tmp_path / "out", Picky(), settings=settings)
    done = 1
    if change == "settings":
        settings["overlap"], done = 0.25, 2
    elif change == "prediction lost":
        (tmp_path / "out" / "a_seg.nii.gz").unlink()
    elif change == "scan newer":
        late = (tmp_path / "out" / "a_seg.nii.gz").stat().st_mtime + 60
        os.utime(folder / "a.nii.gz", (late, late))
    elif change == "checkpoint":
        weights.write_bytes(b"two")
        done = 2
    else:
        path = tmp_path / "out" / "predictions.json"
        path.write_text(path.read_text().replace('"status": "ok"', '"status": "failed"', 1))
    again = Counting()
    run(folder, tmp_path / "out", again, resume=True, settings=settings)
    assert again.scans == done


def test_without_resume_everything_is_done_again(tmp_path):
    folder = scans(tmp_path / "scans", "ab")
    run(folder, tmp_path / "out", Picky())
    again = Counting()
    run(folder, tmp_path / "out", again)
    assert again.scans == 2


def test_resuming_sweeps_up_what_a_killed_run_left_half_written(tmp_path):
    folder = scans(tmp_path / "scans", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".partial-123-a_seg.nii.gz").write_bytes(b"half")
    run(folder, tmp_path / "out", Picky(), resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_seg.nii.gz", "predictions.json"]


def test_records_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "predictions.json").write_text("half a fi")
    with pytest.raises(OutputError, match=r"predictions.json: cannot be read \(is not valid JSON .* or move it away"):
        ScanRecords(tmp_path, resume=True).remaining([])


def test_a_file_that_cannot_be_written_fails_its_scan_only(tmp_path):
    folder = scans(tmp_path / "scans", "ab")
    (tmp_path / "out" / "a_seg.nii.gz").mkdir(parents=True)
    kept = run(folder, tmp_path / "out", Picky())
    assert [record["status"] for record in kept.all] == ["failed", "ok"]
    assert "a_seg.nii.gz: cannot be written" in kept.all[0]["error"]


def test_what_tells_of_earlier_label_maps_goes_when_the_first_is_made_anew(tmp_path):
    out = tmp_path / "out"
    claim(out)
    for name in ("a", "b"):
        write_nifti(tmp_path / "scans" / f"{name}.nii.gz", torch.rand(5, 4, 3).numpy())
    run(tmp_path / "scans", out, Picky(), settings={"model": 1})
    for name in RESULTS:
        write_json(out / name, {})
    kept = run(tmp_path / "scans", out, Picky(), settings={"model": 1}, resume=True)
    assert kept.nothing_left and all((out / name).exists() for name in RESULTS)
    kept = run(tmp_path / "scans" / "a.nii.gz", out, Picky(), settings={"model": 2}, resume=True)
    assert not kept.nothing_left and not any((out / name).exists() for name in RESULTS)
