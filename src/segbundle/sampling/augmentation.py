"""Draw random parameters of patch augmentation, to be applied by `cut` and `degrade`.

Transforms and probabilities are those of nnU-Net (Isensee et al. 2021, supplementary note 4; defaults of version 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Change:
    """Augmentation parameters of one patch. The defaults leave the patch unchanged.

    A list has one value per image channel. An empty list (default) leaves all channels unchanged; a value of 0 (`blur`)
    or 1 (other lists) leaves its channel unchanged.

    Example:
        >>> Change(flips=(0,)).deforms, Change(scale=1.2).deforms
        (False, True)
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation about each axis in radians; the rotation about the last axis is applied first."""
    scale: float = 1.0
    """Scale factor of the content; values above 1 enlarge it."""
    flips: tuple[int, ...] = ()
    """Axes to mirror."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, in units of the normalized image."""
    noise_seed: int = 0
    """Seed of the noise."""
    blur: list[float] = field(default_factory=list)
    """Standard deviation of the Gaussian kernel, in voxels."""
    brightness: list[float] = field(default_factory=list)
    """Factor by which all values are multiplied."""
    contrast: list[float] = field(default_factory=list)
    """Factor by which the differences from the mean are multiplied."""
    zoom: list[float] = field(default_factory=list)
    """Size of the low-resolution grid, relative to the patch."""
    inverted_gamma: list[float] = field(default_factory=list)
    """Gamma exponent for the inverted image, whose values are normalized to [0, 1]."""
    gamma: list[float] = field(default_factory=list)
    """Gamma exponent for the image, whose values are normalized to [0, 1]."""

    @property
    def deforms(self) -> bool:
        """True if the patch is rotated or scaled."""
        return self.scale != 1 or any(self.angles)


@dataclass(frozen=True)
class Augmentation:
    """Distribution from which the augmentation parameters of a patch are drawn.

    Attributes:
        flip_axes: axes to mirror, each with probability 1/2. Exclude an axis along which sides differ, for instance
            axis 0 in RAS orientation if left and right are different classes. Default: (0,).
        rotation: maximum angle in degrees; a number, or one per axis. Use `[0, 0, 30]` for thick slices, so that they
            are not rotated out of their plane. Default: 20.0.
        scaling: maximum relative change of size, in [0, 1): 0.25 (default) for factors from 1/1.25 to 1.25.
        intensity: whether to augment intensities (noise, blur, brightness, contrast, low resolution, gamma). Default:
            True.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> augmentation = Augmentation(flip_axes=(), rotation=0, scaling=0, intensity=False)
        >>> augmentation.draw(np.random.default_rng(0), channels=1) == Change()
        True
    """

    flip_axes: Sequence[int] = (0,)
    rotation: float | Sequence[float] = 20.0
    scaling: float = 0.25
    intensity: bool = True

    def __post_init__(self) -> None:
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes must be a subset of [0, 1, 2], got {list(self.flip_axes)}.")
        if not isinstance(self.rotation, (int, float)) and len(self.rotation) != 3:
            raise ValueError(f"rotation must be one angle or three, got {list(self.rotation)}.")
        angles = [self.rotation] if isinstance(self.rotation, (int, float)) else self.rotation
        if not all(0 <= angle <= 180 for angle in angles):
            raise ValueError(f"rotation must be between 0 and 180 degrees, got {self.rotation}.")
        if not 0 <= self.scaling < 1:
            raise ValueError(f"scaling must be at least 0 and less than 1, got {self.scaling}.")

    def draw(self, rng: np.random.Generator, channels: int) -> Change:
        """Draw the augmentation parameters of one patch.

        Rotation and scaling have a probability of 0.2 each, every flip has 0.5, and every intensity change between 0.1
        and 0.3.

        Args:
            rng: random generator.
            channels: number of image channels.

        Returns:
            parameters with one value per channel in each list that is not empty
        """
        largest = [self.rotation] * 3 if isinstance(self.rotation, (int, float)) else self.rotation
        x, y, z = (math.radians(rng.uniform(-angle, angle)) for angle in largest)
        angles = (x, y, z) if rng.random() < 0.2 else (0.0, 0.0, 0.0)
        scale = _factor(rng, 1 / (1 + self.scaling), 1 + self.scaling) if rng.random() < 0.2 else 1.0
        flips = tuple(axis for axis in self.flip_axes if rng.random() < 0.5)
        if not self.intensity:
            return Change(angles, scale, flips)

        def per_channel(probability: float, low: float, high: float, identity: float, each: float = 1) -> list[float]:
            if rng.random() >= probability:
                return []
            return [_factor(rng, low, high) if rng.random() < each else identity for _ in range(channels)]

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
    """Draw a factor between two limits; if they are on both sides of 1, half of the factors are below 1."""
    if low < 1 < high and rng.random() < 0.5:
        return float(rng.uniform(low, 1))
    return float(rng.uniform(max(low, 1), high)) if low < 1 < high else float(rng.uniform(low, high))
