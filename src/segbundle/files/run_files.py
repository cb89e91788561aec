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
"""Records of one process while a run is in progress."""
RANK = re.compile(r"predictions\.rank\d+\.json")
"""Records of one process, as earlier versions wrote them."""
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
    """Return the prefix of the names of files that a process has not finished writing."""
    return f".partial-{process}-"


def partial_of(name: str) -> str | None:
    """Return the prefix of a process's partial files, given the name of such a file or the prefix itself."""
    found = _PARTIAL.fullmatch(name) or _PARTIAL_START.fullmatch(name)
    return None if found is None else found[1]


def is_partial(name: str) -> bool:
    """Return whether a name is that of a partial file of a killed run."""
    return _PARTIAL.fullmatch(name) is not None
