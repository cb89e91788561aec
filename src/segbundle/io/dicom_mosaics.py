"""Siemens mosaics: the slices of a volume side by side in one image.

ImagePositionPatient belongs to an image of the size of the mosaic around the center of the first slice. The corner of
the slice is computed from it as in `nibabel.nicom` and dcm2niix.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom_kinds import num_frames, several
from segbundle.io.stacks import Slice, directions

_BLOCKS = range(0x10, 0x100)
COUNT_TAGS = {0x0019000A + (block << 8): 0x00190000 + block for block in _BLOCKS}
"""Tags of the number of slices in a mosaic, with the tag of the private block's creator (must be Siemens)."""
_CSA_TAGS = [tag for block in _BLOCKS for tag in (0x00290000 + block, 0x00290010 + (block << 8))]
"""Tags of the image header of Siemens (CSA), and of the private block's creator."""
_PARALLEL = 0.99
"""Minimum cosine of the angle between the normal in the header and that of the image."""

warnings.filterwarnings("ignore", "The DICOM readers are highly experimental")  # of nibabel.nicom, at its import


@dataclass(frozen=True)
class Mosaic:
    """Slices of a mosaic.

    Attributes:
        tiles: number of slices along each side of the image.
        slices: slices in the order of the tiles, row by row.

    Example:
        >>> Mosaic(6, ()).tiles
        6
    """

    tiles: int
    slices: tuple[Slice, ...]


def is_mosaic(header: Any) -> bool:
    """Return whether an image is a Siemens mosaic, by its ImageType or a private element.

    Args:
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        >>> is_mosaic(header)
        True
    """
    return "MOSAIC" in [str(kind).upper().strip() for kind in several(header.get("ImageType"))] or _count(header) > 1


def _count(header: Any) -> int:
    """Return the number of slices in a Siemens mosaic by its private elements; 0 if unknown."""
    found = [tag for tag in list(header.keys()) if tag in COUNT_TAGS and COUNT_TAGS[tag] in header]
    sizes = [int(header[tag].value or 0) for tag in found if "SIEMENS MR" in str(header[COUNT_TAGS[tag]].value).upper()]
    return max(sizes, default=0)


def read_mosaic(path: Path, header: Any, planes: Sequence[Slice]) -> Mosaic | str:
    """Return the slices of a mosaic; if its header does not define them, the kind of image as text, with the reason.

    Args:
        path: path of the file.
        header: header of the file (pydicom).
        planes: slices that `image_slices` returns for the file: one slice with the size of the whole mosaic, or none if
            the header has no position and orientation.

    Example:
        >>> read_mosaic(Path("ep2d.dcm"), header, planes)  # doctest: +SKIP
    """
    count, normal = _csa_values(path)
    count = _count(header) or count
    kind = f"a Siemens mosaic ({count} slices side by side" if count else "a Siemens mosaic (slices side by side"
    found = _layout(header, planes, count, normal)
    return f"{kind} in one image) {found}; convert it with dcm2niix" if isinstance(found, str) else found


def _csa_values(path: Path) -> tuple[int, np.ndarray | None]:
    """Return the number of slices (0 if unknown) and their normal (3,) (None if unknown) in a CSA header."""
    from nibabel.nicom import csareader
    from pydicom import dcmread

    private: Any = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_CSA_TAGS)
    try:
        csa = csareader.get_csa_header(private) or {"tags": {}}
        normal = csareader.get_vector(csa, "SliceNormalVector", 3)
        return int(csareader.get_n_mosaic(csa) or 0), None if normal is None else np.asarray(normal, float)
    except Exception:  # nibabel raises various exceptions for damaged headers
        return 0, None


def _layout(header: Any, planes: Sequence[Slice], count: int, normal: np.ndarray | None) -> Mosaic | str:
    """Return the slices of a mosaic, or the reason against it, as text that follows the kind of image."""
    if len(planes) != 1 or num_frames(header) > 1:
        return "without a position and orientation"
    plane = planes[0]
    distance = plane.distance or plane.thickness
    if count < 1:
        return "without NumberOfImagesInMosaic in its private header"
    if normal is None:
        return "without SliceNormalVector in its private header"
    if not distance:
        return "without SpacingBetweenSlices and SliceThickness"
    try:
        row, column = directions(plane)
    except DataError:
        return "with an ImageOrientationPatient that is not two perpendicular unit vectors"
    if not _PARALLEL < abs(normal @ np.cross(row, column)) < 1 / _PARALLEL:
        return "with a SliceNormalVector that is not the normal of its image"
    tiles = math.ceil(math.sqrt(count))
    if int(header.Rows) % tiles or int(header.Columns) % tiles:
        return f"whose {header.Columns} x {header.Rows} pixels cannot be divided into {tiles} x {tiles} slices"
    columns, rows = int(header.Columns) // tiles, int(header.Rows) // tiles
    corner = np.array(plane.position)
    corner += row * plane.spacing[0] * (int(header.Columns) - columns) / 2
    corner += column * plane.spacing[1] * (int(header.Rows) - rows) / 2
    step = normal / np.linalg.norm(normal) * distance
    places = [tuple((corner + k * step).tolist()) for k in range(count)]
    return Mosaic(tiles, tuple(replace(plane, frame=k, position=place) for k, place in enumerate(places)))
