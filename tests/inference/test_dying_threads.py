"""Threads that die while reading or writing scans: the scan fails or is reported as missing, and nothing hangs."""

import pytest
import torch

from segbundle.datasets.finding import find_scans
from segbundle.errors import ScansFailedError
from segbundle.inference.scan_pipeline import ScanDataset, ScanEvaluator, ScanLoader, start_reading
from segbundle.inference.scan_records import ScanRecords, report_failures
from segbundle.transforms import SaveLabelsd, postprocessing, preprocessing
from tiny import write_nifti


class Dying:
    """Transform that raises an error for one scan."""

    def __init__(self, inner, case, error):
        self.inner, self.case, self.error = inner, case, error

    def __call__(self, entry):
        if self.case in str(entry.get("case", "")):
            raise self.error
        return self.inner(entry)


class Network(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x, -x], dim=1)


def run(folder, reading=None, writing=None):
    for name in "abcd":
        write_nifti(folder / "scans" / f"{name}.nii.gz", torch.rand(5, 4, 3).numpy())
    out = folder / "out"
    records, saving = ScanRecords(out), SaveLabelsd(out)
    transform = preprocessing({"method": "zscore"}, num_channels=1)
    if reading is not None:
        transform = Dying(transform, "b", reading)
    if writing is not None:
        saving = Dying(saving, "b", writing)
    loader = ScanLoader(ScanDataset(find_scans(folder / "scans"), transform))
    start_reading(loader, records)
    evaluator = ScanEvaluator(
        records=records,
        saving=saving,
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=Network(),
        postprocessing=postprocessing(),
    )
    return evaluator, records


@pytest.mark.parametrize("thread", ["reading", "writing"])
@pytest.mark.parametrize(
    "error", [MemoryError("no room"), OSError("disk gone"), RecursionError("deep"), AssertionError()]
)
def test_error_in_a_thread_fails_its_scan_only(thread, error, tmp_path):
    evaluator, records = run(tmp_path, **{thread: error})
    evaluator.run()
    assert [(r["case"], r["status"]) for r in records.all] == [("a", "ok"), ("b", "failed"), ("c", "ok"), ("d", "ok")]
    assert type(error).__name__ in records.all[1]["error"] or str(error) in records.all[1]["error"]
    assert not (tmp_path / "out" / "b_seg.nii.gz").exists()
    with pytest.raises(ScansFailedError, match="1 of 4 scans failed"):
        report_failures(records)


class Death(BaseException):
    """Exception that ends a thread without being an error, such as `SystemExit`."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("thread", ["reading", "writing"])
def test_dead_thread_is_noticed(thread, tmp_path):
    evaluator, records = run(tmp_path, **{thread: Death("gone")})
    with pytest.raises((ScansFailedError, Death)):
        evaluator.run()
        report_failures(records)
    assert "b" not in [record["case"] for record in records.all if record["status"] == "ok"]
    done = {record["case"] for record in records.all if record["status"] == "ok"}
    assert done == {path.name[0] for path in (tmp_path / "out").glob("*_seg.nii.gz")}


def test_scan_removed_during_a_run_fails_alone(tmp_path):
    evaluator, records = run(tmp_path)
    (tmp_path / "scans" / "c.nii.gz").unlink()
    evaluator.run()
    assert [record["case"] for record in records.failures] == ["c"]
    assert "c.nii.gz: no such file" in records.failures[0]["error"]
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 3
