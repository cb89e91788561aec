from .backends import autocast, prepare
from .evaluator import SegmentationEvaluator
from .patch_inferer import PatchInferer
from .progress import ProgressBar
from .scan_pipeline import ScanDataset, ScanEvaluator, ScanLoader, ScanWriter, start_reading
from .scan_records import ScanRecords, report_failures
from .scoring import MeanDice, ScoreReport
from .slabs import NonFiniteLogitsError, ScoreSlabs, check_finite
from .sliding import SlidingWindowInferer

__all__ = [
    "MeanDice",
    "NonFiniteLogitsError",
    "PatchInferer",
    "ProgressBar",
    "ScanDataset",
    "ScanEvaluator",
    "ScanLoader",
    "ScanRecords",
    "ScanWriter",
    "ScoreReport",
    "ScoreSlabs",
    "SegmentationEvaluator",
    "SlidingWindowInferer",
    "autocast",
    "check_finite",
    "prepare",
    "report_failures",
    "start_reading",
]
