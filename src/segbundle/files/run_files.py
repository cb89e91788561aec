"""Names of the files that runs write into their output folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PREDICTIONS = "predictions.json"
RUN_FILE = "run.json"
METRICS = "metrics.csv"
SUMMARY = "summary.json"
REPORT = "report.html"
MEASUREMENTS = "measurements.csv"
TRAINING_CASES = "training_cases.csv"
CASE_NAMES = "case_names.csv"
TASK = "task.json"
PLANNED_TASK = "task.yaml"
"""Task that `segbundle train DATASET` has planned."""
MODEL, LAST = "model.pt", "last.pt"
SPLITS = "splits_final.json"
"""Cases of each fold, in the format of nnU-Net."""
CROSS_VALIDATION = "cross_validation.json"
LAUNCH = ".segbundle-launch.json"
"""Agents of `torchrun` that have started the run."""
MLFLOW_RUN = "mlflow_run_id"
TENSORBOARD = "tensorboard"
CACHE = "cache"
LABEL_MAP_SUFFIXES = {
    "nifti": "_seg.nii.gz",
    "nrrd": ".seg.nrrd",
    "dicom_seg": "_seg.dcm",
    "rtstruct": "_rtstruct.dcm",
}
"""Endings of label maps by output format; the name of the case comes first."""
_CLASSES = "_seg.json"
RESULTS = (RUN_FILE, METRICS, SUMMARY, REPORT, MEASUREMENTS)
"""Files computed from label maps; outdated when the label maps are replaced."""
TRAINING = (TASK, RUN_FILE, SPLITS, METRICS, SUMMARY, TRAINING_CASES, MODEL, LAST, MLFLOW_RUN)
JOURNAL = re.compile(r"predictions(\.rank\d+)?\.jsonl")
"""Records of one process while a run is in progress."""
RANK = re.compile(r"predictions\.rank\d+\.json")
"""Records of one process, as written by earlier versions."""
PREPARED_CASE = re.compile(r"[0-9a-f]{32}\.pt")
_PARTIAL = re.compile(
    r"(\.partial-\d+-)(.*_prob\.nii|.*\.nii\.gz|dataset\.json|import\.csv|\.segbundle-import\.json|"
    + "".join(f".*{re.escape(suffix)}|" for suffix in (*LABEL_MAP_SUFFIXES.values(), _CLASSES))
    + "|".join(map(re.escape, (PREDICTIONS, CASE_NAMES, CROSS_VALIDATION, LAUNCH, PLANNED_TASK, *RESULTS, *TRAINING)))
    + rf"|{RANK.pattern}|{PREPARED_CASE.pattern})",
    re.DOTALL,
)
PARTIAL_START = ".partial-{}-"
"""Prefix of the names of the partial files that a process writes; `{}` stands for the ID of the process."""
_PARTIAL_START = re.compile(r"(\.partial-\d+-)")


def label_map(folder: str | Path, case: str, output_format: str = "nifti") -> Path:
    """Return the path of the predicted label map of a case, such as `<case>_seg.nii.gz`.

    Args:
        folder: output folder.
        case: name of the case.
        output_format: key of `LABEL_MAP_SUFFIXES`. Default: `nifti`.

    Example:
        >>> label_map("runs/out", "ct").name, label_map("runs/out", "ct", "nrrd").name
        ('ct_seg.nii.gz', 'ct.seg.nrrd')
    """
    return Path(folder) / f"{case}{LABEL_MAP_SUFFIXES[output_format]}"


def label_map_files(folder: str | Path, case: str, output_formats: Iterable[str] = LABEL_MAP_SUFFIXES) -> list[Path]:
    """Return the paths of a case's label maps in several formats, and of the table of classes next to a NIfTI file.

    Args:
        folder: output folder.
        case: name of the case.
        output_formats: keys of `LABEL_MAP_SUFFIXES`. Default: all.

    Example:
        >>> [path.name for path in label_map_files("runs/out", "ct", ["nifti", "nrrd"])]
        ['ct_seg.nii.gz', 'ct.seg.nrrd', 'ct_seg.json']
    """
    formats = list(output_formats)
    paths = [label_map(folder, case, output_format) for output_format in formats]
    return [*paths, Path(folder) / f"{case}{_CLASSES}"] if "nifti" in formats else paths


def probabilities(folder: str | Path, case: str) -> Path:
    """Return the path of the class probabilities of a case, `<case>_prob.nii`.

    Args:
        folder: output folder.
        case: name of the case.

    Example:
        >>> probabilities("runs/out", "ct").name
        'ct_prob.nii'
    """
    return Path(folder) / f"{case}_prob.nii"


def partial(path: Path, process: int) -> Path:
    """Return the temporary path under which a process writes a file before it is renamed.

    If the temporary name would be longer than 255 bytes, it contains only the end of the final name.

    Args:
        path: final path.
        process: ID of the process.

    Example:
        >>> partial(Path("runs/run.json"), 7).name
        '.partial-7-run.json'
    """
    start = PARTIAL_START.format(process)
    name = path.name.encode("utf-8", "surrogateescape")[-(255 - len(start)) :]
    return path.with_name(start + name.decode("utf-8", "surrogateescape"))


def partial_of(name: str) -> str | None:
    """Return the prefix of the name of a partial file, which identifies the process that wrote it.

    Args:
        name: any file name, or a prefix of partial files.

    Returns:
        prefix as in `PARTIAL_START`, or None for other names

    Example:
        >>> partial_of(".partial-7-run.json"), partial_of("run.json")
        ('.partial-7-', None)
    """
    found = _PARTIAL.fullmatch(name) or _PARTIAL_START.fullmatch(name)
    return None if found is None else found[1]


def is_partial(name: str) -> bool:
    """Return whether a file name is that of a partial file, see `partial`.

    Args:
        name: any file name.

    Example:
        >>> is_partial(".partial-7-run.json"), is_partial("run.json")
        (True, False)
    """
    return _PARTIAL.fullmatch(name) is not None
