"""A training case as it is before anything random happens to it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SpatialPad, Transform
from monai.utils import CommonKeys

from segbundle.classes import IGNORE_INDEX
from segbundle.metrics.measures import measure_classes
from segbundle.transforms.before_network import network_transforms
from segbundle.transforms.load_scan import LoadScand

_logger = logging.getLogger(__name__)
_MAX_INDICES_PER_CLASS = 20_000
"""Places remembered per case and class: plenty to sample from, and 117 classes still fit in memory."""


class PrepareCase(Transform):
    """From a case's files to tensors on the network's grid, ready for patches to be cut out of them.

    Args:
        class_names: the task's classes, the background first.
        patch_size: (X, Y, Z); smaller cases are padded to it.
        intensity, spacing, axcodes, num_channels: as in `segbundle.transforms.preprocessing`; the label map goes onto
            the network's grid as well.

    Calling it with a datalist entry gives a dict: `image` float16 (C, X, Y, Z), `label` uint8 (1, X, Y, Z), `indices`
    (per class up to 20,000 places of it in the flattened label map, int32), `annotated` bool (num_classes,),
    `measures` (`segbundle.metrics.measures.ClassMeasures` of every class as a dict, of the files as they were read),
    `spacing` (mm, of the grid) and `case`.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        patch_size: Sequence[int],
        intensity: Mapping[str, Any],
        spacing: Sequence[float] | None = None,
        axcodes: str = "RAS",
        num_channels: int | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "class_names": list(class_names),
            "patch_size": list(patch_size),
            "intensity": dict(intensity),
            "spacing": None if spacing is None else list(spacing),
            "axcodes": axcodes,
            "num_channels": num_channels,
        }
        load, *rest = prepared_steps(class_names, patch_size, intensity, spacing, axcodes, num_channels)
        self._load, self._prepare = load, Compose(rest)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        loaded = self._load(dict(data))
        measures = _measures(loaded[CommonKeys.IMAGE], loaded[CommonKeys.LABEL], len(self.settings["class_names"]))
        prepared: Any = self._prepare(loaded)
        image, label = prepared[CommonKeys.IMAGE], prepared[CommonKeys.LABEL].as_tensor().to(torch.uint8)
        return {
            "image": image.as_tensor().half().contiguous(),  # plain strings, which files of tensors may hold
            "label": label.contiguous(),
            "indices": class_indices(label, len(self.settings["class_names"])),
            "annotated": prepared["annotated"],
            "measures": measures,
            "spacing": [float(size) for size in torch.linalg.vector_norm(image.affine[:3, :3], dim=0)],
            "case": prepared["case"],
        }


def prepared_steps(
    class_names: Sequence[str],
    patch_size: Sequence[int],
    intensity: Mapping[str, Any],
    spacing: Sequence[float] | None,
    axcodes: str,
    num_channels: int | None,
) -> list[Transform]:
    """What a training does with every case once; see `PrepareCase`."""
    return [
        LoadScand(class_names, num_channels, label=True),
        *network_transforms((CommonKeys.IMAGE, CommonKeys.LABEL), intensity, spacing, axcodes),
        PadToPatchd(patch_size),
    ]


def _measures(image: MetaTensor, label: MetaTensor, num_classes: int) -> list[dict[str, Any]]:
    """Of every class what there is to measure, in the first channel of an image, as plain values."""
    voxel_ml = float(torch.linalg.det(label.affine[:3, :3]).abs()) / 1000
    volumes = image.as_tensor()[0].numpy(), label.as_tensor()[0].numpy()
    return [asdict(one) for one in measure_classes(*volumes, num_classes, voxel_ml)]


def class_indices(label: torch.Tensor, num_classes: int) -> list[torch.Tensor]:
    """Per class, where it lies in a flattened label map: int32, evenly chosen from all places if they are many."""
    flat = label.numpy().ravel()
    counts = np.bincount(flat, minlength=num_classes)
    found = []
    for index in range(num_classes):
        places = np.flatnonzero(flat == index) if counts[index] else np.zeros(0, int)
        if len(places) > _MAX_INDICES_PER_CLASS:
            places = places[np.linspace(0, len(places) - 1, _MAX_INDICES_PER_CLASS).astype(int)]
        found.append(torch.from_numpy(places.astype(np.int32)))
    return found


class PadToPatchd(Transform):
    """Pad `image` and `label` (C, X, Y, Z) to at least the size of a patch, equally on both sides.

    The image is padded with 0; the label map with background, or, if it has unknown voxels, with more of them: where
    not everything is known, nothing is known outside. That it happens is said once.
    """

    def __init__(self, patch_size: Sequence[int]) -> None:
        self.patch_size = list(patch_size)
        self.pad = SpatialPad(patch_size)
        self._said = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        padded = dict(data)
        label = padded[CommonKeys.LABEL]
        if not self._said and any(size < wanted for size, wanted in zip(label.shape[1:], self.patch_size, strict=True)):
            self._said = True
            where, shape = data.get("case", "a case"), "×".join(map(str, label.shape[1:]))
            _logger.warning("%s has %s voxels, less than patch_size somewhere: such cases are padded", where, shape)
        outside = IGNORE_INDEX if bool((label == IGNORE_INDEX).any()) else 0
        padded[CommonKeys.IMAGE] = self.pad(padded[CommonKeys.IMAGE])
        padded[CommonKeys.LABEL] = self.pad(label, value=outside)
        return padded
