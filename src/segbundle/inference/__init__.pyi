from .backends import prepare
from .evaluator import SegmentationEvaluator
from .patch_inferer import PatchInferer
from .precision import autocast
from .progress import ProgressBar
from .scan_evaluator import ScanDataset, ScanEvaluator, read_ahead, report_failures
from .scan_records import ScanRecords
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
    "ScanRecords",
    "ScoreReport",
    "ScoreSlabs",
    "SegmentationEvaluator",
    "SlidingWindowInferer",
    "autocast",
    "check_finite",
    "prepare",
    "read_ahead",
    "report_failures",
]
