"""Convert logits to label maps on the scan's grid, keep largest components, and save label maps."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from monai.utils import CommonKeys

from segbundle.class_values import class_values, regions
from segbundle.config.from_settings import from_settings
from segbundle.errors import ConfigError, suggestion
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of
from segbundle.inference.slabs import ScoreSlabs
from segbundle.io.probabilities import ProbabilityFile
from segbundle.io.scan_files import stem
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import check_installed, output_formats, write_possible_label_maps
from segbundle.transforms.restoring import restore_labels


@from_settings
def postprocessing(
    class_names: Sequence[str] = (),
    largest_component: bool | Sequence[str] = False,
    save_probabilities: bool = False,
    output_dir: str | Path | None = None,
    classes: Mapping[str, Any] | None = None,
) -> Compose:
    """Return the transform that converts logits to a label map on the scan's grid.

    Args:
        class_names: class names of the task, background first; required for `largest_component`. Default: none.
        largest_component: keep only the largest connected component of the named classes; True applies to every class
            except the background. Default: False.
        save_probabilities: write `<case>_prob.nii`, see `RestoreLabelsd`. Default: False.
        output_dir: folder for probabilities; required for `save_probabilities`. Default: None.
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Returns:
        a dictionary transform of `image` and `pred`: logits (num_classes, X', Y', Z') become class indices (1, X, Y,
        Z), see `RestoreLabelsd`

    Raises:
        ConfigError: `largest_component` names an unknown class or is set although classes overlap; `class_names` or
            `output_dir` is required but missing; or `classes` is not valid.

    Example:
        >>> steps = postprocessing(["background", "liver"], largest_component=["liver"])
        >>> [type(step).__name__ for step in steps.transforms]
        ['RestoreLabelsd', 'LargestComponentd']
    """
    if save_probabilities and output_dir is None:
        raise ConfigError("save_probabilities needs an output_dir. Set it, or set save_probabilities to false.")
    overlapping = regions(classes) is not None
    paint_order = class_values(classes).paint_order if classes and overlapping else None
    steps: list[Transform] = [RestoreLabelsd(output_dir if save_probabilities else None, paint_order)]
    if largest_component:
        if overlapping:
            raise ConfigError("largest_component needs classes that do not overlap. Set it to false.")
        if not class_names:
            raise ConfigError("largest_component needs class_names. Set them, or set largest_component to false.")
        names = class_names[1:] if largest_component is True else largest_component
        for name in names:
            if name not in class_names[1:]:
                raise ConfigError(f"largest_component: unknown class {name!r}{suggestion(name, class_names[1:])}")
        steps.append(LargestComponentd([list(class_names).index(name) for name in names]))
    return Compose(steps)


class RestoreLabelsd(Transform):
    """Dictionary transform that converts `pred` from logits on the network's grid to a label map on the scan's grid.

    `pred` (num_classes, X', Y', Z'), a tensor or `ScoreSlabs`, becomes a uint8 or int16 `MetaTensor` (1, X, Y, Z) with
    the affine of the scan. The metadata `affine`, `original_affine` and `spatial_shape` of `image` define both grids.
    See `segbundle.transforms.restore_labels` for the method.

    Args:
        probabilities_dir: folder for `<case>_prob.nii`, the class probabilities on the scan's grid (see
            `segbundle.io.probabilities.ProbabilityFile`). The file is written slab by slab, and its path is added as
            `probabilities`. Default: None (no probabilities are saved).
        paint_order: indices of the foreground classes, if classes overlap; see `restore_labels`. Default: None.

    Example:
        >>> affine = torch.eye(4, dtype=torch.float64)
        >>> meta = {"affine": affine, "original_affine": affine, "spatial_shape": (1, 1, 2)}
        >>> image = MetaTensor(torch.zeros(1, 1, 1, 2), meta=meta)
        >>> logits = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
        >>> RestoreLabelsd()({"image": image, "pred": logits})["pred"].flatten().tolist()
        [0, 1]
    """

    def __init__(self, probabilities_dir: str | Path | None = None, paint_order: Sequence[int] | None = None) -> None:
        self.probabilities_dir = probabilities_dir
        self.paint_order = paint_order

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
            labels = restore_labels(logits, to_grid, shape, paint_order=self.paint_order)
        else:
            path = run_files.probabilities(self.probabilities_dir, _case(restored))
            with ProbabilityFile(path, meta["filename_or_obj"]) as file:
                labels = restore_labels(logits, to_grid, shape, file.array, self.paint_order)
            restored["probabilities"] = str(path)
        restored[CommonKeys.PRED] = MetaTensor(labels[None], meta={**meta, "affine": torch.from_numpy(native)})
        return restored


class LargestComponentd(Transform):
    """Dictionary transform that keeps only the largest connected component of each given class in `pred`.

    `pred` is a label map (1, X, Y, Z). All other components of the given classes become background. Voxels are
    connected over faces, the default of `scipy.ndimage.label`. If several components are equally large, the first is
    kept.

    Args:
        classes: class indices to which the transform applies.

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
    """Dictionary transform that writes the label map `pred` to the output folder, in one or several formats.

    `pred` (1, X, Y, Z) is on the grid of the scan, and the geometry of the scan file is copied. The path of the scan
    file is taken from the metadata of `image`. Without `case`, files are named after the scan file. The paths of the
    written files are added as `outputs`, by format, and the first of them as `prediction`: the NIfTI file if it is
    written. If some of several formats cannot be written, the reasons are added as `failed_formats`, by format. Files
    that an earlier run wrote for the case in other formats, or with its probabilities, are removed.

    Args:
        output_dir: folder for label maps.
        output_format: one or several of `nifti`, `nrrd`, `dicom_seg` and `rtstruct`, see `write_label_map`. Default:
            `nifti`.
        class_names: class names of the task, background first. Without them (default), files contain no names.
        class_colors: colors by class name, see `class_table`. Default: None.
        class_codes: codes by class name, see `class_table`. Default: None.
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Raises:
        ConfigError: a format, color or code is not valid, or a package that a format needs is missing.
        DataError: when called, if no format can be written: the header of the scan cannot be read, or `pred` has
            another shape than the scan.
        OutputError: when called, if no file can be written.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     image = MetaTensor(torch.zeros(1, 4, 3, 2), meta={"filename_or_obj": path})
        ...     pred = MetaTensor(torch.ones(1, 4, 3, 2, dtype=torch.uint8))
        ...     Path(SaveLabelsd(folder)({"image": image, "pred": pred})["prediction"]).name
        'ct_seg.nii.gz'
    """

    @from_settings
    def __init__(
        self,
        output_dir: str | Path,
        output_format: str | Sequence[str] = "nifti",
        class_names: Sequence[str] = (),
        class_colors: Mapping[str, Any] | None = None,
        class_codes: Mapping[str, Any] | None = None,
        classes: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.output_formats = output_formats(output_format)
        check_installed(self.output_formats)
        self.table = class_table(class_names, class_colors, class_codes, regions(classes)) if class_names else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved, case = dict(data), _case(data)
        labels = saved[CommonKeys.PRED].as_tensor()[0].cpu().numpy()
        scan = saved[CommonKeys.IMAGE].meta["filename_or_obj"]
        written, failed = write_possible_label_maps(
            labels, scan, self.output_dir, case, self.output_formats, self.table
        )
        kept = run_files.label_map_files("", case, written) if self.table else map(_name, written.values())
        self._remove(case, {*kept, *([run_files.probabilities("", case)] if "probabilities" in saved else [])})
        saved |= {"failed_formats": failed} if failed else {}
        return {**saved, "prediction": next(iter(written.values())), "outputs": written}

    def discard(self, case: str) -> None:
        """Remove the label maps and the probabilities that an earlier run wrote for a case; ignore errors of the disk.

        Args:
            case: name of the case.
        """
        with suppress(OSError):
            self._remove(case)

    def _remove(self, case: str, kept: Collection[Path] = ()) -> None:
        files = {*run_files.label_map_files("", case), run_files.probabilities("", case)} - set(kept)
        outdated = sorted(path for path in files if os.path.lexists(self.output_dir / path))
        if outdated:
            folder_of(self.output_dir).remove(outdated)


def _name(path: str) -> Path:
    return Path(Path(path).name)


def _case(data: Mapping[Hashable, Any]) -> str:
    return str(data.get("case") or stem(data[CommonKeys.IMAGE].meta["filename_or_obj"]))
