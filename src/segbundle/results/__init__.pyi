from .made_by import write_run
from .runs import fold_folders, holds_scores, read_run
from .scores import CaseScores, read_rows, read_scores, scores_from_json, scores_to_json
from .structures import Structure, training_cases_of, write_training_cases
from .summary import print_summary, summarize, write_scores

__all__ = [
    "CaseScores",
    "Structure",
    "fold_folders",
    "holds_scores",
    "print_summary",
    "read_rows",
    "read_run",
    "read_scores",
    "scores_from_json",
    "scores_to_json",
    "summarize",
    "training_cases_of",
    "write_run",
    "write_scores",
    "write_training_cases",
]
