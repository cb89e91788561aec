"""Read label maps as integers, even if they are stored as floating point."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.classes import IGNORE_INDEX
from segbundle.errors import DataError
from segbundle.io.axes import reoriented
from segbundle.io.dicom import dicom_geometry, is_dicom, read_dicom
from segbundle.io.dicom_folders import Series, list_series
from segbundle.io.dicom_references import is_referenced, referenced_images
from segbundle.io.dicom_segments import SEG, read_dicom_segments
from segbundle.io.geometry import Geometry, Scan
from segbundle.io.label_tables import find_label_table, renumber_by_name
from segbundle.io.nifti import is_nifti
from segbundle.io.scan_files import is_dicom_file, is_segmentation
from segbundle.io.scans import read_scan, unreadable
from segbundle.io.segments import LabelGrid, label_values
from segbundle.io.structure_sets import RTSTRUCT, read_structure_set, referenced_series

_SEGMENT_FIELD = re.compile(r"Segment(\d+)_(\w+):=(.*)")
_ROUNDING = 1e-3
"""Tolerance for integers; scale factors cause rounding errors."""


def read_labels(
    path: str | Path | Sequence[str | Path],
    class_names: Sequence[str] = (),
    grid: Geometry | None = None,
    allow_uneven: bool = False,
) -> Scan:
    """Read a label map as integers; values within 0.001 of an integer are rounded.

    Segments of DICOM SEG, RTSTRUCT and 3D Slicer (`.seg.nrrd`) files get the label values of the classes with their
    names (see `label_values`), on the voxels of the scan. So do the values of BIDS segmentations with a `dseg.tsv` (see
    `segbundle.io.label_tables`).

    Args:
        path: see `read_scan`; or a DICOM SEG or RTSTRUCT file, or a folder that contains only such a file.
        class_names: class names of the task, background first. Without them (default), segments keep their numbers.
        grid: geometry of the image that the label map belongs to. A label map of the same voxels that is stored with
            other axes is reoriented to it, without interpolation (see `segbundle.io.axes`); label maps on other voxels
            are not changed. None (default) keeps the stored axes. Without it, DICOM SEG and RTSTRUCT need the series to
            which they refer, in the same folder, in a folder beside it or below it; without the series, DICOM SEG is
            read on the grid of its own frames.
        allow_uneven: whether to resample label maps of unevenly spaced DICOM series to the even grid of the series (see
            `read_scan`), by nearest neighbor. Default: False, unless `grid` is such a grid.

    Returns:
        scan with an integer array (C, X, Y, Z), or with the stored values if some of them are not integers

    Raises:
        DataError: see `read_scan`; or a segment is not a class of the task, or is not on the grid of the scan.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "seg.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.float32), np.eye(4)), path)
        ...     read_labels(path).array.dtype
        dtype('int32')
    """
    allow_uneven = allow_uneven or (grid is not None and grid.source_slices is not None)
    if isinstance(path, (str, Path)):
        if is_segmentation(str(path)):
            return _read_segments_of_slicer(Path(path), class_names, grid)
        file, kind = dicom_object(Path(path))
        if kind is not None:
            return _read_dicom_object(file, kind, class_names, grid, allow_uneven)
    if allow_uneven and isinstance(path, (str, Path)) and is_dicom(Path(path)):
        label = Scan(*_read_series(Path(path)), Path(path))
    else:
        label = round_labels(read_scan(path, None))
    if class_names and isinstance(path, (str, Path)):
        label = replace(label, array=renumber_by_name(Path(path), label.array, class_names))
    return label if grid is None else reoriented(label, grid)


def dicom_object(path: Path) -> tuple[Path, str | None]:
    """Find out whether a label map is a DICOM SEG or RTSTRUCT file, also as the only file of a folder.

    Args:
        path: path of a file or folder; it need not exist.

    Returns:
        a pair of the path of the file and the UID of its SOP class; the second item is None if the label map is not a
        DICOM SEG or RTSTRUCT

    Example:
        >>> dicom_object(Path("ct_seg.nii.gz"))[1] is None
        True
    """
    file = path
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
        file = files[0] if len(files) == 1 else path
    if is_nifti(file) or not is_dicom_file(file):
        return path, None
    from pydicom import dcmread

    header: Any = dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPClassUID"])
    kind = str(header.get("SOPClassUID") or "")
    return file, kind if kind in (*SEG, RTSTRUCT) else None


def _read_series(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return the label map of a DICOM series of images, on an even grid if its slices are unevenly spaced."""
    try:
        return read_dicom(path, None, allow_uneven=True, nearest=True)
    except DataError:
        raise
    except Exception as error:  # pydicom and SimpleITK raise various exceptions for damaged files
        raise unreadable(path, error) from error


def _read_dicom_object(
    path: Path, kind: str, class_names: Sequence[str], grid: Geometry | None, allow_uneven: bool
) -> Scan:
    try:
        if grid is None and (series := referenced_volume(path, allow_uneven)) is not None:
            grid = dicom_geometry(series, allow_uneven)
        if kind in SEG:
            array, grid = read_dicom_segments(path, class_names, grid)
        elif grid is None:
            raise DataError(
                f"{path}: needs the image series to which it refers. Put the series into its folder or into a folder "
                "next to it."
            )
        else:
            array = read_structure_set(path, class_names, grid)
    except DataError:
        raise
    except Exception as error:  # pydicom raises various exceptions for damaged files
        raise unreadable(path, error) from error
    return Scan(array, grid, path)


def referenced_volume(path: Path, allow_uneven: bool = False) -> Path | None:
    """Return the path of the volume to which a DICOM SEG or RTSTRUCT refers; None if it is not found.

    The folder of the file, the folders directly in it, and the folders beside it are searched. Volumes whose geometry
    cannot be read are skipped. If the file names images, the volume
    contains at least one of them.

    Args:
        path: path of the file.
        allow_uneven: whether the volume may be unevenly spaced (default False).

    Raises:
        Exception: any error of pydicom or the file system for a file that cannot be read.

    Example:
        >>> referenced_volume(Path("export/seg.dcm"))  # doctest: +SKIP
        PosixPath('export/ct')
    """
    wanted = referenced_series(path)
    folder = path.parent
    above = folder / ".." if folder.name in ("", "..") else folder.parent  # pathlib's parent of "." is "."
    folders = [folder, *_folders_in(folder), *_folders_in(above)]
    for folder in dict.fromkeys(folders):
        with suppress(DataError):
            for series in _referenced(path, [own for own in list_series(folder) if own.uid in wanted]):
                dicom_geometry(series.path, allow_uneven)  # another folder may contain a copy without missing slices
                return series.path
    return None


def _referenced(path: Path, found: Sequence[Series]) -> list[Series]:
    """Return the volumes to whose images a file refers, of the volumes of a series; all of them if it names none."""
    volumes = [series for series in found if series.why is None]
    references = referenced_images(path) if volumes else {}
    return [series for series in volumes if not references or is_referenced(series, references)]


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_segments_of_slicer(path: Path, class_names: Sequence[str], grid: Geometry | None) -> Scan:
    """Read a `.seg.nrrd` file. Without segments in its header, it is an ordinary label map."""
    scan = round_labels(read_scan(path, None))
    fields = segment_fields(path)
    if not fields or not np.issubdtype(scan.array.dtype, np.integer):
        return scan
    names = {index: field.get("Name", "") for index, field in fields.items()}
    numbers = {index: int(field.get("LabelValue", 1)) for index, field in fields.items()}
    values = label_values(path, names, class_names) if class_names else numbers
    undescribed = set(np.unique(scan.array).tolist()) - {0, *numbers.values()}
    if undescribed:
        raise DataError(
            f"{path}: contains the label value {min(undescribed)}, but no segment has it. Save it again with 3D Slicer."
        )
    labels = LabelGrid(path, scan.geometry)
    for index, field in fields.items():
        layer = scan.array[int(field.get("Layer", index if len(scan.array) > 1 else 0))]
        value = values[index] if names[index] else numbers[index]
        labels.add(layer == numbers[index], labels.labels, value)
    described = labels.finish()
    geometry = replace(scan.geometry, channels=1)
    if grid is None or grid.difference(geometry) is None:
        return Scan(described, geometry, path)
    from scipy import ndimage

    placed = LabelGrid(path, replace(grid, source_slices=None))
    box = ndimage.find_objects((described[0] > 0).astype(np.uint8))
    for inside in box:
        affine = geometry.affine.copy()
        affine[:3, 3] = (geometry.affine @ [*(part.start for part in inside), 1])[:3]
        found = described[0][inside]
        placed.place(affine, found.shape)[...] = found
    return Scan(placed.finish(), grid, path)


def segment_fields(path: Path) -> dict[int, dict[str, str]]:
    """Return the fields of each segment in the header of a `.seg.nrrd` file.

    Args:
        path: path of the file.

    Returns:
        for each index of a segment, in ascending order, a mapping from field names such as `Name` or `LabelValue` to
        text; empty if the header describes no segments

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> segment_fields(Path("ct.seg.nrrd"))[0]["Name"]  # doctest: +SKIP
        'liver'
    """
    fields: dict[int, dict[str, str]] = {}
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                break
            found = _SEGMENT_FIELD.fullmatch(line.decode("utf-8", "replace").rstrip("\r\n"))
            if found is not None:
                fields.setdefault(int(found[1]), {})[found[2]] = found[3].replace("\\\\", "\\")
    return dict(sorted(fields.items()))


def as_loaded(label: Scan, loaded: Mapping[int, int] | None, ignore_label: int | None = None) -> Scan:
    """Replace the label values of a file by the class indices of a task, and `ignore_label` by `IGNORE_INDEX` (255).

    Args:
        label: label map (1, X, Y, Z) with an integer dtype.
        loaded: class index by label value; label values that are not listed become background. None keeps all values
            except `ignore_label`.
        ignore_label: value of voxels whose class is unknown. Default: None (no such voxels).

    Returns:
        a new label map, uint8 if `loaded` is given, else of the same dtype; `label` itself if nothing is replaced

    Raises:
        DataError: `loaded` is given, but the label map has segments with names (see `has_named_segments`).

    Example:
        >>> label = Scan(np.array([[[[0, 5, 2, 9]]]]), Geometry((1, 1, 4), np.eye(4)), Path("seg.nii"))
        >>> as_loaded(label, {5: 1, 2: 2}, ignore_label=9).array.ravel()
        array([  0,   1,   2, 255], dtype=uint8)
    """
    if loaded is None:
        if ignore_label is None:
            return label
        return replace(label, array=np.where(label.array == ignore_label, IGNORE_INDEX, label.array))
    if has_named_segments(label.path):
        raise DataError(
            f"{label.path}: its segments have names, so their values cannot be chosen with classes or by dataset.json. "
            "Convert it to NIfTI with `segbundle convert`, or remove classes."
        )
    unknown = {} if ignore_label is None else {ignore_label: IGNORE_INDEX}
    changed = np.zeros_like(label.array, np.uint8)
    for value, new in {**loaded, **unknown}.items():
        if new:
            changed[label.array == value] = new
    return replace(label, array=changed)


def has_named_segments(path: Path) -> bool:
    """Return whether a label map has segments with names: DICOM SEG, RTSTRUCT, `.seg.nrrd`, or BIDS with `dseg.tsv`.

    Args:
        path: path of the label map.

    Example:
        >>> has_named_segments(Path("ct_seg.nii.gz")), has_named_segments(Path("ct.seg.nrrd"))
        (False, True)
    """
    return is_segmentation(str(path)) or find_label_table(path) is not None or dicom_object(path)[1] is not None


def round_labels(label: Scan) -> Scan:
    """Convert a floating-point label map to int32; return it unchanged if some values are not integers.

    Values within 0.001 of an integer are rounded. NaN, and values outside the range of int32, are not integers. A label
    map with an integer dtype is returned unchanged.

    Args:
        label: label map (C, X, Y, Z) of any dtype.

    Example:
        >>> from segbundle.io.scans import Geometry
        >>> label = Scan(np.full((1, 2, 1, 1), 0.9999), Geometry((2, 1, 1), np.eye(4)), Path("seg.nii"))
        >>> round_labels(label).array.ravel()
        array([1, 1], dtype=int32)
    """
    values = label.array
    if np.issubdtype(values.dtype, np.integer):
        return label
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(values).astype(np.int32)
        if not (np.abs(values - rounded) <= _ROUNDING).all():  # False for NaN and values outside int32
            return label
    return replace(label, array=rounded)
