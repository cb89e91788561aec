"""Scans for which the network returns logits that are NaN or infinite."""

import pytest
import torch
from monai.data import DataLoader
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer

from segbundle.datasets.finding import find_scans
from segbundle.errors import PredictionError
from segbundle.inference.evaluator import SegmentationEvaluator
from segbundle.inference.scan_pipeline import ScanDataset, ScanEvaluator
from segbundle.inference.scan_records import ScanRecords
from segbundle.inference.sliding import SlidingWindowInferer
from segbundle.transforms import SaveLabelsd, postprocessing, preprocessing
from tiny import write_nifti


class Overflowing(torch.nn.Module):
    """Network of two classes by sign; infinite for scans with a value above 100."""

    def forward(self, image):
        factor = torch.where(image > 100, torch.inf, 1.0)
        return torch.cat([image * factor, -image], dim=1)


def scans(folder):
    for name, value in {"a": 1.0, "b": 200.0, "c": 2.0}.items():
        write_nifti(folder / f"{name}.nii.gz", torch.full((9, 8, 7), value).numpy())
    return folder


def parts(scans, out, inferer):
    records = ScanRecords(out)
    data = ScanDataset(
        records.remaining(find_scans(scans)), preprocessing({"method": "window", "lower": 0, "upper": 1})
    )
    data.transform.transforms = data.transform.transforms[:-1]  # without intensity normalization
    return records, {
        "device": torch.device("cpu"),
        "val_data_loader": DataLoader(data, batch_size=1),
        "network": Overflowing(),
        "inferer": inferer,
        "postprocessing": postprocessing(),
    }


@pytest.mark.parametrize("inferer", [SlidingWindowInferer(4, precision="fp32"), SimpleInferer()])
def test_scan_with_non_finite_logits_fails_alone(tmp_path, inferer):
    records, options = parts(scans(tmp_path / "scans"), tmp_path / "out", inferer)
    ScanEvaluator(records=records, saving=SaveLabelsd(tmp_path / "out"), **options).run()
    assert [(one["case"], one["status"]) for one in records.all] == [("a", "ok"), ("b", "failed"), ("c", "ok")]
    error = records.all[1]["error"]
    assert error.startswith("b: ") and "logits are NaN or infinite. Look at the scan's intensities" in error
    assert "\n" not in error
    assert not (tmp_path / "out" / "b_seg.nii.gz").exists()


def test_non_finite_logits_end_a_validation(tmp_path):
    _, options = parts(scans(tmp_path / "scans"), tmp_path / "out", SlidingWindowInferer(4, precision="fp32"))
    with pytest.raises(PredictionError, match=r"^b: [\d,]+ of [\d,]+ logits are NaN or infinite"):
        SegmentationEvaluator(**options).run()


def test_events_follow_the_network_and_the_label_map(tmp_path):
    """MONAI's handlers of `MODEL_COMPLETED` see labels on the grid of the scan, and the network is not running."""
    _, options = parts(scans(tmp_path / "scans"), tmp_path / "out", SlidingWindowInferer(4, precision="fp32"))
    seen = []

    class Recorder:
        def attach(self, engine):
            for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.MODEL_COMPLETED):
                engine.add_event_handler(event, self.record)

        def record(self, engine):
            pred = engine.state.output[0]["pred"]
            seen.append((engine.state.batch[0]["case"], pred.dtype, tuple(pred.shape), engine.network.training))

    evaluator = ScanEvaluator(ScanRecords(tmp_path / "other"), val_handlers=[Recorder()], **options)
    evaluator.run()
    assert seen == [(case, torch.uint8, (1, 9, 8, 7), False) for case in "aacc"]  # b fails
    assert evaluator.state.predict_seconds > 0
