"""Find the volumes of a DICOM export, and the DICOM SEG and RTSTRUCT files that refer to each of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from segbundle.datasets.case import Case, name_problem
from segbundle.datasets.finding import tell_apart
from segbundle.datasets.folders import Tree, escaped, list_tree, log_once, some
from segbundle.datasets.series import NOT_SELECTED, SINGLE_SLICE, is_selected, scans_in_folders, split_words
from segbundle.errors import DataError, last_line
from segbundle.files.hashing import hash_values
from segbundle.files.pseudonyms import Pseudonyms
from segbundle.io.dicom import find_series
from segbundle.io.dicom_folders import Series, list_folder
from segbundle.io.dicom_references import References, is_referenced, referenced_images
from segbundle.io.scan_files import is_volume_path
from segbundle.io.segment_files import SegmentFile, read_segment_file
from segbundle.terminal import counted

MODALITIES = ("CT", "MR", "PT")
"""Modalities of the volumes that are imported without a selection of series."""
UNREADABLE = "series cannot be read"
_DIGITS = 8


class LeftOutError(Exception):
    """Error for a volume that cannot become a case.

    Args:
        reason: reason without paths, for a file.
        message: message with paths, for the terminal; empty (default) if the reason is sufficient.
        is_problem: whether the user should act (default True).

    Example:
        >>> LeftOutError("no segmentation", is_problem=False).reason
        'no segmentation'
    """

    def __init__(self, reason: str, message: str = "", is_problem: bool = True) -> None:
        super().__init__(message or reason)
        self.reason, self.message, self.is_problem = reason, message, is_problem


@dataclass(frozen=True)
class Volume:
    """Volume of an export, with the files that segment it.

    Attributes:
        case: name of the case.
        path: path to pass to `read_scan`.
        place: path below the folder of the export, for the terminal.
        series: DICOM series with the header of its first file; None if the folder cannot be read.
        content: hash of the SOPInstanceUIDs (default: empty).
        segments: DICOM SEG and RTSTRUCT files that refer to the series (default none).
        error: reason why the volume cannot become a case; None (default) if it can.

    Example:
        >>> Volume("case_1", Path("export/ct"), "ct", None).modality
        ''
    """

    case: str
    path: Path
    place: str
    series: Series | None
    content: str = ""
    segments: tuple[SegmentFile, ...] = ()
    error: LeftOutError | None = field(default=None, compare=False)

    @property
    def modality(self) -> str:
        """Modality, such as `CT`; empty if unknown."""
        return self.series.modality if self.series is not None else ""


def search_export(
    export: Path, selected: Sequence[str] = (), case_names: str = "hash", salt: Pseudonyms | None = None
) -> list[Volume]:
    """Return all series of an export, each with the DICOM SEG and RTSTRUCT files that refer to it.

    Args:
        export: folder; its subfolders are searched.
        selected: see `scans_in_folders`. Empty (default) for all series; then, series with other modalities than
            `MODALITIES` have an `error`.
        case_names: `path` to name cases by their folders. By default (`hash`), names are `case_` and eight digits of a
            hash of the SeriesInstanceUID; with `pseudonym`, twelve digits of a salted hash.
        salt: pseudonyms of the folder of the dataset, for `pseudonym`. Default: none.

    Returns:
        volumes sorted by name, including series and segmentations that cannot become a case. These have an `error`:
        series that are not volumes, copies, damaged series, and segmentations without their series or volume

    Raises:
        DataError: the folder does not exist or contains no DICOM files.

    Example:
        >>> search_export(Path("/nowhere"))
        Traceback (most recent call last):
        ...
        segbundle.errors.DataError: /nowhere: no such folder. Pass the folder of a DICOM export.
    """
    if not export.is_dir():
        raise DataError(f"{escaped(export)}: no such folder. Pass the folder of a DICOM export.")
    named_by_path = case_names == "path"
    tree = list_tree(export)
    if not tree.dicom and not tree.lost:
        raise DataError(f"{escaped(export)}: contains no DICOM files. Pass the folder of a DICOM export.")
    listed = _list_series(tree)
    selected = split_words(selected, [series for series, _ in listed])
    cases = _named(scans_in_folders(tree, selected, is_export=True), named_by_path)
    if tree.left_out[NOT_SELECTED]:
        log_once(f"{escaped(export)}: {tree.left_out[NOT_SELECTED]} files skipped {NOT_SELECTED}")
    by_path = {series.path: (series, content) for series, content in listed if series.why is None}
    volumes = [_volume(case, export, by_path, check_modality=not selected) for case in cases]
    volumes += [_copy(*by_path[path], export, first) for path, first in tree.copies.items()]
    others = [replace(by_path[path][0], why=SINGLE_SLICE) for path in tree.single_slices]
    others += [series for series, _ in listed if series.why is not None and not series.damaged]
    volumes += [_not_a_volume(series, export) for series in others if not selected or is_selected(series, selected)]
    files, damaged = _segment_files(tree, export, {file for series, _ in listed for file in series.files})
    volumes = [
        replace(volume, segments=tuple(file for file in files if volume.series and volume.series.uid in file.series))
        for volume in volumes
    ]
    volumes = _paired_by_image(volumes, export)
    known = {series.uid for series, _ in listed}
    volumes += [_without_series(file, export) for file in files if known.isdisjoint(file.series)] + damaged
    if named_by_path:
        volumes = [replace(volume, case=volume.case or volume.place.replace("/", "_")) for volume in volumes]
    else:
        volumes = _pseudonyms(volumes, salt if case_names == "pseudonym" else None)
    return sorted(volumes, key=lambda volume: (volume.case, volume.place))


def _named(cases: Sequence[Case], named_by_path: bool) -> list[Case]:
    if not named_by_path:
        return list(cases)
    return [
        replace(case, problems=(*case.problems, f"{escaped(case.image[0])}: {problem}.")) if problem else case
        for case in tell_apart(cases)
        for problem in [name_problem(case.name)]
    ]


def _place(path: Path, export: Path) -> str:
    return escaped(path.relative_to(export)) if path != export else "."


def _volume(case: Case, export: Path, by_path: Mapping[Path, tuple[Series, str]], check_modality: bool) -> Volume:
    """Return the volume of a case; `by_path` has the series of single folders and hashes of their contents."""
    path, problems, error = case.image[0], list(case.problems), None
    series, content = by_path.get(path, (None, ""))
    if series is None and is_volume_path(path):
        try:
            scattered = find_series(path)
            series, content = _without_images(scattered) if scattered is not None else (None, "")
        except DataError as problem:
            problems.append(str(problem))
    if series is None and not problems:
        problems.append(f"{escaped(path)}: is not a volume. Export the series again.")
    if problems:
        error = LeftOutError(UNREADABLE, " ".join(problems))
    elif series is not None and check_modality and series.modality not in MODALITIES:
        error = LeftOutError(f"modality {series.modality or 'unknown'}", is_problem=False)
    return Volume(case.name, path, _place(path, export), series, content, error=error)


def _not_a_volume(series: Series, export: Path) -> Volume:
    error = LeftOutError(f"not a volume: {series.why}", is_problem=False)
    return Volume("", series.path, _place(series.path, export), series, error=error)


def _copy(series: Series, content: str, export: Path, first: Path) -> Volume:
    error = LeftOutError("copy of another series", f"copy of {_place(first, export)}", is_problem=False)
    return Volume("", series.path, _place(series.path, export), series, content, error=error)


def _without_series(file: SegmentFile, export: Path) -> Volume:
    message = f"{escaped(file.path)}: refers to a series that is not in the export. Export the series as well."
    return Volume(
        "", file.path, _place(file.path, export), None, error=LeftOutError("segmentation without its series", message)
    )


def _paired_by_image(volumes: Sequence[Volume], export: Path) -> list[Volume]:
    """Return volumes with the segmentations that refer to their images.

    A segmentation that names no images belongs to the only volume of its series. If there are several volumes, they
    have an error. A segmentation that refers to no image of the volumes of its series gets an entry of its own.
    """
    found, used, damaged = list[Volume](), set[Path](), list[Volume]()
    references: dict[Path, References] = {}
    files = {file.path: file for volume in volumes if volume.series is not None for file in volume.segments}
    for path in files:
        try:
            references[path] = referenced_images(path)
        except Exception as problem:  # pydicom raises various exceptions for damaged files
            message = f"{escaped(path)}: cannot be read ({last_line(problem)}). Export it again."
            failure = LeftOutError("segmentation cannot be read", message)
            damaged.append(Volume("", path, _place(path, export), None, error=failure))
    several = _with_several_volumes(volumes)
    for volume in volumes:
        if volume.series is None or not volume.segments:
            found.append(volume)
            continue
        series = volume.series
        with suppress(DataError):  # reported as the error of the volume
            series = find_series(volume.path) or series
        named = [file for file in volume.segments if references.get(file.path)]
        unnamed = [file for file in volume.segments if file.path in references and file not in named]
        own = [*(file for file in named if is_referenced(series, references[file.path])), *unnamed]
        used |= {file.path for file in own}
        if volume.error is not None:
            found.append(volume)
            continue
        unclear = unnamed and volume.series.uid in several
        error = _unclear(min(file.path for file in unnamed)) if unclear else None
        kept = tuple(file for file in volume.segments if file in own)
        found.append(replace(volume, segments=kept, error=error))
    lost = [file for path, file in files.items() if references.get(path) and path not in used]
    return found + [_without_volume(file, export) for file in lost] + damaged


def _with_several_volumes(volumes: Sequence[Volume]) -> set[str]:
    """Return the SeriesInstanceUIDs of series with several volumes, of which some may not be readable."""
    uids = Counter(
        volume.series.uid
        for volume in volumes
        if volume.series is not None and (volume.error is None or volume.error.is_problem)
    )
    return {uid for uid, count in uids.items() if count > 1}


def _unclear(path: Path) -> LeftOutError:
    return LeftOutError(
        "segmentation of an unknown volume",
        f"{escaped(path)}: does not say to which of the volumes of its series it belongs. Export it again with "
        "references to images, or export one volume only.",
    )


def _without_volume(file: SegmentFile, export: Path) -> Volume:
    message = f"{escaped(file.path)}: refers to images that are in no volume of its series. Export the series again."
    return Volume(
        "", file.path, _place(file.path, export), None, error=LeftOutError("segmentation without its volume", message)
    )


def _list_series(tree: Tree) -> list[tuple[Series, str]]:
    """Return all series of single folders with hashes of their contents; see `_without_images`."""
    found = []
    for folder in counted(tree.dicom, len(tree.dicom), "DICOM series", "folder", leave=False, delay=2):
        with suppress(DataError):  # reported as a case with a problem
            found += [_without_images(series) for series in list_folder(folder).series]
    return found


def _without_images(series: Series) -> tuple[Series, str]:
    """Return a series with the header of its first file only, which saves memory, and a hash of its SOPInstanceUIDs."""
    instances = sorted(image.instance for image in series.images)
    return replace(series, images=series.images[:1]), hash_values(instances)


def _segment_files(tree: Tree, export: Path, slices: Set[Path]) -> tuple[list[SegmentFile], list[Volume]]:
    """Return the DICOM SEG and RTSTRUCT files of a tree without copies, and entries for damaged ones."""
    paths = [path for folder in tree.dicom for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    others = [path for path in paths if path not in slices]
    files, damaged = dict[str, SegmentFile](), list[Volume]()
    for path in counted(others, len(others), "segmentations", "file", leave=False, delay=2):
        try:
            file = read_segment_file(path)
        except DataError as problem:
            error = LeftOutError("segmentation cannot be read", str(problem))
            damaged.append(Volume("", path, _place(path, export), None, error=error))
            continue
        if file is not None:
            if file.empty:
                log_once(
                    f"{escaped(path)}: {len(file.empty)} structures have no contours and count as not annotated: "
                    f"{some([escaped(name) for name in file.empty])}"
                )
            files.setdefault(file.uid or str(path), file)
    return list(files.values()), damaged


def _pseudonyms(volumes: Sequence[Volume], salt: Pseudonyms | None) -> list[Volume]:
    """Return volumes named by a hash of their SeriesInstanceUID; by a longer one if two hashes begin alike."""
    contents = defaultdict[str, set[str]](set)
    for volume in volumes:
        contents[identity_of(volume)].add(volume.content)
    several = {text for text, found in contents.items() if len(found) > 1}  # multi-frame files of one series
    texts = [text + f"/{volume.content}" * (text in several) for volume in volumes for text in [identity_of(volume)]]
    if salt is not None:
        return [replace(volume, case=salt.of(text)) for volume, text in zip(volumes, texts, strict=True)]
    digests = [sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for text in texts]
    short = Counter(digest[:_DIGITS] for digest in set(digests))
    return [
        replace(volume, case=f"case_{digest[: _DIGITS if short[digest[:_DIGITS]] == 1 else 2 * _DIGITS]}")
        for volume, digest in zip(volumes, digests, strict=True)
    ]


def identity_of(volume: Volume) -> str:
    """Return the SeriesInstanceUID of a volume, with its label if it is one of several of the series.

    Args:
        volume: volume of an export. Without a SeriesInstanceUID, its place is returned.

    Example:
        >>> identity_of(Volume("case_1", Path("export/ct"), "ct", None))
        'ct'
    """
    if volume.series is None or not volume.series.uid:
        return volume.place
    return "/".join(filter(None, (volume.series.uid, volume.series.volume)))
