"""Fingerprint of a dataset: measure every labeled case once, and summarize the cases."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.class_values import ClassValues, class_values
from segbundle.classes import Classes
from segbundle.datasets.case import Case, name_problems
from segbundle.datasets.cases import load_cases, refuse
from segbundle.datasets.datalist import has_validation
from segbundle.datasets.description import read_description
from segbundle.datasets.description_file import find_description
from segbundle.datasets.folders import some
from segbundle.datasets.label_names import check_class_names, described_labels
from segbundle.datasets.label_values import DatasetLabels, dataset_labels
from segbundle.datasets.layouts import recognize
from segbundle.errors import ConfigError, DataError, describe
from segbundle.hardware.memory_usage import available_memory
from segbundle.io.scans import read_geometry
from segbundle.planning.case_fingerprint import CaseFingerprint, measure_case
from segbundle.planning.fingerprint_cache import FingerprintCache
from segbundle.terminal import counted, escaped

_BYTES_PER_VOXEL = 24
"""Estimated peak memory of the measurement of a case, per voxel of its scan and label map."""
_EVALUATED = ("$", "@", "%")
"""First characters of text that MONAI evaluates in a YAML file."""


@dataclass(frozen=True)
class DatasetFingerprint:
    """Measurements of the labeled cases of a dataset.

    Attributes:
        dataset: folder of the dataset, or its datalist.
        layout: name of the layout, such as `nnU-Net raw`.
        cases: fingerprints of the usable labeled cases, sorted by name.
        class_names: class names, background first.
        named: whether the class names come from the dataset or the user; False for `label_1`, `label_2`, ...
        annotated: for each case, one bool per class, True if the class is annotated.
        channel_names: names of the channels in the description of the dataset; empty if it has none.
        problems: messages about cases that cannot be used.
        ignore_label: value of voxels whose class is unknown; None (default) if the dataset has no such value.
        subjects: number of different subjects; a case without a subject counts as one. Default: 0.
        classes: label values by class name, see `segbundle.class_values.class_values`; None (default) if these are the
            indices of the classes. The fingerprints of the cases have voxels by index.

    Example:
        >>> DatasetFingerprint(Path("data"), "Decathlon", [], ["background", "liver"], True, [], [], []).num_channels
        1
    """

    dataset: Path
    layout: str
    cases: list[CaseFingerprint]
    class_names: list[str]
    named: bool
    annotated: list[list[bool]]
    channel_names: list[str]
    problems: list[str]
    ignore_label: int | None = None
    subjects: int = 0
    classes: dict[str, Any] | None = None

    @property
    def num_channels(self) -> int:
        """Number of channels of the cases."""
        return self.cases[0].channels if self.cases else 1

    @cached_property
    def spacings(self) -> np.ndarray:
        """Voxel sizes along X, Y and Z in mm, (cases, 3)."""
        return np.array([case.spacing for case in self.cases])

    @cached_property
    def shapes(self) -> np.ndarray:
        """Numbers of voxels along X, Y and Z, (cases, 3)."""
        return np.array([case.shape for case in self.cases])

    def shapes_at(self, spacing: Sequence[float]) -> np.ndarray:
        """Return the shapes that all cases have on a grid with a given voxel size, integers (cases, 3), at least 1.

        Args:
            spacing: voxel size of the grid along X, Y and Z in mm.
        """
        return np.maximum(np.rint(self.shapes * self.spacings / np.array(spacing)), 1).astype(int)

    def intensities(self, channel: int) -> np.ndarray:
        """Return the sampled intensities of a channel inside the labels of all cases, float64 (n,).

        Args:
            channel: index of the channel.
        """
        return np.concatenate([np.array(case.samples[channel], float) for case in self.cases])

    def volumes(self, label: int) -> list[float]:
        """Return the volumes of a class in ml, in the cases that contain it.

        Args:
            label: index of the class.
        """
        return [case.voxels[label] * case.voxel_ml for case in self.cases if label in case.voxels]


def measure_dataset(
    dataset: str | Path,
    class_names: Sequence[str] | None = None,
    cache: Path | None = None,
    num_threads: int | None = None,
) -> DatasetFingerprint:
    """Measure every labeled case of a dataset, and return its fingerprint.

    Cases that cannot be used are reported in `problems`. Among these are cases whose number of channels differs from
    that of most cases.

    Args:
        dataset: see `segbundle.datasets.load_cases`.
        class_names: class names, background first. Default: those of the dataset, or else `label_1`, `label_2`, ...
            for the values in its label maps.
        cache: JSON file with the fingerprints of earlier calls, which is read and written. Default: no file.
        num_threads: number of cases to read at the same time. Default: one per core, or fewer to fit into memory.

    Raises:
        DataError: the dataset does not exist or is invalid, no case has a label map, or no labeled case can be used.

    Example:
        >>> import tempfile
        >>> from segbundle.datasets.samples import write_samples
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fingerprint = measure_dataset(write_samples(folder, num_training=2, num_test=0).parent)
        >>> fingerprint.class_names, fingerprint.shapes.shape
        (['background', 'liver', 'kidney', 'vessel', 'lesion'], (2, 3))
    """
    dataset = Path(dataset)
    described = described_labels(dataset)
    classes = described.classes if class_names is None else None
    names = _checked_names(dataset, class_names, described.class_names)
    labels = DatasetLabels(names or [], described.ignore_label)
    if names is not None:
        labels = dataset_labels(dataset, names, classes)
    cases, total = _labeled_cases(dataset)
    read_with = None if names is None else [*names, str(labels.ignore_label), str(labels.loaded)]
    known = FingerprintCache(cache, read_with)
    problems: list[str] = []
    measured: dict[str, CaseFingerprint] = {}
    for case, result in _measure_all(cases, known, labels, num_threads):
        if isinstance(result, CaseFingerprint):
            measured[case.name] = result
        else:
            problems.append(result)
    known.save(cases, measured)
    usable = _with_equal_channels([case for case in cases if case.name in measured], measured, problems)
    if not usable:
        raise DataError(f"{dataset}: none of its {total} cases can be used. {problems[0]}")
    fingerprints = [measured[case.name] for case in usable]
    if names is None:
        classes = _numbered_classes(dataset, fingerprints, labels.ignore_label)
        labels = replace(labels, class_names=class_values(classes).names)
        if class_values(classes).is_identity:
            classes = None
    found = list(labels.class_names)
    if classes is not None:
        fingerprints = [_with_classes(case, class_values(classes), labels) for case in fingerprints]
    description = read_description(dataset)
    channels = description.get("channel_names") or description.get("modality") or []
    subjects = [case.subject or case.name for case in usable]
    return DatasetFingerprint(
        dataset, recognize(find_description(dataset), description).title, fingerprints, found, names is not None,
        [labels.annotated_mask(case) for case in usable], [str(name) for name in channels], problems,
        labels.ignore_label, len(set(subjects)), classes,
    )  # fmt: skip


def _checked_names(dataset: Path, given: Sequence[str] | None, described: Sequence[str] | None) -> list[str] | None:
    """Return the class names of the user or the dataset, after checking that a YAML file can contain them."""
    if given is not None:
        check_class_names(dataset, given)
    names = described if given is None else given
    if names is None:
        return None
    for name in names:
        if str(name).startswith(_EVALUATED):
            raise DataError(
                f"{find_description(dataset).path}: the class name {escaped(name)!r} begins with {str(name)[0]}, which "
                "MONAI evaluates in YAML files. Rename the class."
            )
    return Classes(names).names


def _labeled_cases(dataset: Path) -> tuple[list[Case], int]:
    """Return the labeled cases of the training and validation lists, and the number of all their cases."""
    cases = [*load_cases(dataset), *(load_cases(dataset, "validation") if has_validation(dataset) else [])]
    refuse(name_problems(cases))
    labeled = sorted((case for case in cases if case.label is not None), key=lambda case: case.name)
    if not labeled:
        raise DataError(
            f"{dataset}: none of its {len(cases)} cases has a label map, so there is nothing to plan. Add label maps: "
            "as `label` in dataset.json, or as files of the same names in labelsTr."
        )
    return labeled, len(cases)


def _measure_all(
    cases: Sequence[Case],
    known: FingerprintCache,
    labels: DatasetLabels,
    num_threads: int | None,
) -> Iterator[tuple[Case, CaseFingerprint | str]]:
    """Yield each case with its fingerprint, or with a message if it cannot be used."""
    cached = {case.name: known.find(case) for case in cases}
    new = [case for case in cases if cached[case.name] is None]
    for case in cases:
        fingerprint = cached[case.name]
        if fingerprint is not None:
            yield case, replace(fingerprint, case=case.name)

    def measure(case: Case) -> CaseFingerprint | str:
        try:
            return measure_case(case, labels.class_names or None, labels.ignore_label, labels.loaded)
        except (DataError, ConfigError) as error:
            return " ".join(str(error).split())
        except Exception as error:  # a damaged file can raise anything; the other cases are still measured
            return f"case {case.name}: cannot be read ({describe(error)}). Repair its files, or remove the case."

    with ThreadPoolExecutor(num_threads or _num_threads(new)) as pool:
        results = pool.map(measure, new)
        yield from zip(new, counted(results, len(new), "measuring cases", "case", delay=1.0), strict=True)


def _num_threads(cases: Sequence[Case]) -> int:
    """Return the number of cases to read at a time: one per core, if the largest ones fit into half of the memory."""
    largest = 0
    for case in sorted(cases, key=_bytes_on_disk)[-2:]:
        try:
            geometry = read_geometry(case.image[0])
            largest = max(largest, int(np.prod(geometry.shape)) * max(geometry.channels, len(case.image)))
        except (DataError, OSError):
            continue
    fitting = available_memory() // 2 // max(largest * _BYTES_PER_VOXEL, 1)
    return int(max(min(os.cpu_count() or 1, fitting), 1))


def _bytes_on_disk(case: Case) -> int:
    try:
        return sum(path.stat().st_size for path in case.image)
    except OSError:
        return 0


def _with_equal_channels(
    cases: Sequence[Case], measured: dict[str, CaseFingerprint], problems: list[str]
) -> list[Case]:
    """Return the cases with the most common number of channels, and add a message for each other case."""
    counts = Counter(measured[case.name].channels for case in cases)
    common = max(counts, key=lambda number: (counts[number], -number), default=1)
    for case in cases:
        channels = measured[case.name].channels
        if channels != common:
            problems.append(
                f"{case.image[0]}: has {channels} channel(s), but {counts[common]} of {len(cases)} cases have "
                f"{common}. Add or remove channels, or remove the case."
            )
    return [case for case in cases if measured[case.name].channels == common]


def _numbered_classes(dataset: Path, cases: Sequence[CaseFingerprint], ignore_label: int | None) -> dict[str, int]:
    """Return classes for the values in label maps without class names."""
    values = sorted({value for case in cases for value in case.voxels if value not in (0, ignore_label)})
    if not values:
        raise DataError(
            f"{dataset}: all voxels of its {len(cases)} label maps are background (0). Write the label maps with one "
            "integer per class, starting at 1."
        )
    return {f"label_{value}": value for value in values}


def _with_classes(case: CaseFingerprint, classes: ClassValues, labels: DatasetLabels) -> CaseFingerprint:
    """Return a fingerprint with the voxels of each class by its index, instead of by label value."""
    of_class = [
        labels.values.get(name, frozenset(values)) for name, values in zip(classes.names, classes.values, strict=True)
    ]
    voxels = {index: sum(case.voxels.get(int(value), 0) for value in values) for index, values in enumerate(of_class)}
    return replace(case, voxels={index: count for index, count in voxels.items() if count})


def unusable_in_words(fingerprint: DatasetFingerprint) -> str:
    """Return a line about the cases that cannot be used; empty if there are none.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> unusable_in_words(DatasetFingerprint(Path("data"), "Decathlon", [], ["background"], True, [], [], []))
        ''
    """
    count = len(fingerprint.problems)
    if not count:
        return ""
    return (
        f"{count} of {count + len(fingerprint.cases)} labeled cases were left out of the plan. Repair or remove them "
        f"before training: {some(fingerprint.problems, 1)}"
    )
