"""Find the scans that a user means by files and folders, each under a name of its own."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segbundle.datasets.case import Case, case_of_channel, group_channels, name_problem, named_apart, with_problems
from segbundle.datasets.cases import list_cases, refuse
from segbundle.datasets.description import FILE_NAME, read_description
from segbundle.datasets.folders import (
    Tree,
    escaped,
    leave_out_results,
    left_out_in_words,
    list_tree,
    log_left_out,
    path_problem,
)
from segbundle.datasets.listed import has_list
from segbundle.datasets.series import lost_scans, scans_in_folders, series_of
from segbundle.errors import DataError
from segbundle.io.scan_files import is_dicom_file, is_scan_file, is_segmentation, stem

_FORMATS = ".nii, .nii.gz, .nrrd, .mha, .mhd or DICOM"


def find_scans(scans: str | Path | Sequence[str | Path], num_channels: int = 1) -> list[dict[str, Any]]:
    """Return a MONAI datalist of scans to run inference on.

    A scan that cannot be opened, or whose name another one has, gets an `error`; the others are not affected.

    Args:
        scans: a scan file; a folder, which is searched with its subfolders; a dataset's folder (its `test` list, or
            `imagesTs`, or else every training image); or a list of any of these. A folder of DICOM files is one scan,
            named after its path, as are files that share their name with another. Each real folder is searched once.
            Hidden files and label maps that inference wrote are left out: `x_seg.nii.gz` or `x_prob.nii` beside
            `x.nii.gz` or beside a `predictions.json`.
        num_channels: with more than one, files `case_0000`, `case_0001`, ... are the channels of one case; with
            one, the ending `_0000` is dropped where every file of a folder has it.

    Returns:
        entries with `case` and `image`, and `error` where there is one, sorted by name.

    Raises:
        DataError: no scan was found, or none that can be opened.
    """
    paths = [Path(scans)] if isinstance(scans, (str, Path)) else [Path(path) for path in scans]
    trees: list[Tree] = []
    cases = [case for path in paths for case in _scans_of(path, num_channels, trees)]
    log_left_out(trees)
    if len(paths) > 1:
        cases = _each_once(cases)
    cases = tell_apart([_with_text_name(case) for case in cases])
    if not cases:
        others = left_out_in_words(sum((tree.left_out for tree in trees), Counter()))
        raise DataError(f"{', '.join(map(escaped, paths))}: holds no scan ({_FORMATS}){others and '; '}{others}.")
    if all(case.problems for case in cases):
        refuse(list(dict.fromkeys(problem for case in cases for problem in case.problems)))
    return [Case(case.name, case.image, problems=case.problems).item([]) for case in sorted(cases, key=_by_name)]


def _by_name(case: Case) -> str:
    return case.name


def _scans_of(path: Path, num_channels: int, trees: list[Tree]) -> list[Case]:
    """The scans that one path given by a user means; the folder that was searched is added to `trees`."""
    if not os.path.lexists(path):
        return [Case(stem(path), (path,), problems=(f"{escaped(path)}: no such file or folder.",))]
    problem = path_problem(path)
    if problem is None and path.is_file():
        return [series_of(path)] if not is_scan_file(path) and is_dicom_file(path) else [Case(stem(path), (path,))]
    if problem is None:
        try:
            return _scans_in(path, num_channels, trees)
        except (DataError, OSError) as error:
            problem = str(error)
    return [Case(stem(path), (path,), problems=(problem,))]


def _scans_in(folder: Path, num_channels: int, trees: list[Tree]) -> list[Case]:
    description = read_description(folder)
    if has_list(description, "test"):
        cases, malformed = list_cases(folder, "test", description)
        path = folder / FILE_NAME
        if cases or malformed:
            return cases + [Case(f"{FILE_NAME}_{n}", (path,), problems=(m,)) for n, m in enumerate(malformed)]
    root = next((images for images in (folder / "imagesTs", folder / "imagesTr") if images.is_dir()), folder)
    tree = list_tree(root)
    trees.append(tree)
    kept = leave_out_results(tree)
    files = [file for file in kept if not is_segmentation(file.name)]
    if len(files) < len(kept):
        tree.left_out["segmentations of 3D Slicer"] += len(kept) - len(files)
    found = group_channels([*files, *filter(is_scan_file, lost_scans(tree))], num_channels)
    lost = {one.path: one.reason for one in tree.lost}
    good = {*files, *tree.dicom}
    return [with_problems(case, good, lost) for case in named_apart(found + scans_in_folders(tree), root)]


def _with_text_name(case: Case) -> Case:
    """A case whose name or path no result can hold fails, under a name that it can."""
    texts = [(str(path).replace(os.sep, "_"), path) for path in case.image] + [(case.name, case.image[0])]
    problem = next((f"{escaped(path)}: {why}." for text, path in texts if (why := name_problem(text))), None)
    if problem is None:
        return case
    image = tuple(Path(escaped(path)) for path in case.image)
    return replace(case, name=escaped(case.name), image=image, problems=(*case.problems, problem))


def _each_once(cases: list[Case]) -> list[Case]:
    """Of a scan that several of the given paths contain, one."""
    return list({(_own_name(case), *map(os.path.realpath, case.image)): case for case in reversed(cases)}.values())[
        ::-1
    ]


def _own_name(case: Case) -> str:
    """A case's name without the folders before it."""
    path = case.image[0]
    whole = stem(path)
    return whole if case.name.endswith(whole) else case_of_channel(path) or whole


def tell_apart(cases: Sequence[Case]) -> list[Case]:
    """Give every case a name of its own.

    Cases of one name get as many of their folders' names in front of it as it takes. Those of one folder, such as
    `a.nii` and `a.nii.gz`, cannot be told apart and get a problem instead.
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
            named += [case for cases in by_folder.values() if len(cases) > 1 for case in _clashing(cases, taken)]
            taken |= {case.name for case in named}
            found += named
    return found


def _folder(case: Case) -> tuple[str, ...]:
    """The names of the folders that a case's files are in, and its own in them."""
    parent = Path(os.path.realpath(case.image[0].parent))
    return (*parent.parts[1:], _own_name(case))


def _named_by_folders(cases: list[Case], taken: set[str]) -> list[Case]:
    parts = [_folder(case) for case in cases]
    names: list[str] = []
    for depth in range(2, max(map(len, parts), default=0) + 2):
        names = ["_".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names) and taken.isdisjoint(names):
            return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]
    return _clashing(cases, taken) if cases else []


def _clashing(cases: Sequence[Case], taken: set[str]) -> list[Case]:
    """Cases that cannot be told apart, under the names of their files."""
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
