"""Prepare training cases for patch extraction: the deterministic steps before random transforms."""

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

from segbundle.class_values import regions
from segbundle.classes import IGNORE_INDEX
from segbundle.config.from_settings import from_settings
from segbundle.metrics.measures import measure_classes
from segbundle.transforms.before_network import LoadScand, network_transforms

_logger = logging.getLogger(__name__)
_MAX_INDICES_PER_CLASS = 20_000
"""Maximum number of voxel indices stored per case and class: enough to sample from, and 117 classes fit in memory."""


class PrepareCase(Transform):
    """Transform that loads a training case as tensors on the network's grid, ready for patch extraction.

    Image and label map are resampled to the network's grid. A call with a datalist entry returns a dict with:

    - `image`: float16 (C, X, Y, Z);
    - `label`: uint8 (1, X, Y, Z);
    - `indices`: for every class, int32 (n,) with up to 20,000 voxel indices into the flattened label map;
    - `annotated`: bool (num_classes,);
    - `measures`: `segbundle.metrics.measures.ClassMeasures` of every class as dicts, measured before resampling;
    - `spacing`: voxel size of the network's grid in mm, three numbers;
    - `case`: name of the case.

    Args:
        class_names: class names of the task, background first.
        patch_size: (X, Y, Z) in voxels; smaller cases are padded to this size.
        intensity, spacing, axcodes, num_channels, allow_uneven: see `segbundle.transforms.preprocessing`.
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Attributes:
        settings: arguments by name, as plain values.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> prepare = PrepareCase(["background", "liver"], (4, 4, 4), {"method": "zscore"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/scan.nii"
        ...     nib.save(nib.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None].repeat(4, axis=2), np.eye(4)), path)
        ...     prepared = prepare({"case": "a", "image": path, "label": path})
        >>> prepared["image"].shape, prepared["image"].dtype, len(prepared["indices"][1])
        (torch.Size([1, 4, 4, 4]), torch.float16, 16)
    """

    @from_settings
    def __init__(
        self,
        class_names: Sequence[str],
        patch_size: Sequence[int],
        intensity: Mapping[str, Any],
        spacing: Sequence[float] | None = None,
        axcodes: str = "RAS",
        num_channels: int | None = None,
        allow_uneven: bool = False,
        classes: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "class_names": list(class_names),
            "patch_size": list(patch_size),
            "intensity": dict(intensity),
            "spacing": None if spacing is None else list(spacing),
            "axcodes": axcodes,
            "num_channels": num_channels,
            "allow_uneven": allow_uneven,
            "classes": None if classes is None else dict(classes),
        }
        load, *rest = prepared_steps(class_names, patch_size, intensity, spacing, axcodes, num_channels, allow_uneven)
        self._regions = regions(classes)
        self._load, self._prepare = load, Compose(rest)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        loaded = self._load(dict(data))
        num_classes = len(self.settings["class_names"])
        measures = _measures(loaded[CommonKeys.IMAGE], loaded[CommonKeys.LABEL], num_classes, self._regions)
        prepared: Any = self._prepare(loaded)
        image, label = prepared[CommonKeys.IMAGE], prepared[CommonKeys.LABEL].as_tensor().to(torch.uint8)
        return {
            "image": image.as_tensor().half().contiguous(),  # without metadata
            "label": label.contiguous(),
            "indices": class_indices(label, num_classes, self._regions),
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
    allow_uneven: bool = False,
) -> list[Transform]:
    """Return the transforms of `PrepareCase`, from loading to padding.

    Args:
        class_names, patch_size: see `PrepareCase`.
        intensity, spacing, axcodes, num_channels, allow_uneven: see `segbundle.transforms.preprocessing`.

    Example:
        >>> steps = prepared_steps(["background", "liver"], (32, 32, 32), {"method": "zscore"}, None, "RAS", None)
        >>> type(steps[0]).__name__, type(steps[-1]).__name__
        ('LoadScand', 'PadToPatchd')
    """
    return [
        LoadScand(class_names, num_channels, True, intensity.get("units"), allow_uneven),
        *network_transforms((CommonKeys.IMAGE, CommonKeys.LABEL), intensity, spacing, axcodes),
        PadToPatchd(patch_size),
    ]


def _measures(
    image: MetaTensor, label: MetaTensor, num_classes: int, regions: Sequence[Sequence[int]] | None
) -> list[dict[str, Any]]:
    """Return the measurements of every class as dicts; intensities are those of the first channel."""
    voxel_ml = float(torch.linalg.det(label.affine[:3, :3]).abs()) / 1000
    volumes = image.as_tensor()[0].numpy(), label.as_tensor()[0].numpy()
    return [asdict(one) for one in measure_classes(*volumes, num_classes, voxel_ml, regions)]


def class_indices(
    label: torch.Tensor, num_classes: int, regions: Sequence[Sequence[int]] | None = None
) -> list[torch.Tensor]:
    """Return the indices of the voxels of every class in a flattened label map.

    If a class has more than 20,000 voxels, an evenly spaced subset of 20,000 is returned.

    Args:
        label: class indices on the CPU, any shape, integer dtype.
        num_classes: number of classes, including the background.
        regions: loaded values of each class, see `segbundle.class_values.regions`. Default: None (the value of a class
            is its index).

    Returns:
        one int32 tensor (n,) per class, background first

    Example:
        >>> class_indices(torch.tensor([[0, 1], [1, 0]]), num_classes=3)
        [tensor([0, 3], dtype=torch.int32), tensor([1, 2], dtype=torch.int32), tensor([], dtype=torch.int32)]
    """
    flat = label.numpy().ravel()
    counts = np.bincount(flat, minlength=256)
    found = []
    for members in [[index] for index in range(num_classes)] if regions is None else regions:
        positions = np.flatnonzero(np.isin(flat, members)) if counts[members].any() else np.zeros(0, int)
        if len(positions) > _MAX_INDICES_PER_CLASS:
            positions = positions[np.linspace(0, len(positions) - 1, _MAX_INDICES_PER_CLASS).astype(int)]
        found.append(torch.from_numpy(positions.astype(np.int32)))
    return found


class PadToPatchd(Transform):
    """Dictionary transform that pads `image` and `label` (C, X, Y, Z) symmetrically to at least the size of a patch.

    The image is padded with 0. The label map is padded with background, or with unknown voxels if the label map
    contains any. A warning is logged for the first case that is padded.

    Args:
        patch_size: (X, Y, Z) in voxels.

    Example:
        >>> data = {"image": MetaTensor(torch.ones(1, 4, 4, 2)), "label": MetaTensor(torch.ones(1, 4, 4, 2))}
        >>> PadToPatchd((4, 4, 4))(data)["image"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(self, patch_size: Sequence[int]) -> None:
        self.patch_size = list(patch_size)
        self.pad = SpatialPad(patch_size)
        self._warned = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        padded = dict(data)
        label = padded[CommonKeys.LABEL]
        if not self._warned and any(
            size < wanted for size, wanted in zip(label.shape[1:], self.patch_size, strict=True)
        ):
            self._warned = True
            where, shape = data.get("case", "a case"), "×".join(map(str, label.shape[1:]))
            _logger.warning(
                "%s has %s voxels on the network's grid, fewer than patch_size along an axis. Such cases are padded; a "
                "smaller patch_size avoids this.",
                where,
                shape,
            )
        outside = IGNORE_INDEX if bool((label == IGNORE_INDEX).any()) else 0
        padded[CommonKeys.IMAGE] = self.pad(padded[CommonKeys.IMAGE])
        padded[CommonKeys.LABEL] = self.pad(label, value=outside)
        return padded
