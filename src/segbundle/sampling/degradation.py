"""Degrading the image of a patch as a worse scanner would, with values that were drawn before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from segbundle.sampling.augmentation import Change

_ZERO = 1e-7


def degrade(image: torch.Tensor, change: Change) -> torch.Tensor:
    """The image (C, X, Y, Z), float32, after a change's noise, blur, brightness, contrast, low resolution and gamma.

    It is not changed itself.
    """
    if change.noise:
        generator = torch.Generator(image.device).manual_seed(change.noise_seed)
        image = image + change.noise * torch.randn(image.shape, generator=generator, device=image.device)
    image = _each(image, change.blur, 0, blurred)
    image = _each(image, change.brightness, 1, torch.mul)
    image = _each(image, change.contrast, 1, with_contrast)
    image = _each(image, change.zoom, 1, at_low_resolution)
    image = _each(image, change.inverted_gamma, 1, lambda channel, gamma: -with_gamma(-channel, gamma))
    return _each(image, change.gamma, 1, with_gamma)


def _each(
    image: torch.Tensor,
    values: Sequence[float],
    nothing: float,
    function: Callable[[torch.Tensor, float], torch.Tensor],
) -> torch.Tensor:
    """Apply a function to every channel that has a value."""
    if not values or all(value == nothing for value in values):
        return image
    channels = zip(image, values, strict=True)
    return torch.stack([channel if value == nothing else function(channel, value) for channel, value in channels])


def blurred(channel: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolved (X, Y, Z) with a Gaussian of so many voxels, cut off at 3 sigma; borders are repeated."""
    radius = math.ceil(3 * sigma)
    taps = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    for axis in range(3):
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
        padded = torch.nn.functional.pad(channel[None, None], pad, mode="replicate")[0, 0]
        size = channel.shape[axis]
        channel = padded.narrow(axis, 0, size) * taps[0]
        for shift in range(1, 2 * radius + 1):
            channel.add_(padded.narrow(axis, shift, size), alpha=taps[shift])
    return channel


def with_contrast(channel: torch.Tensor, factor: float) -> torch.Tensor:
    """Distances to the mean times a factor, without leaving the range there was."""
    mean = channel.mean()
    low, high = channel.aminmax()
    return ((channel - mean) * factor + mean).clamp_(low, high)


def at_low_resolution(channel: torch.Tensor, zoom: float) -> torch.Tensor:
    """Taken on a grid that is smaller by a factor, by nearest neighbour, and brought back by interpolation."""
    size = [max(round(extent * zoom), 1) for extent in channel.shape]
    small = torch.nn.functional.interpolate(channel[None, None], size=size, mode="nearest-exact")
    back = torch.nn.functional.interpolate(small, size=list(channel.shape), mode="trilinear", align_corners=False)
    return back[0, 0]


def with_gamma(channel: torch.Tensor, gamma: float) -> torch.Tensor:
    """Values between their smallest (0) and largest (1) to the power of gamma; mean and standard deviation stay."""
    low, high = channel.aminmax()
    mean, std = channel.mean(), channel.std()
    changed = ((channel - low) / (high - low).clamp_min(_ZERO)).pow_(gamma) * (high - low) + low
    return (changed - changed.mean()) * (std / changed.std().clamp_min(_ZERO)) + mean
