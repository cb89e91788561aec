"""Compose MONAI transforms for training: class-balanced random patches, deformed and with augmented intensities.

The types of the transforms and their approximate probabilities follow nnU-Net (Isensee et al. 2021, supplementary
note 4).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandGridDistortiond,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    SelectItemsd,
    Transform,
)
from monai.utils import CommonKeys

from segbundle.class_values import regions
from segbundle.config.from_settings import from_settings
from segbundle.datasets.sides import chosen_flips, warn_about_sides
from segbundle.errors import ConfigError, suggestion
from segbundle.transforms.preparing import prepared_steps

_KEYS = (CommonKeys.IMAGE, CommonKeys.LABEL)
_MODES = ("bilinear", "nearest")
_INDICES = f"{CommonKeys.LABEL}_cls_indices"
_MAX_INDICES_PER_CLASS = 20_000
"""Maximum number of patch centers stored per case and class: enough to sample from, and 117 classes fit in memory."""


@from_settings
def training_transforms(
    class_names: Sequence[str],
    patch_size: Sequence[int],
    intensity: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
    axcodes: str = "RAS",
    num_channels: int | None = None,
    augmentation: Mapping[str, Any] | None = None,
    allow_uneven: bool = False,
    classes: Mapping[str, Any] | None = None,
) -> Compose:
    """Return the transform that loads a case and returns a random, augmented patch.

    Deterministic steps come first, so that they can be cached. The label map is resampled to the network's grid as
    well.

    Args:
        class_names: class names of the task, background first.
        patch_size: (X, Y, Z) in voxels.
        intensity, spacing, axcodes, num_channels, allow_uneven: see `segbundle.transforms.preprocessing`.
        augmentation: arguments of `random_transforms`, by name. Default: None (its defaults).
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Returns:
        a transform that maps a datalist entry to a list with one dict: the plain tensors `image` (float32, (C,
        *patch_size)), `label` (float32, (1, *patch_size)) and `annotated` (bool, (num_classes,)), and the case name
        `case`

    Raises:
        ConfigError: a setting is unknown or invalid, or classes overlap.

    Example:
        >>> steps = training_transforms(["background", "liver"], (32, 32, 32), {"method": "zscore"}).transforms
        >>> type(steps[0]).__name__, type(steps[-1]).__name__
        ('LoadScand', 'EnsureTyped')
    """
    if regions(classes) is not None:
        raise ConfigError(
            "classes overlap, which MONAI's patch sampling does not support. Use the loader of train.yaml."
        )
    fixed: list[Transform] = [
        *prepared_steps(class_names, patch_size, intensity, spacing, axcodes, num_channels, allow_uneven),
        ClassesToIndicesd(
            keys=CommonKeys.LABEL,
            num_classes=len(class_names),
            max_samples_per_class=_MAX_INDICES_PER_CLASS,
        ),
        EnsureTyped(keys=_KEYS, track_meta=False),
    ]
    options = dict(augmentation or {})
    for name in options:
        if name not in (known := inspect.signature(random_transforms).parameters):
            raise ConfigError(f"augmentation: unknown setting {name!r}{suggestion(name, known)}")
    flips = options.get("flip_axes", "auto")
    options["flip_axes"] = chosen_flips(flips, class_names, axcodes)
    warn_about_sides(flips, class_names, axcodes, "augmentation#flip_axes")
    random = [balanced_patches(class_names, patch_size), *random_transforms(**options)]
    final = [
        SelectItemsd(keys=(*_KEYS, "annotated", "case")),
        EnsureTyped(keys=(*_KEYS, "annotated"), track_meta=False),
    ]
    return Compose([*fixed, *random, *final])


def balanced_patches(class_names: Sequence[str], patch_size: Sequence[int]) -> Transform:
    """Return the transform that crops a random, class-balanced patch.

    The class of the center is drawn uniformly from the classes of the case. Rare classes are sampled as often as large
    classes and the background.

    Args:
        class_names: class names of the task, background first.
        patch_size: (X, Y, Z) in voxels.

    Example:
        >>> type(balanced_patches(["background", "liver"], (32, 32, 32))).__name__
        'RandCropByLabelClassesd'
    """
    return RandCropByLabelClassesd(
        keys=_KEYS,
        label_key=CommonKeys.LABEL,
        spatial_size=patch_size,
        ratios=[1] * len(class_names),
        num_classes=len(class_names),
        indices_key=_INDICES,
        warn=False,
    )


def random_transforms(
    flip_axes: Sequence[int] | str = "auto", rotation: float | Sequence[float] = 20.0, scaling: float = 0.25
) -> list[Transform]:
    """Return random deformations of image and label map, followed by random intensity transforms of the image.

    Positions beyond the edge of the volume get the nearest edge value, in the image and in the label map.

    Args:
        flip_axes: axes to mirror, each with probability 1/2. Exclude an axis along which sides differ, for instance
            axis 0 in RAS orientation if left and right are different classes. `auto` (default) is axis 0.
        rotation: maximum angle in degrees; a number, or one per axis. Use `[0, 0, 30]` for thick slices, so that they
            are not rotated out of their plane. Default: 20.0.
        scaling: maximum relative change of size: 0.25 (default) for factors from 1/1.25 to 1.25.

    Returns:
        dictionary transforms of `image` (C, X, Y, Z) and `label` (1, X, Y, Z)

    Raises:
        ConfigError: `flip_axes` is neither `auto` nor a list of axes.

    Example:
        >>> [type(transform).__name__ for transform in random_transforms(flip_axes=(0,))][:3]
        ['RandAffined', 'RandGridDistortiond', 'RandFlipd']
    """
    degrees = [float(rotation)] * 3 if isinstance(rotation, (int, float)) else [float(r) for r in rotation]
    image = CommonKeys.IMAGE
    blur = (0.5, 1.0)
    return [
        RandAffined(
            keys=_KEYS,
            prob=0.3,
            rotate_range=[math.radians(angle) for angle in degrees],
            scale_range=[(1 / (1 + scaling) - 1, scaling)] * 3,
            mode=_MODES,
            padding_mode="border",
        ),
        RandGridDistortiond(
            keys=_KEYS,
            prob=0.1,
            num_cells=4,
            distort_limit=0.2,
            mode=_MODES,
            padding_mode="border",
        ),
        *(RandFlipd(keys=_KEYS, prob=0.5, spatial_axis=axis) for axis in chosen_flips(flip_axes, (), None)),
        RandGaussianNoised(keys=image, prob=0.1, std=0.1),
        RandGaussianSmoothd(keys=image, prob=0.1, sigma_x=blur, sigma_y=blur, sigma_z=blur),
        RandScaleIntensityd(keys=image, prob=0.15, factors=0.25),
        RandScaleIntensityFixedMeand(keys=image, prob=0.15, factors=0.25, preserve_range=True),
        RandSimulateLowResolutiond(keys=image, prob=0.1, zoom_range=(0.5, 1.0)),
        RandAdjustContrastd(keys=image, prob=0.2, gamma=(0.7, 1.5), retain_stats=True),
    ]
