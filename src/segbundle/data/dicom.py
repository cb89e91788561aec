"""List the DICOM series and multi-frame files in a folder, and read the volume of one series.

A series is identified by a path: that of its folder or, if the folder contains several series, that of its first file
by name. Any other file of the series identifies it as well. pydicom reads headers and uncompressed voxels; SimpleITK's
GDCM decompresses compressed voxels.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.data.dicom_headers import EMPTY, UNREADABLE, DicomImage, read_image
from segbundle.data.dicom_pixels import read_values
from segbundle.data.geometry import Geometry
from segbundle.data.scan_files import DICOM_SUFFIXES, is_dicom_file, may_be_slice
from segbundle.data.stacks import arrange, orientations
from segbundle.errors import DataError

_DANGLING, _NO_FILE = -1, -2
_LOCALIZER_SLICES = 5
"""With more slices of one orientation, a series is a volume, possibly damaged, whatever its name."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A DICOM series in a folder, or a file that contains a separate volume.

    Attributes:
        path: identifies the series for `read_scan`: the folder if it contains one volume, or else the first file.
        uid: SeriesInstanceUID.
        description: SeriesDescription; may be empty.
        modality: for instance `CT`.
        files: sorted by name.
        why: what it is instead of a volume, such as `a localizer`; None for a volume. Missing slices of a volume are
            found when it is read.
        damaged: whether its SOP class is that of a volume, although it is not a volume.
    """

    path: Path
    uid: str
    description: str
    modality: str
    files: tuple[Path, ...]
    why: str | None = None
    damaged: bool = False


@dataclass(frozen=True)
class DicomFolder:
    """The content of a folder, without its subfolders.

    Attributes:
        series: sorted by the names of their first files.
        passed_over: files that are not images, counted by kind: a modality, `DICOMDIR`, `not DICOM`, or `unreadable`.
        unreadable: files that cannot be read.
    """

    series: tuple[Series, ...]
    passed_over: tuple[tuple[str, int], ...]
    unreadable: tuple[Path, ...] = ()

    @property
    def volumes(self) -> list[Series]:
        """The series that are volumes."""
        return [one for one in self.series if one.why is None]

    def others(self) -> str | None:
        """Return in one line what is skipped: series that are not volumes, and files that are not images."""
        said = [f"{len(one.files)} of {one.why}" for one in self.series if one.why is not None]
        said += [f"{count} {kind}" for kind, count in self.passed_over]
        count = sum(len(one.files) for one in self.series if one.why is not None)
        count += sum(number for _, number in self.passed_over)
        return f"{count} file(s) skipped ({', '.join(said)})" if said else None


def is_dicom(path: Path) -> bool:
    """Return whether a path may identify a DICOM series: a folder, or a DICOM file."""
    return path.is_dir() or (path.is_file() and is_dicom_file(path))


def list_series(folder: str | Path) -> list[Series]:
    """Return the DICOM series in a folder: volumes, and other series with what they are instead."""
    return list(list_folder(folder).series)


def list_folder(folder: str | Path) -> DicomFolder:
    """Return the DICOM series and the other files in a folder; only headers are read.

    Raises:
        DataError: the folder cannot be read.
    """
    return _listed(Path(folder))[0]


def series_files(path: Path) -> list[Path]:
    """Return the files of the series to which a DICOM file belongs, or the file itself if there is no series."""
    listing, _ = _listed(path.parent)
    return next((list(one.files) for one in listing.series if path.parent / path.name in one.files), [path])


def are_parts(paths: Sequence[Path]) -> tuple[bool, bool]:
    """Compare series of one SeriesInstanceUID, from their headers.

    Returns:
        whether their slices together form one volume, and whether all their positions differ, unlike those of copies.
    """
    try:
        images = [image for path in paths for image in _images_of(path)]
    except DataError:
        return False, False
    slices = [one for image in images for one in image.slices]
    apart = len({tuple(round(value, 2) for value in one.position) for one in slices}) == len(slices)
    if len({(image.columns, image.rows) for image in images}) > 1:
        return False, apart
    try:
        arrange(slices)
    except DataError:
        return False, apart
    return True, apart


def dicom_geometry(path: str | Path) -> Geometry:
    """Return the geometry of the series that a path identifies, from its headers.

    Raises:
        DataError: there is no series, or several, or the slices do not form a volume.
    """
    return _volume(Path(path))[2]


def read_dicom(path: str | Path, dtype: Any) -> tuple[np.ndarray, Geometry]:
    """Read the series that a path identifies, with every slice's own rescale slope and intercept.

    Args:
        path: a folder with one series, or any file of a series.
        dtype: NumPy dtype of the result, or None for the smallest that fits the values.

    Returns:
        the voxels (1, X, Y, Z), and their geometry.

    Raises:
        DataError: as `dicom_geometry`; damaged files.
    """
    images, order, geometry = _volume(Path(path))
    return read_values(images, order, dtype).transpose(2, 1, 0)[None], geometry


def _volume(path: Path) -> tuple[list[DicomImage], list[int], Geometry]:
    """Return the images of a series, the order of their slices, and the geometry of the volume that they form."""
    images = _images_of(path)
    slices = [one for image in images for one in image.slices]
    sizes = {(image.columns, image.rows) for image in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{x} x {y}" for x, y in sorted(sizes)[:3])
        raise DataError(f"{path}: its slices have different sizes, {shown}; all slices must have the same size.")
    try:
        order, affine = arrange(slices)
    except DataError as error:
        raise DataError(f"{path}: {error} Export the series again, or convert it to NIfTI.") from error
    columns, rows = sizes.pop()
    return images, order, Geometry((columns, rows, len(slices)), _LPS_TO_RAS @ affine)


def _images_of(path: Path) -> list[DicomImage]:
    """Return the images of the series that a path identifies."""
    folder = path if path.is_dir() else path.parent
    listing, images = _listed(folder)
    if path.is_dir():
        chosen = _the_volume(path, listing)
    else:
        name = folder / path.name
        meant = [one for one in listing.series if name in one.files]
        if not meant:
            raise DataError(f"{path}: is not a DICOM image.")
        chosen = meant[0]
    if chosen.why is not None:
        raise DataError(f"{path}: is not a volume but {chosen.why}.")
    if listing.unreadable:
        raise DataError(
            f"{folder}: {len(listing.unreadable)} of its files cannot be read, {listing.unreadable[0].name} for "
            "instance; slices may be missing. Copy or export the series again, or remove these files."
        )
    return [images[file] for file in chosen.files]


def _the_volume(folder: Path, listing: DicomFolder) -> Series:
    volumes = listing.volumes
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        shown = "; ".join(
            f"{one.description or one.modality}, {len(one.files)} file(s): {one.path.name}" for one in volumes[:5]
        )
        more = "; ..." if len(volumes) > 5 else ""
        raise DataError(
            f"{folder}: contains {len(volumes)} DICOM series ({shown}{more}). Give a file of the series to read, or "
            "put each series in a separate folder."
        )
    others = listing.others()
    raise DataError(f"{folder}: contains no DICOM series{f' that is a volume: {others}' if others else ''}.")


def _listed(folder: Path) -> tuple[DicomFolder, dict[Path, DicomImage]]:
    """Return a folder's content without hidden files, cached until a file's name, size or date changes."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(_state(entry) for entry in entries if not (entry.name.startswith(".") or entry.is_dir()))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    return _list(folder, tuple(files))


def _state(entry: os.DirEntry[str]) -> tuple[str, int, int]:
    """Return name, size and date of a file; the size of a broken link, or of anything but a file, is negative."""
    try:
        found = entry.stat()
    except OSError:
        return entry.name, _DANGLING, 0
    return entry.name, found.st_size if stat.S_ISREG(found.st_mode) else _NO_FILE, found.st_mtime_ns


@lru_cache(maxsize=4)
def _list(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[DicomFolder, dict[Path, DicomImage]]:
    passed_over: Counter[str] = Counter()
    unreadable: list[Path] = []
    groups: dict[tuple[str, str], list[DicomImage]] = {}
    images: dict[Path, DicomImage] = {}
    empty: list[Path] = []
    for name, size, _ in files:
        found = read_image(folder / name) if size >= 0 else UNREADABLE if size == _DANGLING else "not DICOM"
        if found == EMPTY:
            empty.append(folder / name)
            continue
        if isinstance(found, str):
            passed_over[found] += 1
            unreadable += [folder / name] if found == UNREADABLE else []
            continue
        images[found.path] = found
        own = found.path.name if len(found.slices) > 1 else ""  # a multi-frame file is a separate volume
        groups.setdefault((found.series, own or found.why or ""), []).append(found)
    for path in empty:  # a slice whose copy failed, unless the slices are named otherwise
        slice_lost = may_be_slice(path.name) and not any(image.suffix.lower() in DICOM_SUFFIXES for image in images)
        passed_over[UNREADABLE if slice_lost else "not DICOM"] += 1
        unreadable += [path] if slice_lost else []
    series = [_series(group) for group in groups.values()]
    if sum(one.why is None for one in series) == 1:
        series = [one if one.why is not None else replace(one, path=folder) for one in series]
    series.sort(key=lambda one: one.files[0])
    return DicomFolder(tuple(series), tuple(sorted(passed_over.items())), tuple(unreadable)), images


def _series(images: Sequence[DicomImage]) -> Series:
    first = images[0]
    why, slices = first.why, [one for image in images for one in image.slices]
    counts, damaged = orientations(slices), first.damaged
    if why is None and len(counts) > 1:
        why = f"{len(slices)} slices in {len(counts)} orientations"
        damaged = counts[0] > _LOCALIZER_SLICES and not first.localizer
        why += f" ({counts[0]} in one of them)" if damaged else ", as in a localizer"
    elif why is None and first.localizer and len(slices) <= _LOCALIZER_SLICES:
        why = "a localizer"
    files = tuple(sorted(image.path for image in images))
    return Series(files[0], first.series, first.description, first.modality, files, why, damaged)
