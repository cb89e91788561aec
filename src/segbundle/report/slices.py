"""Slices of a scan with the contours of predictions and references, as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup, escape

from segbundle.classes import IGNORE_INDEX
from segbundle.errors import DataError
from segbundle.io.label_maps import as_loaded, read_labels
from segbundle.io.scans import Geometry, Scan, read_scan
from segbundle.report.colors import color_class, style_of
from segbundle.results.case_files import CaseFiles

_MARGIN_MM = 12.0
_MAX_PIXELS = 320  # along the longer side of a slice
_JPEG_QUALITY = 75
_MAX_CONTOUR_POINTS = 1500
_BARS_MM = (1, 2, 5, 10, 20, 50, 100)
_PERCENTILES = (0.5, 99.5)  # of a slice, shown as black and white
_AXES = ("RL", "AP", "SI")
_PLANES = (
    ("axial", 2, ("R", "L", "A", "P")),
    ("coronal", 1, ("R", "L", "S", "I")),
    ("sagittal", 0, ("A", "P", "S", "I")),
)
"""Name, normal axis in RAS, and the labels of the left, right, top and bottom side (radiological convention)."""


@dataclass(frozen=True)
class CaseVolumes:
    """Volumes of a case in RAS orientation.

    Attributes:
        scan: first channel (X, Y, Z), float32.
        reference: integer label map of the same shape; background everywhere if the case has no reference.
        prediction: integer label map of the same shape.
        known: boolean mask of the same shape: True for voxels whose class is known.
        affine: matrix (4, 4) from voxel indices to mm.
        window: intensities (lower, upper) that are shown as black and white. None for the 0.5th and 99.5th percentile
            of each slice.
        regions: loaded values of each class, see `segbundle.class_values.regions`; None (default) if the value of a
            class is its index.

    Example:
        >>> label = np.zeros((8, 8, 8), np.uint8)
        >>> volumes = CaseVolumes(np.zeros((8, 8, 8)), label, label, label == 0, np.diag([2.0, 1.0, 1.0, 1.0]))
        >>> volumes.spacing.tolist()
        [2.0, 1.0, 1.0]
    """

    scan: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    known: np.ndarray
    affine: np.ndarray
    window: Sequence[float] | None = None
    regions: Sequence[Sequence[int]] | None = None

    def mask(self, labels: np.ndarray, index: int) -> np.ndarray:
        """Return the mask of a class in a label map: a boolean array of the same shape.

        Args:
            labels: label map (X, Y, Z) of the case.
            index: class index, 0 for the background.
        """
        return labels == index if self.regions is None else np.isin(labels, self.regions[index])

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along each axis."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @classmethod
    def read(
        cls,
        files: CaseFiles,
        window: Sequence[float] | None = None,
        class_names: Sequence[str] = (),
        regions: Sequence[Sequence[int]] | None = None,
    ) -> CaseVolumes:
        """Read the files of a case and reorient them to RAS.

        Args:
            files: files of the case.
            window: intensities (lower, upper) that are shown as black and white. Default: the 0.5th and 99.5th
                percentile of each slice.
            class_names: class names, background first, for label maps with named segments. Default: none.
            regions: loaded values of each class, see `segbundle.class_values.regions`. Default: None.

        Raises:
            DataError: a file cannot be read, the files are on different grids, or a label map has values that are not
                integers.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     for name, dtype in (("a.nii.gz", np.float32), ("a_seg.nii.gz", np.uint8)):
            ...         nib.save(nib.Nifti1Image(np.ones((4, 4, 4), dtype), np.eye(4)), f"{folder}/{name}")
            ...     CaseVolumes.read(CaseFiles(f"{folder}/a.nii.gz", None, f"{folder}/a_seg.nii.gz")).scan.shape
            (4, 4, 4)
        """
        image = files.first_image
        scan = read_scan(image, allow_uneven=True)
        prediction = reference = _read_labels(files.prediction, scan.geometry, class_names)
        if files.reference is not None:
            reference = _read_labels(files.reference, scan.geometry, class_names)
            reference = as_loaded(reference, files.label_values, files.ignore_label)
        for path, other in ((files.reference, reference), (image, scan)):
            difference = prediction.geometry.difference(other.geometry)
            if difference:
                raise DataError(
                    f"{files.prediction} and {path} are on different grids ({difference}). Predict or evaluate this "
                    "case again."
                )
        labels = _to_ras(reference)
        if files.reference is None:
            labels = np.broadcast_to(np.uint8(0), labels.shape)  # uses no memory
        known = np.broadcast_to(np.True_, labels.shape)
        if files.ignore_label is not None:
            known = labels != IGNORE_INDEX
        affine = nib.as_closest_canonical(_image(scan)).affine
        return cls(_to_ras(scan), labels, _to_ras(prediction), known, affine, window, regions)

    def read_another(self, path: str) -> np.ndarray:
        """Read another prediction of the same case and reorient it to RAS.

        Args:
            path: path of the label map.

        Returns:
            integer label map (X, Y, Z)

        Raises:
            DataError: the file cannot be read, is on a different grid, or has values that are not integers.
        """
        other = _read_labels(path)
        labels, affine = _to_ras(other), nib.as_closest_canonical(_image(other)).affine
        (x, y, z), mine = labels.shape, self.prediction.shape
        difference = Geometry((x, y, z), affine).difference(Geometry((mine[0], mine[1], mine[2]), self.affine))
        if difference:
            raise DataError(
                f"{path} and the prediction of the first run are on different grids ({difference}). Repeat both runs "
                "with the same scan."
            )
        return labels


def _read_labels(path: str, grid: Geometry | None = None, class_names: Sequence[str] = ()) -> Scan:
    """Return a label map as integers; integers that were saved as floating point are converted."""
    scan = read_labels(path, class_names, grid, allow_uneven=True)
    if not np.issubdtype(scan.array.dtype, np.integer):
        raise DataError(
            f"{path} is not a label map: it contains non-integer values. If it was resampled, use nearest-neighbor "
            "interpolation."
        )
    return scan


def _image(scan: Scan) -> Any:
    return nib.Nifti1Image(scan.array[0], scan.geometry.affine, dtype=scan.array.dtype)


def _to_ras(scan: Scan) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(_image(scan)).dataobj)


def worst_slices(volumes: CaseVolumes, index: int) -> Iterator[Markup]:
    """Yield for each of the three planes the slice with the most wrong voxels of a class.

    If there are no wrong voxels, the slice with the most voxels of the class is shown. Voxels of unknown class are
    ignored. Slices are cropped to the extent of the class in the whole volume, with a margin. The contours of reference
    and prediction have the CSS classes `ref` and `pred`, and that of the prediction the color of the class.

    Args:
        volumes: volumes of the case.
        index: index of the class.

    Yields:
        HTML figures with an SVG in mm, and the position of the slice as a caption. Nothing is yielded if the class is
        absent from both reference and prediction.

    Example:
        >>> label = np.zeros((8, 8, 8), np.uint8)
        >>> label[2:5, 2:5, 2:5] = 1
        >>> volumes = CaseVolumes(np.zeros((8, 8, 8)), label, label, label >= 0, np.eye(4))
        >>> next(worst_slices(volumes, 1)).startswith('<figure class="plane">')
        True
    """
    reference = volumes.mask(volumes.reference, index)
    prediction = volumes.mask(volumes.prediction, index) & volumes.known
    union, errors = reference | prediction, reference != prediction
    if not union.any():
        return
    counted = errors if errors.any() else union
    positions = [_argmax(counted.sum(axis=_other_axes(axis))) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, positions, union):
        outlines = [("ref", reference[picked]), (f"pred {color_class(index)}", prediction[picked])]
        yield _draw(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def changed_slices(volumes: CaseVolumes, index: int, other: np.ndarray) -> Iterator[Markup]:
    """Yield for each of the three planes the slice in which two predictions of a class differ in the most voxels.

    Voxels of unknown class are ignored. The contours of the reference, the first prediction and the second prediction
    have the CSS classes `ref`, `pred` and `other`, and those of the predictions the color of the class.

    Args:
        volumes: volumes of the case, with the first prediction.
        index: index of the class.
        other: mask (X, Y, Z) of the class in the second prediction.

    Yields:
        figures as in `worst_slices`. Nothing is yielded if the predictions are equal.

    Example:
        >>> label = np.zeros((8, 8, 8), np.uint8)
        >>> label[2:5, 2:5, 2:5] = 1
        >>> volumes = CaseVolumes(np.zeros((8, 8, 8)), label, label, label >= 0, np.eye(4))
        >>> len(list(changed_slices(volumes, 1, np.roll(label, 1, axis=0) == 1)))
        3
    """
    reference = volumes.mask(volumes.reference, index)
    before, after = ((mask & volumes.known) for mask in (volumes.mask(volumes.prediction, index), other))
    changed = before != after
    if not changed.any():
        return
    positions = [_argmax(changed.sum(axis=_other_axes(axis))) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, positions, reference | before | after):
        color = color_class(index)
        outlines = [("ref", reference[picked]), (f"pred {color}", before[picked]), (f"other {color}", after[picked])]
        yield _draw(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def overview_slices(volumes: CaseVolumes, num_classes: int, focus: np.ndarray | None = None) -> Iterator[Markup]:
    """Yield one slice of a prediction for each of the three planes.

    The slice with the most voxels of `focus` is shown. Without `focus`, or if the mask is empty, the slice with the
    most classes is shown; if there are several such slices, the slice with the most foreground among these. For an
    empty prediction, the central slice is shown.

    Args:
        volumes: volumes of the case.
        num_classes: number of classes, including background.
        focus: boolean mask (X, Y, Z) of the voxels to show. Default: None.

    Yields:
        figures as in `worst_slices`. The contour of class i has the CSS classes `style_of(i)`.

    Example:
        >>> label = np.zeros((8, 8, 8), np.uint8)
        >>> volumes = CaseVolumes(np.zeros((8, 8, 8)), label, label, label >= 0, np.eye(4))
        >>> len(list(overview_slices(volumes, 2)))
        3
    """
    shown = volumes.prediction > 0
    if not shown.any():
        shown, positions = np.ones_like(shown), [size // 2 for size in shown.shape]
    elif focus is not None and focus.any():
        positions = [_argmax(focus.sum(axis=_other_axes(axis))) for axis in range(3)]
    else:
        positions = [_slice_with_most_classes(volumes.prediction, axis, num_classes) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, positions, shown):
        labels = volumes.prediction[picked]
        outlines = [(style_of(index), labels == index) for index in range(1, num_classes) if (labels == index).any()]
        yield _draw(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def where_to_look(labels: np.ndarray, classes: Collection[int], at_edge: Collection[int]) -> np.ndarray:
    """Return the mask of the voxels that warnings refer to: whole classes, or their voxels at the edge of the scan.

    Args:
        labels: label map (X, Y, Z) of class indices.
        classes: indices of the classes whose voxels are all included.
        at_edge: indices of the classes of which only the outermost voxels of the scan are included.

    Returns:
        boolean mask (X, Y, Z)

    Example:
        >>> int(where_to_look(np.ones((4, 4, 4), np.uint8), [], [1]).sum())  # 64 voxels, 8 of them inside
        56
    """
    edge = np.ones(labels.shape, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    return np.isin(labels, list(classes)) | (edge & np.isin(labels, list(at_edge)))


def _argmax(counts: np.ndarray) -> int:
    """Return the position of the maximum, or the middle position if there are several maxima."""
    positions = np.flatnonzero(counts == counts.max())
    return int(positions[len(positions) // 2])


def _slice_with_most_classes(labels: np.ndarray, axis: int, num_classes: int) -> int:
    """Return the position of the slice with the most classes, and among equal slices with the most foreground."""
    slices = np.moveaxis(labels, axis, 0)
    counts = [np.bincount(each.ravel(), minlength=num_classes)[1:] for each in slices]
    return max(range(len(counts)), key=lambda position: ((counts[position] > 0).sum(), counts[position].sum()))


def _other_axes(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _planes(
    volumes: CaseVolumes, positions: Sequence[int], shown: np.ndarray
) -> Iterator[tuple[Any, np.ndarray, str, Any]]:
    """Yield for each plane the slice at a position, cropped to a mask with a margin.

    Yields:
        index of the slice in the volumes, its spacing in mm, its title, and the labels of its four sides
    """
    box = [_crop(shown, axis, volumes.spacing[axis]) for axis in range(3)]
    for name, normal, letters in _PLANES:
        picked = tuple(positions[normal] if axis == normal else box[axis] for axis in range(3))
        center = [
            positions[normal] if axis == normal else (box[axis].start + box[axis].stop - 1) / 2 for axis in range(3)
        ]
        position_mm = (volumes.affine @ [*center, 1.0])[normal]
        title = f"{name}, {_AXES[normal][int(position_mm < 0)]} {abs(position_mm):.1f} mm"
        yield picked, volumes.spacing[list(_other_axes(normal))], title, letters


def _crop(mask: np.ndarray, axis: int, spacing: float) -> slice:
    """Return the extent of a mask along an axis, with a margin."""
    positions = np.flatnonzero(mask.any(axis=_other_axes(axis)))
    margin = int(np.ceil(max(_MARGIN_MM / spacing, 0.25 * (positions[-1] - positions[0]))))
    return slice(max(int(positions[0]) - margin, 0), min(int(positions[-1]) + margin + 1, mask.shape[axis]))


def _draw(
    scan: np.ndarray,
    window: Sequence[float] | None,
    outlines: Sequence[tuple[str, np.ndarray]],
    spacing: np.ndarray,
    title: str,
    letters: Any,
) -> Markup:
    width, height = np.array(scan.shape) * spacing
    left, right, top, bottom = letters
    center_x, center_y, size = width / 2, height / 2, max(width, height) / 14
    sides = (
        (left, size * 0.6, center_y), (right, width - size * 0.6, center_y),
        (top, center_x, size), (bottom, center_x, height - size * 0.3),
    )  # fmt: skip
    style = f'class="side" style="font-size:{size:.2f}px" text-anchor="middle"'
    parts = [
        '<figure class="plane">'
        f'<svg class="slice" viewBox="0 0 {width:.2f} {height:.2f}" role="img"><title>{escape(title)}</title>',
        f'<image href="{_jpeg(scan, window)}" width="{width:.2f}" height="{height:.2f}" preserveAspectRatio="none"/>',
        *(f'<text {style} x="{x:.2f}" y="{y:.2f}">{letter}</text>' for letter, x, y in sides),
        *(f'<path class="{kind}" d="{_contour(mask, spacing)}"/>' for kind, mask in outlines),
        _scale_bar(width, height, size),
        f"</svg><figcaption>{escape(title)}</figcaption></figure>",
    ]
    return Markup("".join(parts))


def _scale_bar(width: float, height: float, size: float) -> str:
    """Return a scale bar at the lower left, at most a third of the slice wide, labeled with its length in mm."""
    length = max([bar for bar in _BARS_MM if bar <= width / 3], default=_BARS_MM[0])
    left, below = size * 0.4, height - size * 0.4
    return (
        f'<path class="bar" d="M{left:.2f} {below:.2f}h{length:g}"/>'
        f'<text class="side" style="font-size:{0.7 * size:.2f}px" x="{left:.2f}" y="{below - 0.3 * size:.2f}">'
        f"{length:g} mm</text>"
    )


def _jpeg(scan: np.ndarray, window: Sequence[float] | None) -> str:
    """Return a slice as a data URL with a JPEG; the first axis points left, the second up."""
    from PIL import Image

    known = scan[np.isfinite(scan)]
    low, high = window if window is not None else np.percentile(known, _PERCENTILES) if known.size else (0.0, 1.0)
    gray = np.clip((np.nan_to_num(scan, nan=low) - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(gray[::-1, ::-1].T))
    picture.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _contour(mask: np.ndarray, spacing: np.ndarray) -> str:
    """Return the contour of a mask as an SVG path in mm, oriented as in `_jpeg`.

    Masks with very long contours are subsampled by 2.
    """
    from contourpy import contour_generator

    padded = np.pad(mask[::-1, ::-1], 1).astype(np.float32)
    lines = [_without_collinear_points(np.asarray(line)) for line in contour_generator(z=padded.T).lines(0.5)]
    if sum(map(len, lines)) > _MAX_CONTOUR_POINTS and min(mask.shape) > 2:
        return _contour(mask[::2, ::2], 2 * spacing)
    return "".join("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in (line - 0.5) * spacing) + "Z" for line in lines)


def _without_collinear_points(line: np.ndarray) -> np.ndarray:
    """Return a closed polygon (N, 2) without points on straight edges."""
    line = line[:-1]
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    return np.asarray(line[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6])
