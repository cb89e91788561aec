"""What turns the bundle's YAML into running workflows: paths, handlers, checkpoints, scores."""

from segbundle.engines.averaging import WeightAverage, averaged_network
from segbundle.engines.caching import CachedCases, PreparedCases
from segbundle.engines.checkpoints import (
    ensemble_members,
    load_weights,
    warn_about_preprocessing,
    warn_about_training_cases,
)
from segbundle.engines.current_workflow import in_bundle, locate_bundle
from segbundle.engines.devices import pick_device, pick_num_workers, place_network
from segbundle.engines.evaluator import SegmentationEvaluator
from segbundle.engines.flips import warn_about_flips
from segbundle.engines.loading import monai_loader, patch_loader, warn_about_missing_classes
from segbundle.engines.network_checks import check_batch, check_network
from segbundle.engines.output_folders import prepare_output, prepare_prediction_output, prepare_training_output
from segbundle.engines.progress import ProgressBar
from segbundle.engines.provenance import describe_run, describe_training, report_run
from segbundle.engines.ranks import local_device, share_of_rank, shared_gradients, stop_ranks
from segbundle.engines.records import ScanRecords
from segbundle.engines.resuming import Checkpoints
from segbundle.engines.scanning import ScanDataset, ScanEvaluator, read_ahead, report_failures
from segbundle.engines.schedules import check_schedule
from segbundle.engines.scoring import MeanDice, ScoreReport
from segbundle.engines.starting import start_workflow
from segbundle.engines.tracking import check_mlflow
from segbundle.engines.trainer import SegmentationTrainer
from segbundle.engines.training import EarlyStopping, FinalValidation, SeedEpochs, StopAtNaN, TrainingLog

__all__ = [
    "CachedCases",
    "Checkpoints",
    "EarlyStopping",
    "FinalValidation",
    "MeanDice",
    "PreparedCases",
    "ProgressBar",
    "ScanDataset",
    "ScanEvaluator",
    "ScanRecords",
    "ScoreReport",
    "SeedEpochs",
    "SegmentationEvaluator",
    "SegmentationTrainer",
    "StopAtNaN",
    "TrainingLog",
    "WeightAverage",
    "averaged_network",
    "check_batch",
    "check_mlflow",
    "check_network",
    "check_schedule",
    "describe_run",
    "describe_training",
    "ensemble_members",
    "in_bundle",
    "load_weights",
    "local_device",
    "locate_bundle",
    "monai_loader",
    "patch_loader",
    "pick_device",
    "pick_num_workers",
    "place_network",
    "prepare_output",
    "prepare_prediction_output",
    "prepare_training_output",
    "read_ahead",
    "report_failures",
    "report_run",
    "share_of_rank",
    "shared_gradients",
    "start_workflow",
    "stop_ranks",
    "warn_about_flips",
    "warn_about_missing_classes",
    "warn_about_preprocessing",
    "warn_about_training_cases",
]
