"""List the cases of `imagesTr` and `labelsTr`, with images and label maps paired by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from segbundle.datasets.case import (
    Case,
    case_of_channel,
    group_channels,
    join_channels,
    named_apart,
    path_name,
    with_problems,
)
from segbundle.datasets.folders import Tree, list_tree, log_left_out
from segbundle.datasets.monai_label import is_study
from segbundle.datasets.series import lost_scans, scans_in_folders
from segbundle.io.scan_files import is_scan_file, label_stem, stem


def paired_cases(folder: Path, section: str, num_channels: int, file_ending: str | None = None) -> list[Case]:
    """Return the cases of `images<section>`, with their label maps in `labels<section>` if these exist.

    The names of the label maps determine which files are channels of one case. A label map may be a folder with a DICOM
    series. A label map without an image is returned as a case with a problem. If `images<section>` does not exist, the
    result is empty.

    Args:
        folder: folder of the dataset.
        section: `Tr` or `Ts`.
        num_channels: number of channels of the dataset.
        file_ending: suffix of all files in nnU-Net's raw layout; None (default) for other layouts. If any image has
            this suffix, files with other suffixes are skipped. In this layout, `a_0000` is channel 0 of case `a` even
            if there is a label map of the name `a_0000`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "labels"):
        ...         path = Path(folder) / f"{kind}Tr" / "a.nii.gz"
        ...         path.parent.mkdir()
        ...         path.touch()
        ...     (case,) = paired_cases(Path(folder), "Tr", num_channels=1)
        >>> case.name, case.label.parent.name
        ('a', 'labelsTr')
    """
    images, labels = folder / f"images{section}", folder / f"labels{section}"
    if not os.path.lexists(images):
        return []
    image_tree, label_tree = list_tree(images), list_tree(labels) if os.path.lexists(labels) else Tree(labels)
    if file_ending is not None and any(file.name.endswith(file_ending) for file in image_tree.files):
        for tree in (image_tree, label_tree):
            _skip_other_endings(tree, file_ending)
    _skip_labels_of_study(image_tree)
    cases_by_label = _by_name(label_tree)
    names = set(cases_by_label)
    files = [*image_tree.files, *(lost for lost in lost_scans(image_tree) if is_scan_file(lost))]
    whole, channels, others = list[Path](), list[Path](), list[Path]()
    for file in files:
        is_whole, is_channel = stem(file) in names, case_of_channel(file) in names
        is_whole &= file_ending is None or not is_channel
        (whole if is_whole else channels if is_channel else others).append(file)
    series = scans_in_folders(image_tree)
    log_left_out((image_tree, label_tree))
    several = [path for path in image_tree.dicom if path_name(path, images) in names]  # reading it raises the error
    series += [
        Case(path_name(path, images), (path,))
        for path in several
        if path_name(path, images) not in {s.name for s in series}
    ]
    cases = [Case(stem(file), (file,)) for file in whole] + series
    cases += join_channels(channels, num_channels) + group_channels(others, num_channels)
    cases = _with_labels(named_apart(cases, images), cases_by_label, images)
    cases += [Case(path_name(path, labels), (path,), path) for path in lost_scans(label_tree) if not is_scan_file(path)]
    good = {path for tree in (image_tree, label_tree) for path in (*tree.files, *tree.dicom)}
    lost = {lost.path: lost.reason for tree in (image_tree, label_tree) for lost in tree.lost}
    return [with_problems(case, good, lost) for case in cases]


def _skip_labels_of_study(tree: Tree) -> None:
    """Remove label maps that MONAI Label saved beside the images, in `labels`, from a tree; count them as skipped."""
    if is_study(tree.root):
        kept = [file for file in tree.files if file.relative_to(tree.root).parts[0] != "labels"]
        if len(kept) < len(tree.files):
            tree.left_out["label maps of MONAI Label"] += len(tree.files) - len(kept)
        tree.files = kept


def _skip_other_endings(tree: Tree, file_ending: str) -> None:
    """Remove files with other suffixes from a tree, and count them as skipped."""
    others = [file for file in tree.files if not file.name.endswith(file_ending)]
    tree.files = [file for file in tree.files if file.name.endswith(file_ending)]
    if others:
        tree.left_out[f"without the file_ending {file_ending}"] += len(others)


def _by_name(tree: Tree) -> dict[str, list[Path]]:
    """Return label maps by case; label maps with the same name in several folders, by path."""
    maps: defaultdict[str, list[Path]] = defaultdict(list)
    files = [*tree.files, *filter(is_scan_file, lost_scans(tree))]
    for case in named_apart([Case(label_stem(path), (path,)) for path in files], tree.root):
        maps[case.name].append(case.image[0])
    for folder in tree.dicom:
        maps[path_name(folder, tree.root)].append(folder)
    return maps


def _without_scan(name: str, label: Path, images: Path) -> Case:
    return Case(name, (images / f"{name}{label.name[len(stem(label)) :]}",))


def _with_labels(cases: list[Case], labels: Mapping[str, list[Path]], images: Path) -> list[Case]:
    """Return each case once per label map, and a case for each label map without an image."""
    by_name: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    found = [case for case in cases if case.name not in labels]
    for name, paths in labels.items():
        for path in paths:
            found += [replace(case, label=path) for case in by_name[name] or [_without_scan(name, path, images)]]
    return found
