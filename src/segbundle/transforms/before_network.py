"""Bring every scan onto the network's grid: orientation, spacing, intensity."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, NormalizeIntensityd, Transform
from monai.utils import CommonKeys

from segbundle.errors import ConfigError, suggestion
from segbundle.transforms.loading import LoadScand
from segbundle.transforms.resampling import ToGridd

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
    return Compose([loading, *grid_transforms((CommonKeys.IMAGE,), spacing, axcodes), intensity_transform(intensity)])


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
            `{method: zscore}`: subtract the scan's mean, divide by its standard deviation, per channel (MR);
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
        return NormalizeIntensityd(keys=CommonKeys.IMAGE, channel_wise=True)
    lower, upper = float(values["lower"]), float(values["upper"])
    mean, std = (float(values["mean"]), float(values["std"])) if method == "ct" else (lower, upper - lower)
    if not lower < upper or std <= 0:
        raise ConfigError(f"intensity: needs lower < upper and std > 0, got {values}.")
    return ClipAndScaled(CommonKeys.IMAGE, lower, upper, mean, std)


class ClipAndScaled(MapTransform):
    """Clip to [lower, upper], subtract `mean`, divide by `std`; floating point, in place: whole scans are large."""

    def __init__(self, keys: KeysCollection, lower: float, upper: float, mean: float, std: float) -> None:
        super().__init__(keys)
        self.lower, self.upper, self.mean, self.std = lower, upper, mean, std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            data[key].clamp_(self.lower, self.upper).sub_(self.mean).div_(self.std)
        return dict(data)
