from .caching import CachedCases, PreparedCases
from .fine_tuning import prepare_fine_tuning
from .handlers import EarlyStopping, FinalValidation, SeedEpochs, StopAtNaN
from .patch_loading import monai_loader, patch_loader, warn_about_missing_classes
from .resuming import Checkpoints
from .schedules import WarmUp, check_schedule
from .tracking import check_mlflow
from .trainer import SegmentationTrainer
from .training_log import TrainingLog
from .weight_average import WeightAverage, averaged_network

__all__ = [
    "CachedCases",
    "Checkpoints",
    "EarlyStopping",
    "FinalValidation",
    "PreparedCases",
    "SeedEpochs",
    "SegmentationTrainer",
    "StopAtNaN",
    "TrainingLog",
    "WarmUp",
    "WeightAverage",
    "averaged_network",
    "check_mlflow",
    "check_schedule",
    "monai_loader",
    "patch_loader",
    "prepare_fine_tuning",
    "warn_about_missing_classes",
]
