"""Reading of DICOM volumes, each identified by a path (see `segbundle.io.dicom_folders`).

pydicom reads headers and uncompressed voxels; SimpleITK's GDCM decompresses compressed voxels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom_folders import DicomFolder, Series, find_scattered, list_folder
from segbundle.io.dicom_headers import DicomImage
from segbundle.io.dicom_pixels import check_complete, read_values
from segbundle.io.geometry import Geometry
from segbundle.io.scan_files import is_dicom_file, is_volume_path
from segbundle.io.stacks import Slice, arrange
from segbundle.io.uneven_slices import EvenGrid, even_grid, resample_slices

_logger = logging.getLogger(__name__)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_resampled: set[Path] = set()
"""Series about whose resampling a warning was logged."""


class _Volume(NamedTuple):
    """Volume of a series: headers, order of the slices, geometry, and the grid of unevenly spaced slices."""

    images: tuple[DicomImage, ...]
    order: list[int]
    geometry: Geometry
    grid: EvenGrid | None


def is_dicom(path: Path) -> bool:
    """Return whether a path may identify a DICOM volume: a folder, a DICOM file, or a path of a volume in a file.

    Args:
        path: path to check; the path need not exist.

    Example:
        >>> is_dicom(Path("/nowhere/a.dcm"))
        False
    """
    return path.is_dir() or is_volume_path(path) or (path.is_file() and is_dicom_file(path))


def series_files(path: Path) -> list[Path]:
    """Return the files of the volume that a path identifies, or only the path if it does not identify a volume.

    Args:
        path: DICOM file, or path of a volume.

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
    found = _matches(path)
    return list(found[0].files) if found else [path]


def find_series(path: str | Path) -> Series | None:
    """Return the DICOM series or volume that a path identifies; None if the path does not identify exactly one.

    For a folder, this is the only volume in it. For a file, this is the series of the file, even if the series is not a
    volume (see `Series.why`). None is returned for other formats, and for a folder or a multi-frame file with several
    volumes.

    Args:
        path: path of a scan in any format, or path of a volume (see `segbundle.io.dicom_folders`).

    Raises:
        DataError: a folder cannot be read.

    Example:
        >>> find_series("/nowhere/ct.nii.gz") is None
        True
    """
    path = Path(path)
    if not is_dicom(path):
        return None
    found = list_folder(path).volumes if path.is_dir() else _matches(path)
    return found[0] if len(found) == 1 else None


def dicom_geometry(path: str | Path, allow_uneven: bool = False) -> Geometry:
    """Return the geometry of a DICOM volume. Only headers are read.

    Args:
        path: folder with one volume, any file of a series, or path of a volume (see `segbundle.io.dicom_folders`).
        allow_uneven: whether to return the even grid of a series with missing slices or a variable slice spacing, see
            `read_dicom`. Default: False.

    Raises:
        DataError: the folder cannot be read or does not contain exactly one volume, the file is not part of a volume, a
            file in the folder cannot be read or is truncated, or the slices do not form a volume.

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
    return _volume(Path(path), allow_uneven).geometry


def read_dicom(
    path: str | Path, dtype: Any, allow_uneven: bool = False, nearest: bool = False
) -> tuple[np.ndarray, Geometry]:
    """Read the volume of a DICOM series, with the rescale slope and intercept of each slice applied.

    Args:
        path: see `dicom_geometry`.
        dtype: NumPy dtype of the result; None for the smallest dtype that fits all possible values (see `read_values`
            in `segbundle.io.dicom_pixels`), or a floating-point dtype for series that are resampled linearly.
        allow_uneven: whether to resample a series with missing slices or a variable slice spacing to an even spacing
            along the third axis, see `even_grid` in `segbundle.io.uneven_slices`. A warning is logged once per series.
            Default: False (such a series raises an error).
        nearest: whether to resample by nearest neighbor instead of linearly, as for label maps. Default: False.

    Returns:
        a pair of the array (1, X, Y, Z) of the dtype `dtype`, and its geometry

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
    volume = _volume(Path(path), allow_uneven)
    if volume.grid is None:
        values = read_values(volume.images, volume.order, dtype)
    else:
        _warn_about_resampling(Path(path), volume.geometry)
        values = read_values(volume.images, volume.order, None)
        values = resample_slices(Path(path), values, volume.grid, dtype, nearest)
    return values.transpose(2, 1, 0)[None], volume.geometry


def _warn_about_resampling(path: Path, geometry: Geometry) -> None:
    gaps = geometry.source_gaps
    if path in _resampled or gaps is None:
        return
    _resampled.add(path)
    _logger.warning(
        "%s: its slices are %.4g to %.4g mm apart; they are resampled to %d slices with a spacing of %.4g mm "
        "(allow_uneven)",
        path, *gaps, geometry.shape[2], geometry.spacing[2],
    )  # fmt: skip


def volume_slices(path: str | Path) -> list[tuple[Path, int]]:
    """Return file and frame of each slice of a DICOM volume, in the order of the third array axis.

    The slices of a series may be unevenly spaced.

    Args:
        path: see `dicom_geometry`.

    Returns:
        for each slice, the path of the file and the index of the frame in the file (0 for a file with one image)

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
    volume = _volume(Path(path), allow_uneven=True)
    planes = [(image.path, plane.frame) for image in volume.images for plane in image.slices]
    return [planes[index] for index in volume.order]


def _volume(path: Path, allow_uneven: bool) -> _Volume:
    images = _images_of(path)
    slices = [plane for image in images for plane in image.slices]
    sizes = {(image.columns, image.rows) for image in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{x} x {y}" for x, y in sorted(sizes)[:3])
        raise DataError(
            f"{path}: its slices have different sizes, {shown}. Export the series again, or put the slices of each "
            "size into a separate folder."
        )
    for image in images:
        check_complete(image)
    columns, rows = sizes.pop()
    try:
        order, affine = arrange(slices)
    except DataError as error:
        grid = _even_grid(path, slices, allow_uneven, error)
        geometry = Geometry((columns, rows, grid.count), _LPS_TO_RAS @ grid.affine, source_slices=grid.source_slices)
        return _Volume(images, grid.order, geometry, grid)
    return _Volume(images, order, Geometry((columns, rows, len(slices)), _LPS_TO_RAS @ affine), None)


def _even_grid(path: Path, slices: list[Slice], allow_uneven: bool, problem: DataError) -> EvenGrid:
    """Return an even grid for slices that are not evenly spaced, or raise an error with the problem."""
    repair = "Export the series again, or convert it to NIfTI."
    try:
        grid = even_grid(slices)
    except DataError as error:
        raise DataError(f"{path}: {error if allow_uneven else problem} {repair}") from error
    if grid.is_unchanged:
        raise DataError(f"{path}: {problem} {repair}") from problem
    if not allow_uneven:
        raise DataError(
            f"{path}: {problem} Export the series again, or resample its slices to an even spacing with --allow_uneven "
            "true."
        ) from problem
    return grid


def _images_of(path: Path) -> tuple[DicomImage, ...]:
    """Return the images of the volume that a path identifies."""
    if path.is_dir():
        chosen = _only_volume(path, list_folder(path))
    else:
        matches = _matches(path)
        if not matches:
            kind = "a volume of a DICOM series" if is_volume_path(path) else "a DICOM image"
            raise DataError(f"{path}: is not {kind}. Pass a file of a series of images, or its folder.")
        chosen = matches[0]
        if len(matches) > 1:
            raise DataError(f"{path}: contains {len(matches)} volumes. Pass one of {_shown(path.parent, matches)}.")
    if chosen.why is not None:
        raise DataError(
            f"{path}: is not a volume but {chosen.why}. Pass a file of another series, or export this one again."
        )
    if chosen.lacking:
        raise DataError(
            f"{path}: {chosen.volume} lacks {chosen.lacking} slice(s) at its ends that most other volumes have. "
            "Copy or export the series again."
        )
    if chosen.incomplete:
        raise DataError(
            f"{path}: has {chosen.incomplete} of the concatenation (InConcatenationNumber), so slices are missing. "
            "Copy or export the series again."
        )
    if chosen.unreadable:
        first = chosen.unreadable[0]
        raise DataError(
            f"{first.path.parent}: {len(chosen.unreadable)} of its files cannot be read (for instance "
            f"{first.path.name}, which {first.reason}), so slices may be missing. Copy or export the series again, or "
            "remove these files."
        )
    return chosen.images


def _matches(path: Path) -> list[Series]:
    """Return the volume that a path other than that of a folder identifies, or all volumes of a multi-frame file."""
    if not is_volume_path(path):
        name = path.parent / path.name
        return [series for series in list_folder(path.parent).series if name in series.files]
    if path.parent.is_dir():
        found = find_scattered(path)
        return [] if found is None else [found]
    return [series for series in list_folder(path.parent.parent).series if series.path == path]


def _only_volume(folder: Path, listing: DicomFolder) -> Series:
    volumes = listing.volumes
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        raise DataError(
            f"{folder}: contains {len(volumes)} DICOM volumes ({_shown(folder, volumes)}). Pass the path of one of "
            "them, or put each series in a separate folder."
        )
    others = listing.others()
    raise DataError(
        f"{folder}: contains no DICOM series{f' that is a volume: {others}' if others else ''}. Pass the folder that "
        "directly contains the slices of a scan."
    )


def _shown(folder: Path, volumes: list[Series]) -> str:
    """Return modality, SeriesNumber, label, number of files and path of the first volumes as text."""
    lines = []
    for series in volumes[:5]:
        number = f"series {series.number}" if series.number else ""
        name = " ".join(filter(None, (series.modality, number, series.volume)))
        lines.append(f"{name}, {len(series.files)} file(s): {series.path.relative_to(folder)}")
    return "; ".join([*lines, *(["..."] if len(volumes) > 5 else [])])
