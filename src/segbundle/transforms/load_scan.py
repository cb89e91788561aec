"""Load datalist entries as tensors, and check them for errors that would silently spoil training."""

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
    """Dictionary transform that loads and checks the image of a case and, optionally, its label map.

    `image` becomes a float32 `MetaTensor` (C, X, Y, Z). With `label=True`, `label` becomes a uint8 `MetaTensor` (1, X,
    Y, Z) with `IGNORE_INDEX` for unknown voxels, and `annotated` becomes a bool tensor (num_classes,). A label map of
    the same voxels that is stored with other axes is reoriented to those of the image. As in MONAI, the metadata
    contains `affine` and `original_affine`, both (4, 4) from voxel indices to RAS+ in mm, `spatial_shape` and
    `filename_or_obj`. If the image was prefetched (`segbundle.io.read_ahead`), `early_seconds` is the time in seconds
    that reading took.

    Args:
        class_names: class names of the task, background first; required to check label values.
        num_channels: number of input channels of the network; None (default) skips the check.
        label: whether to load the label map. Default: False.

    Raises:
        DataError: when called, if a file cannot be read or fails a check. The message lists all problems of the case
            (see `segbundle.datasets.case_checks`).

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> path = f"{tempfile.mkdtemp()}/scan.nii"
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
        >>> LoadScand()({"image": path})["image"].shape
        torch.Size([1, 4, 5, 6])
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
            label = read_labels(loaded[CommonKeys.LABEL], image.geometry)
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
    array = np.asarray(scan.array, dtype=dtype)  # keep the memory order of the file: reordering would copy
    return MetaTensor(torch.from_numpy(array), meta={**meta, "affine": affine})
