"""List the DICOM series in a folder tree, each as a separate case."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from segbundle.config.options import split_names
from segbundle.datasets.case import Case, path_name
from segbundle.datasets.folders import Tree, escaped, first_of, log_once
from segbundle.errors import DataError
from segbundle.files.hashing import hash_values
from segbundle.io.scan_files import is_scan_file, is_volume_path
from segbundle.terminal import counted

if TYPE_CHECKING:
    from segbundle.io.dicom_folders import Series
    from segbundle.io.dicom_headers import DamagedFile

_NO_NAME = re.compile(r"[^\w.+-]+")
_LONGEST_NAME = 40
NOT_SELECTED = "of series that are not selected"
_COPIES = "in copies of a series"
"""Kinds of skipped files."""
SINGLE_SLICE = "a single slice"
"""Kind of the images of a series with one slice."""
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


def scans_in_folders(tree: Tree, selected: Sequence[str] = (), is_export: bool = False) -> list[Case]:
    """Return a case for each DICOM volume of a tree, and for each folder that cannot be opened.

    A series whose slices lie in several folders is one case. Series that are not volumes, such as localizers, and
    other files in these folders are counted as skipped. A case has a problem if a file in one of its folders cannot be
    read and belongs to its series, or to a series that is not known, because the file may be a slice.

    Args:
        tree: content of a folder tree, in which skipped files and series are recorded.
        selected: SeriesInstanceUIDs, SeriesNumbers, modalities, or patterns of SeriesDescriptions, such as `*thorax*`
            (case-insensitive); only series that match at least one entry become cases. An entry may contain several
            words, see `split_words`. Empty (default) for all series.
        is_export: whether to skip copies of a series in other folders and, if there are volumes, series of one slice
            that share their folder with other series (default False).

    Example:
        >>> scans_in_folders(Tree(Path("data")))
        []
    """
    cases = [Case(path_name(path, tree.root), (path,)) for path in lost_scans(tree) if not is_scan_file(path)]
    cases += _lost_series(tree)
    found: list[tuple[Case, Series | None]] = []
    for folder in counted(tree.dicom, len(tree.dicom), "DICOM headers", "folder", leave=False, delay=2):
        lost = [lost.reason for lost in tree.lost if lost.slice and lost.path.parent == folder]
        found += _series_in(folder, path_name(folder, tree.root), tuple(first_of(lost)), tree)
    if selected:
        selected = split_words(selected, [series for _, series in found if series is not None])
        others = [series for _, series in found if series is not None and not is_selected(series, selected)]
        tree.left_out[NOT_SELECTED] += sum(len(series.files) for series in others)
        found = [(case, series) for case, series in found if series not in others]
    if is_export:
        found = _without_copies(found, tree)
    scattered = _with_scattered(found, tree.root)
    return cases + (_without_single_slices(scattered, found, tree) if is_export else scattered)


def _without_copies(found: Sequence[tuple[Case, Series | None]], tree: Tree) -> list[tuple[Case, Series | None]]:
    """Return cases without copies of a series in other folders, which are added to `tree.copies`.

    A copy has the same SOPInstanceUIDs at the same positions. A series without problems is preferred to its copies.
    """
    volumes = [(bool(case.problems), series) for case, series in found if series is not None and series.why is None]
    counts = Counter((series.uid, series.volume, len(series.files)) for _, series in volumes)
    used: dict[str, Series] = {}
    for _, series in sorted(volumes, key=lambda entry: entry[0]):
        size = (series.uid, series.volume, len(series.files))
        if counts[size] == 1:
            continue
        images = [
            (image.instance, image.rows, image.columns, [list(map(float, plane.position)) for plane in image.slices])
            for image in series.images
        ]
        if not all(image[0] for image in images):
            continue
        first = used.setdefault(hash_values([size, sorted(images)]), series)
        if first is not series:
            tree.copies[series.path] = first.path
    if copies := {file for _, series in volumes if series.path in tree.copies for file in series.files}:
        tree.left_out[_COPIES] += len(copies)
    return [(case, series) for case, series in found if series is None or series.path not in tree.copies]


def _without_single_slices(
    cases: Sequence[Case], found: Sequence[tuple[Case, Series | None]], tree: Tree
) -> list[Case]:
    """Return cases without series of one slice beside other series in their folder; such series are added to the tree.

    They are kept if there is no volume. A series with a problem is kept, because its other slices may be the files that
    cannot be read.
    """
    series_of = {case.image: series for case, series in found if series is not None and series.why is None}
    in_folder = Counter(series.files[0].parent for _, series in found if series is not None)
    single = [
        case
        for case in cases
        if (one := series_of.get(case.image)) and one.num_slices == 1 and not case.problems
        if in_folder[one.files[0].parent] > 1
    ]
    if len(single) == sum(case.image in series_of or is_volume_path(case.image[0]) for case in cases):
        return list(cases)
    for case in single:
        tree.single_slices.append(case.image[0])
        tree.no_volumes[SINGLE_SLICE].append(case.name)
        tree.left_out[f"as {SINGLE_SLICE}"] += 1
    return [case for case in cases if case not in single]


def split_words(selected: Sequence[str], series: Sequence[Series]) -> list[str]:
    """Return the words of the setting `series`: text with commas is one word if it matches a series, else several.

    Args:
        selected: see `scans_in_folders`.
        series: DICOM series that can be selected.

    Example:
        >>> from segbundle.io.dicom_folders import Series
        >>> ct = Series(Path("ct"), "1.2.3", "Thorax, 3 mm", "CT", ())
        >>> split_words(["Thorax, 3 mm"], [ct]), split_words(["CT, MR"], [ct])
        (['Thorax, 3 mm'], ['CT', 'MR'])
    """
    return [
        word
        for text in selected
        for word in ([text] if any(is_selected(one, [text]) for one in series) else filter(None, split_names(text)))
    ]


def is_selected(series: Series, selected: Sequence[str]) -> bool:
    """Return whether a series matches at least one of the selected words.

    A word matches if it equals the SeriesInstanceUID, the modality or the SeriesNumber, or if the SeriesDescription
    matches it as a pattern, such as `*thorax*`. Case is ignored.

    Args:
        series: DICOM series.
        selected: at least one word, as `split_words` returns them.

    Example:
        >>> from segbundle.io.dicom_folders import Series
        >>> is_selected(Series(Path("ct"), "1.2.3", "Thorax 3 mm", "CT", ()), ["*thorax*"])
        True
    """
    exact = (series.uid, series.modality.lower(), str(series.number))
    description = series.description.lower()
    return any(word.lower() in exact or fnmatchcase(description, word.lower()) for word in selected)


def _with_scattered(found: list[tuple[Case, Series | None]], root: Path) -> list[Case]:
    """Return the cases of single folders, with one case for each volume whose slices lie in several folders."""
    from segbundle.io.dicom_folders import scattered_series

    case_of = {id(series): case for case, series in found if series is not None}
    joined, parts = list[Case](), set[int]()
    scattered = scattered_series(root, [series for _, series in found if series is not None])
    for whole, series in scattered:
        parts |= {id(part) for part in series}
        problems = dict.fromkeys(problem for part in series for problem in case_of[id(part)].problems)
        folder = Path(os.path.commonpath([file.parent for file in whole.files]))
        words = (path_name(folder, root), _description(whole), whole.volume)
        joined.append(Case("_".join(filter(None, words)), (whole.path,), problems=tuple(problems)))
    _warn_about_equal_uids([series for _, series in found if series is not None and id(series) not in parts])
    return [case for case, series in found if id(series) not in parts] + joined


def _warn_about_equal_uids(series: Sequence[Series]) -> None:
    """Warn about volumes in different folders that may be parts of one series with a missing slice between them."""
    uids: defaultdict[str, list[Series]] = defaultdict(list)
    for entry in series:
        if entry.why is None and entry.uid and not entry.volume:
            uids[entry.uid].append(entry)
    for same in uids.values():
        for pair in pairwise(same):
            places = [tuple(plane.position) for one in pair for image in one.images for plane in image.slices]
            if len({one.files[0].parent for one in pair}) == 2 and len(set(places)) == len(places):
                shown = " and ".join(escaped(one.path) for one in pair)
                log_once(
                    f"{shown} have the same SeriesInstanceUID and may be parts of one series with missing slices. If "
                    "they are, export the series again.",
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
    """Return a case for each DICOM series of a folder that is a volume, or should be a volume.

    A series that should be a volume, but is not, becomes a case with a problem. A folder that cannot be read becomes a
    case with a problem as well.

    Args:
        folder: folder that directly contains DICOM files.
        name: name of the case. If there are several series, the description of each series and, if needed, the name of
            its first file are appended.
        problems: problems to add to every case (default none).
        tree: tree to which skipped files and series are added; with None (default), they are not recorded.

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
    from segbundle.io.dicom_folders import list_folder

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
    scans = [series for series in found.series if series.why is None or series.damaged]
    if not scans:
        lost = _unreadable_problems(folder, found.unreadable)
        return [(Case(name, (folder,), problems=(*problems, *lost)), None)] if lost else []
    names = [name] if len(scans) == 1 else _unique_names(name, scans)
    cases: list[tuple[Case, Series | None]] = []
    for case_name, series in zip(names, scans, strict=True):
        own = (*_unreadable_problems(folder, series.unreadable), *_volume_problems(series))
        cases.append((Case(case_name, (series.path,), problems=(*problems, *own)), series))
    others: defaultdict[str, list[DamagedFile]] = defaultdict(list)
    for file in found.unreadable:
        if file.series and all(file.series != series.uid for series in scans):
            others[file.series].append(file)
    for files in others.values():  # series without a readable slice
        path = files[0].path
        lost = _unreadable_problems(folder, files)
        cases.append((Case(f"{name}_{path.stem}", (path,), problems=(*problems, *lost)), None))
    return cases


def _unreadable_problems(folder: Path, files: Sequence[DamagedFile]) -> list[str]:
    if not files:
        return []
    return [
        f"{escaped(folder)}: {len(files)} of its DICOM files cannot be read and may be slices (for instance "
        f"{escaped(files[0].path.name)}, which {files[0].reason}). Copy or export the series again."
    ]


def _unique_names(name: str, series: Sequence[Series]) -> list[str]:
    """Return a name for each series of a folder: with its description and, if needed, its first file."""
    words = [(_description(entry), entry.volume) for entry in series]
    files = [entry.files[0].stem if words.count(word) > 1 else "" for entry, word in zip(series, words, strict=True)]
    return [
        "_".join(filter(None, (name, description, file, label)))
        for (description, label), file in zip(words, files, strict=True)
    ]


def _description(series: Series) -> str:
    return _NO_NAME.sub("_", series.description or series.modality)[:_LONGEST_NAME].strip("_.")


def _volume_problems(series: Series) -> list[str]:
    return [] if series.why is None else [f"{escaped(series.path)}: is not a volume but {series.why}. Export it again."]


def series_of(file: Path) -> list[Case]:
    """Return the DICOM volumes of a file as cases: the series of which the file is a slice, or all volumes in the file.

    Args:
        file: path of the DICOM file.

    Returns:
        the cases; a single case with a problem if the file is not part of a volume, or if its folder cannot be read

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "IM0001"
        ...     _ = path.write_bytes(bytes(128) + b"DICM")
        ...     (case,) = series_of(path)
        >>> case.name, len(case.problems)
        ('IM0001', 1)
    """
    from segbundle.io.dicom_folders import list_folder

    folder = file.parent
    path = folder / file.name
    try:
        matches = [series for series in list_folder(folder).series if path in series.files]
        if not matches:
            raise DataError(f"{escaped(file)}: is a DICOM file without an image. Pass the folder of a series.")
        if matches[0].why is not None:
            raise DataError(
                f"{escaped(file)}: is not a volume but {matches[0].why}. Pass a file of another series, or export this "
                "one again."
            )
    except DataError as error:
        return [Case(file.name, (file,), problems=(str(error),))]
    paths = {series.path for series in matches}
    return [case for case in series_in(folder, path_name(folder, folder)) if case.image[0] in paths]
