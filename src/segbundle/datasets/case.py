"""Cases of a dataset: their names, their files, and grouping of channel files into cases."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segbundle.classes import Classes
from segbundle.datasets.folders import first_of, path_problem
from segbundle.errors import ConfigError, DataError
from segbundle.io.scan_files import SUFFIXES, stem
from segbundle.terminal import escaped

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$", re.DOTALL)
"""nnU-Net's name of a channel file, without its suffix."""


@dataclass(frozen=True)
class Case:
    """Case of a dataset: a scan with its label map, annotated classes and fold.

    Attributes:
        name: unique name in the dataset, usually the file name without its suffix.
        image: path of the file or DICOM folder, or one path per channel.
        label: path of the label map; None (default) if the case is unlabeled.
        annotated: names of the annotated classes; None (default) if all classes are annotated.
        fold: validation fold of the case, from 0; None (default) if the dataset does not define folds.
        problems: messages about files that cannot be used, found without opening the files (default none).
        subject: person whom the scan shows; all scans of a subject are in the same fold of a random split. None
            (default) if unknown.
        properties: other keys of its entry in `dataset.json` with a text or a number, such as `site` (default none).

    Example:
        >>> case = Case("liver_01", (Path("imagesTr/liver_01.nii.gz"),))
        >>> case.item(["background", "liver"])
        {'case': 'liver_01', 'image': 'imagesTr/liver_01.nii.gz'}
    """

    name: str
    image: tuple[Path, ...]
    label: Path | None = None
    annotated: tuple[str, ...] | None = None
    fold: int | None = None
    problems: tuple[str, ...] = ()
    subject: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict, compare=False)

    def item(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the case as an entry of a MONAI datalist.

        Args:
            class_names: classes of the task, background first.

        Returns:
            dict with `case` and `image`; also with `label` and `annotated` (one bool per class) if the case has a label
            map, and with `error` if the case has problems

        Raises:
            DataError: `annotated` contains an unknown class.
        """
        image = [str(path) for path in self.image]
        entry: dict[str, Any] = {"case": self.name, "image": image[0] if len(image) == 1 else image}
        if self.label is not None:
            entry["label"] = str(self.label)
            entry["annotated"] = _annotated_mask(self, class_names)
        if self.problems:
            entry["error"] = " ".join(self.problems)
        return entry


def _annotated_mask(case: Case, class_names: Sequence[str]) -> list[bool]:
    try:
        return Classes(class_names).annotated_mask(case.annotated)
    except ConfigError as error:
        raise DataError(f"case {case.name}: its `annotated` list in dataset.json is wrong: {error}") from error


def name_problem(name: str) -> str | None:
    """Return the reason why a name cannot be used for a case; None for a valid name.

    The name of a case becomes part of file names, so it must be a valid file name in UTF-8.

    Args:
        name: name of a case.

    Example:
        >>> name_problem("liver_01") is None
        True
        >>> name_problem("a/b")
        "'a/b' cannot be a case name, because it is not a valid file name; use another name"
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return f"{escaped(name)!r} cannot be a case name, because it is not a valid file name; use another name"
    if name.encode("utf-8", "replace").decode() != name:
        return "its name is not in UTF-8; rename it"
    return None


def case_of_channel(file: Path) -> str | None:
    """Return the case name of a channel file, or None if the file is not named like a channel.

    Args:
        file: path of an image.

    Example:
        >>> case_of_channel(Path("liver_01_0000.nii.gz"))
        'liver_01'
    """
    match = CHANNEL.match(stem(file))
    return match["case"] if match is not None else None


def group_channels(files: Iterable[Path], num_channels: int) -> list[Case]:
    """Group image files into cases by their names. The files are not opened.

    With several channels, a file is a channel if its name ends in `_` and four digits, such as `case_0001.nii.gz`. With
    one channel, a file is a channel only if the names of all files in its folder end in `_0000`. Any other file is a
    separate case.

    Args:
        files: paths of images.
        num_channels: number of channels that the network takes.

    Returns:
        unlabeled cases, grouped by folder

    Example:
        >>> [case.name for case in group_channels([Path("a_0000.nii"), Path("b_0000.nii")], num_channels=1)]
        ['a', 'b']
    """
    by_folder: defaultdict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    cases = []
    for together in by_folder.values():
        if num_channels == 1 and not all(stem(file).endswith("_0000") for file in together):
            cases += [Case(stem(file), (file,)) for file in together]
        else:
            cases += [Case(stem(file), (file,)) for file in together if case_of_channel(file) is None]
            cases += join_channels([file for file in together if case_of_channel(file) is not None], num_channels)
    return cases


def join_channels(files: Iterable[Path], num_channels: int) -> list[Case]:
    """Join the channel files `case_0000`, `case_0001`, ... of each folder into cases.

    A missing channel is represented by the path that its file should have (see `channel_files`). A case with two files
    for one channel gets a problem.

    Args:
        files: paths of files that are named like channels.
        num_channels: number of channels that the network takes.

    Returns:
        unlabeled cases with at least `num_channels` paths each

    Example:
        >>> (case,) = join_channels([Path("a_0001.nii"), Path("a_0000.nii")], num_channels=2)
        >>> case.name, [path.name for path in case.image]
        ('a', ['a_0000.nii', 'a_0001.nii'])
    """
    found: defaultdict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    duplicates: dict[tuple[Path, str], str] = {}
    for file in files:
        key, channel = (file.parent, case_of_channel(file) or ""), int(stem(file)[-4:])
        if channel in found[key]:
            both = f"{escaped(found[key][channel])} and {escaped(file)}"
            duplicates[key] = f"{both} are the same channel of one case; remove one of them."
        else:
            found[key][channel] = file
    return [
        Case(
            key[1],
            channel_files(key[1], by_channel, num_channels),
            problems=(duplicates[key],) if key in duplicates else (),
        )
        for key, by_channel in found.items()
    ]


def channel_files(name: str, by_channel: dict[int, Path], num_channels: int) -> tuple[Path, ...]:
    """Return the files of channels 0, 1, ... of a case, with the expected path of each missing file.

    Args:
        name: name of the case.
        by_channel: existing files by channel; at least one.
        num_channels: number of channels that the network takes.

    Returns:
        one path per channel: `num_channels` paths, or more if a file of a higher channel exists

    Example:
        >>> [path.name for path in channel_files("a", {1: Path("a_0001.nii")}, num_channels=2)]
        ['a_0000.nii', 'a_0001.nii']
    """
    example = next(iter(by_channel.values()))
    suffix = example.name[len(name) + len("_0000") :]
    count = max(num_channels, max(by_channel) + 1)
    return tuple(by_channel.get(c, example.with_name(f"{name}_{c:04d}{suffix}")) for c in range(count))


def path_problems(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return messages about the files of a case that cannot be opened: the first three, and the number of others.

    The files are not opened. Paths of files, folders and DICOM volumes cause no message.

    Args:
        paths: paths of files or folders.

    Example:
        >>> path_problems([Path("/nowhere/a.nii")])[0][:32]
        '/nowhere/a.nii: no such file. Ch'
    """
    return tuple(first_of([problem for path in paths if (problem := path_problem(path))]))


def with_problems(case: Case, good: set[Path], lost: Mapping[Path, str]) -> Case:
    """Return a case with additional problems about its files that cannot be opened.

    Args:
        case: case with or without problems.
        good: paths known to be files or folders. Paths in neither `good` nor `lost` are looked up on disk.
        lost: message about each path known to be unusable.

    Example:
        >>> case = Case("a", (Path("a.nii"),))
        >>> with_problems(case, set(), {Path("a.nii"): "a.nii: is a named pipe."}).problems
        ('a.nii: is a named pipe.',)
    """
    paths = dict.fromkeys([*case.image, *([] if case.label is None else [case.label])])
    known = [lost[path] for path in paths if path in lost]
    problems = path_problems(path for path in paths if path not in good and path not in lost)
    return replace(case, problems=(*case.problems, *known, *problems)) if known or problems else case


def path_name(path: Path, root: Path) -> str:
    """Return a case name: the parts of a path below a folder, joined by underscores.

    Args:
        path: path below `root`; for `root` itself, the name of this folder is returned.
        root: folder.

    Example:
        >>> path_name(Path("data/p1/CT"), Path("data"))
        'p1_CT'
    """
    return "_".join(path.relative_to(root).parts) or Path(os.path.realpath(path)).name


def named_apart(cases: list[Case], root: Path) -> list[Case]:
    """Prefix duplicate case names with the names of their folders, as in `patient_1_ct`.

    Files are not renamed. DICOM folders keep their case names, because these already contain the names of the folders.

    Args:
        cases: cases of one folder tree.
        root: folder that contains the files of all cases.

    Returns:
        the cases in the same order

    Example:
        >>> cases = [Case("ct", (Path("data/p1/ct.nii"),)), Case("ct", (Path("data/p2/ct.nii"),))]
        >>> [case.name for case in named_apart(cases, Path("data"))]
        ['p1_ct', 'p2_ct']
    """
    count = Counter(case.name for case in cases)
    return [
        replace(case, name="_".join((*case.image[0].parent.relative_to(root).parts, case.name)))
        if count[case.name] > 1 and case.image[0].name.lower().endswith(SUFFIXES)
        else case
        for case in cases
    ]


def name_problems(cases: Iterable[Case]) -> list[str]:
    """Return messages about invalid or duplicate names of cases, and about files shared by several cases.

    Names of cases and of their files are invalid if they cannot be file names or are not UTF-8. Files are also shared
    if they are links to the same file.

    Args:
        cases: all cases of a dataset.

    Example:
        >>> name_problems([Case("a", (Path("x/a.nii"),)), Case("a", (Path("y/a.nii"),))])
        ["two cases are named 'a': x/a.nii and y/a.nii; rename one of the files."]
    """
    cases = list(cases)
    by_name: defaultdict[str, list[Case]] = defaultdict(list)
    messages = []
    for case in cases:
        by_name[case.name].append(case)
        for text in (case.name, *map(str, case.image), *([] if case.label is None else [str(case.label)])):
            problem = name_problem(text if text == case.name else text.replace("/", "_"))
            if problem is not None:
                messages.append(f"{escaped(case.image[0] if text == case.name else text)}: {problem}.")
    for name, same in by_name.items():
        if len(same) > 1:
            first, second = same[0], same[1]
            apart = first.image != second.image or first.label is None or second.label is None
            paths = (first.image[0], second.image[0]) if apart else (first.label, second.label)
            both = " and ".join(escaped(str(path)) for path in paths)
            messages.append(f"two cases are named {name!r}: {both}; rename one of the files.")
    return messages + _shared_files(cases)


def _shared_files(cases: Sequence[Case]) -> list[str]:
    """Return a message for each scan or label map that several cases use, directly or by a link."""
    users: defaultdict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for case in cases:
        for kind, paths in (("image", case.image), ("label map", () if case.label is None else (case.label,))):
            for path in paths:
                users[kind, real_path(path)].setdefault(case.name, path)
    messages = []
    for (kind, _), by_name in users.items():
        if len(by_name) > 1:
            (name, first), (other, second) = list(by_name.items())[:2]
            where = escaped(first) if first == second else f"{escaped(first)} and {escaped(second)}"
            messages.append(
                f"cases {name!r} and {other!r} have the same {kind}: {where}. "
                "Give each case a separate file, or remove one of them."
            )
    return messages


def real_path(path: Path) -> str:
    """Return a path with links resolved, or the path itself if it is not a valid path.

    Args:
        path: path of a file or folder.

    Example:
        >>> real_path(Path("/nowhere/../a.nii"))
        '/a.nii'
    """
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
