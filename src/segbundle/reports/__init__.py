"""Reports of runs: tables (CSV, JSON) and self-contained HTML pages."""

from segbundle.outputs.names import RESULTS, RUN_FILE
from segbundle.reports.comparison import write_comparison
from segbundle.reports.page import write_report
from segbundle.reports.prediction_page import write_prediction_report
from segbundle.reports.runs import fold_folders, holds_scores, read_run, write_run
from segbundle.reports.scores import (
    CaseScores,
    print_summary,
    read_rows,
    read_scores,
    scores_from_json,
    scores_to_json,
    summarize,
    write_scores,
)
from segbundle.reports.structures import Structure, training_cases_of, write_training_cases

__all__ = [
    "RESULTS",
    "RUN_FILE",
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
    "write_comparison",
    "write_prediction_report",
    "write_report",
    "write_run",
    "write_scores",
    "write_training_cases",
]
