"""A scan with its label map, and the channel files that make one scan."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segbundle.classes import Classes
from segbundle.data.folders import escaped, first_of, path_problem
from segbundle.data.scan_files import SUFFIXES, stem
from segbundle.errors import ConfigError, DataError

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$", re.DOTALL)
"""nnU-Net's names of channel files, without their ending."""


@dataclass(frozen=True)
class Case:
    """One scan and what is known about it.

    Attributes:
        name: unique in its dataset; the file name without its ending.
        image: one file (or DICOM folder), or one file per channel.
        label: the label map's file, or None.
        annotated: names of the annotated classes; None means all of them.
        fold: which fold holds the case out, where the dataset says so.
        problems: why its files cannot be used, as far as that is known without opening them.
    """

    name: str
    image: tuple[Path, ...]
    label: Path | None = None
    annotated: tuple[str, ...] | None = None
    fold: int | None = None
    problems: tuple[str, ...] = ()

    def item(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the case as an entry of a MONAI datalist.

        It has `case` and `image`, with a label map `label` and `annotated`, and with problems `error`.
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
    """Return why a case cannot have a name, which becomes part of file names; None if it can."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return f"{escaped(name)!r} cannot be a case's name, as it is no file name"
    if name.encode("utf-8", "replace").decode() != name:
        return "its name is not in UTF-8; rename it"
    return None


def case_of_channel(file: Path) -> str | None:
    """Return `case` for a file called `case_0000.nii.gz`, and None for other names."""
    match = CHANNEL.match(stem(file))
    return match["case"] if match is not None else None


def group_channels(files: Iterable[Path], num_channels: int) -> list[Case]:
    """Return cases from files without label maps: the number of channels decides whether four digits are a channel."""
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
    """Return cases from channel files `case_0000`, `case_0001`, ... of one folder each.

    A missing channel gets its place all the same, so that the case's problems name the file.
    """
    found: defaultdict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    twice: dict[tuple[Path, str], str] = {}
    for file in files:
        key, channel = (file.parent, case_of_channel(file) or ""), int(stem(file)[-4:])
        if channel in found[key]:
            both = f"{escaped(found[key][channel])} and {escaped(file)}"
            twice[key] = f"{both}: are the same channel of one case; remove one of them."
        else:
            found[key][channel] = file
    return [
        Case(key[1], channel_files(key[1], by_channel, num_channels), problems=(twice[key],) if key in twice else ())
        for key, by_channel in found.items()
    ]


def channel_files(name: str, by_channel: dict[int, Path], num_channels: int) -> tuple[Path, ...]:
    """Return the files of channels 0, 1, ... of a case: those found, and the names that missing ones would have."""
    example = next(iter(by_channel.values()))
    suffix = example.name[len(name) + len("_0000") :]
    count = max(num_channels, max(by_channel) + 1)
    return tuple(by_channel.get(c, example.with_name(f"{name}_{c:04d}{suffix}")) for c in range(count))


def path_problems(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return why files of a case cannot be opened, at most the first three."""
    return tuple(first_of([problem for path in paths if (problem := path_problem(path))]))


def with_problems(case: Case, good: set[Path], lost: Mapping[Path, str]) -> Case:
    """Return a case with a problem for each of its files that cannot be opened.

    Args:
        case: as found.
        good: paths that are known to be files or folders.
        lost: why others cannot be opened.
    """
    paths = dict.fromkeys([*case.image, *([] if case.label is None else [case.label])])
    known = [lost[path] for path in paths if path in lost]
    problems = path_problems(path for path in paths if path not in good and path not in lost)
    return replace(case, problems=(*case.problems, *known, *problems)) if known or problems else case


def path_name(path: Path, root: Path) -> str:
    """Return a name made of a path from a folder on: `p1_CT` for `p1/CT`; the folder's own for itself."""
    return "_".join(path.relative_to(root).parts) or Path(os.path.realpath(path)).name


def named_apart(cases: list[Case], root: Path) -> list[Case]:
    """Name files of one name in different folders, as in `patient_1/ct.nii.gz`, after their paths from the root."""
    count = Counter(case.name for case in cases)
    return [
        replace(case, name="_".join((*case.image[0].parent.relative_to(root).parts, case.name)))
        if count[case.name] > 1 and case.image[0].name.lower().endswith(SUFFIXES)
        else case
        for case in cases
    ]


def name_problems(cases: Iterable[Case]) -> list[str]:
    """Return messages about names of cases, and about files that several cases share.

    These are names that no file can have, that are not UTF-8, or that several cases have.
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
    """A message for every scan and label map that cases of different names have in common, by path or by a link."""
    users: defaultdict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for case in cases:
        for kind, paths in (("image", case.image), ("label map", () if case.label is None else (case.label,))):
            for path in paths:
                users[kind, real_path(path)].setdefault(case.name, path)
    messages = []
    for (kind, _), by_name in users.items():
        if len(by_name) > 1:
            (one, first), (other, second) = list(by_name.items())[:2]
            where = escaped(first) if first == second else f"{escaped(first)} and {escaped(second)}"
            messages.append(
                f"cases {one!r} and {other!r} have the same {kind}: {where}. Give each its own, or remove one of them."
            )
    return messages


def real_path(path: Path) -> str:
    """Return a path without links, or the path itself if no file can have that name."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
