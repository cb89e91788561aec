"""Measure a plan on the device at hand: memory of its network, and time and memory of a few training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.config.options import default_bundle
from segbundle.config.overlays import merged_config, workflow_file
from segbundle.hardware.memory_usage import PeakMemory, reusable_memory
from segbundle.inference.memory import training_bytes
from segbundle.inference.patch_inferer import PatchInferer
from segbundle.planning.network_rules import Levels
from segbundle.planning.patch_rules import Footprint
from segbundle.sampling.augmentation import Augmentation
from segbundle.sampling.loader import PatchLoader

_COPIES = 5
"""Copies of the weights during training: weights, gradients, two moments of AdamW, and the moving average."""
_STEPS, _SECONDS = 4, 6.0
"""Maximum number of measured steps, and time in seconds after which no further step is started."""


class Measurement(NamedTuple):
    """Measured time and memory of a plan.

    Attributes:
        step: median seconds of a training step.
        window: seconds of the inference of one window.
        num_bytes: peak memory of a step in bytes, on the device of the network.
        steps: number of measured steps.

    Example:
        >>> Measurement(0.5, 0.1, 1e9, 3).step
        0.5
    """

    step: float
    window: float
    num_bytes: float
    steps: int


def footprint_function(
    settings: Callable[[Levels], Mapping[str, Any]], channels: int, device: torch.device
) -> Callable[[Levels], Footprint]:
    """Return a function that estimates the memory of a network with given levels, and caches the results.

    The memory is estimated by `segbundle.inference.memory.training_bytes` on small patches.

    Args:
        settings: function that returns the settings of a network with given levels.
        channels: number of input channels.
        device: device of the training run.

    Example:
        >>> levels = Levels(((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2)))
        >>> def settings(levels):
        ...     return {"network_def#filters": [4, 8, 16], "network_def#kernel_size": [3, 3, 3],
        ...             "network_def#strides": [1, 2, 2], "network_def#upsample_kernel_size": [2, 2]}
        >>> footprint_function(settings, 1, torch.device("cpu"))(levels).per_voxel > 100
        True
    """
    known: dict[Levels, Footprint] = {}

    def footprint(levels: Levels) -> Footprint:
        if levels not in known:
            network = _Task(settings(levels), device).network
            size = [2 * step for step in levels.divisors]
            weights = sum(parameter.nbytes for parameter in network.parameters())
            each = training_bytes(network, channels, size, "auto")
            known[levels] = Footprint(float(_COPIES * weights), each / math.prod(size))
        return known[levels]

    return footprint


def measure_steps(
    values: Mapping[str, Any], shape: Sequence[int], augmentation: Augmentation, device: torch.device
) -> Measurement:
    """Train at most five steps on a case of zeros, and return their time and memory.

    The first step is not timed. No further step is started after six seconds, but at least one step is timed.

    Args:
        values: settings of the plan by key.
        shape: shape (X, Y, Z) of a case on the network's grid, in voxels.
        augmentation: augmentation of the training run.
        device: device of the training run.

    Raises:
        torch.OutOfMemoryError: the steps do not fit into the memory of a GPU.

    Example:
        >>> values = {"patch_size": [16, 16, 16], "batch_size": 2, "network_def#filters": [4, 8, 16, 16]}
        >>> measure_steps(values, [20, 20, 20], Augmentation(), torch.device("cpu")).step > 0
        True
    """
    task = _Task(values, device)
    patch_size, batch_size = values["patch_size"], values["batch_size"]
    channels, classes = task.num_channels, len(task.get("class_names"))
    sides = [min(max(side, size), 2 * size) for side, size in zip(shape, patch_size, strict=True)]
    loader = PatchLoader([_case(channels, sides, classes)], patch_size, batch_size, augmentation, device=device)
    network, optimizer, loss, inferer = task.network, task.get("optimizer"), task.get("loss"), PatchInferer()
    before = psutil.Process().memory_info().rss - reusable_memory()
    meter, seconds = PeakMemory(device), list[float]()
    network.train()
    for step in range(1 + _STEPS):
        begun = time.monotonic()
        batch = loader.batch(1, step)
        optimizer.zero_grad()
        loss(inferer(batch["image"], network), batch["label"]).backward()
        optimizer.step()
        _synchronize(device)
        seconds.append(time.monotonic() - begun)
        if step and sum(seconds) > _SECONDS:
            break
    peaks = meter.peaks()
    on_gpu = "peak_gpu_memory_mb" in peaks
    num_bytes = peaks["peak_gpu_memory_mb"] * 1e6 if on_gpu else max(peaks["peak_memory_mb"] * 1e6 - before, 0)
    window = _time_window(network, inferer, batch["image"][:1])
    return Measurement(float(np.median(seconds[1:])), window, num_bytes, len(seconds) - 1)


def _time_window(network: torch.nn.Module, inferer: PatchInferer, window: torch.Tensor) -> float:
    """Return the time of a window in seconds: the shorter of two, measured after a warm-up window."""
    network.eval()
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            begun = time.monotonic()
            inferer(window, network)
            _synchronize(window.device)
            seconds.append(time.monotonic() - begun)
    return min(seconds[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _case(channels: int, shape: Sequence[int], classes: int) -> dict[str, Any]:
    """Return a prepared case of zeros with one voxel in the center that belongs to the first class."""
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    center = int(np.ravel_multi_index([side // 2 for side in shape], shape))
    label.view(-1)[center] = 1
    voxels = [torch.zeros(0, dtype=torch.int32) for _ in range(classes)]
    voxels[0], voxels[1] = torch.arange(1, dtype=torch.int32), torch.tensor([center], dtype=torch.int32)
    return {
        "image": torch.zeros(channels, *shape, dtype=torch.float16),
        "label": label,
        "indices": voxels,
        "annotated": torch.ones(classes, dtype=torch.bool),
        "spacing": (1.0, 1.0, 1.0),
        "case": "zeros",
    }


class _Task:
    """Components of the bundle's training with the settings of a plan."""

    def __init__(self, values: Mapping[str, Any], device: torch.device) -> None:
        with fast_imports():
            from monai.bundle import ConfigParser

        path = workflow_file(default_bundle() / "configs", "train")
        with torch.random.fork_rng(devices=[]):
            self._parser = ConfigParser(merged_config([path], None, {**values, "device": str(device)}))
            self.network: torch.nn.Module = self.get("network")

    @property
    def num_channels(self) -> int:
        """Number of input channels of the network."""
        return int(self._parser["network_def"]["in_channels"])

    def get(self, key: str) -> Any:
        """Return the value or component of a key."""
        return self._parser.get_parsed_content(key)
