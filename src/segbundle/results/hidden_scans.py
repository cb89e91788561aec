"""Scans of a run whose cases are named by pseudonyms: their paths are found again in the folder of the scans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.datasets.case_pseudonyms import hide_names_below, named_by_pseudonym
from segbundle.datasets.cases import load_cases
from segbundle.datasets.datalist import has_validation
from segbundle.datasets.finding import find_scans
from segbundle.datasets.label_values import dataset_labels
from segbundle.errors import OutputError
from segbundle.files.pseudonyms import SALT


def hides_scans(folder: Path) -> bool:
    """Return whether the cases of a run are named by pseudonyms.

    Args:
        folder: output folder of the run.

    Example:
        >>> hides_scans(Path("missing"))
        False
    """
    return (folder / SALT).is_file()


def find_hidden_scans(
    folder: Path, dataset_dir: str | Path | None, config: Mapping[str, Any], labeled: bool
) -> dict[str, dict[str, Any]]:
    """Find the scans of a run whose cases are named by pseudonyms, and return their datalist entries by pseudonym.

    Args:
        folder: output folder of the run, with the file that contains the salt of its pseudonyms.
        dataset_dir: folder of the scans or of the dataset, at the same path as in the run.
        config: settings in `run.json`.
        labeled: whether the run is an evaluation, so that entries have a `label`.

    Raises:
        OutputError: `dataset_dir` is None, or the salt cannot be read.
        DataError: the scans cannot be listed.

    Example:
        >>> find_hidden_scans(Path("runs/1"), None, {}, labeled=False)
        Traceback (most recent call last):
        segbundle.errors.OutputError: runs/1: contains no paths of scans (case_names: pseudonym). Give the folder ...
    """
    if dataset_dir is None:
        raise OutputError(
            f"{folder}: contains no paths of scans (case_names: pseudonym). Give the folder of the scans with "
            "--dataset_dir."
        )
    if labeled:
        hide_names_below([dataset_dir], folder)
        key = config.get("data_list_key", "training")
        cases = load_cases(dataset_dir, key)
        if key == "training" and has_validation(Path(dataset_dir)):
            cases += load_cases(dataset_dir, "validation")
        labels = dataset_labels(dataset_dir, config.get("class_names") or [], config.get("classes"))
        entries = named_by_pseudonym([labels.entry(case) for case in cases], folder)
    else:
        channels = (config.get("network_def") or {}).get("in_channels", 1)
        entries = find_scans(dataset_dir, channels, config.get("series"), "pseudonym", folder)
    return {entry["case"]: entry for entry in entries}
