"""List of all settings of a task: key, kind, default, theme and description.

Validation, command help, the JSON schema of task files, the table in docs/reference/settings.md and the settings in the
bundle's workflows are generated from this list. Add a new setting here and in the components that use it; then run
`python docs/write_settings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from segbundle.config.choices import Backend, CaseNames, OutputFormat, Precision
from segbundle.config.kinds import (
    AUTO,
    NULL,
    AnyOf,
    Boolean,
    Component,
    Integer,
    Kind,
    ListOf,
    MappingOf,
    Name,
    Number,
    OneOf,
    Orientation,
    SomeOf,
    Text,
)

_MACHINE_KEYS = ("bundle_root", "dataset_dir", "output_dir", "ckpt_path", "device")
THEMES = ("Paths", "Data", "Network and windows", "Training", "Evaluation and output")


@dataclass(frozen=True)
class Setting:
    """Setting of a task: its accepted values, its default and its description.

    Attributes:
        key: key of the configuration; `#` separates levels.
        kind: kind of accepted values.
        needed: accepted values in words, with an example, for error messages.
        description: one line for the help, the schema and the table; empty for settings nested in a described setting.
        theme: heading of the setting in the help, one of `THEMES`; empty for nested settings.
        default: default in the bundle's workflows as YAML text, or the class name of a component; empty for a setting
            without a single default.
        commands: commands that use the setting (default: train, evaluate and predict).
        affects: result that the setting determines, for records and reports: `scans` that are read, `cases` that are
            scored, predicted `labels`, or `scores`; empty for none of these.
        fixed: whether the setting must not change when a training run is resumed (default False).
        inference_default: default in `inference.yaml` if different from the default in `train.yaml`; else empty.

    Example:
        >>> Setting("network_def#in_channels", Integer(), "a positive whole number").is_nested
        True
    """

    key: str
    kind: Kind
    needed: str
    description: str = ""
    theme: str = ""
    default: str = ""
    commands: tuple[str, ...] = ("train", "evaluate", "predict")
    affects: str = ""
    fixed: bool = False
    inference_default: str = ""

    @property
    def is_nested(self) -> bool:
        """True if the setting is nested in another key."""
        return "#" in self.key

    @property
    def is_machine_specific(self) -> bool:
        """True if the value is a path or a device, and so depends on the machine and not on the task."""
        return self.key in _MACHINE_KEYS


_TRAIN, _PREDICT, _SCORE = ("train",), ("evaluate", "predict"), ("train", "evaluate")
_BOTH = "true or false (on MONAI's command line: True or False)"
_SHAPE = "three positive whole numbers of voxels, for instance [48, 48, 48],"
_VOXELS = ListOf(Integer(), 3)
_PRECISIONS, _BACKENDS, _FORMATS = get_args(Precision), get_args(Backend), get_args(OutputFormat)
_FRACTION = Number(minimum=0, below=1)
_PATHS, _DATA, _NETWORK, _TRAINING, _OUTPUT = THEMES

SETTINGS = (
    Setting("bundle_root", Text(filled=True), "a path", "folder of the bundle", _PATHS),
    Setting(
        "dataset_dir", AnyOf(Text(filled=True), ListOf(Text(filled=True))), "a path",
        "folder of the dataset; for predict, scans or folders of scans", _PATHS,
        affects="scans",
    ),
    Setting("output_dir", Text(filled=True), "a path", "folder for results", _PATHS),
    Setting(
        "series", AnyOf(NULL, Text(filled=True), Integer(0), ListOf(AnyOf(Text(filled=True), Integer(0)))),
        "a UID, a number, a modality, a pattern such as *thorax*, several of these with commas, or null,",
        "DICOM series to use: SeriesInstanceUID, SeriesNumber, modality or pattern of the SeriesDescription; null uses "
        "all", _PATHS, "null", ("predict",),
        affects="scans",
    ),
    Setting(
        "allow_uneven", Boolean(), _BOTH,
        "resample DICOM series with missing slices or a variable slice spacing to an even spacing (linear "
        "interpolation); false refuses such series", _DATA, "false",
        affects="scans",
    ),
    Setting(
        "ckpt_path", AnyOf(NULL, Text(filled=True), ListOf(Text(filled=True))), "a path, a list of paths, or null,",
        "initial weights, as far as they fit (train), or the model's weights (evaluate, predict), where several files "
        "form an ensemble",
        _PATHS,
        affects="labels",
    ),
    Setting(
        "cache_dir", AnyOf(NULL, Text(filled=True)), "a folder, or null,",
        "folder that caches prepared cases for later runs",
        _PATHS, "null", _TRAIN,
    ),
    Setting(
        "resume", Boolean(), _BOTH,
        "continue after the last epoch (train), or skip scans that an earlier run finished (evaluate, predict)",
        _PATHS, "false",
    ),
    Setting(
        "mlflow_uri", AnyOf(NULL, Text(filled=True)), "a URI, for instance sqlite:///mlflow.db, or null,",
        "URI of an MLflow server or database to log to, in addition to TensorBoard", _PATHS, "null", _TRAIN,
    ),
    Setting(
        "class_names", ListOf(Name()), "a list of names (in quotes: no, yes, on, off), the background's first,",
        "class names by label value, background first", _DATA, "[background, anterior, posterior]",
        affects="labels", fixed=True,
    ),
    Setting(
        "classes",
        AnyOf(NULL, MappingOf(AnyOf(Integer(0), Text(filled=True), ListOf(AnyOf(Integer(0), Text(filled=True)))))),
        "label values by class name, for instance {liver: 5, kidney: [2, 3]}, or null,",
        "label values by class name, for a subset of the classes, merged classes, or regions that overlap; sets "
        "class_names; null uses the values 0, 1, 2, ... in the order of class_names", _DATA, "null",
        affects="labels", fixed=True,
    ),
    Setting(
        "class_colors", AnyOf(NULL, MappingOf(AnyOf(Text(filled=True), ListOf(Integer(0, 255), 3)))),
        'colors by class name, for instance {liver: "#aa3311"}, or null,',
        "colors by class name, in output files, reports and the viewer; null uses a palette for color-blind readers",
        _DATA, "null",
        affects="labels",
    ),
    Setting(
        "class_codes", AnyOf(NULL, MappingOf(MappingOf())),
        'codes by class name, for instance {liver: {scheme: SCT, value: "10200004", meaning: Liver}}, or null,',
        "codes by class name, in output files; null uses SNOMED CT for names of TotalSegmentator and the Decathlon",
        _DATA, "null",
        affects="labels",
    ),
    Setting(
        "axcodes", AnyOf(NULL, Orientation()), "a word of three letters, for instance RAS,",
        "orientation of the network's input", _DATA, "RAS",
        affects="labels", fixed=True,
    ),
    Setting(
        "spacing", AnyOf(NULL, ListOf(Number(above=0), 3)),
        "three positive sizes in mm, for instance [1.0, 1.0, 1.0], or null",
        "voxel size of the network's input in mm; null keeps the spacing of each scan", _DATA, "[1.0, 1.0, 1.0]",
        affects="labels", fixed=True,
    ),
    Setting(
        "intensity", MappingOf(), "a method, for instance {method: zscore},",
        "intensity normalization: zscore for MR; nonzero: true computes it from nonzero voxels only (skull-stripped "
        "scans); {method: window, lower: a, upper: b} clips and scales to [0, 1]; "
        "{method: ct, lower: a, upper: b, mean: m, std: s} is nnU-Net's for CT; units: suv converts DICOM PET series "
        "to SUV (values of other files must be SUV already)",
        _DATA, "{method: zscore}",
        affects="labels", fixed=True,
    ),
    Setting("intensity#method", Text(), "the name of a method, for instance zscore,"),
    Setting("intensity#nonzero", OneOf(True, False), "true or false"),
    Setting("intensity#units", OneOf("suv"), "suv"),
    Setting("intensity#lower", Number(), "a number"),
    Setting("intensity#upper", Number(), "a number"),
    Setting("intensity#mean", Number(), "a number"),
    Setting("intensity#std", Number(above=0), "a positive number"),
    Setting(
        "fold", AnyOf(NULL, Integer(0)), "a whole number from 0, or null,",
        "validation fold: train holds out its cases, evaluate scores only these; null uses all", _DATA, "0", _SCORE,
        affects="cases", fixed=True, inference_default="null",
    ),
    Setting(
        "num_folds", AnyOf(OneOf("groups"), Integer(2)), "a whole number from 2, or groups,",
        "number of folds, unless the dataset defines folds; groups makes one fold per group (leave-one-site-out)",
        _DATA,
        "5", _SCORE,
        affects="cases", fixed=True,
    ),
    Setting(
        "groups", AnyOf(NULL, Text(filled=True)),
        "a key of dataset.json, a column such as sites.csv:site, a pattern such as '(patient\\d+)_', or null,",
        "groups of cases that stay in one fold, such as the scans of a patient; by a key of dataset.json, a column of "
        "a table, or a pattern of the case names; null uses the subjects of BIDS, or the key "
        "patient of dataset.json", _DATA, "null", _SCORE,
        affects="cases", fixed=True,
    ),
    Setting(
        "stratify", Boolean(), _BOTH,
        "exchange cases between random folds until, if possible, no fold lacks a class; reads all label maps",
        _DATA, "true", _SCORE,
        affects="cases", fixed=True,
    ),
    Setting(
        "splits", AnyOf(NULL, Text(filled=True)), "a file in the format of splits_final.json, or null,",
        "file with the cases of each fold, in the format of nnU-Net's splits_final.json; null uses the folds of the "
        "dataset, or a random split", _DATA, "null", _SCORE,
        affects="cases",
    ),
    Setting(
        "split_seed", Integer(0, 2**32 - 1), "a whole number from 0 and below 2^32",
        "seed of the random split into folds", _DATA, "0", _SCORE,
        affects="cases", fixed=True,
    ),
    Setting(
        "data_list_key", Text(), "the name of a list in dataset.json, for instance training,",
        "list of dataset.json to use; test selects the labeled test cases", _DATA, "training", _SCORE,
        affects="cases",
    ),
    Setting(
        "patch_size", _VOXELS, _SHAPE, "size of training patches and inference windows in voxels", _NETWORK,
        "[40, 56, 40]",
        affects="labels",
    ),
    Setting(
        "window_size", AnyOf(AUTO, _VOXELS), f"auto, or {_SHAPE}",
        "size of inference windows in voxels; auto uses the largest size that fits into memory, with the same overlap "
        "in voxels (faster on large scans); networks with instance or group norm keep patch_size",
        _NETWORK, "patch_size",
        affects="labels",
    ),
    Setting(
        "overlap", AnyOf(_FRACTION, ListOf(_FRACTION, 3)), "a fraction of a window, at least 0 and less than 1,",
        "overlap of inference windows, as a fraction of a window", _NETWORK, "0.5",
        affects="labels",
    ),
    Setting(
        "sw_batch_size", AnyOf(AUTO, Integer(1, 1024)), "a whole number of windows from 1 to 1024, or auto,",
        "windows per batch; auto uses as many as fit into memory", _NETWORK, "auto",
    ),
    Setting(
        "precision", OneOf(*_PRECISIONS), f"one of {', '.join(_PRECISIONS)}",
        "precision of the network; auto is bf16 on CPUs with AMX and GPUs since Ampere; on older GPUs, auto is fp16 "
        "for inference; elsewhere, auto is fp32", _NETWORK, "auto",
        affects="labels",
    ),
    Setting(
        "backend", OneOf(*_BACKENDS), f"one of {', '.join(_BACKENDS)}",
        "inference backend: eager, compile, cudagraph (GPU) or openvino (CPU, extra `openvino`)",
        _NETWORK, "eager",
        affects="labels",
    ),
    Setting(
        "test_time_flips", ListOf(OneOf(0, 1, 2), distinct=True), "a list of axes, for instance [0],",
        "axes to flip in test-time augmentation; only axes that were flipped in training; each axis doubles the time",
        _NETWORK, "[]",
        affects="labels",
    ),
    Setting(
        "skip_air", Boolean(), _BOTH, "skip windows that contain only air, and label them as background", _NETWORK,
        "false", _PREDICT,
        affects="labels",
    ),
    Setting(
        "network_def", Component(), "a network",
        "any 3D network of MONAI; network_def#in_channels: 2 for two channels, network_def#res_block: true for "
        "residual blocks, network_def#deep_supervision: true for deep supervision", _NETWORK,
        affects="labels",
    ),
    Setting("network_def#spatial_dims", OneOf(3), "3"),
    Setting("network_def#in_channels", Integer(1, 4096), "a whole number of channels from 1 to 4096"),
    Setting(
        "device", AnyOf(Text(), Integer(0)), "cpu, cuda or cuda:N",
        "cpu, cuda or cuda:N; by default a GPU if present", _NETWORK,
    ),
    Setting("max_epochs", Integer(), "a positive whole number", "number of epochs", _TRAINING, "40", _TRAIN),
    Setting(
        "val_interval", Integer(), "a positive whole number of epochs", "epochs between validations", _TRAINING,
        "5", _TRAIN,
    ),
    Setting(
        "patience", AnyOf(NULL, Integer()), "a positive whole number of epochs, or null,",
        "early stopping: epochs without a better validation Dice, counted from the first Dice above 0; "
        "null turns early stopping off",
        _TRAINING,
        "null", _TRAIN,
    ),
    Setting("batch_size", Integer(), "a positive whole number of patches", "patches per step", _TRAINING, "2", _TRAIN),
    Setting(
        "patches_per_case", Integer(), "a positive whole number of patches", "patches of each case per epoch",
        _TRAINING, "1", _TRAIN,
    ),
    Setting(
        "steps_per_epoch", AnyOf(NULL, Integer()), "a positive whole number of steps, or null,",
        "training steps per epoch; null makes an epoch one pass over the cases (patches_per_case patches of each)",
        _TRAINING, "null", _TRAIN,
    ),
    Setting(
        "num_workers", Integer(0, 1024), "a whole number from 0 to 1024", "number of threads that prepare cases",
        _TRAINING, "4", _TRAIN,
    ),
    Setting(
        "seed", AnyOf(NULL, Integer(0)), "a whole number from 0, or null,",
        "seed of initial weights, case order, patches and augmentation; null makes every run different", _TRAINING,
        "0", _TRAIN,
    ),
    Setting(
        "augmentation", AnyOf(NULL, MappingOf()), "a mapping, for instance {rotation: 20.0},",
        "augmentation of training patches; flip_axes (auto: axis 0, unless there are left and right classes), "
        "rotation in degrees, scaling, intensity (true or false); missing entries have their defaults; null turns "
        "augmentation off",
        _TRAINING, "{flip_axes: auto, rotation: 20.0, scaling: 0.25}", _TRAIN,
    ),
    Setting(
        "augmentation#flip_axes", AnyOf(AUTO, ListOf(OneOf(0, 1, 2), distinct=True)),
        "auto, or a list of axes, for instance [0],",
    ),
    Setting(
        "augmentation#rotation", AnyOf(Number(minimum=0), ListOf(Number(minimum=0), 3)),
        "an angle in degrees, or one for each axis,",
    ),
    Setting("augmentation#scaling", Number(minimum=0), "a number from 0"),
    Setting("augmentation#intensity", OneOf(True, False), "true or false"),
    Setting(
        "loss", Component(), "a loss",
        "loss function: one of segbundle.losses, or of MONAI if all classes are annotated", _TRAINING,
        "DiceCELoss", _TRAIN,
    ),
    Setting(
        "optimizer", Component(),
        "an optimizer",
        "optimizer of PyTorch with a full _target_, such as torch.optim.SGD",
        _TRAINING,
        "AdamW", _TRAIN,
    ),
    Setting(
        "lr_scheduler", Component(), "a schedule", "learning rate scheduler of PyTorch", _TRAINING,
        "PolynomialLR", _TRAIN,
    ),
    Setting("lr_scheduler#total_iters", Integer(), "a positive whole number"),
    Setting("lr_scheduler#T_max", Integer(), "a positive whole number"),
    Setting("lr_scheduler#step_size", Integer(), "a positive whole number of epochs"),
    Setting(
        "lr_scheduler#milestones", ListOf(Integer(), increasing=True),
        "a list of increasing epochs, for instance [20, 30],",
    ),
    Setting(
        "warmup_epochs", Integer(0), "a whole number of epochs from 0",
        "epochs of a linear increase of the learning rate, on top of lr_scheduler", _TRAINING, "0", _TRAIN,
    ),
    Setting(
        "freeze", AnyOf(NULL, OneOf("encoder", "all_but_output"), ListOf(Text(filled=True))),
        "encoder, all_but_output, a list of layers such as [input_block, downsamples.*], or null,",
        "layers that are not trained: encoder, all_but_output, or a list of names and patterns; encoder stands for the "
        "layers before the resolution first increases; null trains all layers", _TRAINING, "null", _TRAIN,
        fixed=True,
    ),
    Setting(
        "layer_decay", AnyOf(NULL, Number(above=0, below=1)), "a number greater than 0 and less than 1, or null,",
        "factor of the learning rate for each stage of layers, counted from the output; null uses one learning rate",
        _TRAINING, "null", _TRAIN,
        fixed=True,
    ),
    Setting(
        "ema_decay", AnyOf(NULL, _FRACTION), "a number from 0 and less than 1, or null,",
        "decay of the moving average of the weights, which is validated and saved; null turns averaging off", _TRAINING,
        "0.999", _TRAIN,
    ),
    Setting(
        "max_gradient_norm", AnyOf(NULL, OneOf(math.inf), Number(above=0)), "a positive number, or null,",
        "maximum norm of the gradient (clipping); null turns clipping off", _TRAINING, "12.0", _TRAIN,
    ),
    Setting(
        "largest_component", AnyOf(OneOf(True, False), ListOf(Text())), "true, false, or a list of classes",
        "keep only the largest connected component of every class, or of the classes in a list", _OUTPUT, "false",
        affects="labels",
    ),
    Setting(
        "output_format", SomeOf(*_FORMATS), f"one or several of {', '.join(_FORMATS)}",
        "file formats of label maps: nifti, nrrd (3D Slicer), dicom_seg and rtstruct (DICOM series only); several with "
        "commas", _OUTPUT, "[nifti]", _PREDICT,
        affects="labels",
    ),
    Setting(
        "save_probabilities", Boolean(), _BOTH, "also save class probabilities, as <scan>_prob.nii", _OUTPUT,
        "false", _PREDICT,
    ),
    Setting(
        "keep_identifiers", Boolean(), _BOTH,
        "also record UID, date and description of DICOM series; false records the modality and a pseudonym", _OUTPUT,
        "false", _PREDICT,
    ),
    Setting(
        "case_names", OneOf(*get_args(CaseNames)), "path or pseudonym",
        "names of cases in outputs and messages: path (of files and folders) or pseudonym; choose pseudonym if paths "
        "contain names of patients", _OUTPUT, "path", _PREDICT,
    ),
    Setting(
        "nsd_tolerance_mm", AnyOf(NULL, Number(minimum=0), MappingOf(Number(minimum=0))),
        "a distance in mm, for instance 1.0, or one for each class, for instance {liver: 3.0},",
        "tolerance of the normalized surface Dice in mm; for all classes or by name, "
        "{liver: 3.0, lesion: 2.0}; null skips surface metrics",
        _OUTPUT, "1.0", ("evaluate",),
        affects="scores",
    ),
)  # fmt: skip

BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}
KEYS = tuple(
    setting.key
    for setting in SETTINGS
    if not (setting.is_nested or setting.is_machine_specific or isinstance(setting.kind, Component))
)
"""Keys that describe a task: not nested, independent of the machine, and not components."""
TEXT_KEYS = frozenset(
    setting.key
    for setting in SETTINGS
    if not setting.is_nested
    and setting.kind.accepts("text")
    and not setting.kind.accepts(1)
    and not isinstance(setting.kind, Component)
)
"""Keys whose values are always text, even if they look like numbers: folders, files, URIs, names."""
NAME_LISTS = frozenset(
    key for key, setting in BY_KEY.items() if setting.kind.accepts(["name"]) and not setting.kind.accepts("name")
)
"""Keys whose values may be lists of names."""
WORD_LISTS = frozenset(
    key
    for key, setting in BY_KEY.items()
    if all(map(setting.kind.accepts, ("word", 1, ["word", 1]))) and not isinstance(setting.kind, Component)
)
"""Keys whose values are words, such as names, patterns and numbers; text with commas may be one word or several."""


def settings_of(command: str) -> dict[str, list[Setting]]:
    """Return the settings that a command uses, grouped by theme. Settings without a description are left out.

    Args:
        command: `train`, `evaluate` or `predict`.

    Example:
        >>> [setting.key for setting in settings_of("evaluate")["Evaluation and output"]][-3:]
        ['keep_identifiers', 'case_names', 'nsd_tolerance_mm']
    """
    used = [setting for setting in SETTINGS if setting.description and command in setting.commands]
    return {theme: [setting for setting in used if setting.theme == theme] for theme in THEMES}


def default_values(command: str) -> dict[str, Any]:
    """Return the defaults of a command's settings by key, without components, paths, devices and references.

    Args:
        command: `train`, `evaluate` or `predict`.

    Example:
        >>> default_values("evaluate")["nsd_tolerance_mm"]
        1.0
    """
    used = [setting for settings in settings_of(command).values() for setting in settings if setting.key in KEYS]
    return {setting.key: yaml.safe_load(setting.default) for setting in used if setting.default not in ("", *BY_KEY)}


def select_settings(settings: Mapping[str, Any], affects: Sequence[str]) -> dict[str, Any]:
    """Return the settings that affect given results, for records and reports. Unknown keys are left out.

    Args:
        settings: values by key.
        affects: one or more of `scans`, `cases`, `labels` and `scores`, see `Setting`.

    Example:
        >>> select_settings({"overlap": 0.5, "nsd_tolerance_mm": 1.0, "seed": 0}, ["labels"])
        {'overlap': 0.5}
    """
    return {key: value for key, value in settings.items() if key in BY_KEY and BY_KEY[key].affects in affects}


def fixed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that must not change when a training run is resumed.

    Args:
        settings: values by key.

    Example:
        >>> fixed_settings({"fold": 0, "max_epochs": 40})
        {'fold': 0}
    """
    return {key: value for key, value in settings.items() if key in BY_KEY and BY_KEY[key].fixed}
