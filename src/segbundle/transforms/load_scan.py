"""From the paths of a datalist entry to tensors, refusing what would silently spoil a training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import CommonKeys

from segbundle.classes import IGNORE_INDEX
from segbundle.datasets.case_checks import image_problems, label_problems, pair_problems, unannotated_problems
from segbundle.errors import DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.read_ahead import read_begun
from segbundle.io.scans import Scan


class LoadScand(Transform):
    """Read a case's image, and its label map if it is asked for, and check both.

    The image becomes a float32 `MetaTensor` (C, X, Y, Z), the label map a uint8 one (1, X, Y, Z) whose unknown voxels
    hold `IGNORE_INDEX`, and `annotated` a bool tensor (num_classes,). The meta data hold `affine`, `original_affine`
    (both (4, 4), mm, RAS+ world), `spatial_shape` and `filename_or_obj`, as MONAI's own loader gives them.
    If the image was read before it was asked for (`segbundle.io.read_ahead`), `early_seconds` is how long that took.

    Args:
        class_names: the task's classes; label values are checked against them.
        num_channels: how many channels the network takes; None skips that check.
        label: whether to load the label map too.

    Raises:
        DataError: on calling, with everything that is wrong with the case's files (`datasets/case_checks.py`).
    """

    def __init__(self, class_names: Sequence[str] = (), num_channels: int | None = None, label: bool = False) -> None:
        self.class_names = class_names
        self.num_channels = num_channels
        self.label = label

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        image, early_seconds = read_begun(loaded[CommonKeys.IMAGE])
        if early_seconds:
            loaded["early_seconds"] = early_seconds
        problems = list(image_problems(image, self.num_channels))
        if self.label:
            label = read_labels(loaded[CommonKeys.LABEL])
            ignore_label = loaded.pop("ignore_label", None)
            wrong = list(label_problems(label, self.class_names, ignore_label))
            annotated = loaded.get("annotated", [True] * len(self.class_names))
            if not wrong:
                wrong = list(unannotated_problems(label, annotated, self.class_names))
            problems += [*wrong, *pair_problems(image, label)]
        if problems:
            raise DataError("\n".join(problems))
        loaded[CommonKeys.IMAGE] = _meta_tensor(image, np.float32)
        if self.label:
            loaded[CommonKeys.LABEL] = _meta_tensor(_with_common_ignore_index(label, ignore_label), np.uint8)
            loaded["annotated"] = torch.tensor(annotated, dtype=torch.bool)
        return loaded


def _with_common_ignore_index(label: Scan, ignore_label: int | None) -> Scan:
    if ignore_label is None:
        return label
    return replace(label, array=np.where(label.array == ignore_label, IGNORE_INDEX, label.array))


def _meta_tensor(scan: Scan, dtype: Any) -> MetaTensor:
    affine = torch.from_numpy(scan.geometry.affine)
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": torch.tensor(scan.geometry.shape),
        "filename_or_obj": str(scan.path),
    }
    array = np.asarray(scan.array, dtype=dtype)  # axes stay in the file's order in memory: turning them costs a copy
    return MetaTensor(torch.from_numpy(array), meta={**meta, "affine": affine})
