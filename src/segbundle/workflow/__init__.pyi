from .devices import pick_device, pick_num_workers, place_network
from .flips import warn_about_flips
from .fold_records import record_folds
from .network_checks import check_batch, check_network
from .outputs import prepare_output, prepare_prediction_output, prepare_training_output
from .provenance import describe_run, describe_training, report_run
from .starting import start_workflow

__all__ = [
    "check_batch",
    "check_network",
    "describe_run",
    "describe_training",
    "pick_device",
    "pick_num_workers",
    "place_network",
    "prepare_output",
    "prepare_prediction_output",
    "prepare_training_output",
    "record_folds",
    "report_run",
    "start_workflow",
    "warn_about_flips",
]
