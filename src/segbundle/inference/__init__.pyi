from .backends import autocast, prepare
from .evaluator import SegmentationEvaluator
from .patch_inferer import PatchInferer
from .progress import ProgressBar
from .scan_evaluator import ScanEvaluator
from .scan_loading import ScanDataset, ScanLoader, start_reading
from .scan_records import ScanRecords, report_failures
from .scan_writing import ScanWriter
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
