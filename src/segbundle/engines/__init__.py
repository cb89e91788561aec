"""What turns the bundle's YAML into running workflows: paths, handlers, checkpoints, scores."""

from segbundle.engines.caching import CachedCases
from segbundle.engines.checkpoints import Checkpoints, load_weights, warn_about_training_cases
from segbundle.engines.progress import ProgressBar
from segbundle.engines.scanning import ScanDataset, ScanEvaluator, report_failures
from segbundle.engines.scoring import MeanDice, ScoreReport
from segbundle.engines.trainer import SegmentationTrainer
from segbundle.engines.training import FinalValidation, SeedEpochs, TrainingLog
from segbundle.engines.workflow import (
    check_network,
    in_bundle,
    locate_bundle,
    pick_device,
    pick_num_workers,
    place_network,
    prepare_output,
    prepare_training_output,
    start_workflow,
)

__all__ = [
    "CachedCases",
    "Checkpoints",
    "FinalValidation",
    "MeanDice",
    "ProgressBar",
    "ScanDataset",
    "ScanEvaluator",
    "ScoreReport",
    "SeedEpochs",
    "SegmentationTrainer",
    "TrainingLog",
    "check_network",
    "in_bundle",
    "load_weights",
    "locate_bundle",
    "pick_device",
    "pick_num_workers",
    "place_network",
    "prepare_output",
    "prepare_training_output",
    "report_failures",
    "start_workflow",
    "warn_about_training_cases",
]
