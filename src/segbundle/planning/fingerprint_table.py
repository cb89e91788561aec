"""Table of the fingerprint of a dataset, for the terminal and the comments of a task file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segbundle.datasets.sides import side_pairs
from segbundle.planning.choice import times
from segbundle.planning.dataset_fingerprint import DatasetFingerprint
from segbundle.planning.intensity_rules import modality_of

_PAIRS = 3


def fingerprint_lines(fingerprint: DatasetFingerprint) -> list[str]:
    """Return the lines of a table of the fingerprint: scans, intensities inside the labels, and classes.

    Args:
        fingerprint: fingerprint of a dataset with at least one case.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.planning.case_fingerprint import CaseFingerprint
        >>> case = CaseFingerprint(
        ...     "a", (9, 9, 9), (1, 1, 1), "RAS", "int16", 0.5, 0.2, (0,), (900,), ((0, 50, 100),), {0: 720, 1: 9}
        ... )
        >>> fingerprint = DatasetFingerprint(
        ...     Path("data"), "Decathlon", [case], ["background", "liver"], True, [[True, True]], ["MRI"], []
        ... )
        >>> for line in fingerprint_lines(fingerprint)[:3]:
        ...     print(line)
        labeled cases  1 (Decathlon)
        modality       MRI (dataset.json)
        voxels         9×9×9 (median along X, Y, Z; range 9×9×9 to 9×9×9)
    """
    cases = fingerprint.cases
    modality = modality_of(fingerprint)
    rows = [
        ("labeled cases", f"{len(cases)} ({fingerprint.layout})"),
        ("modality", f"{modality.name} ({modality.source})"),
        ("voxels", _spread(fingerprint.shapes)),
        ("spacing (mm)", _spread(fingerprint.spacings)),
        ("orientation", _counted([case.orientation for case in cases])),
        ("data type", _counted([case.dtype for case in cases])),
        ("nonzero", f"{np.median([case.nonzero for case in cases]):.0%} of the voxels; cropping to them removes "
                    f"{np.median([case.cropped for case in cases]):.0%} of the volume (medians)"),
        *_intensity_rows(fingerprint),
    ]  # fmt: skip
    pairs = side_pairs(fingerprint.class_names)
    if pairs:
        more = f" and {len(pairs) - _PAIRS} more" if len(pairs) > _PAIRS else ""
        rows.append(("left / right", ", ".join(f"{left} / {right}" for left, right in pairs[:_PAIRS]) + more))
    width = max(len(name) for name, _ in rows)
    return [*(f"{name:{width}}  {value}" for name, value in rows), "", *class_lines(fingerprint)]


def class_lines(fingerprint: DatasetFingerprint) -> list[str]:
    """Return the lines of a table of the foreground classes: numbers of cases with each class, and its volumes.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> from pathlib import Path
        >>> fingerprint = DatasetFingerprint(Path("data"), "", [], ["background", "liver"], True, [], [], [])
        >>> for line in class_lines(fingerprint):
        ...     print(line)
        class  labeled  absent  not annotated  volume in ml: median (min to max)
        liver        0       0              0  -
    """
    names = fingerprint.class_names
    width = max(5, *(len(name) for name in names[1:]))
    lines = [f"{'class':{width}}  labeled  absent  not annotated  volume in ml: median (min to max)"]
    for label, name in enumerate(names):
        if label == 0:
            continue
        volumes = fingerprint.volumes(label)
        unannotated = sum(not mask[label] for mask in fingerprint.annotated)
        absent = len(fingerprint.cases) - len(volumes) - unannotated
        shown = f"{np.median(volumes):.3g} ({min(volumes):.3g} to {max(volumes):.3g})" if volumes else "-"
        lines.append(f"{name:{width}}  {len(volumes):7}  {absent:6}  {unannotated:13}  {shown}")
    return lines


def _intensity_rows(fingerprint: DatasetFingerprint) -> list[tuple[str, str]]:
    rows = []
    for channel in range(fingerprint.num_channels):
        values = fingerprint.intensities(channel)
        low = min(case.minimum[channel] for case in fingerprint.cases)
        high = max(case.maximum[channel] for case in fingerprint.cases)
        inside = "no labeled voxels"
        if len(values):
            first, last = np.percentile(values, (0.5, 99.5))
            inside = (
                f"mean {values.mean():.4g}, std {values.std():.4g}, percentiles 0.5 and 99.5: {first:.4g} and "
                f"{last:.4g}; whole scans: {low:.4g} to {high:.4g}"
            )
        name = "in labels" if fingerprint.num_channels == 1 else f"in labels, {channel}"
        rows.append((name, inside))
    return rows


def _spread(values: np.ndarray) -> str:
    middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    return f"{times(middle)} (median along X, Y, Z; range {times(low)} to {times(high)})"


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{count}× {name}" for name, count in Counter(names).most_common(4))
