"""Convert images in memory to scans: images of nibabel and SimpleITK, and arrays with an affine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry, Scan, check_geometry, volume_shape
from segbundle.io.itk import channels_first, image_geometry

IN_MEMORY = Path("image in memory")
"""Path of scans that have no file, for messages."""


def scan_in_memory(image: Any, dtype: Any = np.float32) -> Scan | None:
    """Convert an image in memory to a scan; return None for any other value, such as a path.

    Args:
        image: a `Scan`, a nibabel `SpatialImage`, a SimpleITK `Image`, or a tuple (array, affine): an array (X, Y, Z)
            or (C, X, Y, Z), and the (4, 4) affine that maps voxel indices to RAS+ world coordinates in mm.
        dtype: NumPy dtype of the result (default float32); None to keep the dtype of the image.

    Returns:
        the scan, with an array (C, X, Y, Z) that may share memory with the image; or None

    Raises:
        DataError: the number of dimensions is not supported, the affine of a tuple is not (4, 4), the geometry is not
            plausible, or the voxels are complex or color values.

    Example:
        >>> scan = scan_in_memory((np.zeros((4, 3, 2)), np.diag([1.0, 1.0, 2.5, 1.0])))
        >>> scan.array.shape, scan.geometry.spacing
        ((1, 4, 3, 2), (1.0, 1.0, 2.5))
    """
    if isinstance(image, Scan):
        return Scan(_as_type(image.array, dtype), image.geometry, image.path)
    if isinstance(image, SpatialImage):
        return _from_nibabel(image, dtype)
    if isinstance(image, tuple) and len(image) == 2 and isinstance(image[0], np.ndarray):
        return _from_array(image[0], np.asarray(image[1], dtype=np.float64), dtype)
    if type(image).__module__.startswith("SimpleITK"):
        return _from_itk(image, dtype)
    return None


def _from_nibabel(image: SpatialImage, dtype: Any) -> Scan:
    shape, channels = volume_shape(IN_MEMORY, image.shape)
    array = np.asarray(image.dataobj).reshape(*shape, channels)
    affine = np.asarray(image.affine, dtype=np.float64)
    geometry = check_geometry(IN_MEMORY, Geometry(shape, affine, channels))
    return Scan(_as_type(np.moveaxis(array, -1, 0), dtype), geometry, Path(image.get_filename() or IN_MEMORY))


def _from_array(array: np.ndarray, affine: np.ndarray, dtype: Any) -> Scan:
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or affine.shape != (4, 4):
        raise DataError(
            f"{IN_MEMORY}: the array has shape {array.shape} and the affine {affine.shape}. Pass an array (X, Y, Z) or "
            "(C, X, Y, Z) and an affine (4, 4)."
        )
    shape, channels = volume_shape(IN_MEMORY, (*array.shape[1:], len(array)))
    return Scan(_as_type(array, dtype), check_geometry(IN_MEMORY, Geometry(shape, affine, channels)), IN_MEMORY)


def _from_itk(image: Any, dtype: Any) -> Scan:
    import SimpleITK as sitk

    components = image.GetNumberOfComponentsPerPixel()
    geometry = image_geometry(IN_MEMORY, image, components)
    array = channels_first(sitk.GetArrayFromImage(image), components, geometry)
    return Scan(_as_type(array, dtype), geometry, IN_MEMORY)


def _as_type(array: np.ndarray, dtype: Any) -> np.ndarray:
    if np.iscomplexobj(array) or array.dtype.fields is not None:
        raise DataError(f"{IN_MEMORY}: contains {array.dtype} voxels; convert them to one real value per voxel.")
    return array if dtype is None else array.astype(dtype, copy=False)
