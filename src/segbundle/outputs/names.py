"""Names of the files that runs write into their output folders."""

from __future__ import annotations

import re
from pathlib import Path

PREDICTIONS = "predictions.json"
RUN_FILE = "run.json"
METRICS = "metrics.csv"
SUMMARY = "summary.json"
REPORT = "report.html"
MEASUREMENTS = "measurements.csv"
TRAINING_CASES = "training_cases.csv"
TASK = "task.json"
MODEL, LAST = "model.pt", "last.pt"
CROSS_VALIDATION = "cross_validation.json"
MLFLOW_RUN = "mlflow_run_id"
TENSORBOARD = "tensorboard"
CACHE = "cache"
RESULTS = (RUN_FILE, METRICS, SUMMARY, REPORT, MEASUREMENTS)
"""Files made from label maps, outdated when the label maps are replaced."""
TRAINING = (TASK, RUN_FILE, METRICS, SUMMARY, TRAINING_CASES, MODEL, LAST, MLFLOW_RUN)
JOURNAL = re.compile(r"predictions(\.rank\d+)?\.jsonl")
"""Records of a process of a run that has not ended."""
RANK = re.compile(r"predictions\.rank\d+\.json")
"""The same of earlier versions."""
PREPARED_CASE = re.compile(r"[0-9a-f]{32}\.pt")
_PARTIAL = re.compile(
    r"(\.partial-\d+-)(.*_seg\.nii\.gz|.*_prob\.nii|"
    + "|".join(map(re.escape, (PREDICTIONS, CROSS_VALIDATION, *RESULTS, *TRAINING)))
    + rf"|{RANK.pattern}|{PREPARED_CASE.pattern})",
    re.DOTALL,
)
_PARTIAL_START = re.compile(r"(\.partial-\d+-)")


def label_map(folder: str | Path, case: str) -> Path:
    """Return the path of a case's label map."""
    return Path(folder) / f"{case}_seg.nii.gz"


def probabilities(folder: str | Path, case: str) -> Path:
    """Return the path of a case's class probabilities."""
    return Path(folder) / f"{case}_prob.nii"


def partial(path: Path, process: int) -> Path:
    """Return the path under which a process writes a file before it is renamed."""
    start = partial_start(process)
    name = path.name.encode("utf-8", "surrogateescape")[-(255 - len(start)) :]
    return path.with_name(start + name.decode("utf-8", "surrogateescape"))


def partial_start(process: int) -> str:
    """Return how the names of files begin that a process has not written whole."""
    return f".partial-{process}-"


def partial_of(name: str) -> str | None:
    """Return how the names of a process's half-written files begin, of one of them or of this beginning itself."""
    found = _PARTIAL.fullmatch(name) or _PARTIAL_START.fullmatch(name)
    return None if found is None else found[1]


def is_partial(name: str) -> bool:
    """Return whether a name is that of a file which a killed run left half written."""
    return _PARTIAL.fullmatch(name) is not None
