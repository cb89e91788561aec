"""Random changes of patches, drawn in one place: as values, which `cutting` and `degrading` then apply.

Families and probabilities are those of nnU-Net (Isensee et al. 2021, supplementary note 4; version 2's defaults).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Change:
    """What happens to one patch; the defaults change nothing.

    Lists have a value per channel of the image, 0 or 1 where that channel stays as it is.
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation about each axis, in radians: first about the last one."""
    scale: float = 1.0
    """How much larger things become."""
    flips: tuple[int, ...] = ()
    """Axes along which the patch is mirrored."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise."""
    noise_seed: int = 0
    blur: list[float] = field(default_factory=list)
    """Standard deviation of a Gaussian kernel, in voxels."""
    brightness: list[float] = field(default_factory=list)
    """Factor of all values."""
    contrast: list[float] = field(default_factory=list)
    """Factor of the distances to the mean."""
    zoom: list[float] = field(default_factory=list)
    """Size of a smaller grid, relative to the patch's, through which the image passes."""
    inverted_gamma: list[float] = field(default_factory=list)
    """Exponent of the negative image's values, between their smallest and largest."""
    gamma: list[float] = field(default_factory=list)
    """Exponent of the image's values, between their smallest and largest."""

    @property
    def deforms(self) -> bool:
        """Whether voxels lie elsewhere than before, mirroring left out."""
        return self.scale != 1 or any(self.angles)


@dataclass(frozen=True)
class Augmentation:
    """How patches may change.

    Args:
        flip_axes: axes that may be mirrored, each with probability 1/2; leave out an axis along which anatomy must be
            told apart, for instance 0 in RAS where left and right are different classes.
        rotation: largest angle in degrees about each axis, or one per axis; `[0, 0, 30]` for thick slices, so that
            they are not rotated out of their plane.
        scaling: sizes change by up to this fraction.
        intensity: whether the image's values change too: noise, blur, brightness, contrast, low resolution, gamma.
    """

    flip_axes: Sequence[int] = (0,)
    rotation: float | Sequence[float] = 20.0
    scaling: float = 0.25
    intensity: bool = True

    def __post_init__(self) -> None:
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes must be some of 0, 1 and 2, got {list(self.flip_axes)}.")
        if not isinstance(self.rotation, (int, float)) and len(self.rotation) != 3:
            raise ValueError(f"rotation must be one angle or three, got {list(self.rotation)}.")
        angles = [self.rotation] if isinstance(self.rotation, (int, float)) else self.rotation
        if not all(0 <= angle <= 180 for angle in angles):
            raise ValueError(f"rotation must lie between 0 and 180 degrees, got {self.rotation}.")
        if not 0 <= self.scaling < 1:
            raise ValueError(f"scaling must be at least 0 and less than 1, got {self.scaling}.")

    def draw(self, rng: np.random.Generator, channels: int) -> Change:
        """A change of one patch with so many channels."""
        largest = [self.rotation] * 3 if isinstance(self.rotation, (int, float)) else self.rotation
        x, y, z = (math.radians(rng.uniform(-angle, angle)) for angle in largest)
        angles = (x, y, z) if rng.random() < 0.2 else (0.0, 0.0, 0.0)
        scale = _factor(rng, 1 / (1 + self.scaling), 1 + self.scaling) if rng.random() < 0.2 else 1.0
        flips = tuple(axis for axis in self.flip_axes if rng.random() < 0.5)
        if not self.intensity:
            return Change(angles, scale, flips)

        def per_channel(probability: float, low: float, high: float, nothing: float, each: float = 1) -> list[float]:
            if rng.random() >= probability:
                return []
            return [_factor(rng, low, high) if rng.random() < each else nothing for _ in range(channels)]

        return Change(
            angles,
            scale,
            flips,
            noise=math.sqrt(rng.uniform(0, 0.1)) if rng.random() < 0.1 else 0.0,
            noise_seed=int(rng.integers(2**62)),
            blur=per_channel(0.2, 0.5, 1.0, 0, 0.5),
            brightness=per_channel(0.15, 0.75, 1.25, 1),
            contrast=per_channel(0.15, 0.75, 1.25, 1),
            zoom=per_channel(0.25, 0.5, 1.0, 1, 0.5),
            inverted_gamma=per_channel(0.1, 0.7, 1.5, 1),
            gamma=per_channel(0.3, 0.7, 1.5, 1),
        )


def _factor(rng: np.random.Generator, low: float, high: float) -> float:
    """A factor between two; where they lie on both sides of 1, as often below as above."""
    if low < 1 < high and rng.random() < 0.5:
        return float(rng.uniform(low, 1))
    return float(rng.uniform(max(low, 1), high)) if low < 1 < high else float(rng.uniform(low, high))
