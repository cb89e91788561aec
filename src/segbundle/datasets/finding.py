"""Find scans in files and folders, and give each a unique name."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segbundle.config.from_settings import from_settings
from segbundle.datasets.case import Case, case_of_channel, group_channels, name_problem, named_apart, with_problems
from segbundle.datasets.case_pseudonyms import folder_of_pseudonyms, hide_names_below, named_by_pseudonym
from segbundle.datasets.cases import list_cases, refuse
from segbundle.datasets.description import read_description
from segbundle.datasets.description_file import find_description, is_description
from segbundle.datasets.folders import (
    Tree,
    escaped,
    leave_out_results,
    left_out_in_words,
    list_tree,
    log_left_out,
    path_problem,
)
from segbundle.datasets.layouts import is_label_map
from segbundle.datasets.listed import has_list
from segbundle.datasets.series import NOT_SELECTED, lost_scans, scans_in_folders, series_of
from segbundle.errors import DataError
from segbundle.io.scan_files import SUFFIXES, is_dicom_file, is_scan_file, is_segmentation, is_volume_path, stem

_FORMATS = f"{', '.join(SUFFIXES)} or DICOM"


@from_settings
def find_scans(
    scans: str | Path | Sequence[str | Path],
    num_channels: int = 1,
    series: str | int | Sequence[str | int] | None = None,
    case_names: str = "path",
    output_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return a MONAI datalist of scans for inference.

    Folders are searched with their subfolders, each real folder once. Hidden files, segmentations of 3D Slicer, and
    results of inference (see `leave_out_results` in `segbundle.datasets.folders`) are skipped. A DICOM series is one
    scan, named after its folder. A series with several volumes, such as echoes or time points, is several scans. Copies
    of a series in other folders are skipped, and series of one slice, unless no series has more. If several scans have
    the same name, each name is prefixed with the names of the folders of the scan.

    A scan that cannot be opened, or whose name is not unique, has an `error`. Other scans are not affected.

    Args:
        scans: a path, or a list of paths: scan files, folders with scans, or datasets (folders or datalists). In a
            dataset, scans are those of its `test` list; without this list, those of `imagesTs`, or else of `imagesTr`.
            Label maps of BIDS datasets and of studies of MONAI Label are skipped.
        num_channels: number of channels of the network (default 1). With several, the files `case_0000`, `case_0001`,
            ... are the channels of one case. With one, the suffix `_0000` is dropped if every file of a folder has this
            suffix.
        series: DICOM series to use: SeriesInstanceUIDs, SeriesNumbers, modalities, or patterns of SeriesDescriptions,
            such as `*thorax*` (case-insensitive); a list of these, or text with commas. Other files are not affected.
            None (default) uses all series.
        case_names: `path` (default) for the names described above, or `pseudonym` (see `named_by_pseudonym`). With
            `pseudonym`, names of files and folders are also hidden in later messages.
        output_dir: output folder of the run, which contains the salt of the pseudonyms. Required for
            `pseudonym`. Default: None.

    Returns:
        entries with `case` and `image`, sorted by name; also with `error` if the scan cannot be used

    Raises:
        DataError: no scans were found, or all scans have an error.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.nii.gz", "b.mha", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     [entry["case"] for entry in find_scans(folder)]
        ['a', 'b']
    """
    paths = [Path(scans)] if isinstance(scans, (str, Path)) else [Path(path) for path in scans]
    trees: list[Tree] = []
    selected = _words(series)
    if hidden_in := folder_of_pseudonyms(case_names, output_dir):
        hide_names_below(paths, hidden_in)
    cases = [case for path in paths for case in _scans_of(path, num_channels, selected, trees)]
    log_left_out(trees)
    if len(paths) > 1:
        cases = _without_duplicates(cases)
    cases = tell_apart([_with_printable_name(case) for case in cases])
    if not cases:
        if selected and any(tree.left_out[NOT_SELECTED] for tree in trees):
            raise DataError(
                f"{', '.join(map(escaped, paths))}: no DICOM series matches series: {', '.join(selected)}. List the "
                f"series with: segbundle check {escaped(paths[0])}"
            )
        others = left_out_in_words(sum((tree.left_out for tree in trees), Counter()))
        raise DataError(
            f"{', '.join(map(escaped, paths))}: contains no scan ({_FORMATS}){others and '; '}{others}."
            " Check the path and the file endings."
        )
    if all(case.problems for case in cases):
        refuse(list(dict.fromkeys(problem for case in cases for problem in case.problems)))
    items = [Case(case.name, case.image, problems=case.problems).item([]) for case in sorted(cases, key=_by_name)]
    return named_by_pseudonym(items, hidden_in) if hidden_in else items


def _by_name(case: Case) -> str:
    return case.name


def _words(series: str | int | Sequence[str | int] | None) -> list[str]:
    if series is None:
        return []
    return [str(series)] if isinstance(series, (str, int)) else [str(word) for word in series]


def _scans_of(path: Path, num_channels: int, selected: Sequence[str], trees: list[Tree]) -> list[Case]:
    """Return the scans of one given path; a searched folder is added to `trees`."""
    if is_volume_path(path):
        return [Case(stem(path), (path,))]
    if not os.path.lexists(path):
        return [Case(stem(path), (path,), problems=(f"{escaped(path)}: no such file or folder. Check the path.",))]
    problem = path_problem(path)
    if problem is None and path.is_file() and not is_description(path):
        if path.name == "DICOMDIR":  # the index of a medium stands for all its files
            return _scans_of(path.parent, num_channels, selected, trees)
        return series_of(path) if not is_scan_file(path) and is_dicom_file(path) else [Case(stem(path), (path,))]
    if problem is None:
        try:
            return _scans_in(path, num_channels, selected, trees)
        except (DataError, OSError) as error:
            problem = str(error)
    return [Case(stem(path), (path,), problems=(problem,))]


def _scans_in(folder: Path, num_channels: int, selected: Sequence[str], trees: list[Tree]) -> list[Case]:
    path, description = find_description(folder).path, read_description(folder)
    if has_list(description, "test"):
        cases, malformed = list_cases(folder, "test", description)
        if cases or malformed:
            return cases + [Case(f"{path.name}_{n}", (path,), problems=(m,)) for n, m in enumerate(malformed)]
    if folder.is_file():
        raise DataError(f"{escaped(folder)}: has no `testing` list. Add one, or pass the scans themselves.")
    root = next((images for images in (folder / "imagesTs", folder / "imagesTr") if images.is_dir()), folder)
    tree = list_tree(root)
    trees.append(tree)
    kept = leave_out_results(tree)
    files = [file for file in kept if not is_segmentation(file.name)]
    if len(files) < len(kept):
        tree.left_out["segmentations of 3D Slicer"] += len(kept) - len(files)
    labels = {file for file in files if is_label_map(root, file)}
    if labels:
        tree.left_out["label maps of the dataset"] += len(labels)
        files = [file for file in files if file not in labels]
    found = group_channels([*files, *filter(is_scan_file, lost_scans(tree))], num_channels)
    lost = {lost.path: lost.reason for lost in tree.lost}
    good = {*files, *tree.dicom}
    series = scans_in_folders(tree, selected, is_export=root == folder)
    return [with_problems(case, good, lost) for case in named_apart(found + series, root)]


def _with_printable_name(case: Case) -> Case:
    """Return a case with a printable name; the case fails if its name or path is not valid text."""
    texts = [(str(path).replace(os.sep, "_"), path) for path in case.image] + [(case.name, case.image[0])]
    problem = next((f"{escaped(path)}: {why}." for text, path in texts if (why := name_problem(text))), None)
    if problem is None:
        return case
    image = tuple(Path(escaped(path)) for path in case.image)
    return replace(case, name=escaped(case.name), image=image, problems=(*case.problems, problem))


def _without_duplicates(cases: list[Case]) -> list[Case]:
    """Return the cases without duplicates of a scan that several of the given paths contain."""
    return list({(_base_name(case), *map(os.path.realpath, case.image)): case for case in reversed(cases)}.values())[
        ::-1
    ]


def _base_name(case: Case) -> str:
    """Return the name of a case without the folders in front of it."""
    path = case.image[0]
    whole = stem(path)
    return whole if case.name.endswith(whole) else case_of_channel(path) or whole


def tell_apart(cases: Sequence[Case]) -> list[Case]:
    """Make the names of cases unique.

    Duplicate names are prefixed with the names of as many folders as needed. If this is not enough, as for `a.nii` and
    `a.nii.gz` in one folder, the cases are named after their files, and a problem is added to each.

    Args:
        cases: cases with any names.

    Returns:
        the cases with unique names, possibly in another order

    Example:
        >>> cases = [Case("ct", (Path("/data/p1/ct.nii"),)), Case("ct", (Path("/data/p2/ct.nii"),))]
        >>> [case.name for case in tell_apart(cases)]
        ['p1_ct', 'p2_ct']
    """
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.name].append(case)
    found = [same[0] for same in groups.values() if len(same) == 1]
    taken = {case.name for case in found}
    for same in groups.values():
        if len(same) > 1:
            by_folder: defaultdict[tuple[str, ...], list[Case]] = defaultdict(list)
            for case in same:
                by_folder[_folder(case)].append(case)
            named = _named_by_folders([cases[0] for cases in by_folder.values() if len(cases) == 1], taken)
            named += [
                case for cases in by_folder.values() if len(cases) > 1 for case in _with_name_problem(cases, taken)
            ]
            taken |= {case.name for case in named}
            found += named
    return found


def _folder(case: Case) -> tuple[str, ...]:
    """Return the names of the folders of a case, followed by its name in the innermost folder."""
    parent = Path(os.path.realpath(case.image[0].parent))
    return (*parent.parts[1:], _base_name(case))


def _named_by_folders(cases: list[Case], taken: set[str]) -> list[Case]:
    parts = [_folder(case) for case in cases]
    names: list[str] = []
    for depth in range(2, max(map(len, parts), default=0) + 2):
        names = ["_".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names) and taken.isdisjoint(names):
            return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]
    return _with_name_problem(cases, taken) if cases else []


def _with_name_problem(cases: Sequence[Case], taken: set[str]) -> list[Case]:
    """Return cases of one folder with the same name, named after their files and with a problem each."""
    first, second = escaped(cases[0].image[0]), escaped(cases[-1].image[0])
    problem = f"two cases are named {cases[0].name!r}: {first} and {second}; rename one of them."
    named = []
    for case in cases:
        name = case.image[0].name
        while name in taken:
            name += "_"
        taken.add(name)
        named.append(replace(case, name=name, problems=(*case.problems, problem)))
    return named
