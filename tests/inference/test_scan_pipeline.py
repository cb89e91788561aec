import json
import logging
import os
import re
import threading
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader

from segbundle.datasets.finding import find_scans
from segbundle.errors import OutputError, ScansFailedError
from segbundle.files.atomic import write_json
from segbundle.files.output_folders import OutputFolder, claim
from segbundle.files.run_files import RESULTS
from segbundle.inference import scan_pipeline as scanning
from segbundle.inference import scan_records as records
from segbundle.inference.scan_pipeline import ScanDataset, ScanEvaluator, ScanLoader, start_reading
from segbundle.inference.scan_records import ScanRecords, report_failures
from segbundle.transforms import SaveLabelsd, postprocessing, preprocessing
from segbundle.workflow import provenance
from tiny import write_nifti


def run(scans, out, network, num_workers=0, **records):
    kept = ScanRecords(out, **records)
    data = ScanDataset(kept.remaining(find_scans(scans)), preprocessing({"method": "zscore"}, num_channels=1))
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
    """Network that fails for scans of size 6."""

    def forward(self, x):
        if x.shape[2] == 6:
            raise RuntimeError("out of memory")
        return torch.cat([x, -x], dim=1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failed_scan_is_recorded_and_others_are_predicted(tmp_path, num_workers):
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


def test_failed_scan_loses_label_map_of_earlier_run(tmp_path):
    write_nifti(tmp_path / "scans" / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    run(tmp_path / "scans", tmp_path / "out", Picky())
    (tmp_path / "scans" / "a.nii.gz").write_text("broken")
    run(tmp_path / "scans", tmp_path / "out", Picky())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_missing_format_is_recorded_and_resumed(tmp_path, monkeypatch, caplog):
    class Saving(SaveLabelsd):
        reason = "no UID"

        def __call__(self, data):
            saved = super().__call__(data)
            missing = {"failed_formats": {"dicom_seg": self.reason}} if saved["case"] == "a" and self.reason else {}
            return saved | missing

    monkeypatch.setitem(run.__globals__, "SaveLabelsd", Saving)
    kept = run(scans(tmp_path / "scans", "ab"), tmp_path / "out", Picky())
    first, second = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (first["status"], first["error"], first["failed_formats"]) == ("ok", None, {"dicom_seg": "no UID"})
    assert first["prediction"] == str(tmp_path / "out" / "a_seg.nii.gz") and Path(first["prediction"]).is_file()
    assert "failed_formats" not in second and "a: dicom_seg was not written: no UID" in caplog.text
    with (
        caplog.at_level("INFO"),
        pytest.raises(ScansFailedError, match=r"(?s)1 of 2 scans lack .*\na: dicom_seg was not written: no UID$"),
    ):
        report_failures(kept)
    assert "2 of 2 scans done, 0 failed, 1 without an output format, in " in caplog.text
    Saving.reason = None
    again = Counting()
    kept = run(tmp_path / "scans", tmp_path / "out", again, resume=True)
    assert again.scans == 1 and not kept.incomplete
    report_failures(kept)


def test_run_without_failures_raises_nothing(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    kept = run(tmp_path / "a.nii.gz", tmp_path / "out", Picky())
    report_failures(kept)
    assert kept.failures == []


def test_record_contains_times_and_peak_memory(tmp_path):
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


def test_resume_predicts_remaining_scans_and_keeps_records(tmp_path):
    run(scans(tmp_path / "scans", "ac"), tmp_path / "out", Picky())
    scans(tmp_path / "scans", "b")
    again = Counting()
    kept = run(tmp_path / "scans", tmp_path / "out", again, resume=True)
    assert again.scans == 1
    assert [record["case"] for record in kept.all] == ["a", "b", "c"]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == kept.all


@pytest.mark.filterwarnings("error")
def test_resume_of_complete_run_predicts_nothing(tmp_path):
    run(scans(tmp_path / "scans", "ab"), tmp_path / "out", Picky())
    again = Counting()
    kept = run(tmp_path / "scans", tmp_path / "out", again, resume=True)
    assert again.scans == 0 and len(kept.all) == 2
    report_failures(kept)


@pytest.mark.parametrize("change", ["settings", "prediction lost", "scan newer", "checkpoint", "failed"])
def test_resume_repeats_scans_with_changed_settings_or_inputs(tmp_path, change):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"one")
    settings = {"overlap": 0.5, "ckpt_path": str(weights)}
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


def test_without_resume_every_scan_is_predicted_again(tmp_path):
    folder = scans(tmp_path / "scans", "ab")
    run(folder, tmp_path / "out", Picky())
    again = Counting()
    run(folder, tmp_path / "out", again)
    assert again.scans == 2


def test_resume_removes_partial_files_of_killed_run(tmp_path):
    folder = scans(tmp_path / "scans", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".partial-123-a_seg.nii.gz").write_bytes(b"half")
    OutputFolder(tmp_path / "out").record_partial(123)
    run(folder, tmp_path / "out", Picky(), resume=True)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".segbundle-files.jsonl", "a_seg.nii.gz", "predictions.json"]


def test_error_names_unreadable_records(tmp_path):
    (tmp_path / "predictions.json").write_text("half a fi")
    with pytest.raises(
        OutputError, match=r"predictions.json: cannot be read \(is not valid JSON .* or move the file away"
    ):
        ScanRecords(tmp_path, resume=True).remaining([])


def test_unwritable_file_fails_its_scan_only(tmp_path):
    folder = scans(tmp_path / "scans", "ab")
    (tmp_path / "out" / "a_seg.nii.gz").mkdir(parents=True)
    kept = run(folder, tmp_path / "out", Picky())
    assert [record["status"] for record in kept.all] == ["failed", "ok"]
    assert "a_seg.nii.gz: cannot be written" in kept.all[0]["error"]


def test_results_are_removed_when_label_maps_are_replaced(tmp_path):
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


def test_entries_with_an_error_fail_without_being_read(tmp_path):
    (good,) = find_scans(scans(tmp_path / "scans", "a"))
    bad = {"case": "b\udcff", "image": str(tmp_path / "b\udcff.nii.gz"), "error": "b\udcff.nii.gz: is not in UTF-8."}
    twice = [{"case": "c", "image": str(tmp_path / name), "error": "two scans are named 'c'."} for name in "xy"]
    kept = ScanRecords(tmp_path / "out")
    data = ScanDataset(kept.remaining([bad, good, *twice]), preprocessing({"method": "zscore"}, num_channels=1))
    ScanEvaluator(
        records=kept,
        saving=SaveLabelsd(tmp_path / "out"),
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1),
        network=Picky(),
        postprocessing=postprocessing(),
    ).run()
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    told = [(one["case"], one["status"], one["error"]) for one in records]
    assert told == [
        ("a", "ok", None),
        (r"b\udcff", "failed", r"b\udcff.nii.gz: is not in UTF-8."),
        ("c", "failed", "two scans are named 'c'."),
        ("c", "failed", "two scans are named 'c'."),
    ]
    with pytest.raises(ScansFailedError, match="3 of 4 scans failed"):
        report_failures(kept)


def test_predictions_json_is_written_rarely(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(records, "write_json", lambda path, content: written.append(len(content)))
    kept = ScanRecords(tmp_path)
    for number in range(1000):
        kept.add({"case": f"{number:04}", "image": "x", "status": "ok", "prediction": None})
    assert written == [2**power for power in range(10)]
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 1000


@pytest.mark.parametrize("resume", [False, True])
def test_a_relative_output_folder_keeps_its_records(tmp_path, monkeypatch, resume):
    monkeypatch.chdir(tmp_path)
    folder = scans(tmp_path / "scans", "ab")
    run(folder, Path("out"), Counting())
    run(folder, Path("out"), Counting(), resume=resume)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2
    assert not list((tmp_path / "out").glob("predictions*.jsonl"))


def test_killed_run_is_resumed_from_its_journal(tmp_path):
    folder, out = scans(tmp_path / "scans", "abc"), tmp_path / "out"
    run(folder, out, Picky())
    lines = [json.dumps(record) for record in json.loads((out / "predictions.json").read_text())]
    (out / "predictions.json").unlink()
    (out / "predictions.jsonl").write_text("\n".join([lines[0], lines[2], lines[1][:40]]))
    again = Counting()
    kept = run(folder, out, again, resume=True)
    assert again.scans == 1 and [record["case"] for record in kept.all] == ["a", "b", "c"]
    assert not (out / "predictions.jsonl").exists()


def test_log_without_terminal_has_a_line_per_scan(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "segbundle")
    for terminal in (False, True):
        caplog.clear()
        monkeypatch.setattr(scanning, "is_terminal", lambda terminal=terminal: terminal)
        folder = scans(tmp_path / "scans", "a")
        (folder / "b.nii.gz").write_text("broken")
        run(folder, tmp_path / str(terminal), Picky())
        told = [record.getMessage() for record in caplog.records]
        assert bool([line for line in told if re.fullmatch(r"\[1/2\] a: done in \d+\.\d s", line)]) is not terminal
        assert [line for line in told if line.startswith("b failed: " if terminal else "[2/2] b failed: ")]


def test_output_never_replaces_an_input(tmp_path):
    folder = scans(tmp_path, ["a", "a_seg"])
    before = (folder / "a_seg.nii.gz").read_bytes()
    given = [str(folder / "a.nii.gz"), str(folder / "a_seg.nii.gz")]
    with pytest.raises(OutputError, match=r"a_seg\.nii\.gz is an input of this run"):
        run(given, folder, Picky())
    assert (folder / "a_seg.nii.gz").read_bytes() == before


def test_foreign_files_are_not_replaced(tmp_path):
    out = tmp_path / "out"
    claim(out)
    write_nifti(out / "a_seg.nii.gz", torch.ones(5, 4, 3).numpy())
    for name in ("summary.json", "predictions.rank0.jsonl"):
        (out / name).write_text("[1]")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    folder = scans(tmp_path / "scans", "ab")
    with pytest.raises(OutputError, match=r"predictions\.rank0\.jsonl: cannot be read"):
        run(folder, out, Picky())
    (out / "predictions.rank0.jsonl").unlink()
    with pytest.raises(OutputError, match=r"a_seg\.nii\.gz, summary\.json were not written by segbundle"):
        run(folder, out, Picky())
    before.pop("predictions.rank0.jsonl")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_unwritten_files_fail_the_run_at_its_end(tmp_path, monkeypatch):
    kept = run(scans(tmp_path / "scans", "a"), tmp_path / "out", Picky())
    (tmp_path / "out" / "summary.json").touch()

    def spoilt(folder, dataset_dir=None):
        raise RuntimeError("no room")

    monkeypatch.setattr(provenance, "write_report", spoilt)
    provenance.report_run(str(tmp_path / "out"), [], kept, "cpu", {})
    assert (tmp_path / "out" / "run.json").exists()
    with pytest.raises(
        OutputError, match=r"Not written: report\.html \(RuntimeError: no room; when this is fixed, run: "
    ):
        report_failures(kept)


def test_records_are_written_once_at_the_end(tmp_path, monkeypatch):
    kept, written = ScanRecords(tmp_path), []
    for case in "abc":
        kept.add({"case": case, "image": f"{case}.nii", "status": "failed", "prediction": None})
    monkeypatch.setattr(records, "write_json", lambda path, content: written.append(len(content)))
    for _ in range(2):
        kept.close()
        kept.collect()
    assert written == [3]


# --- loading ahead ----------------------------------------------------------------------------------------------------


class Reading:
    """Transform that records which scans were loaded, and by which threads."""

    def __init__(self):
        self.loaded, self.threads = [], set()
        self.finished = threading.Semaphore(0)

    def __call__(self, entry):
        self.loaded.append(entry["case"])
        self.threads.add(threading.current_thread())
        self.finished.release()
        return entry


@pytest.fixture
def reading():
    return Reading()


@pytest.fixture
def loader(reading):
    return ScanLoader(ScanDataset([{"case": case, "image": f"{case}.nii"} for case in "abcd"], reading))


def test_one_scan_is_loaded_ahead(loader, reading):
    batches = iter(loader)
    assert next(batches)["case"] == ["a"]
    reading.finished.acquire(), reading.finished.acquire()  # a and b, while a is used
    assert reading.loaded == ["a", "b"]
    assert next(batches)["case"] == ["b"]
    reading.finished.acquire()
    assert reading.loaded == ["a", "b", "c"]


def test_all_scans_are_loaded_in_order_by_one_thread(loader, reading):
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]
    assert [thread.name for thread in reading.threads] == ["reading"]
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]  # another iteration starts again


def test_first_scan_is_loaded_before_the_iteration(loader, reading, tmp_path):
    start_reading(loader, ScanRecords(tmp_path))
    assert reading.finished.acquire(timeout=60)
    assert reading.loaded == ["a"]
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]
    assert reading.loaded == [*"abcd"]


def test_finished_scans_are_not_loaded(loader, reading, tmp_path):
    records = ScanRecords(tmp_path)
    records.remaining = lambda data: data[2:]
    start_reading(loader, records)
    assert len(loader) == 2
    assert [batch["case"] for batch in loader] == [["c"], ["d"]]
    assert reading.loaded == [*"cd"]


def test_loader_without_scans(tmp_path):
    loader = ScanLoader(ScanDataset([]))
    start_reading(loader, ScanRecords(tmp_path))
    assert len(loader) == 0 and list(loader) == []


def test_loader_accepts_processes(loader):
    data = ScanDataset(loader.dataset.data)
    assert [batch["case"] for batch in ScanLoader(data, num_workers=1)] == [["a"], ["b"], ["c"], ["d"]]
