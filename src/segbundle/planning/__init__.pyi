from .case_fingerprint import CaseFingerprint, measure_case
from .dataset_fingerprint import DatasetFingerprint, measure_dataset
from .plan import Plan, Request, plan_task
from .plan_file import plan_text, write_plan

__all__ = [
    "CaseFingerprint",
    "DatasetFingerprint",
    "Plan",
    "Request",
    "measure_case",
    "measure_dataset",
    "plan_task",
    "plan_text",
    "write_plan",
]
