"""Scans that are folders: the DICOM series in them, each a scan of its own."""

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
"""Series of one UID up to which all of them together are tried as one volume."""
_KNOWN = ("not DICOM", "DICOMDIR")
"""Kinds of files in a folder of DICOM files that have been counted by their endings."""


def lost_scans(tree: Tree) -> list[Path]:
    """Return the paths of a tree that cannot be opened and stand for scans of their own."""
    return [lost.path for lost in tree.lost if lost.scan and not (lost.slice and lost.path.parent in tree.dicom)]


def scans_in_folders(tree: Tree) -> list[Case]:
    """Return the scans of a tree that are folders: DICOM series, and folders that cannot be opened.

    What else the folders of DICOM files hold, such as localizers, is counted as left out. A series from whose folder a
    file cannot be opened may lack a slice, which is a problem of the case. So is a part of a series whose other parts
    lie elsewhere.
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
    """Add a problem to cases of one SeriesInstanceUID that together make one volume; warn if they may."""
    from segbundle.io.dicom import are_parts

    groups = [list(pair) for pair in pairwise(same)]
    if 2 < len(same) <= _MOST_PARTS:
        groups.append(list(same))
    for group in groups:
        paths = [cases[index].image[0] for index in group]
        one_volume, apart = are_parts(paths)
        shown = " and ".join(map(escaped, paths))
        if one_volume:
            folders = {path if path.is_dir() else path.parent for path in paths}
            remedy = "Put all its files into one folder, or convert" if len(folders) > 1 else "Convert"
            what = f"{shown} are parts of one DICOM series. {remedy} it to NIfTI."
            for index in group:
                if what not in cases[index].problems:
                    cases[index] = replace(cases[index], problems=(*cases[index].problems, what))
        elif apart and len(group) == 2:
            log_once(f"{shown} have the same SeriesInstanceUID and may be parts of one series.", logging.WARNING)


def _lost_series(tree: Tree) -> list[Case]:
    """Return a case for each folder in which no file named like a DICOM slice can be opened."""
    folders: defaultdict[Path, list[str]] = defaultdict(list)
    for lost in tree.lost:
        if lost.slice and not lost.scan and lost.path.suffix and lost.path.parent not in tree.dicom:
            folders[lost.path.parent].append(lost.reason)
    return [
        Case(path_name(folder, tree.root), (folder,), problems=tuple(first_of(reasons)))
        for folder, reasons in folders.items()
    ]


def series_in(folder: Path, name: str, problems: tuple[str, ...] = (), tree: Tree | None = None) -> list[Case]:
    """Return the DICOM series of a folder that are volumes, or should be.

    Args:
        folder: it directly holds DICOM files.
        name: of the scan; where there are several, each has its description, and if need be its first file, behind it.
        problems: of every series.
        tree: to which all other files and series are added as left out.
    """
    return [case for case, _ in _series_in(folder, name, problems, tree)]


def _series_in(
    folder: Path, name: str, problems: tuple[str, ...], tree: Tree | None
) -> list[tuple[Case, Series | None]]:
    """Return cases as `series_in`, each with its series if there is one."""
    from segbundle.io.dicom import list_folder

    try:
        found = list_folder(folder)
    except DataError as error:
        return [(Case(name, (folder,), problems=(*problems, str(error))), None)]
    if tree is not None:
        tree.left_out.update({f"{kind} (DICOM)": count for kind, count in found.passed_over if kind not in _KNOWN})
        for one in found.series:
            if one.why is not None and not one.damaged:
                tree.no_volumes[one.why].append(path_name(folder, tree.root))
                tree.left_out[f"of {one.why}"] += len(one.files)
    unreadable = dict(found.passed_over).get("unreadable", 0)
    if unreadable:
        what = f"{escaped(folder)}: {unreadable} of its DICOM files cannot be read and may be slices. Export it again."
        problems = (*problems, what)
    scans = [one for one in found.series if one.why is None or one.damaged]
    if not scans:
        return [(Case(name, (folder,), problems=problems), None)] if unreadable else []
    names = [name] if len(scans) == 1 else _told_apart(name, scans)
    return [
        (Case(own, (one.path,), problems=(*problems, *_why_none(one))), one)
        for own, one in zip(names, scans, strict=True)
    ]


def _told_apart(name: str, series: Sequence[Series]) -> list[str]:
    """Return a name for each of several series of a folder: with its description, and if need be its first file."""
    words = [_NO_NAME.sub("_", one.description or one.modality)[:_LONGEST_NAME].strip("_.") for one in series]
    files = [one.path.stem if words.count(word) > 1 else "" for one, word in zip(series, words, strict=True)]
    return ["_".join(filter(None, (name, *parts))) for parts in zip(words, files, strict=True)]


def _why_none(series: Series) -> list[str]:
    return [] if series.why is None else [f"{escaped(series.path)}: is not a volume but {series.why}. Export it again."]


def series_of(file: Path) -> Case:
    """Return the DICOM series that a file belongs to."""
    from segbundle.io.dicom import list_folder

    folder = file.parent
    path = folder / file.name
    try:
        found = list_folder(folder)
        meant = next((one for one in found.series if path in one.files), None)
        if meant is None:
            raise DataError(f"{escaped(file)}: is a DICOM file without an image. Name the folder of a series.")
        if meant.why is not None:
            raise DataError(f"{escaped(file)}: is not a volume but {meant.why}.")
    except DataError as error:
        return Case(file.name, (file,), problems=(str(error),))
    return next(case for case in series_in(folder, path_name(folder, folder)) if case.image == (meant.path,))
