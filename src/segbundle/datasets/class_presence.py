"""Find the classes in the label maps of a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from segbundle.classes import Classes
from segbundle.datasets.case import Case
from segbundle.errors import SegbundleError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry
from segbundle.terminal import counted

_SECONDS = 3.0


def class_presence(cases: Sequence[Case], class_names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the classes that are present and the classes that are annotated in each case.

    Every label map is read once per process. Label maps that cannot be read count as empty here; the run reports them
    later, when it reads them.

    Args:
        cases: labeled cases.
        class_names: classes of the task, background first.

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
        ...     sorted(class_presence([case], ["background", "liver", "lesion"])["a"])
        ['lesion?', 'liver', 'liver?']
    """
    names = tuple(class_names)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        values = pool.map(lambda case: _values(case, names), cases)
        shown = counted(values, len(cases), "reading label maps for the folds", "case", leave=False, delay=_SECONDS)
        return {case.name: _features(case, found, names) for case, found in zip(cases, shown, strict=True)}


def _features(case: Case, values: frozenset[int], names: tuple[str, ...]) -> frozenset[str]:
    try:
        annotated = Classes(names).annotated_mask(case.annotated)
    except SegbundleError:
        annotated = [True] * len(names)
    foreground = [(index, name) for index, name in enumerate(names) if index > 0 and annotated[index]]
    return frozenset(f"{name}?" for _, name in foreground) | frozenset(n for i, n in foreground if i in values)


def _values(case: Case, names: tuple[str, ...]) -> frozenset[int]:
    """Return the label values of a case; empty if its label map cannot be read."""
    if case.label is None or case.problems:
        return frozenset()
    try:
        status = case.label.stat()
        return _values_of(case.label, case.image[0], names, status.st_mtime_ns, status.st_size)
    except (SegbundleError, OSError):
        return frozenset()


@lru_cache(maxsize=100_000)
def _values_of(path: Path, image: Path, names: tuple[str, ...], time: int, size: int) -> frozenset[int]:
    """Return the label values of a file; `time` and `size` change if the file does."""
    needs_grid = path.suffix.lower() in ("", ".dcm") or path.is_dir()
    labels = read_labels(path, names, read_geometry(image) if needs_grid else None).array
    return frozenset(np.unique(labels).tolist())
