"""The slices of a scan that show best what is wrong with a prediction, as SVG with contours."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup, escape

from segbundle.errors import DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import Geometry, Scan, read_scan
from segbundle.report.colors import style_of
from segbundle.results.case_files import CaseFiles

_MARGIN_MM = 12.0
_LONGEST = 320  # pixels of a picture's side
_QUALITY = 75
_MOST_CORNERS = 1500  # of an outline
_BARS_MM = (1, 2, 5, 10, 20, 50, 100)
_WHOLE = (0.5, 99.5)  # percentiles of a slice that are black and white
_AXES = ("RL", "AP", "SI")
_PLANES = (
    ("axial", 2, ("R", "L", "A", "P")),
    ("coronal", 1, ("R", "L", "S", "I")),
    ("sagittal", 0, ("A", "P", "S", "I")),
)
"""Name, the axis across it in RAS, and what is to the left, to the right, on top and at the bottom of the picture: as
radiologists look at it."""


@dataclass(frozen=True)
class CaseVolumes:
    """A case in RAS orientation: scan (X, Y, Z) float32, label maps of the same shape, and the affine (4, 4) in mm.

    Without a reference, `reference` is background, and all of it is known. `window` is which intensities are black and
    white in pictures; None for those of the slice that is shown.
    """

    scan: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    known: np.ndarray
    affine: np.ndarray
    window: Sequence[float] | None = None

    @property
    def spacing(self) -> np.ndarray:
        """Size of a voxel in mm along each axis."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @classmethod
    def read(cls, files: CaseFiles, window: Sequence[float] | None = None) -> CaseVolumes:
        """Read a case's files.

        Args:
            files: where they are.
            window: intensities that are black and white in its pictures.

        Raises:
            DataError: one cannot be read, they do not lie on the same voxels, or a label map holds fractions.
        """
        image = files.first_image
        scan, prediction = read_scan(image), _read_labels(files.prediction)
        reference = prediction if files.reference is None else _read_labels(files.reference)
        for path, other in ((files.reference, reference), (image, scan)):
            difference = prediction.geometry.difference(other.geometry)
            if difference:
                raise DataError(f"{files.prediction}: does not lie on the voxels of {path} ({difference}).")
        labels = _canonical(reference)
        if files.reference is None:
            labels = np.broadcast_to(np.uint8(0), labels.shape)  # takes no memory
        known = np.broadcast_to(np.True_, labels.shape)
        if files.ignore_label is not None:
            known = labels != files.ignore_label
        affine = nib.as_closest_canonical(_image(scan)).affine
        return cls(_canonical(scan), labels, _canonical(prediction), known, affine, window)

    def read_another(self, path: str) -> np.ndarray:
        """Another prediction of the case, as integers (X, Y, Z) in RAS orientation.

        Raises:
            DataError: it cannot be read, or does not lie on the case's voxels.
        """
        other = _read_labels(path)
        labels, affine = _canonical(other), nib.as_closest_canonical(_image(other)).affine
        (x, y, z), mine = labels.shape, self.prediction.shape
        difference = Geometry((x, y, z), affine).difference(Geometry((mine[0], mine[1], mine[2]), self.affine))
        if difference:
            raise DataError(f"{path}: does not lie on the voxels of the first run's prediction ({difference}).")
        return labels


def _read_labels(path: str) -> Scan:
    """A label map as integers, also if a program has saved it as floating point."""
    scan = read_labels(path)
    if not np.issubdtype(scan.array.dtype, np.integer):
        raise DataError(f"{path}: holds fractions, and is no label map.")
    return scan


def _image(scan: Scan) -> Any:
    return nib.Nifti1Image(scan.array[0], scan.geometry.affine, dtype=scan.array.dtype)


def _canonical(scan: Scan) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(_image(scan)).dataobj)


def worst_slices(volumes: CaseVolumes, index: int) -> Iterator[Markup]:
    """For each plane the slice with most voxels of a class that are wrong; of a perfect prediction the largest one.

    Contours are of the reference (class `ref`) and the prediction (`pred`); what is drawn reaches a little beyond the
    whole structure, not just the slice.

    Args:
        volumes: the case.
        index: of the class.

    Yields:
        a picture as SVG, in mm, and in words which slice it is: of a patient who lies straight, the position in mm.
    """
    reference, prediction = volumes.reference == index, (volumes.prediction == index) & volumes.known
    either, wrong = reference | prediction, reference != prediction
    if not either.any():
        return
    counted = wrong if wrong.any() else either
    places = [_middle_of_most(counted.sum(axis=_others(axis))) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, places, either):
        outlines = [("ref", reference[picked]), ("pred", prediction[picked])]
        yield _picture(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def changed_slices(volumes: CaseVolumes, index: int, other: np.ndarray) -> Iterator[Markup]:
    """For each plane the slice in which two predictions of a class differ in most voxels.

    Contours are of the reference (class `ref`), the prediction (`pred`) and the other one (`other`).

    Args:
        volumes: the case.
        index: of the class.
        other: bool (X, Y, Z), where the other prediction has the class.

    Yields:
        as `worst_slices`; nothing if they differ nowhere.
    """
    reference = volumes.reference == index
    before, after = ((one & volumes.known) for one in (volumes.prediction == index, other))
    changed = before != after
    if not changed.any():
        return
    places = [_middle_of_most(changed.sum(axis=_others(axis))) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, places, reference | before | after):
        outlines = [("ref", reference[picked]), ("pred", before[picked]), ("other", after[picked])]
        yield _picture(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def overview_slices(volumes: CaseVolumes, num_classes: int, focus: np.ndarray | None = None) -> Iterator[Markup]:
    """For each plane the slice with most classes, of those with most voxels, or the one with most of what matters.

    Args:
        volumes: the case; its prediction is shown. Of one without any class the slices in the middle are.
        num_classes: the background included.
        focus: bool (X, Y, Z), what the slices should show.

    Yields:
        a picture as SVG, in mm; the outline of class i has the CSS classes that `style_of(i)` names.
    """
    shown = volumes.prediction > 0
    if not shown.any():
        shown, places = np.ones_like(shown), [size // 2 for size in shown.shape]
    elif focus is not None and focus.any():
        places = [_middle_of_most(focus.sum(axis=_others(axis))) for axis in range(3)]
    else:
        places = [_fullest(volumes.prediction, axis, num_classes) for axis in range(3)]
    for picked, spacing, title, letters in _planes(volumes, places, shown):
        labels = volumes.prediction[picked]
        outlines = [(style_of(index), labels == index) for index in range(1, num_classes) if (labels == index).any()]
        yield _picture(volumes.scan[picked], volumes.window, outlines, spacing, title, letters)


def where_to_look(labels: np.ndarray, classes: Collection[int], at_edge: Collection[int]) -> np.ndarray:
    """Some classes of a label map, and of others what touches the edge of the scan, as a mask (X, Y, Z)."""
    edge = np.ones(labels.shape, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    return np.isin(labels, list(classes)) | (edge & np.isin(labels, list(at_edge)))


def _middle_of_most(counts: np.ndarray) -> int:
    """The place of the largest count; of several the one in the middle."""
    places = np.flatnonzero(counts == counts.max())
    return int(places[len(places) // 2])


def _fullest(labels: np.ndarray, axis: int, num_classes: int) -> int:
    """The slice across an axis with most classes; of several that with most voxels of them."""
    slices = np.moveaxis(labels, axis, 0)
    counts = [np.bincount(one.ravel(), minlength=num_classes)[1:] for one in slices]
    return max(range(len(counts)), key=lambda place: ((counts[place] > 0).sum(), counts[place].sum()))


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _planes(
    volumes: CaseVolumes, places: Sequence[int], shown: np.ndarray
) -> Iterator[tuple[Any, np.ndarray, str, Any]]:
    """For each plane the slice at a place along the axis across it, as far as what is to be shown reaches.

    Yields:
        the index of the slice in the volumes, its spacing in mm, its name, and what is on its four sides.
    """
    box = [_extent(shown, axis, volumes.spacing[axis]) for axis in range(3)]
    for name, across, letters in _PLANES:
        picked = tuple(places[across] if axis == across else box[axis] for axis in range(3))
        middle = [places[across] if axis == across else (box[axis].start + box[axis].stop - 1) / 2 for axis in range(3)]
        position = (volumes.affine @ [*middle, 1.0])[across]
        title = f"{name}, {_AXES[across][int(position < 0)]} {abs(position):.1f} mm"
        yield picked, volumes.spacing[list(_others(across))], title, letters


def _extent(mask: np.ndarray, axis: int, spacing: float) -> slice:
    """Where a mask begins and ends along an axis, with some room."""
    places = np.flatnonzero(mask.any(axis=_others(axis)))
    room = int(np.ceil(max(_MARGIN_MM / spacing, 0.25 * (places[-1] - places[0]))))
    return slice(max(int(places[0]) - room, 0), min(int(places[-1]) + room + 1, mask.shape[axis]))


def _picture(
    scan: np.ndarray,
    window: Sequence[float] | None,
    outlines: Sequence[tuple[str, np.ndarray]],
    spacing: np.ndarray,
    title: str,
    letters: Any,
) -> Markup:
    width, height = np.array(scan.shape) * spacing
    left, right, top, bottom = letters
    middle_x, middle_y, size = width / 2, height / 2, max(width, height) / 14
    words = (
        (left, size * 0.6, middle_y), (right, width - size * 0.6, middle_y),
        (top, middle_x, size), (bottom, middle_x, height - size * 0.3),
    )  # fmt: skip
    style = f'class="side" style="font-size:{size:.2f}px" text-anchor="middle"'
    parts = [
        '<figure class="plane">'
        f'<svg class="slice" viewBox="0 0 {width:.2f} {height:.2f}" role="img"><title>{escape(title)}</title>',
        f'<image href="{_jpeg(scan, window)}" width="{width:.2f}" height="{height:.2f}" preserveAspectRatio="none"/>',
        *(f'<text {style} x="{x:.2f}" y="{y:.2f}">{letter}</text>' for letter, x, y in words),
        *(f'<path class="{kind}" d="{_contour(mask, spacing)}"/>' for kind, mask in outlines),
        _scale_bar(width, height, size),
        f"</svg><figcaption>{escape(title)}</figcaption></figure>",
    ]
    return Markup("".join(parts))


def _scale_bar(width: float, height: float, size: float) -> str:
    """A bar of a round length at the lower left, at most a third of the picture wide, with its length in mm."""
    length = max([one for one in _BARS_MM if one <= width / 3], default=_BARS_MM[0])
    left, below = size * 0.4, height - size * 0.4
    return (
        f'<path class="bar" d="M{left:.2f} {below:.2f}h{length:g}"/>'
        f'<text class="side" style="font-size:{0.7 * size:.2f}px" x="{left:.2f}" y="{below - 0.3 * size:.2f}">'
        f"{length:g} mm</text>"
    )


def _jpeg(scan: np.ndarray, window: Sequence[float] | None) -> str:
    """A slice whose axes go to the left and upwards, as a data address."""
    from PIL import Image

    known = scan[np.isfinite(scan)]
    low, high = window if window is not None else np.percentile(known, _WHOLE) if known.size else (0.0, 1.0)
    grey = np.clip((np.nan_to_num(scan, nan=low) - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(grey[::-1, ::-1].T))
    picture.thumbnail((_LONGEST, _LONGEST))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _contour(mask: np.ndarray, spacing: np.ndarray) -> str:
    """The outline of a mask in mm, with the orientation of `_jpeg`; of a very ragged one, that of every other pixel."""
    from contourpy import contour_generator

    padded = np.pad(mask[::-1, ::-1], 1).astype(np.float32)
    lines = [_straightened(np.asarray(line)) for line in contour_generator(z=padded.T).lines(0.5)]
    if sum(map(len, lines)) > _MOST_CORNERS and min(mask.shape) > 2:
        return _contour(mask[::2, ::2], 2 * spacing)
    return "".join("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in (line - 0.5) * spacing) + "Z" for line in lines)


def _straightened(line: np.ndarray) -> np.ndarray:
    """A closed line (N, 2) without the points between others on a straight line."""
    line = line[:-1]
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    return np.asarray(line[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6])
