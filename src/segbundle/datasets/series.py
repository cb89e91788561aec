"""List the DICOM series in a folder tree, each as a separate case."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from segbundle.datasets.case import Case, path_name
from segbundle.datasets.folders import Tree, escaped, first_of, log_once
from segbundle.errors import DataError
from segbundle.io.scan_files import is_scan_file

if TYPE_CHECKING:
    from segbundle.io.dicom import Series

_NO_NAME = re.compile(r"[^\w.+-]+")
_LONGEST_NAME = 40
_MOST_PARTS = 20
"""Maximum number of series with the same UID that are tested as one volume."""
_KNOWN = ("not DICOM", "DICOMDIR")
"""Kinds of files in a folder of DICOM files that are already counted by suffix."""


def lost_scans(tree: Tree) -> list[Path]:
    """Return the paths of a tree that cannot be opened, but may be scans. Files of a DICOM series are not included.

    Args:
        tree: content of a folder tree.

    Example:
        >>> from segbundle.datasets.folders import Lost
        >>> lost_scans(Tree(Path("data"), lost=[Lost(Path("data/a.nii"), "is a named pipe", scan=True)]))
        [PosixPath('data/a.nii')]
    """
    return [lost.path for lost in tree.lost if lost.scan and not (lost.slice and lost.path.parent in tree.dicom)]


def scans_in_folders(tree: Tree) -> list[Case]:
    """Return a case for each DICOM series of a tree, and for each folder that cannot be opened.

    Series that are not volumes, such as localizers, and other files in these folders are counted as skipped. A case has
    a problem if a file in its folder cannot be opened, because the file may be a slice. A case also has a problem if
    another series, usually in another folder, is part of the same volume.

    Args:
        tree: content of a folder tree; its `left_out` and `no_volumes` are updated.

    Example:
        >>> scans_in_folders(Tree(Path("data")))
        []
    """
    cases = [Case(path_name(path, tree.root), (path,)) for path in lost_scans(tree) if not is_scan_file(path)]
    cases += _lost_series(tree)
    uids: defaultdict[str, list[int]] = defaultdict(list)
    for folder in tree.dicom:
        lost = [lost.reason for lost in tree.lost if lost.slice and lost.path.parent == folder]
        for case, series in _series_in(folder, path_name(folder, tree.root), tuple(first_of(lost)), tree):
            if series is not None and series.why is None and series.uid:
                uids[series.uid].append(len(cases))
            cases.append(case)
    for same in uids.values():
        if len(same) > 1:
            _check_parts(cases, same)
    return cases


def _check_parts(cases: list[Case], same: Sequence[int]) -> None:
    """Add a problem to cases with the same SeriesInstanceUID that together form one volume; warn if they may."""
    from segbundle.io.dicom import are_parts

    groups = [list(pair) for pair in pairwise(same)]
    if 2 < len(same) <= _MOST_PARTS:
        groups.append(list(same))
    for group in groups:
        paths = [cases[index].image[0] for index in group]
        one_volume, distinct = are_parts(paths)
        shown = " and ".join(map(escaped, paths))
        if one_volume:
            folders = {path if path.is_dir() else path.parent for path in paths}
            remedy = "Put all its files into one folder, or convert" if len(folders) > 1 else "Convert"
            problem = f"{shown} are parts of one DICOM series. {remedy} it to NIfTI."
            for index in group:
                if problem not in cases[index].problems:
                    cases[index] = replace(cases[index], problems=(*cases[index].problems, problem))
        elif distinct and len(group) == 2:
            log_once(
                f"{shown} have the same SeriesInstanceUID and may be parts of one series. If they are, put all files "
                "of the series into one folder, or convert it to NIfTI.",
                logging.WARNING,
            )


def _lost_series(tree: Tree) -> list[Case]:
    """Return a case for each folder in which all files named like DICOM slices cannot be opened."""
    folders: defaultdict[Path, list[str]] = defaultdict(list)
    for lost in tree.lost:
        if lost.slice and not lost.scan and lost.path.suffix and lost.path.parent not in tree.dicom:
            folders[lost.path.parent].append(lost.reason)
    return [
        Case(path_name(folder, tree.root), (folder,), problems=tuple(first_of(reasons)))
        for folder, reasons in folders.items()
    ]


def series_in(folder: Path, name: str, problems: tuple[str, ...] = (), tree: Tree | None = None) -> list[Case]:
    """Return a case for each DICOM series of a folder that is a volume, or should be one.

    A series that should be a volume but is not becomes a case with a problem, and so does a folder that cannot be read.

    Args:
        folder: folder that directly contains DICOM files.
        name: name of the case. If there are several series, the description of each series and, if needed, the name of
            its first file are appended.
        problems: problems to add to every case (default none).
        tree: tree to which skipped files and series are added; None (default) ignores them.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     [case.name for case in series_in(Path(folder), "patient_1")]
        ['patient_1']
    """
    return [case for case, _ in _series_in(folder, name, problems, tree)]


def _series_in(
    folder: Path, name: str, problems: tuple[str, ...], tree: Tree | None
) -> list[tuple[Case, Series | None]]:
    """Return the cases of `series_in`, each with its series or None."""
    from segbundle.io.dicom import list_folder

    try:
        found = list_folder(folder)
    except DataError as error:
        return [(Case(name, (folder,), problems=(*problems, str(error))), None)]
    if tree is not None:
        tree.left_out.update({f"{kind} (DICOM)": count for kind, count in found.passed_over if kind not in _KNOWN})
        for series in found.series:
            if series.why is not None and not series.damaged:
                tree.no_volumes[series.why].append(path_name(folder, tree.root))
                tree.left_out[f"as {series.why}"] += len(series.files)
    unreadable = dict(found.passed_over).get("unreadable", 0)
    if unreadable:
        problem = (
            f"{escaped(folder)}: {unreadable} of its DICOM files cannot be read and may be slices. Copy or export the "
            "series again."
        )
        problems = (*problems, problem)
    scans = [series for series in found.series if series.why is None or series.damaged]
    if not scans:
        return [(Case(name, (folder,), problems=problems), None)] if unreadable else []
    names = [name] if len(scans) == 1 else _unique_names(name, scans)
    return [
        (Case(case_name, (series.path,), problems=(*problems, *_volume_problems(series))), series)
        for case_name, series in zip(names, scans, strict=True)
    ]


def _unique_names(name: str, series: Sequence[Series]) -> list[str]:
    """Return a name for each series of a folder: with its description and, if needed, its first file."""
    words = [_NO_NAME.sub("_", entry.description or entry.modality)[:_LONGEST_NAME].strip("_.") for entry in series]
    files = [entry.path.stem if words.count(word) > 1 else "" for entry, word in zip(series, words, strict=True)]
    return ["_".join(filter(None, (name, *parts))) for parts in zip(words, files, strict=True)]


def _volume_problems(series: Series) -> list[str]:
    return [] if series.why is None else [f"{escaped(series.path)}: is not a volume but {series.why}. Export it again."]


def series_of(file: Path) -> Case:
    """Return the case of the DICOM series that a file belongs to.

    Args:
        file: path of the DICOM file.

    Returns:
        the case; it has a problem if the file is not part of a volume, or if its folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "IM0001"
        ...     _ = path.write_bytes(bytes(128) + b"DICM")
        ...     case = series_of(path)
        >>> case.name, len(case.problems)
        ('IM0001', 1)
    """
    from segbundle.io.dicom import list_folder

    folder = file.parent
    path = folder / file.name
    try:
        found = list_folder(folder)
        match = next((series for series in found.series if path in series.files), None)
        if match is None:
            raise DataError(f"{escaped(file)}: is a DICOM file without an image. Pass the folder of a series.")
        if match.why is not None:
            raise DataError(
                f"{escaped(file)}: is not a volume but {match.why}. Pass a file of another series, or export this one "
                "again."
            )
    except DataError as error:
        return Case(file.name, (file,), problems=(str(error),))
    return next(case for case in series_in(folder, path_name(folder, folder)) if case.image == (match.path,))
