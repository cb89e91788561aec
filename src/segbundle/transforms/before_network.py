"""Preprocess scans: load, check, resample to the network's grid, and normalize intensities."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from monai.utils import CommonKeys

from segbundle.config.from_settings import from_settings
from segbundle.datasets.case_checks import image_problems, label_problems, pair_problems, unannotated_problems
from segbundle.errors import ConfigError, DataError, suggestion
from segbundle.io.label_maps import as_loaded, read_labels
from segbundle.io.read_ahead import read_begun
from segbundle.io.scans import Scan
from segbundle.io.suv import to_suv
from segbundle.transforms.resampling import ToGridd

_logger = logging.getLogger(__name__)
_SAMPLE = 100_000
"""Approximate number of voxels from which the range of a channel is estimated."""
_EXCLUDED, _EXCLUDED_MIN, _EXCLUDED_OF_FEW = 2e-4, 32, 0.032
"""Values excluded from the range at either end: fraction, minimum number, and maximum fraction in small scans."""
_TAIL = 5e-3
"""Fraction of values excluded from the range at either end if a gap precedes them."""
_GAP = 2.0
"""Minimum size of that gap, relative to the range of the values before it."""
_FILL_VALUE = 32767
"""Absolute value from which the minimum or maximum of a scan may be a fill value and is excluded from the range."""
_OUTLIER_DISTANCE = 5.0
"""Distance of an outlier from the range, relative to the size of the range."""
_INTENSITY_ARGUMENTS = {
    "zscore": (),
    "window": ("lower", "upper"),
    "ct": ("lower", "upper", "mean", "std"),
}


@from_settings
def preprocessing(
    intensity: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
    axcodes: str = "RAS",
    class_names: Sequence[str] = (),
    num_channels: int | None = None,
    label: bool = False,
    allow_uneven: bool = False,
) -> Compose:
    """Return the transform that loads a case, resamples its image to the network's grid, and normalizes intensities.

    The transform is used for validation, evaluation and inference. A label map is not resampled, but stays on the
    scan's grid, where predictions are scored.

    Args:
        intensity: normalization; see `intensity_transform`.
        spacing: voxel size in mm along the axes of `axcodes`; None (default) keeps the voxel size of each scan.
        axcodes: orientation of the network's grid. Default: `RAS`.
        class_names: class names of the task, background first; required to check label maps. Default: none.
        num_channels: number of input channels of the network; None (default) skips the check.
        label: whether to load the label map. Default: False.
        allow_uneven: see `LoadScand`. Default: False.

    Returns:
        a transform of datalist entries. `image` becomes a float32 `MetaTensor` (C, X, Y, Z).

    Raises:
        ConfigError: a setting is invalid.

    Example:
        >>> steps = preprocessing({"method": "zscore"}, spacing=(1.0, 1.0, 1.0)).transforms
        >>> [type(step).__name__ for step in steps]
        ['LoadScand', 'ClipOutliersd', 'ToGridd', 'ZScored']
    """
    loading = LoadScand(class_names, num_channels, label, intensity.get("units"), allow_uneven)
    return Compose([loading, *network_transforms((CommonKeys.IMAGE,), intensity, spacing, axcodes)])


def network_transforms(
    keys: Sequence[str], intensity: Mapping[str, Any], spacing: Sequence[float] | None, axcodes: str | None = "RAS"
) -> list[Transform]:
    """Return the transforms that resample a loaded case to the network's grid and normalize its image.

    Args:
        keys: `image`, and `label` if the label map is resampled as well.
        intensity, spacing: see `preprocessing`.
        axcodes: orientation of the network's grid; None keeps the orientation of each scan. Default: `RAS`.

    Raises:
        ConfigError: a setting is invalid.

    Example:
        >>> steps = network_transforms(["image"], {"method": "window", "lower": 0, "upper": 100}, None)
        >>> [type(step).__name__ for step in steps]
        ['ToGridd', 'ClipAndScaled']
    """
    normalization = intensity_transform(intensity)
    clipping = [ClipOutliersd(CommonKeys.IMAGE)] if isinstance(normalization, ZScored) else []
    return [*clipping, *grid_transforms(keys, spacing, axcodes), normalization]


def grid_transforms(
    keys: Sequence[str], spacing: Sequence[float] | None, axcodes: str | None = "RAS"
) -> list[Transform]:
    """Return the transforms that reorient and resample: images linearly, label maps by nearest neighbor.

    Axes are flipped, permuted and rescaled, but never rotated. Oblique scans stay oblique, so that predictions can be
    restored to the voxels of the scan exactly (see `segbundle.transforms.restoring`).

    Args:
        keys: `image`, and `label` if the label map is resampled as well.
        spacing: voxel size in mm along the axes of `axcodes`; None keeps the voxel size of each scan.
        axcodes: orientation of the network's grid; None keeps the orientation of each scan. Default: `RAS`.

    Raises:
        ConfigError: `spacing` is not three positive sizes.

    Example:
        >>> (transform,) = grid_transforms(["image", "label"], spacing=(1.0, 1.0, 2.0))
        >>> transform.mode
        ('bilinear', 'nearest')
    """
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise ConfigError(f"spacing is {spacing}, but must be three positive sizes in mm, or null.")
    return [ToGridd(keys, spacing, axcodes, ["nearest" if key == CommonKeys.LABEL else "bilinear" for key in keys])]


def intensity_transform(intensity: Mapping[str, Any]) -> Transform:
    """Return the transform that normalizes the intensities of an image, in place.

    - `{method: zscore}`: subtract the mean of the scan and divide by its standard deviation, per channel (MR). Clip
      outliers first, see `ClipOutliersd`. With `nonzero: true`, use only the nonzero voxels of the channel and keep the
      others 0, for scans whose background was set to 0 (skull stripping; nnU-Net's `use_mask_for_norm`).
    - `{method: window, lower: a, upper: b}`: clip to [a, b], and scale to [0, 1].
    - `{method: ct, lower: a, upper: b, mean: m, std: s}`: clip to [a, b], subtract m and divide by s. Use values of the
      training set's foreground (the CT scheme of nnU-Net; Isensee et al. 2021).

    With `units: suv`, `LoadScand` converts DICOM PET series to SUV before this transform. The values of other files are
    unchanged, and must be SUV already.

    Args:
        intensity: method and its values, by name.

    Returns:
        a dictionary transform of `image`, a floating-point tensor (C, X, Y, Z)

    Raises:
        ConfigError: the method is unknown, or values are missing, unexpected or contradictory.

    Example:
        >>> transform = intensity_transform({"method": "window", "lower": -100, "upper": 100})
        >>> transform({"image": torch.tensor([-200.0, 0.0, 100.0])})["image"]
        tensor([0.0000, 0.5000, 1.0000])
    """
    values = {name: value for name, value in intensity.items() if name != "units"}
    method = values.pop("method", None)
    nonzero = values.pop("nonzero", False)
    if method not in _INTENSITY_ARGUMENTS:
        raise ConfigError(f"intensity: unknown method {method!r}{suggestion(str(method), _INTENSITY_ARGUMENTS)}")
    needed = _INTENSITY_ARGUMENTS[method]
    if set(values) != set(needed):
        raise ConfigError(f"intensity: method {method!r} takes the keys {list(needed)}, got {sorted(values)}.")
    if nonzero and method != "zscore":
        raise ConfigError(f"intensity: nonzero is an option of method 'zscore', not of {method!r}. Remove it.")
    if method == "zscore":
        return ZScored(CommonKeys.IMAGE, nonzero)
    lower, upper = float(values["lower"]), float(values["upper"])
    mean, std = (float(values["mean"]), float(values["std"])) if method == "ct" else (lower, upper - lower)
    if not lower < upper or std <= 0:
        raise ConfigError(f"intensity: lower < upper and std > 0 are required, got {values}.")
    return ClipAndScaled(CommonKeys.IMAGE, lower, upper, mean, std)


class LoadScand(Transform):
    """Dictionary transform that loads and checks the image of a case and, optionally, its label map.

    `image` becomes a float32 `MetaTensor` (C, X, Y, Z). With `label=True`, `label` becomes a uint8 `MetaTensor` (1, X,
    Y, Z) with the loaded values of the classes (see `segbundle.class_values.ClassValues`) and `IGNORE_INDEX` for
    unknown voxels, and `annotated` becomes a bool tensor (num_classes,). A label map with the same voxels, stored along
    other axes, is reoriented to the axes of the image.

    As in MONAI, the metadata contains `affine` and `original_affine` ((4, 4) matrices from voxel indices to RAS+ in
    mm), `spatial_shape` and `filename_or_obj`. If the image was prefetched (`segbundle.io.read_ahead`), `early_seconds`
    is the time in seconds that reading took. If a DICOM series was resampled to an even spacing, `resampled_slices` is
    a list with the smallest and largest distance of its slices and the new spacing, in mm.

    Args:
        class_names: class names of the task, background first; required to check label values, and to read segments
            with names. Default: none.
        num_channels: number of input channels of the network; None (default) skips the check.
        label: whether to load the label map. Default: False.
        units: `suv` converts the images of DICOM PET series to SUV. The values of other files are unchanged, and must
            be SUV already. None (default) keeps the values of all files.
        allow_uneven: whether to resample DICOM series with missing slices or a variable slice spacing, see `read_scan`.
            Default: False.

    Raises:
        ConfigError: `units` is unknown.
        DataError: a file cannot be read or fails a check (raised when called). The message lists all problems of the
            case (see `segbundle.datasets.case_checks`).

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> path = f"{tempfile.mkdtemp()}/scan.nii"
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
        >>> LoadScand()({"image": path})["image"].shape
        torch.Size([1, 4, 5, 6])
    """

    def __init__(
        self,
        class_names: Sequence[str] = (),
        num_channels: int | None = None,
        label: bool = False,
        units: str | None = None,
        allow_uneven: bool = False,
    ) -> None:
        if units not in (None, "suv"):
            raise ConfigError(f"intensity: unknown units {units!r}; use suv, or leave units out.")
        self.class_names = class_names
        self.num_channels = num_channels
        self.label = label
        self.units = units
        self.allow_uneven = allow_uneven

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        image, early_seconds = read_begun(loaded[CommonKeys.IMAGE], self.allow_uneven)
        if early_seconds:
            loaded["early_seconds"] = early_seconds
        if image.geometry.source_gaps is not None:
            loaded["resampled_slices"] = [*image.geometry.source_gaps, image.geometry.spacing[2]]
        if self.units is not None:
            image = to_suv(image, loaded[CommonKeys.IMAGE])
        problems = list(image_problems(image, self.num_channels))
        if self.label:
            label = read_labels(loaded[CommonKeys.LABEL], self.class_names, image.geometry)
            ignore_label, values = loaded.pop("ignore_label", None), loaded.pop("label_values", None)
            wrong = list(label_problems(label, self.class_names, ignore_label, values))
            annotated = loaded.get("annotated", [True] * len(self.class_names))
            if not wrong:
                label = as_loaded(label, values, ignore_label)
                if values is None:  # else, some of the values of a class may have been annotated
                    wrong = list(unannotated_problems(label, annotated, self.class_names))
            problems += [*wrong, *pair_problems(image, label)]
        if problems:
            raise DataError("\n".join(problems))
        loaded[CommonKeys.IMAGE] = _meta_tensor(image, np.float32)
        if self.label:
            loaded[CommonKeys.LABEL] = _meta_tensor(label, np.uint8)
            loaded["annotated"] = torch.tensor(annotated, dtype=torch.bool)
        return loaded


def _meta_tensor(scan: Scan, dtype: Any) -> MetaTensor:
    affine = torch.from_numpy(scan.geometry.affine)
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": torch.tensor(scan.geometry.shape),
        "filename_or_obj": str(scan.path),
    }
    array = np.asarray(scan.array, dtype=dtype)  # keep the memory order of the file: reordering would copy
    return MetaTensor(torch.from_numpy(array), meta={**meta, "affine": affine})


class ZScored(MapTransform):
    """Dictionary transform that subtracts the mean of every channel and divides by its standard deviation.

    A standard deviation of 0 is replaced by 1. The result is that of MONAI's `NormalizeIntensityd(channel_wise=True)`,
    but the values are changed in place to save memory.

    Args:
        keys: items to transform, floating-point tensors (C, ...).
        nonzero: whether mean and standard deviation are those of the nonzero voxels of a channel, and the other voxels
            stay 0 (default False). A channel of zeros stays unchanged.

    Example:
        >>> ZScored("image")({"image": torch.tensor([[0.0, 2.0]])})["image"]
        tensor([[-1.,  1.]])
        >>> ZScored("image", nonzero=True)({"image": torch.tensor([[0.0, 2.0, 4.0]])})["image"]
        tensor([[ 0., -1.,  1.]])
    """

    def __init__(self, keys: KeysCollection, nonzero: bool = False) -> None:
        super().__init__(keys)
        self.nonzero = nonzero

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            for channel in data[key].as_subclass(torch.Tensor):  # operations on a `MetaTensor` are slower
                outside = channel == 0 if self.nonzero else None
                values = channel if outside is None else channel[~outside]
                if values.numel() == 0:
                    continue
                mean, std = values.mean(), values.std(unbiased=False)
                channel.sub_(mean).div_(torch.where(std == 0, 1.0, std))
                if outside is not None:
                    channel.masked_fill_(outside, 0)
        return dict(data)


class ClipOutliersd(MapTransform):
    """Dictionary transform that clips outliers, so that they do not dominate the mean and standard deviation of a scan.

    Without clipping, a single voxel of 65535 (metal, a defect, padding) makes the z-score useless for all others.
    Channels without outliers stay unchanged.

    The range of a channel spans its 0.02nd to 99.98th percentile, estimated from a regular subsample of the voxels. If
    at most 0.5% of the values at one end are separated from all others by a gap of more than twice the range, the range
    excludes these values as well. Outliers are values that are farther from the range than five times its width.

    A channel that has outliers or such a gap is clipped in place to the range, extended by its width at either end, and
    a warning is logged. Extreme fill values of the integer types (such as -32768 and 65535), which may make up a large
    part of a scan, are replaced by the nearer limit of the range (not extended).

    Args:
        keys: items to transform, float32 tensors (C, X, Y, Z) on the CPU.

    Example:
        >>> image = torch.arange(1000.0).reshape(1, 10, 10, 10)
        >>> ClipOutliersd("image")({"image": image.clone(), "case": "a"})["image"].max()  # no outliers
        tensor(999.)
        >>> image[0, 0, 0, 0] = 65535
        >>> bool(ClipOutliersd("image")({"image": image, "case": "a"})["image"].max() < 3000)
        True
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            found = [message for channel in data[key].as_subclass(torch.Tensor) if (message := _clip_outliers(channel))]
            if found:
                _logger.warning(
                    "%s: %s. Outliers are clipped, because they would dominate the z-score normalization.",
                    data.get("case", "a scan"),
                    " and ".join(found),
                )
        return dict(data)


def _clip_outliers(channel: torch.Tensor) -> str:
    """Clip the outliers of a channel (X, Y, Z) in place and return a description; empty without outliers."""
    values = channel.numpy().ravel(order="K")  # in memory order, without a copy
    minimum, maximum = float(values.min()), float(values.max())
    sample = values[:: max(len(values) // _SAMPLE, 1) | 1]
    typical = sample[(sample != minimum) & (sample != maximum)] if max(-minimum, maximum) >= _FILL_VALUE else sample
    if len(typical) == 0:
        return ""
    few = max(int(_EXCLUDED * len(typical)), min(_EXCLUDED_MIN, int(_EXCLUDED_OF_FEW * len(typical))))
    many = max(int(_TAIL * len(typical)), few)
    typical = np.partition(typical, (many, -1 - many)).astype(np.float64)
    lower, upper = np.sort(-typical[: many + 1]), np.sort(typical[-1 - many :])
    inner = upper[0] + lower[0]
    (below, low_gap), (high, high_gap) = (_end_of_range(tail, inner, few) for tail in (lower, upper))
    low = -below
    size = high - low
    far = minimum < low - _OUTLIER_DISTANCE * size or maximum > high + _OUTLIER_DISTANCE * size
    if size == 0 or not (far or low_gap or high_gap):
        return ""
    count = int(((values < low - size) | (values > high + size)).sum())
    if len(sample) - len(typical) > few:  # fill values
        channel.masked_fill_(channel == min(minimum, low), low).masked_fill_(channel == max(maximum, high), high)
    channel.clamp_(low - size, high + size)
    extremes = " and ".join(f"{value:g}" for value in (minimum, maximum) if not low - size <= value <= high + size)
    return f"{count} of {len(values)} voxels are outliers ({extremes}); the other values range from {low:g} to {high:g}"


def _end_of_range(tail: np.ndarray, inner: float, few: int) -> tuple[float, bool]:
    """Return the upper limit of the range, and whether a gap follows it.

    Args:
        tail: the highest values in ascending order.
        inner: range of the values up to the first value of `tail`; 0 if nearly all voxels have the same value.
        few: number of highest values that are always excluded.
    """
    tail = tail[: len(tail) - few]
    gaps = np.flatnonzero(np.diff(tail) > _GAP * (tail[:-1] - tail[0] + inner))
    return (float(tail[gaps[0]]), True) if inner > 0 and len(gaps) else (float(tail[-1]), False)


class ClipAndScaled(MapTransform):
    """Dictionary transform that clips to [lower, upper], subtracts `mean` and divides by `std`, in place.

    Args:
        keys: items to transform, floating-point tensors of any shape.
        lower: lower limit to which values are clipped.
        upper: upper limit to which values are clipped.
        mean: value to subtract.
        std: value to divide by.

    Example:
        >>> ClipAndScaled("image", 0, 10, mean=5, std=5)({"image": torch.tensor([-3.0, 5.0, 10.0])})["image"]
        tensor([-1.,  0.,  1.])
    """

    def __init__(self, keys: KeysCollection, lower: float, upper: float, mean: float, std: float) -> None:
        super().__init__(keys)
        self.lower, self.upper, self.mean, self.std = lower, upper, mean, std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            data[key].clamp_(self.lower, self.upper).sub_(self.mean).div_(self.std)
        return dict(data)
