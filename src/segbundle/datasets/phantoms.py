"""Generate small synthetic scans of a torso with label maps.

The anatomy is a set of functions of body coordinates in millimeters: +x to the patient's right, +y to the front, +z to
the head, as in RAS+ world space. The functions are evaluated at the world coordinates of the voxels of a scan. Every
orientation, spacing and tilt therefore shows the same kind of body, and an organ has the same physical size at any
resolution.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import angle_axis2mat
from numpy.typing import NDArray

CLASS_NAMES = ("background", "liver", "kidney", "vessel", "lesion")
"""Classes; the index of a name is its value in the label maps."""

FOREGROUND = CLASS_NAMES[1:]

NOISE = 12.0
"""Standard deviation of the noise in stored units, before the random intensity scale of a case."""

# Mean brightness in standard deviations of the noise: differences are contrast-to-noise ratios.
_BODY = 10.0
_BRIGHTNESS = {"liver": 11.7, "kidney": 8.2, "vessel": 12.0, "lesion": 13.7}
_FIELD_OF_VIEW = np.array([100.0, 82.0, 92.0])  # mm along right, front, head
_BLUR = 1.2  # mm, standard deviation of the point-spread function


@dataclass(frozen=True)
class Phantom:
    """Synthetic scan with its label map.

    Attributes:
        image: (X, Y, Z) float32, not negative, in arbitrary units.
        label: (X, Y, Z) uint8, indices into `CLASS_NAMES`; classes that are not annotated are 0.
        affine: (4, 4) float64, maps voxel indices to RAS+ world coordinates in millimeters.
        annotated: annotated foreground classes, in the order of `CLASS_NAMES`.

    Example:
        >>> phantom = make_phantom(np.random.default_rng(0), shape=(12, 10, 11))
        >>> phantom.label.dtype, phantom.annotated == FOREGROUND
        (dtype('uint8'), True)
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    annotated: tuple[str, ...]


@dataclass(frozen=True)
class _Structure:
    """Anatomical structure: voxels and brightness. The name of a distractor is not a class."""

    name: str
    brightness: float
    inside: NDArray[np.bool_]


def make_phantom(
    rng: np.random.Generator,
    shape: Sequence[int] = (48, 40, 44),
    axis_codes: str = "RAS",
    tilt: float = 0.0,
    present: Collection[str] = FOREGROUND,
    annotated: Collection[str] = FOREGROUND,
) -> Phantom:
    """Return a simulated scan of a random body, with its label map.

    The field of view is about 100 x 82 x 92 mm (right, front, head), so `shape` determines the spacing. The body
    depends only on the state of `rng`, and the noise also on `shape`.

    Args:
        rng: random generator.
        shape: number of voxels along the three stored axes (default (48, 40, 44)).
        axis_codes: directions of the stored axes, one letter each of R/L, A/P and S/I (default `RAS`).
        tilt: rotation of the grid about the world axis (1, 1, 1), in degrees (default 0).
        present: foreground classes in the body (default all).
        annotated: foreground classes in the label map (default all); the image also shows the others.

    Raises:
        ValueError: `shape` is not three positive numbers, `axis_codes` does not name each axis once, or a name is not a
            foreground class.

    Example:
        >>> phantom = make_phantom(np.random.default_rng(0), shape=(12, 10, 11), axis_codes="LPS")
        >>> phantom.image.shape, nib.aff2axcodes(phantom.affine)
        ((12, 10, 11), ('L', 'P', 'S'))
    """
    _check_arguments(shape, axis_codes, {*present, *annotated})
    body_center = rng.uniform(-80, 80, size=3)
    affine = _random_affine(rng, shape, axis_codes, tilt, body_center)
    points = _world_positions(affine, shape) - body_center[:, None, None, None]
    warped = points + 5.0 * np.stack([_smooth_field(rng, points, wavelength=55.0) for _ in range(3)])
    structures = [
        structure
        for structure in _structures(rng, warped)
        if structure.name in present or structure.name not in CLASS_NAMES
    ]
    return Phantom(
        image=_scan(rng, structures, points, nib.affines.voxel_sizes(affine)),
        label=_label_map(structures, annotated),
        affine=affine,
        annotated=tuple(name for name in FOREGROUND if name in annotated),
    )


def _check_arguments(shape: Sequence[int], axis_codes: str, names: set[str]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}; it must be three positive numbers, for instance (48, 40, 44).")
    if sorted("RLAPSI".find(code) // 2 for code in axis_codes) != [0, 1, 2]:
        raise ValueError(f"axis_codes is {axis_codes!r}; it must have one letter each of R/L, A/P and S/I.")
    unknown = sorted(names.difference(FOREGROUND))
    if unknown:
        raise ValueError(f"unknown class {unknown[0]!r}; the foreground classes are {', '.join(FOREGROUND)}.")


# Grid


def world_axes(axis_codes: str) -> list[tuple[int, int]]:
    """Return the world axis (0, 1 or 2) and the direction (1 or -1) of each stored axis.

    Args:
        axis_codes: directions of the stored axes, one letter each of R/L, A/P and S/I.

    Example:
        >>> world_axes("PIR")
        [(1, -1), (2, -1), (0, 1)]
    """
    return [(int(axis), int(sign)) for axis, sign in nib.orientations.axcodes2ornt(tuple(axis_codes))]


def _random_affine(
    rng: np.random.Generator,
    shape: Sequence[int],
    axis_codes: str,
    tilt: float,
    body_center: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the affine of a grid whose center is within 2 mm of the center of the body along each axis."""
    field_of_view = _FIELD_OF_VIEW * rng.uniform(0.97, 1.05, size=3)
    center = body_center + rng.uniform(-2, 2, size=3)
    steps = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(world_axes(axis_codes)):
        steps[axis, column] = sign * field_of_view[axis] / shape[column]
    steps = angle_axis2mat(np.deg2rad(tilt), np.array([1.0, 1.0, 1.0])) @ steps
    origin = center - steps @ ((np.array(shape) - 1) / 2)
    return np.asarray(nib.affines.from_matvec(steps, origin), dtype=np.float64)


def _world_positions(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the world coordinates in mm of all voxel centers, (3, X, Y, Z)."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    return np.moveaxis(nib.affines.apply_affine(affine, voxels), -1, 0)


# Anatomy. `points` are body coordinates in mm, (3, X, Y, Z). Shapes are signed distance functions: the approximate
# distance to the surface in mm, (X, Y, Z), negative inside.


def _structures(rng: np.random.Generator, points: NDArray[np.float64]) -> list[_Structure]:
    """Return all structures of a body. Each structure covers the previous structures.

    All structures are drawn in every case, even if the caller drops some: the other structures must not change.
    """
    body = _ellipsoid(points, (0, 0, 0), np.array([45, 36, 66]) * rng.uniform(0.95, 1.03)) < 0
    structures = [_Structure("body", _BODY, body), *_distractors(rng, points), *_organs(rng, points)]
    return [_Structure(structure.name, structure.brightness, structure.inside & body) for structure in structures]


def _distractors(rng: np.random.Generator, points: NDArray[np.float64]) -> Iterator[_Structure]:
    """Yield unlabeled structures as bright as the organs, so that brightness alone does not identify a class."""
    yield _Structure("spine", 6.5, _tube(points, (0, -26), radius=7.5) < 0)
    spleen = np.array([-27, -5, 17]) + rng.uniform(-3, 3, size=3)
    yield _Structure("spleen", 11.6 + rng.uniform(-0.4, 0.4), _ellipsoid(points, spleen, (9, 13, 14)) < 0)
    muscle = rng.uniform(-18, 18), -27
    yield _Structure("muscle", 11.5, _tube(points, muscle, radius=rng.uniform(3.5, 5)) < 0)
    for brightness in (8.2, 12.2, 13.7, 8.6, 13.0):
        center = rng.uniform((-30, 4, -44), (30, 24, -14))
        radii = rng.uniform(5, 10, size=3)
        yield _Structure("bowel", brightness, _ellipsoid(points, center, radii) < 0)


def _organs(rng: np.random.Generator, points: NDArray[np.float64]) -> Iterator[_Structure]:
    shades = {name: level + rng.uniform(-0.3, 0.3) for name, level in _BRIGHTNESS.items()}
    center = np.array([16, 3, 17]) + rng.uniform(-3, 3, size=3)
    radii = np.array([22, 24, 21]) * rng.uniform(0.88, 1.1, size=3)
    yield _Structure("liver", shades["liver"], _liver(points, center, radii) < 0)

    # Up and to the side, away from the kidney and the vessel, because these would cover it.
    direction = np.abs(rng.normal(size=3)) * (1, rng.choice([-1, 1]), 1)
    lesion = center + radii * rng.uniform(0.3, 0.85) * direction / np.linalg.norm(direction)
    size = rng.uniform(6.4, 8.8) * rng.uniform(0.9, 1.1, size=3)
    yield _Structure("lesion", shades["lesion"], _ellipsoid(points, lesion, size) < 0)

    kidneys = np.minimum(_kidney(rng, points, side=1), _kidney(rng, points, side=-1))
    yield _Structure("kidney", shades["kidney"], kidneys < 0)
    yield _Structure("vessel", shades["vessel"], _vessel(rng, points) < 0)


def _liver(points: NDArray[np.float64], center: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a large right lobe, joined to a flat left lobe in front of the midline."""
    right_lobe = _ellipsoid(points, center, radii)
    left_lobe = _ellipsoid(points, center + np.array([-19, 10, 5]), 0.55 * radii)
    return _smooth_union(right_lobe, left_lobe, width=3.0)


def _kidney(rng: np.random.Generator, points: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return an upright bean with its hilum toward the midline; `side` is 1 on the patient's right, -1 on the left."""
    # The right kidney is lower, below the liver.
    center = np.array([side * 23, -13, -17 - 4 * side]) + rng.uniform(-2.5, 2.5, size=3)
    radii = np.array([9.5, 10.5, 16.5]) * rng.uniform(0.88, 1.1)
    dent = _ellipsoid(points, center - (side * radii[0], 0, 0), 0.45 * radii)
    return np.maximum(_ellipsoid(points, center, radii), -dent)


def _vessel(rng: np.random.Generator, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a winding tube from foot to head, in front of the spine."""
    height = points[2]
    start = rng.uniform(0, 2 * np.pi, size=2)
    wavelength = rng.uniform(70, 110, size=2)
    x = rng.uniform(-3, 3) + 4.0 * np.sin(2 * np.pi * height / wavelength[0] + start[0])
    y = rng.uniform(-11, -7) + 3.0 * np.sin(2 * np.pi * height / wavelength[1] + start[1])
    return _tube(points, (x, y), radius=rng.uniform(4.6, 6.0))


def _ellipsoid(points: NDArray[np.float64], center: Any, radii: Any) -> NDArray[np.float64]:
    center, radii = np.reshape(center, (3, 1, 1, 1)), np.reshape(radii, (3, 1, 1, 1))
    return np.asarray((np.linalg.norm((points - center) / radii, axis=0) - 1) * radii.min())


def _tube(points: NDArray[np.float64], axis: tuple[Any, Any], radius: float) -> NDArray[np.float64]:
    """Return the distance to a tube from foot to head; x and y of its center line are numbers or (X, Y, Z) arrays."""
    return np.asarray(np.hypot(points[0] - axis[0], points[1] - axis[1]) - radius)


def _smooth_union(a: NDArray[np.float64], b: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the smaller of two distances, with the crease between the shapes filled over about `width` mm."""
    return np.asarray(-width * np.logaddexp(-a / width, -b / width))


def _smooth_field(rng: np.random.Generator, points: NDArray[np.float64], wavelength: float) -> NDArray[np.float64]:
    """Return a random smooth function of position in [-1, 1], (X, Y, Z): the mean of four plane waves."""
    directions = rng.normal(size=(4, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = 2 * np.pi / (wavelength * rng.uniform(0.8, 1.3, size=4))
    phases = rng.uniform(0, 2 * np.pi, size=4)
    turns = np.tensordot(directions * waves[:, None], points, axes=1) + phases[:, None, None, None]
    return np.asarray(np.sin(turns).mean(axis=0))


# Scanner


def _scan(
    rng: np.random.Generator,
    structures: Sequence[_Structure],
    points: NDArray[np.float64],
    spacing: NDArray[np.float64],
) -> NDArray[np.float32]:
    from scipy import ndimage

    tissue = np.zeros(points.shape[1:])
    for structure in structures:
        tissue[structure.inside] = structure.brightness
    signal = ndimage.gaussian_filter(tissue, _BLUR / spacing)
    bias = _smooth_field(rng, points, wavelength=150.0)
    signal *= 1 + 0.2 * bias / np.abs(bias).max()
    scale = NOISE * np.exp(rng.uniform(np.log(0.6), np.log(1.7)))
    # Scanners store magnitudes, so values are never negative.
    return np.asarray(np.abs(scale * (signal + rng.normal(size=signal.shape))), dtype=np.float32)


def _label_map(structures: Sequence[_Structure], annotated: Collection[str]) -> NDArray[np.uint8]:
    label = np.zeros(structures[0].inside.shape, dtype=np.uint8)
    for structure in structures:
        # A structure that covers a class also covers it in the label map, whether labeled or not.
        label[structure.inside] = CLASS_NAMES.index(structure.name) if structure.name in annotated else 0
    return label
