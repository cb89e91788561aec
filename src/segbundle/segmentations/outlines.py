"""Outlines of a mask along the edges of its pixels, as polygons with holes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import contourpy
import numpy as np


def pixel_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask as polygons along the edges of its pixels, with holes connected by keyholes.

    Every island of the mask is one polygon. A hole is connected with the outline around it by a channel of zero width
    (keyhole), as DICOM describes it for closed planar contours. The area of the polygons is the number of pixels, and a
    polygon contains the center of a pixel if and only if the pixel belongs to the mask. Pixels that only touch at a
    corner may be in one polygon or in two.

    Args:
        mask: bool array (rows, columns).

    Returns:
        one float64 array (N, 2) per polygon: column and row of each vertex, where (0, 0) is the center of the first
        pixel; the first vertex is not repeated at the end. Empty for an empty mask

    Example:
        >>> mask = np.zeros((3, 4), bool)
        >>> mask[1, 1:3] = True
        >>> pixel_outlines(mask)[0].tolist()
        [[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    lines = contourpy.contour_generator(
        z=np.pad(inside, 1).astype(np.float64), name="serial", fill_type=contourpy.FillType.OuterOffset
    )
    polygons, offsets = cast(tuple[list[np.ndarray], list[np.ndarray]], lines.filled(0.5, 2.0))
    shift = np.array([columns[0] - 1, rows[0] - 1])
    found = []
    for points, ends in zip(polygons, offsets, strict=True):
        rings = [_corners(points[start : end - 1]) for start, end in pairwise(ends)]
        found.append(_with_keyholes(rings[0], rings[1:]) + shift)
    return found


def _corners(points: np.ndarray) -> np.ndarray:
    """Return the corners of the pixel edges on whose centers the points of a contour lie.

    contourpy cuts corners: its points are the centers of pixel edges. Between a vertical and a horizontal edge, there
    is a corner, with the column of the vertical and the row of the horizontal edge.
    """
    following = np.roll(points, -1, axis=0)
    vertical, then_vertical = (_is_half(array[:, 0]) for array in (points, following))
    turns = vertical != then_vertical
    first, second, start = points[turns], following[turns], vertical[turns]
    return np.stack([np.where(start, first[:, 0], second[:, 0]), np.where(start, second[:, 1], first[:, 1])], axis=1)


def _is_half(values: np.ndarray) -> np.ndarray:
    return (2 * values).astype(np.int64) % 2 == 1


def _with_keyholes(polygon: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """Return a polygon whose holes are connected with it by horizontal channels to the left."""
    for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
        leftmost = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])
        column, row = hole[leftmost]
        ends = np.roll(polygon, -1, axis=0)
        at_row = (np.minimum(polygon[:, 1], ends[:, 1]) <= row) & (row <= np.maximum(polygon[:, 1], ends[:, 1]))
        edges = np.flatnonzero((polygon[:, 0] == ends[:, 0]) & at_row & (polygon[:, 0] <= column))
        nearest = int(edges[polygon[edges, 0].argmax()])
        door = np.array([[polygon[nearest, 0], row]])
        ring = np.roll(hole, -leftmost, axis=0)
        polygon = np.concatenate([polygon[: nearest + 1], door, ring, ring[:1], door, polygon[nearest + 1 :]])
    return polygon
