"""Python interface: train, evaluate and predict without YAML and without a command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import torch
from monai.networks import eval_mode
from monai.utils import CommonKeys
from tqdm.auto import tqdm

from segbundle.audit.trust import refuse_untrusted
from segbundle.checkpoints.model_settings import refuse_other_preprocessing, settings_of_model
from segbundle.class_values import regions
from segbundle.config.options import default_bundle, task_file
from segbundle.config.overlays import merged_config, workflow_files
from segbundle.config.validation import bundle_configs, check_config
from segbundle.errors import (
    ConfigError,
    DataError,
    PredictionError,
    SegbundleError,
    find_cause,
    suggestion,
)
from segbundle.files import run_files
from segbundle.inference.slabs import NonFiniteLogitsError
from segbundle.io.geometry import Geometry
from segbundle.io.in_memory import IN_MEMORY
from segbundle.io.scan_files import is_volume_path, stem
from segbundle.io.scans import read_scan, write_image, write_segmentation
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import (
    OF_DICOM,
    check_installed,
    check_scan,
    output_formats,
    suffix_format,
    write_label_map,
    write_possible_label_maps,
)
from segbundle.segmentations.nifti_labels import label_extensions
from segbundle.workflow.bundle_runs import create_workflow
from segbundle.workflow.python_scans import GivenScan, names_of_label_maps, select_scans

_logger = logging.getLogger(__name__)
_TRUST = "pass trust=True"
PathLike: TypeAlias = str | Path
Checkpoint: TypeAlias = PathLike | Sequence[PathLike]
"""Path of a model, path of a training or cross-validation folder, or for an ensemble a list of such paths."""


@dataclass(frozen=True)
class LabelMap:
    """Predicted label map on the grid of its scan.

    Attributes:
        labels: class indices (X, Y, Z), uint8 or int16.
        affine: (4, 4) float64, maps voxel indices to RAS+ world coordinates in millimeters.
        class_names: names by class index, background first.
        name: name of the case.
        source: path of the scan; None for an image in memory.
        failed_formats: reason of each output format that `predict` could not write for the scan, by format (default
            none).
        regions: values in `labels` of each class, if classes overlap; None (default) if the value of a class is its
            index.

    Example:
        >>> label_map = LabelMap(np.ones((2, 2, 2), np.uint8), np.eye(4), ["background", "liver"], "ct", None)
        >>> label_map.volumes_ml["liver"]
        0.008
    """

    labels: np.ndarray
    affine: np.ndarray
    class_names: Sequence[str]
    name: str
    source: Path | None
    failed_formats: Mapping[str, str] = field(default_factory=dict)
    regions: Sequence[Sequence[int]] | None = None

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of every class except the background in milliliters, by class name; 0.0 for an absent class."""
        voxel_ml = float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.class_names))
        members = self.regions or [[index] for index in range(len(self.class_names))]
        pairs = zip(self.class_names[1:], members[1:], strict=True)
        return {name: int(counts[[v for v in values if v < len(counts)]].sum()) * voxel_ml for name, values in pairs}

    def mask(self, class_name: str) -> np.ndarray:
        """Return a bool mask (X, Y, Z) of the voxels of a class.

        Args:
            class_name: name of the class.

        Raises:
            ConfigError: there is no such class.
        """
        if class_name not in self.class_names:
            raise ConfigError(f"unknown class {class_name!r}{suggestion(class_name, self.class_names)}")
        index = list(self.class_names).index(class_name)
        return self.labels == index if self.regions is None else np.isin(self.labels, self.regions[index])

    def to_nibabel(self) -> nib.Nifti1Image:
        """Return the label map as a nibabel image with spatial units of mm, with the names in header extensions."""
        image = nib.Nifti1Image(self.labels, self.affine)
        image.header.set_xyzt_units("mm")
        image.header.extensions.extend(label_extensions(class_table(self.class_names)))
        return image

    def save(self, path: PathLike) -> Path:
        """Write the label map with the names of the classes, and return its path.

        The format depends on the suffix: NIfTI (`.nii.gz`, `.nii`), 3D Slicer (`.seg.nrrd`) or DICOM SEG (`.dcm`). If
        the scan is a file, its geometry is copied.

        Args:
            path: path of the file. DICOM SEG needs a scan that is a DICOM series.

        Raises:
            ConfigError: the suffix is unknown, or DICOM SEG needs a package that is not installed.
            DataError: the file of the scan cannot be read any more, or the format cannot be written for this scan.
            OutputError: the file cannot be written.
        """
        path, table, output_format = (
            Path(path),
            class_table(self.class_names, regions=self.regions),
            suffix_format(path),
        )
        if output_format is None:
            raise ConfigError(f"{path}: has no suffix of a label map. Use .nii.gz, .nii, .seg.nrrd or .dcm.")
        check_installed([output_format])
        if output_format != "nifti":
            write_label_map(self.labels, self.source or _geometry(self), path, output_format, table)
        elif self.source is None:
            write_image(self.to_nibabel(), path)
        else:
            write_segmentation(self.labels, self.source, path, label_extensions(table))
        return path


class Model:
    """Trained network with the preprocessing, sliding-window inference and postprocessing of its task.

    `load_model` returns a `Model`. A model can predict any number of scans.

    Args:
        parser: MONAI `ConfigParser` with the configuration of the inference workflow.

    Attributes:
        class_names: names by class index, background first.
        device: device of the network.
        network: the network, a `torch.nn.Module`.
        class_table: names, colors and codes of the classes in written label maps.
        regions: values of each class in predicted label maps, if classes overlap; None if the value of a class is its
            index.
        num_channels: number of channels of a scan.

    Example:
        >>> model = load_model()  # the model of the bundle
        >>> model.class_names
        ['background', 'anterior', 'posterior']
    """

    def __init__(self, parser: Any) -> None:
        self.class_names: list[str] = parser.get_parsed_content("class_names")
        self.device: torch.device = torch.device(parser.get_parsed_content("device"))
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        self.regions = regions(parser.get("classes"))
        self.class_table = class_table(
            self.class_names, parser.get("class_colors"), parser.get("class_codes"), self.regions
        )
        self.num_channels = int(parser.get_parsed_content("network_def#in_channels", default=1))
        self._preprocessing = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        self._postprocessing = parser.get_parsed_content("postprocessing")

    def predict(self, scan: Any) -> LabelMap:
        """Predict a scan, and return its label map on the grid of the scan.

        Args:
            scan: path of a file or of a DICOM folder; a list of files with one channel each; a nibabel or SimpleITK
                image; or a tuple of an array (X, Y, Z) or (C, X, Y, Z) and an affine (4, 4) in mm, RAS+.

        Raises:
            DataError: the scan cannot be read, or does not fit the network.
            PredictionError: the network returns logits that are NaN or infinite.
        """
        with _own_errors():
            image = self._preprocessing({CommonKeys.IMAGE: scan})[CommonKeys.IMAGE]
        try:
            with _own_errors(), eval_mode(self.network):
                pred = self._inferer.slabs(image[None], self.network)
                restored = self._postprocessing({CommonKeys.IMAGE: image, CommonKeys.PRED: pred})[CommonKeys.PRED]
        except Exception as error:
            problem = find_cause(error, NonFiniteLogitsError)
            if problem is None:
                raise
            raise PredictionError(f"{image.meta['filename_or_obj']}: {problem}.") from error
        source = Path(image.meta["filename_or_obj"])
        known = source if source != IN_MEMORY and (source.exists() or is_volume_path(source)) else None
        labels = restored.as_tensor()[0].cpu().numpy()
        name = stem(source) if known else source.name
        affine = np.asarray(restored.affine, dtype=np.float64)
        return LabelMap(labels, affine, self.class_names, name, known, regions=self.regions)


def load_model(
    model: Checkpoint | None = None,
    *,
    task: PathLike | Sequence[PathLike] = (),
    device: str | torch.device | None = None,
    trust: bool = False,
    **settings: Any,
) -> Model:
    """Load a trained model, and return it ready for prediction.

    For a model in its training folder, the classes, the network and the preprocessing are read from `run.json` in that
    folder. For other models, pass the task files; they must prepare scans as in the training run.

    Args:
        model: path of a model, path of a training or cross-validation folder, or for an ensemble a list of such paths.
            Default: the model of the bundle.
        task: task files. Default: none.
        device: device of the network, such as `cpu` or `cuda:0`. Default: a GPU if present.
        trust: whether to load configurations that the audit flags (default False).
        **settings: config keys, such as `overlap`, `precision` or `largest_component`.

    Raises:
        CheckpointError: the model is missing or does not fit the task.
        ConfigError: a setting is invalid, or a configuration could run code.

    Example:
        >>> load_model(overlap=0.25).device.type in ("cpu", "cuda")
        True
    """
    overrides = _overrides(model, settings, device=None if device is None else str(device))
    workflow = _create("inference", task, overrides, trust)
    parser = workflow.parser
    check_config(parser, bundle_configs(default_bundle() / "configs"))
    parser["postprocessing#save_probabilities"] = False
    parser.parse(reset=True)
    loading = next(step for step in parser.get("initialize") if step["_target_"].endswith(".load_weights"))
    parser["loading"] = loading
    with _own_errors():
        parser.get_parsed_content("loading")
        return Model(parser)


def predict(
    scans: Any,
    model: Checkpoint | Model | None = None,
    *,
    output_dir: PathLike | None = None,
    output_format: str | Sequence[str] = "nifti",
    series: str | int | Sequence[str | int] | None = None,
    progress: bool = True,
    **options: Any,
) -> list[LabelMap]:
    """Predict scans, and return a `LabelMap` for each, in the same order. With `output_dir`, also write the label maps.

    For large batches, use the command `segbundle predict`: this command can be resumed, and continues after a scan that
    fails.

    If some of several output formats cannot be written for a scan, the others are written. A warning is logged, and the
    `LabelMap` has the reasons as `failed_formats`.

    Args:
        scans: a scan or a list of scans, see `Model.predict`. A list contains scans, not channels.
        model: a loaded model, or any value that `load_model` accepts. Default: the model of the bundle.
        output_dir: folder for `<case>_seg.nii.gz`, created if missing. An image in memory is named by its position in
            the list, such as `0000`. Default: nothing is written.
        output_format: one or several of `nifti`, `nrrd`, `dicom_seg` and `rtstruct`, as a list or as text with commas.
            Default: `nifti`. The names of the files are those of the command, such as `<case>.seg.nrrd`.
        series: DICOM series to use: SeriesInstanceUIDs, SeriesNumbers, modalities, or patterns of SeriesDescriptions,
            such as `*thorax*`. A folder then stands for all scans below it, as in the command, and other scans are not
            affected. Default: None (a folder is one series).
        progress: whether to show a progress bar (default True).
        **options: keyword arguments of `load_model`, if `model` is not loaded yet.

    Raises:
        ConfigError: `options` are given, but `model` is loaded; or a format is unknown, lacks its package, or is given
            without `output_dir`.
        DataError: no series matches; or `dicom_seg` or `rtstruct` is requested, but no scan is a DICOM series, or one
            of the scans is not and no other format is requested.
        OutputError: two scans have the same name, or a label map would replace a file or cannot be written.
        SegbundleError: the model cannot be loaded, or a scan cannot be predicted (see `load_model`, `Model.predict` and
            `LabelMap.save`).

    Example:
        >>> scan = (np.random.default_rng(0).normal(size=(40, 56, 40)), np.eye(4))
        >>> (label_map,) = predict(scan, overlap=0.0, progress=False)
        >>> label_map.labels.shape
        (40, 56, 40)
    """
    if options and isinstance(model, Model):
        raise ConfigError(f"{', '.join(options)}: the model is loaded already. Pass these options to load_model.")
    formats = output_formats(output_format)
    check_installed(formats)
    if output_dir is None and formats != ["nifti"]:
        raise ConfigError(f"output_format {', '.join(formats)} needs an output_dir. Pass one, or use LabelMap.save.")
    if series is None:  # fails before a model is loaded
        _output_names(output_dir, items := select_scans(scans), formats)
    loaded = model if isinstance(model, Model) else load_model(model, **options)
    if series is not None:
        items = select_scans(scans, series, loaded.num_channels)
    names = _output_names(output_dir, items, formats)
    found = []
    for number, given in enumerate(tqdm(items, desc="scans", disable=not progress)):
        label_map = loaded.predict(given.scan)
        found.append(label_map if given.name is None else replace(label_map, name=given.name))
        if output_dir is not None:
            source = label_map.source or _geometry(label_map)
            _, failed = write_possible_label_maps(
                label_map.labels, source, output_dir, names[number], formats, loaded.class_table
            )
            found[-1] = replace(found[-1], failed_formats=failed)
            for kind, reason in failed.items():
                _logger.warning("%s: %s was not written: %s", names[number], kind, reason)
    return found


def train(
    dataset_dir: PathLike,
    output_dir: PathLike,
    *,
    task: PathLike | Sequence[PathLike] = (),
    trust: bool = False,
    **settings: Any,
) -> Model:
    """Train a network, and return the best model, loaded on the default device.

    Args:
        dataset_dir: folder of the dataset. The README describes its layouts.
        output_dir: folder for the model, checkpoints and logs.
        task: task files. Default: none.
        trust: whether to run configurations that the audit flags (default False).
        **settings: config keys, such as `class_names`, `spacing`, `max_epochs` or `resume`. Keys with `#` are passed as
            `**{"network_def#filters": [16, 32, 64, 128]}`.

    Raises:
        SegbundleError: a setting, the dataset, the initial weights or the output folder cannot be used, or a training
            step fails. The subclasses are in `segbundle.errors`.

    Example:
        >>> model = train("data_samples", "runs/api", max_epochs=10)  # doctest: +SKIP
    """
    _run("train", None, task, {**settings, "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}, trust)
    return load_model(Path(output_dir) / run_files.MODEL, trust=trust)


def evaluate(
    dataset_dir: PathLike,
    model: Checkpoint | None = None,
    *,
    output_dir: PathLike,
    task: PathLike | Sequence[PathLike] = (),
    trust: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a model on labeled cases, and return the content of `summary.json`.

    Args:
        dataset_dir: folder of the dataset. The README describes its layouts.
        model: path of a model, path of a training or cross-validation folder, or for an ensemble a list of such paths.
            Default: the model of the bundle.
        output_dir: folder for label maps, scores and the report.
        task: task files, required for a model outside of its training folder. Default: none.
        trust: whether to run configurations that the audit flags (default False).
        **settings: config keys, such as `fold` or `data_list_key`.

    Raises:
        SegbundleError: a setting, the dataset, the model or the output folder cannot be used, or a scan fails. The
            subclasses are in `segbundle.errors`.

    Example:
        >>> evaluate("data_samples", "runs/api/model.pt", output_dir="runs/api/test")["mean_dice"]  # doctest: +SKIP
        0.84
    """
    values = {**settings, "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    _run("evaluate", model, task, values, trust)
    summary: dict[str, Any] = json.loads((Path(output_dir) / run_files.SUMMARY).read_text(encoding="utf-8"))
    return summary


def _output_names(output_dir: PathLike | None, scans: Sequence[GivenScan], formats: Sequence[str]) -> list[str]:
    """Return the names of the label maps of all scans, after checking that each has a format that can be written."""
    if output_dir is None:
        return []
    problems = []
    for given in scans:
        try:
            check_scan(given.scan, formats)
        except DataError as error:
            problems.append(error)
    if problems and (len(problems) == len(scans) or set(formats) <= set(OF_DICOM)):
        raise problems[0]
    return names_of_label_maps(Path(output_dir), scans, formats)


def _geometry(label_map: LabelMap) -> Geometry:
    size_x, size_y, size_z = label_map.labels.shape
    return Geometry((size_x, size_y, size_z), label_map.affine)


def _run(
    name: str,
    model: Checkpoint | None,
    task: PathLike | Sequence[PathLike],
    settings: Mapping[str, Any],
    trust: bool,
) -> None:
    workflow = _create(name, task, _overrides(model, settings), trust)
    with _own_errors():
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _create(name: str, task: PathLike | Sequence[PathLike], overrides: Mapping[str, Any], trust: bool) -> Any:
    """Return a workflow with task files, or else with the task in the training folder of the model."""
    tasks = [task_file(Path(path)) for path in ([task] if isinstance(task, (str, Path)) else task)]
    refuse_untrusted(tasks, None, trust, remedy=_TRUST)
    refuse_untrusted([], None, trust, overrides, remedy=_TRUST)
    files = workflow_files(default_bundle() / "configs", name)
    known = {}
    if name != "train":
        model = overrides.get("ckpt_path")
        if tasks:
            refuse_other_preprocessing(model, merged_config([*files, *tasks]), overrides)
        else:
            known = settings_of_model(model, trust, _TRUST)
    return create_workflow(files, tasks, overrides, trust, known, logs=False)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the error of segbundle that caused an error of MONAI's parser."""
    try:
        yield
    except Exception as error:
        own = find_cause(error, SegbundleError)
        if own is None or own is error:
            raise
        raise own from None


def _overrides(model: Checkpoint | None, settings: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"bundle_root": str(default_bundle())}
    values |= {key: value for key, value in others.items() if value is not None}
    if model is not None:
        values["ckpt_path"] = str(model) if isinstance(model, (str, Path)) else [str(path) for path in model]
    return {**settings, **values}


__all__ = ["LabelMap", "Model", "evaluate", "load_model", "predict", "read_scan", "train"]
