"""What a training sees of its cases: balanced patches, deformed and degraded at random.

The families and roughly the probabilities are nnU-Net's (Isensee et al. 2021, supplementary note 4), made of
MONAI's transforms.
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

from segbundle.datasets.sides import chosen_flips, warn_about_sides
from segbundle.errors import ConfigError, suggestion
from segbundle.transforms.preparing import prepared_steps

_KEYS = (CommonKeys.IMAGE, CommonKeys.LABEL)
_MODES = ("bilinear", "nearest")
_INDICES = f"{CommonKeys.LABEL}_cls_indices"
_MAX_INDICES_PER_CLASS = 20_000
"""Patch centres remembered per case and class: plenty to sample from, and 117 classes still fit in memory."""


def training_transforms(
    class_names: Sequence[str],
    patch_size: Sequence[int],
    intensity: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
    axcodes: str = "RAS",
    num_channels: int | None = None,
    augmentation: Mapping[str, Any] | None = None,
) -> Compose:
    """From a case's files to random patches: what is the same every time first, so that it can be cached.

    Args:
        class_names: the task's classes, the background first.
        patch_size: voxels of a patch along the three axes.
        intensity, spacing, axcodes, num_channels: as in `segbundle.transforms.preprocessing`; the label map goes
            onto the network's grid as well.
        augmentation: arguments of `random_transforms`; None for its defaults.

    Returns:
        a transform of datalist entries into a list with one dict: `image` float32 (C, *patch_size), `label`
        (1, *patch_size) and `annotated` bool (num_classes,), plain tensors.
    """
    fixed: list[Transform] = [
        *prepared_steps(class_names, patch_size, intensity, spacing, axcodes, num_channels),
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
    """One random patch per call, its centre in a class drawn uniformly from those that the case holds.

    A rare class is thus seen as often as a large one, the background as often as any class, and a case that is
    all background gives a patch of background.
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
    """Random deformations of image and label, then random degradations of the image.

    What a deformation takes from beyond the border is the border repeated, in the label map as in the image.

    Args:
        flip_axes: spatial axes that may be mirrored, each with probability 1/2; leave out an axis along which
            anatomy must be told apart, for instance 0 in RAS where left and right are different classes. `auto` is the
            first axis.
        rotation: largest angle in degrees about each axis, or one per axis; `[0, 0, 30]` for thick slices, so
            that they are not rotated out of their plane.
        scaling: sizes change by up to this fraction.

    Returns:
        transforms of dicts with `image` (C, X, Y, Z) and `label` (1, X, Y, Z).
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
