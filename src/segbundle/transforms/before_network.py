"""Bring every scan onto the network's grid: orientation, spacing, intensity."""

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

from segbundle.errors import ConfigError, suggestion
from segbundle.transforms.load_scan import LoadScand
from segbundle.transforms.resampling import ToGridd

_logger = logging.getLogger(__name__)
_SAMPLE = 100_000
"""Voxels from which the range of a channel is estimated."""
_LEFT_OUT, _LEFT_OUT_AT_LEAST, _LEFT_OUT_OF_FEW = 2e-4, 32, 0.032
"""Fraction and number of the highest and of the lowest values that do not count for the range."""
_TAIL = 5e-3
"""Fraction of the highest and of the lowest values that do not count for the range if a gap precedes them."""
_GAP = 2.0
"""Size of that gap, as a multiple of the range of the values before it."""
_FILLING = 32767
"""Size from which on a scan's lowest or highest value may fill what was not measured, and does not count either."""
_FAR = 5.0
"""Multiple of the range by which a value lies outside of it in scans that are clipped."""
_INTENSITY_ARGUMENTS = {
    "zscore": (),
    "window": ("lower", "upper"),
    "ct": ("lower", "upper", "mean", "std"),
}


def preprocessing(
    intensity: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
    axcodes: str = "RAS",
    class_names: Sequence[str] = (),
    num_channels: int | None = None,
    label: bool = False,
) -> Compose:
    """Load a case and bring its image onto the network's grid; used by validation, evaluation and inference.

    A label map, if asked for, is loaded but left on the scan's own grid, where predictions are scored.

    Args:
        intensity: see `intensity_transform`.
        spacing: voxel size in mm along the axes of `axcodes`; None keeps each scan's own.
        axcodes: orientation of the network's grid, for instance `RAS`.
        class_names: the task's classes, to check label maps against.
        num_channels: how many channels the network takes; None skips that check.
        label: whether to load the label map too.

    Returns:
        a transform of datalist entries: `image` becomes a float32 `MetaTensor` (C, X, Y, Z).
    """
    loading = LoadScand(class_names, num_channels, label)
    return Compose([loading, *network_transforms((CommonKeys.IMAGE,), intensity, spacing, axcodes)])


def network_transforms(
    keys: Sequence[str], intensity: Mapping[str, Any], spacing: Sequence[float] | None, axcodes: str | None = "RAS"
) -> list[Transform]:
    """Return the steps from a loaded case to the network's grid and intensities.

    Args:
        keys: `image`, and `label` if the label map goes onto the grid, too.
        intensity, spacing, axcodes: as in `preprocessing`.
    """
    normalization = intensity_transform(intensity)
    clipping = [ClipOutliersd(CommonKeys.IMAGE)] if isinstance(normalization, ZScored) else []
    return [*clipping, *grid_transforms(keys, spacing, axcodes), normalization]


def grid_transforms(
    keys: Sequence[str], spacing: Sequence[float] | None, axcodes: str | None = "RAS"
) -> list[Transform]:
    """Reorientation and resampling: images linearly, label maps by nearest neighbour.

    Only flips, permutations and rescalings of the stored axes, never a rotation: an oblique scan stays oblique,
    so that predictions come back to its voxels exactly (see `segbundle.transforms.restoring`).
    """
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise ConfigError(f"spacing is {spacing}; three positive sizes in mm are needed, or null.")
    return [ToGridd(keys, spacing, axcodes, ["nearest" if key == CommonKeys.LABEL else "bilinear" for key in keys])]


def intensity_transform(intensity: Mapping[str, Any]) -> Transform:
    """Normalisation of the image's values.

    Args:
        intensity: one of
            `{method: zscore}`: subtract the scan's mean, divide by its standard deviation, per channel (MR); a few
            voxels far beyond all others do not count (`ClipOutliersd`);
            `{method: window, lower: a, upper: b}`: clip to [a, b], scale to [0, 1];
            `{method: ct, lower: a, upper: b, mean: m, std: s}`: clip to [a, b], subtract m, divide by s, with
            values of the training set's foreground (the CT rule of nnU-Net; Isensee et al. 2021).

    Raises:
        ConfigError: an unknown method, or values that are missing, superfluous or contradictory.
    """
    values = dict(intensity)
    method = values.pop("method", None)
    if method not in _INTENSITY_ARGUMENTS:
        raise ConfigError(f"intensity: unknown method {method!r}{suggestion(str(method), _INTENSITY_ARGUMENTS)}")
    needed = _INTENSITY_ARGUMENTS[method]
    if set(values) != set(needed):
        raise ConfigError(f"intensity: method {method!r} takes {list(needed)}, got {sorted(values)}.")
    if method == "zscore":
        return ZScored(CommonKeys.IMAGE)
    lower, upper = float(values["lower"]), float(values["upper"])
    mean, std = (float(values["mean"]), float(values["std"])) if method == "ct" else (lower, upper - lower)
    if not lower < upper or std <= 0:
        raise ConfigError(f"intensity: needs lower < upper and std > 0, got {values}.")
    return ClipAndScaled(CommonKeys.IMAGE, lower, upper, mean, std)


class ZScored(MapTransform):
    """Subtract the mean of every channel and divide by its standard deviation, which counts as 1 if it is 0.

    As MONAI's `NormalizeIntensityd(channel_wise=True)` does, but in place: whole scans are large.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            for channel in _plain(data[key]):
                mean, std = channel.mean(), channel.std(unbiased=False)
                channel.sub_(mean).div_(torch.where(std == 0, 1.0, std))
        return dict(data)


class ClipOutliersd(MapTransform):
    """Clip voxels that lie far beyond all others, so that a few of them do not decide a scan's mean and deviation.

    One voxel of 65535 (metal, a defect, padding) makes a z-score of everything else that a network cannot use. The
    range of a channel is that of its values without the highest and lowest 0.02 %, estimated from every n-th voxel. If
    a value lies outside of it by more than five times its size, the channel is clipped, in place, to three times the
    range, and a warning says so. More voxels, up to 0.5 %, are left out if a gap of twice the range lies between them
    and all others. Other channels stay as they are. -32768, 65535 and the like may fill any part of a scan; they become
    the end of the range itself.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            found = [words for channel in _plain(data[key]) if (words := _clip_outliers(channel))]
            if found:
                _logger.warning(
                    "%s: %s. They are clipped, as they would spoil the z-score normalization.",
                    data.get("case", "a scan"),
                    " and ".join(found),
                )
        return dict(data)


def _plain(image: torch.Tensor) -> torch.Tensor:
    """Return the tensor in a `MetaTensor`, whose operations take longer."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _clip_outliers(channel: torch.Tensor) -> str:
    """Clip the outliers of a channel (X, Y, Z) in place and return what they were; empty if there are none."""
    values = channel.numpy().ravel(order="K")  # as they lie in memory: no copy
    least, most = float(values.min()), float(values.max())
    sample = values[:: max(len(values) // _SAMPLE, 1) | 1]
    usual = sample[(sample != least) & (sample != most)] if max(-least, most) >= _FILLING else sample
    if len(usual) == 0:
        return ""
    few = max(int(_LEFT_OUT * len(usual)), min(_LEFT_OUT_AT_LEAST, int(_LEFT_OUT_OF_FEW * len(usual))))
    many = max(int(_TAIL * len(usual)), few)
    usual = np.partition(usual, (many, -1 - many)).astype(np.float64)
    lower, upper = np.sort(-usual[: many + 1]), np.sort(usual[-1 - many :])
    inner = upper[0] + lower[0]
    (below, low_gap), (high, high_gap) = (_end_of_range(tail, inner, few) for tail in (lower, upper))
    low = -below
    size = high - low
    far = least < low - _FAR * size or most > high + _FAR * size
    if size == 0 or not (far or low_gap or high_gap):
        return ""
    count = int(((values < low - size) | (values > high + size)).sum())
    if len(sample) - len(usual) > few:  # they fill a part of the scan
        channel.masked_fill_(channel == min(least, low), low).masked_fill_(channel == max(most, high), high)
    channel.clamp_(low - size, high + size)
    extremes = " and ".join(f"{value:g}" for value in (least, most) if not low - size <= value <= high + size)
    return f"{count} of {len(values)} voxels are far from the other values, {low:g} to {high:g} (up to {extremes})"


def _end_of_range(tail: np.ndarray, inner: float, few: int) -> tuple[float, bool]:
    """Return the highest value that counts for the range, and whether a gap follows it.

    Args:
        tail: the highest values in ascending order.
        inner: range of the values up to the first of them; if it is 0, all but some voxels have one value.
        few: number of the highest values that never count.
    """
    tail = tail[: len(tail) - few]
    gaps = np.flatnonzero(np.diff(tail) > _GAP * (tail[:-1] - tail[0] + inner))
    return (float(tail[gaps[0]]), True) if inner > 0 and len(gaps) else (float(tail[-1]), False)


class ClipAndScaled(MapTransform):
    """Clip to [lower, upper], subtract `mean`, divide by `std`; floating point, in place: whole scans are large."""

    def __init__(self, keys: KeysCollection, lower: float, upper: float, mean: float, std: float) -> None:
        super().__init__(keys)
        self.lower, self.upper, self.mean, self.std = lower, upper, mean, std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            data[key].clamp_(self.lower, self.upper).sub_(self.mean).div_(self.std)
        return dict(data)
