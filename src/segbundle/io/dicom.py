"""List the series in a DICOM folder, and read the volume of a series.

A path identifies a series: the path of any of its files or, if the folder contains a single volume, the path of the
folder. pydicom reads headers and uncompressed voxels; SimpleITK's GDCM decompresses compressed voxels.
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

from segbundle.errors import DataError
from segbundle.io.dicom_headers import EMPTY, UNREADABLE, DicomImage, read_image
from segbundle.io.dicom_pixels import read_values
from segbundle.io.geometry import Geometry
from segbundle.io.scan_files import DICOM_SUFFIXES, is_dicom_file, may_be_slice
from segbundle.io.stacks import arrange, orientations

_BROKEN_LINK, _NOT_A_FILE = -1, -2
_LOCALIZER_SLICES = 5
"""Maximum number of slices per orientation in a localizer; with more, the series is a volume, possibly damaged."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """DICOM series in a folder. Each multi-frame file counts as a separate series.

    Attributes:
        path: path to pass to `read_scan`: the folder if this is its only volume, else the first file of the series.
        uid: SeriesInstanceUID.
        description: SeriesDescription; may be empty.
        modality: Modality, for instance `CT`; may be empty.
        files: paths of the files, sorted.
        why: kind of images, such as `a localizer`, if the series is not a volume; None (default) for a volume. A series
            with missing slices counts as a volume; `read_scan` reports the missing slices.
        damaged: True if the series is not a volume, although its SOP class or many slices in one orientation suggest
            that it should be (default False).

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


@dataclass(frozen=True)
class DicomFolder:
    """DICOM content of a folder, without its subfolders.

    Attributes:
        series: all series, sorted by the names of their first files.
        passed_over: pairs (kind, number of files) for files that are not images. A kind is a modality such as `SR`, or
            `DICOMDIR`, `not DICOM` or `unreadable`.
        unreadable: paths of the files of kind `unreadable`; these may be damaged slices (default: none).

    Example:
        >>> folder = DicomFolder((), (("not DICOM", 2),))
        >>> folder.others()
        '2 file(s) skipped (2 not DICOM)'
    """

    series: tuple[Series, ...]
    passed_over: tuple[tuple[str, int], ...]
    unreadable: tuple[Path, ...] = ()

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


def is_dicom(path: Path) -> bool:
    """Return whether a path is a folder or a DICOM file, and so may identify a DICOM series.

    Args:
        path: path to check; it need not exist.

    Example:
        >>> is_dicom(Path("/nowhere/a.dcm"))
        False
    """
    return path.is_dir() or (path.is_file() and is_dicom_file(path))


def list_series(folder: str | Path) -> list[Series]:
    """Return the DICOM series in a folder, including those that are not volumes.

    Args:
        folder: path of the folder; its subfolders are not searched.

    Raises:
        DataError: the folder cannot be read.

    Example:
        >>> import tempfile
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
    """Return the DICOM series and the skipped files in a folder. Only headers are read.

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
    return _listed(Path(folder))[0]


def series_files(path: Path) -> list[Path]:
    """Return all files of the series that a DICOM file belongs to.

    A file that does not belong to a series is returned alone.

    Args:
        path: path of the DICOM file.

    Raises:
        DataError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.dcm"
        ...     path.touch()
        ...     [file.name for file in series_files(path)]
        ['a.dcm']
    """
    listing, _ = _listed(path.parent)
    return next((list(series.files) for series in listing.series if path.parent / path.name in series.files), [path])


def are_parts(paths: Sequence[Path]) -> tuple[bool, bool]:
    """Return whether several series together form one volume, and whether all their slice positions differ.

    Parts of one volume have different slice positions; copies of a volume have the same. Only headers are read.

    Args:
        paths: paths of the series, as in `Series.path`; all have the same SeriesInstanceUID.

    Returns:
        two bools: True if the series form one volume; True if all slice positions differ. Both are False if a series
        is not a volume or cannot be read.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [Path(folder) / name for name in ("a.dcm", "b.dcm")]
        ...     for path, z in zip(paths, (0, 2)):
        ...         image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...         image.SetMetaData("0008|0060", "CT")
        ...         image.SetOrigin((0, 0, z))
        ...         sitk.WriteImage(image, str(path))
        ...     are_parts(paths), are_parts([paths[0], paths[0]])
        ((True, True), (False, False))
    """
    try:
        images = [image for path in paths for image in _images_of(path)]
    except DataError:
        return False, False
    slices = [plane for image in images for plane in image.slices]
    apart = len({tuple(round(value, 2) for value in plane.position) for plane in slices}) == len(slices)
    if len({(image.columns, image.rows) for image in images}) > 1:
        return False, apart
    try:
        arrange(slices)
    except DataError:
        return False, apart
    return True, apart


def dicom_geometry(path: str | Path) -> Geometry:
    """Return the geometry of a DICOM series. Only headers are read.

    Args:
        path: folder with one series, or any file of a series.

    Raises:
        DataError: the folder cannot be read or does not contain exactly one volume, the file is not part of a volume, a
            file in the folder cannot be read, or the slices do not form a volume.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     dicom_geometry(folder).shape
        (4, 3, 2)
    """
    return _volume(Path(path))[2]


def read_dicom(path: str | Path, dtype: Any) -> tuple[np.ndarray, Geometry]:
    """Read the volume of a DICOM series, with the rescale slope and intercept of each slice applied.

    Args:
        path: folder with one series, or any file of a series.
        dtype: NumPy dtype of the result; None for the smallest dtype that fits all possible values (see `read_values`
            in `segbundle.io.dicom_pixels`).

    Returns:
        array (1, X, Y, Z) and geometry.

    Raises:
        DataError: see `dicom_geometry`; or a file is damaged, or the voxels do not fit into memory.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     array, geometry = read_dicom(folder, np.float32)
        >>> array.shape, array.dtype
        ((1, 4, 3, 2), dtype('float32'))
    """
    images, order, geometry = _volume(Path(path))
    return read_values(images, order, dtype).transpose(2, 1, 0)[None], geometry


def volume_slices(path: str | Path) -> list[tuple[Path, int]]:
    """Return file and frame of each slice of a DICOM volume, in the order of the third array axis.

    Args:
        path: see `dicom_geometry`.

    Returns:
        path of the file, and index of the frame in it (0 for a file with one image), per slice.

    Raises:
        DataError: see `dicom_geometry`.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     [(file.name, frame) for file, frame in volume_slices(folder)]
        [('ct.dcm', 0), ('ct.dcm', 1)]
    """
    images, order, _ = _volume(Path(path))
    planes = [(image.path, plane.frame) for image in images for plane in image.slices]
    return [planes[index] for index in order]


def _volume(path: Path) -> tuple[list[DicomImage], list[int], Geometry]:
    """Return the images of a series, the order of its slices, and the geometry of the volume."""
    images = _images_of(path)
    slices = [plane for image in images for plane in image.slices]
    sizes = {(image.columns, image.rows) for image in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{x} x {y}" for x, y in sorted(sizes)[:3])
        raise DataError(
            f"{path}: its slices have different sizes, {shown}. Export the series again, or put the slices of each "
            "size into a separate folder."
        )
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
        chosen = _only_volume(path, listing)
    else:
        name = folder / path.name
        matches = [series for series in listing.series if name in series.files]
        if not matches:
            raise DataError(f"{path}: is not a DICOM image. Pass a file of a series of images, or its folder.")
        chosen = matches[0]
    if chosen.why is not None:
        raise DataError(
            f"{path}: is not a volume but {chosen.why}. Pass a file of another series, or export this one again."
        )
    if listing.unreadable:
        raise DataError(
            f"{folder}: {len(listing.unreadable)} of its files cannot be read (for instance "
            f"{listing.unreadable[0].name}), so slices may be missing. Copy or export the series again, or remove "
            "these files."
        )
    return [images[file] for file in chosen.files]


def _only_volume(folder: Path, listing: DicomFolder) -> Series:
    volumes = listing.volumes
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        shown = "; ".join(
            f"{series.description or series.modality}, {len(series.files)} file(s): {series.path.name}"
            for series in volumes[:5]
        )
        more = "; ..." if len(volumes) > 5 else ""
        raise DataError(
            f"{folder}: contains {len(volumes)} DICOM series ({shown}{more}). Pass a file of one series, or put each "
            "series in a separate folder."
        )
    others = listing.others()
    raise DataError(
        f"{folder}: contains no DICOM series{f' that is a volume: {others}' if others else ''}. Pass the folder that "
        "directly contains the slices of a scan."
    )


def _listed(folder: Path) -> tuple[DicomFolder, dict[Path, DicomImage]]:
    """Return the content of a folder without hidden files, cached until the name, size or date of a file changes."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(_state(entry) for entry in entries if not (entry.name.startswith(".") or entry.is_dir()))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}). Check the folder and its permissions."
        ) from error
    return _list(folder, tuple(files))


def _state(entry: os.DirEntry[str]) -> tuple[str, int, int]:
    """Return name, size and date of a file; the size is negative for broken links and special files."""
    try:
        found = entry.stat()
    except OSError:
        return entry.name, _BROKEN_LINK, 0
    return entry.name, found.st_size if stat.S_ISREG(found.st_mode) else _NOT_A_FILE, found.st_mtime_ns


@lru_cache(maxsize=4)
def _list(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[DicomFolder, dict[Path, DicomImage]]:
    passed_over: Counter[str] = Counter()
    unreadable: list[Path] = []
    groups: dict[tuple[str, str], list[DicomImage]] = {}
    images: dict[Path, DicomImage] = {}
    empty: list[Path] = []
    for name, size, _ in files:
        found = read_image(folder / name) if size >= 0 else UNREADABLE if size == _BROKEN_LINK else "not DICOM"
        if found == EMPTY:
            empty.append(folder / name)
            continue
        if isinstance(found, str):
            passed_over[found] += 1
            unreadable += [folder / name] if found == UNREADABLE else []
            continue
        images[found.path] = found
        file_name = found.path.name if len(found.slices) > 1 else ""  # a multi-frame file is a separate volume
        groups.setdefault((found.series, file_name or found.why or ""), []).append(found)
    for path in empty:  # empty files are lost slices, unless slices have other names
        is_lost_slice = may_be_slice(path.name) and not any(image.suffix.lower() in DICOM_SUFFIXES for image in images)
        passed_over[UNREADABLE if is_lost_slice else "not DICOM"] += 1
        unreadable += [path] if is_lost_slice else []
    series = [_series(group) for group in groups.values()]
    if sum(entry.why is None for entry in series) == 1:
        series = [entry if entry.why is not None else replace(entry, path=folder) for entry in series]
    series.sort(key=lambda entry: entry.files[0])
    return DicomFolder(tuple(series), tuple(sorted(passed_over.items())), tuple(unreadable)), images


def _series(images: Sequence[DicomImage]) -> Series:
    first = images[0]
    why, slices = first.why, [plane for image in images for plane in image.slices]
    counts, damaged = orientations(slices), first.damaged
    if why is None and len(counts) > 1:
        why = f"{len(slices)} slices in {len(counts)} orientations"
        damaged = counts[0] > _LOCALIZER_SLICES and not first.localizer
        why += f" ({counts[0]} in one of them)" if damaged else ", as in a localizer"
    elif why is None and first.localizer and len(slices) <= _LOCALIZER_SLICES:
        why = "a localizer"
    files = tuple(sorted(image.path for image in images))
    return Series(files[0], first.series, first.description, first.modality, files, why, damaged)
