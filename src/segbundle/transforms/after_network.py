"""What happens to a scan's class scores: labels on its own voxels, cleaned if asked for, and into a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from monai.utils import CommonKeys

from segbundle.errors import ConfigError, suggestion
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of
from segbundle.inference.slabs import ScoreSlabs
from segbundle.io.probabilities import ProbabilityFile
from segbundle.io.scan_files import stem
from segbundle.io.scans import write_segmentation
from segbundle.transforms.restoring import restore_labels


def postprocessing(
    class_names: Sequence[str] = (),
    largest_component: bool | Sequence[str] = False,
    save_probabilities: bool = False,
    output_dir: str | Path | None = None,
) -> Compose:
    """From class scores to labels in the scan's geometry.

    Args:
        class_names: the task's classes, the background first; `largest_component` needs them.
        largest_component: keep only the largest connected part of every class but the background, or of those named.
        save_probabilities: write `<case>_prob.nii` meanwhile, see `RestoreLabelsd`.
        output_dir: where to.

    Raises:
        ConfigError: `largest_component` names a class that there is not, or probabilities have nowhere to go.
    """
    if save_probabilities and output_dir is None:
        raise ConfigError("save_probabilities needs an output_dir to write them to.")
    steps: list[Transform] = [RestoreLabelsd(output_dir if save_probabilities else None)]
    if largest_component:
        if not class_names:
            raise ConfigError("largest_component needs class_names.")
        names = class_names[1:] if largest_component is True else largest_component
        for name in names:
            if name not in class_names[1:]:
                raise ConfigError(f"largest_component: unknown class {name!r}{suggestion(name, class_names[1:])}")
        steps.append(LargestComponentd([list(class_names).index(name) for name in names]))
    return Compose(steps)


class RestoreLabelsd(Transform):
    """Replace `pred`, the network's scores on its grid, by a label map on the scan's own voxels.

    `pred` (num_classes, X', Y', Z'), a tensor or `ScoreSlabs`, becomes a uint8 or int16 `MetaTensor` (1, X, Y, Z) with
    the scan's affine; `image` gives the two geometries by its meta data `affine`, `original_affine`, `spatial_shape`.
    See `segbundle.transforms.restoring` for how.

    Args:
        probabilities_dir: folder for `<case>_prob.nii`, the classes' probabilities on the scan's voxels as 16-bit
            integers with a scale factor (NIfTI has no 16-bit floating point), written while they are computed; None
            writes none. Its path is added as `probabilities`.
    """

    def __init__(self, probabilities_dir: str | Path | None = None) -> None:
        self.probabilities_dir = probabilities_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        restored = dict(data)
        meta = restored[CommonKeys.IMAGE].meta
        native = np.asarray(meta["original_affine"], dtype=np.float64)
        scores = restored[CommonKeys.PRED]
        if not isinstance(scores, ScoreSlabs):
            scores = torch.as_tensor(scores)
            scores = scores.as_tensor() if isinstance(scores, MetaTensor) else scores
        to_grid = np.linalg.inv(np.asarray(meta["affine"], dtype=np.float64)) @ native
        shape = tuple(int(size) for size in meta["spatial_shape"])
        if self.probabilities_dir is None:
            labels = restore_labels(scores, to_grid, shape)
        else:
            path = run_files.probabilities(self.probabilities_dir, _case(restored))
            with ProbabilityFile(path, meta["filename_or_obj"]) as file:
                labels = restore_labels(scores, to_grid, shape, file.array)
            restored["probabilities"] = str(path)
        restored[CommonKeys.PRED] = MetaTensor(labels[None], meta={**meta, "affine": torch.from_numpy(native)})
        return restored


class LargestComponentd(Transform):
    """Keep the largest connected part of some classes in `pred` (1, X, Y, Z); the others become background.

    Parts are connected over faces, as `scipy.ndimage.label` has it by default; of parts of one size the first is kept.

    Args:
        classes: the classes' indices.
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
            parts, count = ndimage.label(inside == index)
            if count > 1:
                sizes = np.bincount(parts.reshape(-1))[1:]
                inside[(parts > 0) & (parts != 1 + sizes.argmax())] = 0
        cleaned[CommonKeys.PRED] = MetaTensor(torch.from_numpy(labels)[None].to(pred.device), meta=pred.meta)
        return cleaned


class SaveLabelsd(Transform):
    """Write `pred` (1, X, Y, Z) to `<output_dir>/<case>_seg.nii.gz` on the grid of the scan in `image`'s meta data.

    Without a `case` the file is named after the scan's. The path that was written is added as `prediction`.
    `discard(case)` removes what an earlier run wrote for a case, and nothing else.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        path = run_files.label_map(self.output_dir, _case(saved))
        labels = saved[CommonKeys.PRED].as_tensor()[0].cpu().numpy()
        write_segmentation(labels, saved[CommonKeys.IMAGE].meta["filename_or_obj"], path)
        if "probabilities" not in saved:  # those of an earlier run would pass for this one's
            folder_of(self.output_dir).remove([run_files.probabilities("", _case(saved))])
        saved["prediction"] = str(path)
        return saved

    def discard(self, case: str) -> None:
        """Remove the label map and the probabilities that an earlier run wrote for a case."""
        with suppress(OSError):
            folder_of(self.output_dir).remove([run_files.label_map("", case), run_files.probabilities("", case)])


def _case(data: Mapping[Hashable, Any]) -> str:
    return str(data.get("case") or stem(data[CommonKeys.IMAGE].meta["filename_or_obj"]))
