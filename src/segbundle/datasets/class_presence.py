"""Find the classes in the label maps of a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from segbundle.datasets.case import Case
from segbundle.datasets.label_values import DatasetLabels
from segbundle.errors import SegbundleError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry
from segbundle.terminal import counted

_SECONDS = 3.0


def class_presence(cases: Sequence[Case], labels: DatasetLabels) -> dict[str, frozenset[str]]:
    """Return the classes that are present and the classes that are annotated in each case.

    Every label map is read once per process. Label maps that cannot be read count as empty here; the run reports them
    later, when it reads them.

    Args:
        cases: labeled cases.
        labels: labels of the dataset as the classes of the task.

    Returns:
        for each case, by name: the names of the foreground classes in its label map, and the names of its annotated
        classes followed by `?`, such as `{'liver', 'liver?', 'lesion?'}`

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a_seg.nii"
        ...     nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), path)
        ...     case = Case("a", (Path("a.nii"),), path)
        ...     sorted(class_presence([case], DatasetLabels(["background", "liver", "lesion"]))["a"])
        ['lesion?', 'liver', 'liver?']
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        values = pool.map(lambda case: _values(case, labels), cases)
        shown = counted(values, len(cases), "reading label maps for the folds", "case", leave=False, delay=_SECONDS)
        return {case.name: _features(case, found, labels) for case, found in zip(cases, shown, strict=True)}


def _features(case: Case, values: frozenset[int], labels: DatasetLabels) -> frozenset[str]:
    names = labels.class_names
    try:
        annotated = labels.annotated_mask(case)
    except SegbundleError:
        annotated = [True] * len(names)
    foreground = [name for index, name in enumerate(names) if index > 0 and annotated[index]]
    present = labels.present(values)
    return frozenset(f"{name}?" for name in foreground) | present.intersection(foreground)


def _values(case: Case, labels: DatasetLabels) -> frozenset[int]:
    """Return the label values of a case; empty if its label map cannot be read."""
    if case.label is None or case.problems:
        return frozenset()
    try:
        status = case.label.stat()
        return _values_of(case.label, case.image[0], tuple(labels.class_names), status.st_mtime_ns, status.st_size)
    except (SegbundleError, OSError):
        return frozenset()


@lru_cache(maxsize=100_000)
def _values_of(path: Path, image: Path, names: tuple[str, ...], time: int, size: int) -> frozenset[int]:
    """Return the label values of a file; `time` and `size` change if the file does."""
    needs_grid = path.suffix.lower() in ("", ".dcm") or path.is_dir()
    labels = read_labels(path, names, read_geometry(image) if needs_grid else None).array
    return frozenset(np.unique(labels).tolist())
