"""Classes of a dataset from the names of segments: their union over the cases, and the segments of each case."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segbundle.classes import IGNORE_INDEX
from segbundle.datasets.export_search import LeftOutError
from segbundle.datasets.folders import escaped, some
from segbundle.errors import DataError
from segbundle.io.segment_files import SegmentFile
from segbundle.io.segments import find_class, normalized

BACKGROUND = "background"
_RESERVED = "ignore"
"""Name of unknown voxels in `dataset.json`."""
NOT_CHOSEN = "no segment of a chosen class"
_MAX_CHARACTERS = 255


def chosen_segments(files: Sequence[SegmentFile], class_names: Sequence[str]) -> list[tuple[Path, int, str]]:
    """Return the file, number and name of each segment of a case that becomes a class of the dataset.

    Args:
        files: DICOM SEG and RTSTRUCT files of the case.
        class_names: chosen class names, background first; empty for all segments except the background.

    Raises:
        LeftOutError: `files` is empty, no segment has contours or is a chosen class, two segments have the same name,
            or the name of a segment cannot be that of a class.

    Example:
        >>> file = SegmentFile(Path("rs.dcm"), "", "", frozenset(), {1: "Liver", 2: "body"})
        >>> chosen_segments([file], ["background", "liver"])
        [(PosixPath('rs.dcm'), 1, 'Liver')]
    """
    if not files:
        raise LeftOutError("no segmentation", is_problem=False)
    found = [(file.path, number, name.strip()) for file in files for number, name in file.names.items()]
    if not found:
        empty = some(sorted({name for file in files for name in file.empty}))
        raise LeftOutError("no contours", f"its structures have no contours: {empty}", is_problem=False)
    if class_names:
        found = [(path, number, name) for path, number, name in found if name and find_class(name, class_names)]
        if not found:
            names = some(sorted({name for file in files for name in file.names.values()}))
            raise LeftOutError(
                NOT_CHOSEN,
                f"none of its segments ({names}) is a chosen class; choose classes with --class_names",
                is_problem=False,
            )
    found = [(path, number, name) for path, number, name in found if normalized(name) != BACKGROUND]
    seen = dict[str, tuple[Path, str]]()
    for path, _, name in found:
        if not name or normalized(name) == _RESERVED or len(name) > _MAX_CHARACTERS or escaped(name) != name:
            raise LeftOutError(
                "unusable segment name",
                f"{escaped(path)}: the name {escaped(name)[:80]!r} of a segment cannot be that of a class. Choose "
                "other segments with --class_names.",
            )
        key = normalized(name) if not class_names else str(find_class(name, class_names))
        if key in seen:
            first, own = seen[key]
            both = escaped(path) if first == path else f"{escaped(first)} and {escaped(path)}"
            raise LeftOutError(
                f"two segments named {name}",
                f"{both}: two segments are named {own if own == name else f'{own} and {name}'}. Remove or rename one "
                "of them, or choose others with --class_names.",
            )
        seen[key] = path, name
    return found


def union_of_names(cases: Iterable[Sequence[str]]) -> list[str]:
    """Return the class names of a dataset: all names of segments in alphabetical order, after the background.

    Names that differ only in case, spaces, hyphens and underscores are one class, named by the most frequent spelling.
    If several spellings are equally frequent, lower case is preferred.

    Args:
        cases: names of the segments of each case.

    Raises:
        DataError: there are more classes than label values.

    Example:
        >>> union_of_names([["Liver", "spleen"], ["liver"], ["liver"]])
        ['background', 'liver', 'spleen']
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for names in cases:
        for name in names:
            spellings[normalized(name)][name] += 1
    best = [min(counts, key=lambda name: (-counts[name], name.swapcase())) for _, counts in sorted(spellings.items())]
    return _checked([BACKGROUND, *best])


def _checked(class_names: list[str]) -> list[str]:
    count = len(class_names) - 1
    if count >= IGNORE_INDEX:
        raise DataError(
            f"the segmentations have {count} different names of segments; the maximum is {IGNORE_INDEX - 1}. "
            "Choose classes with --class_names."
        )
    return class_names


def extended_names(earlier: Sequence[str], found: Sequence[str], keep: bool) -> list[str]:
    """Return the class names of a dataset that an import continues, with the earlier label values if possible.

    Args:
        earlier: class names of the dataset, background first; empty for a new dataset.
        found: names of the segments, see `union_of_names`.
        keep: whether all earlier classes stay in the dataset. If False and a class has no segment any more, the names
            are those of the segments.

    Raises:
        DataError: there are more classes than label values.

    Example:
        >>> extended_names(["background", "liver"], ["background", "aorta", "Liver"], keep=False)
        ['background', 'liver', 'aorta']
        >>> extended_names(["background", "liver"], ["background", "aorta"], keep=False)
        ['background', 'aorta']
    """
    if not earlier or not (keep or all(find_class(name, found) is not None for name in earlier)):
        return list(found)
    return _checked([*earlier, *(name for name in found if find_class(name, earlier) is None)])


def values_of(names: Mapping[int, str], class_names: Sequence[str]) -> dict[int, int]:
    """Return the label values of the segments of a file that are classes, by their numbers.

    Args:
        names: names of the segments by their numbers.
        class_names: class names of the dataset, background first.

    Example:
        >>> values_of({4: "Liver", 7: "body"}, ["background", "liver"])
        {4: 1}
    """
    found = {number: find_class(name.strip(), class_names) for number, name in names.items() if name.strip()}
    return {number: value for number, value in found.items() if value}
