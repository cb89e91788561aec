"""Postprocessing of logits: labels on the scan's grid, optional largest components, and saving."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from monai.utils import CommonKeys

from segbundle.config.from_settings import from_settings
from segbundle.errors import ConfigError, suggestion
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of
from segbundle.inference.slabs import ScoreSlabs
from segbundle.io.probabilities import ProbabilityFile
from segbundle.io.scan_files import stem
from segbundle.io.scans import write_segmentation
from segbundle.transforms.restoring import restore_labels


@from_settings
def postprocessing(
    class_names: Sequence[str] = (),
    largest_component: bool | Sequence[str] = False,
    save_probabilities: bool = False,
    output_dir: str | Path | None = None,
) -> Compose:
    """Return the transform from logits to labels in the geometry of the scan.

    Args:
        class_names: class names of the task, the background first; needed by `largest_component`.
        largest_component: keep only the largest connected component of the named classes; True applies to every class
            except the background. Default: False.
        save_probabilities: write `<case>_prob.nii`, see `RestoreLabelsd`. Default: False.
        output_dir: folder for probabilities; needed by `save_probabilities`.

    Returns:
        A transform of dicts with `image` and `pred`.

    Raises:
        ConfigError: if `largest_component` names an unknown class, or `class_names` or `output_dir` is needed but
            missing.

    Example:
        >>> steps = postprocessing(["background", "liver"], largest_component=["liver"])
        >>> [type(step).__name__ for step in steps.transforms]
        ['RestoreLabelsd', 'LargestComponentd']
    """
    if save_probabilities and output_dir is None:
        raise ConfigError("save_probabilities needs an output_dir. Set it, or set save_probabilities to false.")
    steps: list[Transform] = [RestoreLabelsd(output_dir if save_probabilities else None)]
    if largest_component:
        if not class_names:
            raise ConfigError("largest_component needs class_names. Set them, or set largest_component to false.")
        names = class_names[1:] if largest_component is True else largest_component
        for name in names:
            if name not in class_names[1:]:
                raise ConfigError(f"largest_component: unknown class {name!r}{suggestion(name, class_names[1:])}")
        steps.append(LargestComponentd([list(class_names).index(name) for name in names]))
    return Compose(steps)


class RestoreLabelsd(Transform):
    """Conversion of `pred` from logits on the network's grid to a label map on the scan's grid.

    `pred` (num_classes, X', Y', Z'), a tensor or `ScoreSlabs`, becomes a uint8 or int16 `MetaTensor` (1, X, Y, Z) with
    the affine of the scan. The metadata `affine`, `original_affine` and `spatial_shape` of `image` define both grids.
    See `segbundle.transforms.restoring` for the method.

    Args:
        probabilities_dir: folder for `<case>_prob.nii`, the class probabilities on the scan's grid as 16-bit integers
            with a scale factor (NIfTI has no 16-bit floating point). The file is written slab by slab, and its path is
            added as `probabilities`. None saves no probabilities.

    Example:
        >>> affine = torch.eye(4, dtype=torch.float64)
        >>> meta = {"affine": affine, "original_affine": affine, "spatial_shape": (1, 1, 2)}
        >>> image = MetaTensor(torch.zeros(1, 1, 1, 2), meta=meta)
        >>> logits = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
        >>> RestoreLabelsd()({"image": image, "pred": logits})["pred"].flatten().tolist()
        [0, 1]
    """

    def __init__(self, probabilities_dir: str | Path | None = None) -> None:
        self.probabilities_dir = probabilities_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        restored = dict(data)
        meta = restored[CommonKeys.IMAGE].meta
        native = np.asarray(meta["original_affine"], dtype=np.float64)
        logits = restored[CommonKeys.PRED]
        if not isinstance(logits, ScoreSlabs):
            logits = torch.as_tensor(logits)
            logits = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        to_grid = np.linalg.inv(np.asarray(meta["affine"], dtype=np.float64)) @ native
        shape = tuple(int(size) for size in meta["spatial_shape"])
        if self.probabilities_dir is None:
            labels = restore_labels(logits, to_grid, shape)
        else:
            path = run_files.probabilities(self.probabilities_dir, _case(restored))
            with ProbabilityFile(path, meta["filename_or_obj"]) as file:
                labels = restore_labels(logits, to_grid, shape, file.array)
            restored["probabilities"] = str(path)
        restored[CommonKeys.PRED] = MetaTensor(labels[None], meta={**meta, "affine": torch.from_numpy(native)})
        return restored


class LargestComponentd(Transform):
    """Filter that keeps only the largest connected component of some classes in `pred` (1, X, Y, Z).

    Their other components become background. Voxels are connected over faces, the default of `scipy.ndimage.label`. If
    several components are largest, the first is kept.

    Args:
        classes: class indices.

    Example:
        >>> pred = MetaTensor(torch.tensor([[[[1, 1, 0, 1]]]]))
        >>> LargestComponentd([1])({"pred": pred})["pred"].flatten().tolist()
        [1, 1, 0, 0]
    """

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = list(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        from scipy import ndimage

        cleaned = dict(data)
        pred = cleaned[CommonKeys.PRED]
        labels = pred.as_tensor()[0].cpu().numpy().copy(order="K")
        boxes = ndimage.find_objects(labels)
        for index in self.classes:
            box = boxes[index - 1] if index <= len(boxes) else None
            if box is None:
                continue
            inside = labels[box]
            components, count = ndimage.label(inside == index)
            if count > 1:
                sizes = np.bincount(components.reshape(-1))[1:]
                inside[(components > 0) & (components != 1 + sizes.argmax())] = 0
        cleaned[CommonKeys.PRED] = MetaTensor(torch.from_numpy(labels)[None].to(pred.device), meta=pred.meta)
        return cleaned


class SaveLabelsd(Transform):
    """Writer of `pred` (1, X, Y, Z) to `<output_dir>/<case>_seg.nii.gz` in the geometry of the scan file.

    The scan file is taken from the metadata of `image`. Without `case`, the output is named after the scan file. The
    path of the written file is added as `prediction`. If the item has no `probabilities`, the probability file that an
    earlier run wrote for the case is removed.

    Args:
        output_dir: folder for label maps.

    Raises:
        DataError: when called, if the header of the scan cannot be read, or `pred` has another shape than the scan.
        OutputError: when called, if the file cannot be written.

    Example:
        >>> SaveLabelsd("predictions").output_dir.name
        'predictions'
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        case = _case(saved)
        path = run_files.label_map(self.output_dir, case)
        labels = saved[CommonKeys.PRED].as_tensor()[0].cpu().numpy()
        write_segmentation(labels, saved[CommonKeys.IMAGE].meta["filename_or_obj"], path)
        outdated = run_files.probabilities(self.output_dir, case)
        if "probabilities" not in saved and os.path.lexists(outdated):  # of an earlier run
            folder_of(self.output_dir).remove([outdated.relative_to(self.output_dir)])
        saved["prediction"] = str(path)
        return saved

    def discard(self, case: str) -> None:
        """Remove the label map and the probabilities that an earlier run wrote for a case; ignore errors of the disk.

        Args:
            case: name of the case.
        """
        with suppress(OSError):
            folder_of(self.output_dir).remove([run_files.label_map("", case), run_files.probabilities("", case)])


def _case(data: Mapping[Hashable, Any]) -> str:
    return str(data.get("case") or stem(data[CommonKeys.IMAGE].meta["filename_or_obj"]))
