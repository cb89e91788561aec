"""DICOM series of folders: grouping of files, separation into volumes, and their paths.

A volume is identified by a path: the path of its folder, if the folder contains no other volume; else the path of its
first file by name. A volume that is only a part of its files, or whose files lie in several folders, is identified by a
path that does not exist on disk, such as `enhanced.dcm/b1000.volume` or `export/0123456789ab.volume`.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock

from segbundle.errors import DataError
from segbundle.io.concatenations import missing_files
from segbundle.io.dicom_headers import EMPTY, UNREADABLE, DamagedFile, DicomImage, read_image
from segbundle.io.dicom_volumes import lacking, separate
from segbundle.io.scan_files import DICOM_SUFFIXES, VOLUME_SUFFIX, may_be_slice
from segbundle.io.stacks import arrange, orientations
from segbundle.terminal import counted

_BROKEN_LINK, _NOT_A_FILE = -1, -2
_LOCALIZER_SLICES = 5
"""Maximum number of slices per orientation in a localizer; with more, the series is a volume, possibly damaged."""
_MOST_CACHED = 20_000
"""Maximum number of files in cached listings, about 80 MB."""
_State = tuple[str, int, int]
"""Name, size and date of a file; the size is negative for broken links and special files."""


@dataclass(frozen=True)
class Series:
    """Volume of a DICOM series, or a series that is not a volume.

    A series with several volumes, such as echoes or time points, is listed once per volume. Each multi-frame file
    counts as a separate series, unless it is one of several files of a concatenation.

    Attributes:
        path: path to pass to `read_scan`.
        uid: SeriesInstanceUID.
        description: SeriesDescription; may be empty.
        modality: Modality, for instance `CT`; may be empty.
        files: paths of the files, sorted.
        why: kind of images, such as `a localizer`, if the series is not a volume; None (default) for a volume. A series
            with missing slices counts as a volume; `read_scan` reports the missing slices.
        damaged: True if the series is not a volume, although its SOP class or many slices in one orientation suggest a
            volume (default False).
        volume: label of the volume, such as `b1000`, if the series has several volumes (default empty).
        lacking: number of slices missing at the ends of the volume, compared with other volumes of the series (default
            0).
        incomplete: number of files in an incomplete concatenation, such as `2 of 3 files` (default empty).
        images: headers of the files, with the slices of the volume only (default none).
        unreadable: files in the same folders that may be damaged slices of the series (default none). Damaged files of
            other series are not included.

    Example:
        >>> series = Series(Path("ct"), "1.2.3", "thorax", "CT", (Path("ct/1.dcm"), Path("ct/2.dcm")))
        >>> series.why is None, len(series.files)
        (True, 2)
    """

    path: Path
    uid: str
    description: str
    modality: str
    files: tuple[Path, ...]
    why: str | None = None
    damaged: bool = False
    volume: str = ""
    lacking: int = 0
    incomplete: str = ""
    images: tuple[DicomImage, ...] = field(default=(), repr=False, compare=False)
    unreadable: tuple[DamagedFile, ...] = field(default=(), repr=False, compare=False)

    @property
    def number(self) -> int:
        """SeriesNumber; 0 if unknown."""
        return self.images[0].number if self.images else 0

    @property
    def date(self) -> str:
        """SeriesDate, or else StudyDate, as in the header, for instance `20260131`; may be empty."""
        return self.images[0].date if self.images else ""

    @property
    def num_slices(self) -> int:
        """Number of slices; for a series that is not a volume, number of frames."""
        return sum(len(image.slices) or image.frames for image in self.images)


@dataclass(frozen=True)
class DicomFolder:
    """DICOM content of a folder, without its subfolders.

    Attributes:
        series: all series, sorted by the names of their first files.
        passed_over: pairs (kind, number of files) for files that are not used. A kind is a modality such as `SR`, or
            `DICOMDIR`, `not DICOM`, `unreadable`, or `copies` of other files.
        unreadable: files of kind `unreadable`, which may be damaged slices (default: none).

    Example:
        >>> folder = DicomFolder((), (("not DICOM", 2),))
        >>> folder.others()
        '2 file(s) skipped (2 not DICOM)'
    """

    series: tuple[Series, ...]
    passed_over: tuple[tuple[str, int], ...]
    unreadable: tuple[DamagedFile, ...] = ()

    @property
    def volumes(self) -> list[Series]:
        """Series that are volumes."""
        return [series for series in self.series if series.why is None]

    def others(self) -> str | None:
        """Return a one-line summary of the files that are not part of a volume; None without such files."""
        parts = [f"{len(series.files)} as {series.why}" for series in self.series if series.why is not None]
        parts += [f"{count} {kind}" for kind, count in self.passed_over]
        count = sum(len(series.files) for series in self.series if series.why is not None)
        count += sum(number for _, number in self.passed_over)
        return f"{count} file(s) skipped ({', '.join(parts)})" if parts else None


def list_series(folder: str | Path) -> list[Series]:
    """Return the DICOM series in a folder, including those that are not volumes.

    Args:
        folder: path of the folder; its subfolders are not searched.

    Raises:
        DataError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     [series.modality for series in list_series(folder)]
        ['CT']
    """
    return list(list_folder(folder).series)


def list_folder(folder: str | Path) -> DicomFolder:
    """Return the DICOM series and the skipped files of a folder. Only headers are read.

    The result is cached until the name, size or date of a file changes. Hidden files are ignored.

    Args:
        folder: path of the folder; its subfolders are not searched.

    Raises:
        DataError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "notes.txt").write_text("a file that is not DICOM")
        ...     list_folder(folder).passed_over
        (('not DICOM', 1),)
    """
    folder = Path(folder)
    try:
        with os.scandir(folder) as entries:
            files = sorted(_state(entry) for entry in entries if not (entry.name.startswith(".") or entry.is_dir()))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}). Check the folder and its permissions."
        ) from error
    with _lock:
        known = _listed.pop(folder, None)
    listing = known[1] if known is not None and known[0] == files else _list(folder, files)
    with _lock:
        _listed[folder] = files, listing
        while len(_listed) > 1 and sum(len(states) for states, _ in _listed.values()) > _MOST_CACHED:
            del _listed[next(iter(_listed))]
    return listing


def scattered_series(root: Path, series: Iterable[Series]) -> list[tuple[Series, list[Series]]]:
    """Return the volumes whose slices are in several folders or multi-frame files, as some archives store them.

    Series with the same SeriesInstanceUID belong together if their slices form one volume, or if most folders contain
    a single slice. Copies of an image (with the same SOPInstanceUID) are used once.

    Args:
        root: folder that contains the folders of all series.
        series: series of single folders, with their images. Series that are not volumes, that have several volumes in
            one folder, or that have no SeriesInstanceUID are ignored.

    Returns:
        for each volume, a pair of the volume and the list of its parts, which are series

    Example:
        >>> scattered_series(Path("export"), [])
        []
    """
    groups: dict[str, list[Series]] = {}
    for entry in series:
        if entry.why is None and entry.uid and not entry.volume:
            groups.setdefault(entry.uid, []).append(entry)
    found = []
    for uid, parts in groups.items():
        if len(parts) > 1 and _belong_together(parts):
            images = _without_copies([image for part in parts for image in part.images])[0]
            for volume in _volumes(images):
                label = "_".join(filter(None, (sha256(uid.encode()).hexdigest()[:12], volume.volume)))
                unreadable = {file.path: file for part in parts for file in part.unreadable}
                damaged = tuple(unreadable[path] for path in sorted(unreadable))
                whole = replace(volume, path=root / f"{label}{VOLUME_SUFFIX}", unreadable=damaged)
                _scattered[whole.path] = whole, _states(whole.files)
                found.append((whole, parts))
    return found


def find_scattered(path: Path) -> Series | None:
    """Return the volume in several folders that a path identifies, or None if the path identifies no such volume.

    Args:
        path: path of a volume that `scattered_series` returned. In another process, or if the files of the volume have
            changed since, all folders below the parent folder of the path are searched.

    Raises:
        DataError: a folder cannot be read.

    Example:
        >>> find_scattered(Path("/nowhere/0123456789ab.volume")) is None
        True
    """
    known = _scattered.get(path)
    if known is None or known[1] != _states(known[0].files):
        _scattered.pop(path, None)
        folders = [Path(folder) for folder, _, _ in os.walk(path.parent) if "/." not in folder[len(str(path.parent)) :]]
        scattered_series(path.parent, [entry for folder in sorted(folders) for entry in list_folder(folder).series])
        known = _scattered.get(path)
    return None if known is None else known[0]


def listed_series(path: Path) -> Series | None:
    """Return a series of a folder that this process has listed; None if it was not listed, or if its files changed.

    No headers are read. The `images` of the result contain only the first image of the series.

    Args:
        path: path of the series (see `Series.path`).

    Example:
        >>> listed_series(Path("/nowhere/ct")) is None
        True
    """
    known = _summaries.get(path)
    return known[0] if known is not None and known[1] == _states(known[0].files) else None


_listed: dict[Path, tuple[list[_State], DicomFolder]] = {}
"""Listings of folders, from the least to the most recently used."""
_lock = Lock()
_scattered: dict[Path, tuple[Series, list[_State | None]]] = {}
_summaries: dict[Path, tuple[Series, list[_State | None]]] = {}
"""Series of all listed folders, with their first image only."""


def _states(files: Iterable[Path]) -> list[_State | None]:
    return [_state(file) for file in files]


def _state(entry: os.DirEntry[str] | Path) -> _State:
    try:
        found = entry.stat()
    except OSError:
        return entry.name, _BROKEN_LINK, 0
    return entry.name, found.st_size if stat.S_ISREG(found.st_mode) else _NOT_A_FILE, found.st_mtime_ns


def _list(folder: Path, files: Sequence[_State]) -> DicomFolder:
    passed_over: Counter[str] = Counter()
    damaged: list[DamagedFile] = []
    empty: list[Path] = []
    images: list[DicomImage] = []
    for name, size, _ in counted(files, len(files), f"DICOM headers in {folder}", "file", leave=False, delay=2):
        path = folder / name
        if size >= 0:
            found = read_image(path)
        else:
            found = DamagedFile(path, "is a broken link") if size == _BROKEN_LINK else "not DICOM"
        if found == EMPTY:
            empty.append(path)
        elif isinstance(found, DamagedFile):
            damaged.append(found)
        elif isinstance(found, str):
            passed_over[found] += 1
        else:
            images.append(found)
    suffixes = {image.path.suffix.lower() for image in images}
    for path in empty:  # empty files are lost slices, unless slices have other names
        if may_be_slice(path.name) and suffixes.isdisjoint(DICOM_SUFFIXES):
            damaged.append(DamagedFile(path, "is empty"))
        else:
            passed_over["not DICOM"] += 1
    passed_over.update({UNREADABLE: len(damaged)} if damaged else {})
    unreadable = tuple(sorted(damaged, key=lambda file: file.path))
    images, copies = _without_copies(images)
    passed_over.update({"copies": copies} if copies else {})
    groups: dict[tuple[str, str], list[DicomImage]] = {}
    for image in images:
        file_name = image.path.name if len(image.slices) > 1 else ""  # a multi-frame file is a separate volume
        groups.setdefault((image.series, image.concatenation or file_name or image.why or ""), []).append(image)
    series = [volume for group in groups.values() for volume in _volumes(group)]
    if sum(entry.why is None for entry in series) == 1:
        series = [entry if entry.why is not None else replace(entry, path=folder) for entry in series]
    series = [
        replace(entry, unreadable=tuple(file for file in unreadable if file.series in ("", entry.uid)))
        for entry in series
    ]
    series.sort(key=lambda entry: (entry.files[0], entry.path))
    state_of = {folder / state[0]: state for state in files}
    for entry in series:
        states = [state_of.get(file) for file in entry.files]
        _summaries[entry.path] = replace(entry, images=entry.images[:1]), states
    return DicomFolder(tuple(series), tuple(sorted(passed_over.items())), unreadable)


def _without_copies(images: Sequence[DicomImage]) -> tuple[list[DicomImage], int]:
    """Return images without further copies of a file, and the number of these copies."""
    kept: dict[object, DicomImage] = {}
    for image in images:
        key = (
            (image.series, image.instance, [plane.position for plane in image.slices]) if image.instance else image.path
        )
        kept.setdefault(str(key), image)
    return list(kept.values()), len(images) - len(kept)


def _volumes(images: Sequence[DicomImage]) -> Iterator[Series]:
    """Yield each volume of the images of one series, or the series itself if it is not a volume."""
    series = _series(images)
    planes = [(image, index) for image in images for index in range(len(image.slices))]
    slices = [image.slices[index] for image, index in planes]
    parts = separate(slices) if series.why is None else []
    if len(parts) < 2:
        yield series
        return
    volumes = []
    for label, indices in parts:
        chosen: dict[Path, list[int]] = {}
        for image, index in (planes[which] for which in indices):
            chosen.setdefault(image.path, []).append(index)
        own = [
            replace(image, slices=tuple(image.slices[index] for index in chosen[image.path]))
            for image in images
            if image.path in chosen
        ]
        files = tuple(sorted(chosen))
        volumes.append(replace(series, path=files[0], files=files, volume=label, images=tuple(own)))
    missing = lacking([(label, [slices[index] for index in indices]) for label, indices in parts])
    volumes = [replace(volume, lacking=number) for volume, number in zip(volumes, missing, strict=True)]
    counts = Counter(file for volume in volumes for file in volume.files)
    for volume in volumes:
        shared = any(counts[file] > 1 for file in volume.files)
        yield replace(volume, path=volume.path / f"{volume.volume}{VOLUME_SUFFIX}") if shared else volume


def _series(images: Sequence[DicomImage]) -> Series:
    first = images[0]
    why, slices = first.why, [plane for image in images for plane in image.slices]
    counts, damaged = orientations(slices), first.damaged
    patients = len({image.patient for image in images})
    if why is None and patients > 1:
        why, damaged = f"slices of {patients} patients (PatientID)", True
    elif why is None and len(counts) > 1:
        why = f"{len(slices)} slices in {len(counts)} orientations"
        damaged = counts[0] > _LOCALIZER_SLICES and not first.localizer
        why += f" ({counts[0]} in one of them)" if damaged else ", as in a localizer"
    elif why is None and first.localizer and len(slices) <= _LOCALIZER_SLICES:
        why = "a localizer"
    files = tuple(sorted(image.path for image in images))
    return Series(
        files[0], first.series, first.description, first.modality, files, why, damaged, "",
        incomplete=missing_files(images), images=tuple(images),
    )  # fmt: skip


def _belong_together(parts: Sequence[Series]) -> bool:
    """Return whether series of several folders are parts of one series."""
    images, copies = _without_copies([image for part in parts for image in part.images])
    if copies and len(images) == max(len(part.images) for part in parts):  # copies of a whole series
        return False
    folders = {file.parent for part in parts for file in part.files}
    if len(folders) > 1 and sum(part.num_slices == 1 for part in parts) > len(parts) / 2:
        return True
    if len({(image.columns, image.rows) for image in images}) > 1:
        return False
    try:
        arrange([plane for image in images for plane in image.slices])
    except DataError:
        return False
    return True
