"""Augment the intensities of a patch with given parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from segbundle.sampling.augmentation import Change

_ZERO = 1e-7


def degrade(image: torch.Tensor, change: Change) -> torch.Tensor:
    """Apply noise, blur, brightness, contrast, low resolution and gamma to an image.

    Args:
        image: (C, X, Y, Z), float32; not modified.
        change: augmentation parameters, of which all except `angles`, `scale` and `flips` are applied.

    Returns:
        the image, float32 (C, X, Y, Z); `image` itself if nothing changes

    Example:
        >>> degrade(torch.ones(1, 2, 2, 2), Change(brightness=[1.5])).unique()
        tensor([1.5000])
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
    identity: float,
    function: Callable[[torch.Tensor, float], torch.Tensor],
) -> torch.Tensor:
    """Apply a function to every channel whose value is not `identity`."""
    if not values or all(value == identity for value in values):
        return image
    channels = zip(image, values, strict=True)
    return torch.stack([channel if value == identity else function(channel, value) for channel, value in channels])


def blurred(channel: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return a channel (X, Y, Z) smoothed with a Gaussian kernel.

    The kernel is truncated at 3 sigma. Positions beyond the edge get the nearest edge value.

    Args:
        channel: (X, Y, Z), floating point.
        sigma: standard deviation of the kernel in voxels, greater than 0.

    Returns:
        smoothed channel, same shape and dtype

    Example:
        >>> blurred(torch.full((2, 2, 2), 3.0), sigma=0.5).round().unique()
        tensor([3.])
    """
    radius = math.ceil(3 * sigma)
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
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
    """Return a channel with changed contrast: differences from the mean are multiplied by a factor.

    Values are clipped to the range of the original channel.

    Args:
        channel: (X, Y, Z), floating point; not modified.
        factor: factor by which the differences from the mean are multiplied; values above 1 increase the contrast.

    Returns:
        changed channel, same shape and dtype

    Example:
        >>> with_contrast(torch.tensor([0.0, 1.0, 2.0]), factor=0.5)
        tensor([0.5000, 1.0000, 1.5000])
    """
    mean = channel.mean()
    low, high = channel.aminmax()
    return ((channel - mean) * factor + mean).clamp_(low, high)


def at_low_resolution(channel: torch.Tensor, zoom: float) -> torch.Tensor:
    """Return a channel (X, Y, Z) at simulated low resolution: downsampled by nearest neighbor, upsampled linearly.

    Args:
        channel: (X, Y, Z), floating point.
        zoom: size of the low-resolution grid relative to the channel, in (0, 1].

    Returns:
        changed channel, same shape and dtype

    Example:
        >>> at_low_resolution(torch.rand(4, 4, 4), zoom=0.5).shape
        torch.Size([4, 4, 4])
    """
    size = [max(round(extent * zoom), 1) for extent in channel.shape]
    small = torch.nn.functional.interpolate(channel[None, None], size=size, mode="nearest-exact")
    back = torch.nn.functional.interpolate(small, size=list(channel.shape), mode="trilinear", align_corners=False)
    return back[0, 0]


def with_gamma(channel: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return a channel after a gamma correction that preserves its mean and standard deviation.

    The exponent is applied to values normalized to [0, 1].

    Args:
        channel: (X, Y, Z), floating point; not modified.
        gamma: exponent, greater than 0.

    Returns:
        changed channel, same shape and dtype

    Example:
        >>> channel = torch.tensor([0.0, 0.25, 1.0])
        >>> torch.allclose(with_gamma(channel, gamma=2.0).mean(), channel.mean())
        True
    """
    low, high = channel.aminmax()
    mean, std = channel.mean(), channel.std()
    changed = ((channel - low) / (high - low).clamp_min(_ZERO)).pow_(gamma) * (high - low) + low
    return (changed - changed.mean()) * (std / changed.std().clamp_min(_ZERO)) + mean
