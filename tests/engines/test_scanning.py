import json

import pytest
import torch
from monai.data import DataLoader

from segbundle.data import find_scans
from segbundle.engines import ScanDataset, ScanEvaluator, report_failures
from segbundle.errors import ScansFailedError
from segbundle.transforms import postprocessing, preprocessing
from tiny import write_nifti


def run(scans, out, network, num_workers=0):
    data = ScanDataset(find_scans(scans), preprocessing({"method": "zscore"}, num_channels=1))
    evaluator = ScanEvaluator(
        output_dir=str(out),
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1, num_workers=num_workers),
        network=network,
        postprocessing=postprocessing(out),
    )
    evaluator.run()
    return evaluator


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
    evaluator = run(tmp_path / "scans", tmp_path / "out", Picky(), num_workers)
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert records == evaluator.records
    assert [(r["case"], r["status"]) for r in records] == [("a", "ok"), ("b", "failed"), ("c", "failed"), ("d", "ok")]
    assert records[0]["prediction"] == str(tmp_path / "out" / "a_seg.nii.gz")
    assert records[1]["error"] == "RuntimeError: out of memory"
    assert "c.nii.gz: cannot be read" in records[2]["error"]
    assert records[2]["image"] == str(tmp_path / "scans" / "c.nii.gz")
    assert all(r["seconds"] >= 0 for r in records)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a_seg.nii.gz", "d_seg.nii.gz", "predictions.json"]
    with pytest.raises(ScansFailedError, match=r"2 of 4 scans failed \(b, c\); see .*predictions\.json"):
        report_failures(evaluator)


def test_no_failure_no_error(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", torch.rand(5, 4, 3).numpy())
    evaluator = run(tmp_path / "a.nii.gz", tmp_path / "out", Picky())
    report_failures(evaluator)
    assert evaluator.failures == []
