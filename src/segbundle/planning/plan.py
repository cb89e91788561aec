"""Plan a training run: from the fingerprint of a dataset to the settings of its task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segbundle.acceleration.process import keep_freed_memory, warm_up_mkl
from segbundle.class_values import class_values
from segbundle.datasets.datalist import labeled_data
from segbundle.datasets.folders import some
from segbundle.datasets.sides import chosen_flips, exchanging_axes, side_pairs
from segbundle.errors import ConfigError, DataError
from segbundle.hardware.memory_usage import free_memory
from segbundle.planning.choice import Choice, amount, gigabytes, times
from segbundle.planning.dataset_fingerprint import DatasetFingerprint, measure_dataset, unusable_in_words
from segbundle.planning.dry_run import Measurement, footprint_function, measure_steps
from segbundle.planning.grid_rules import choose_axcodes, choose_spacing, thick_axis
from segbundle.planning.intensity_rules import choose_intensity
from segbundle.planning.network_rules import Levels, network_choices
from segbundle.planning.patch_rules import PatchPlan, fit_patch
from segbundle.planning.presets import Preset, choose_preset, memory_budget
from segbundle.planning.schedule_rules import Timing, choose_schedule, count_windows, schedule_choices
from segbundle.sampling.augmentation import Augmentation
from segbundle.terminal import duration
from segbundle.workflow.devices import checked_device, pick_device

_NUM_FOLDS = 5
_ROTATION, _SCALING = 20.0, 0.25
_TRIES, _SHRINK = 4, 0.8
"""Number of dry runs, and the factor by which the budget shrinks after one that took more than the budget."""
_TOLERANCE, _PROCESS_BYTES = 1.2, 3e8
"""Tolerance of the memory of a dry run: factor of the budget, and bytes of libraries that its first step loads."""


@dataclass(frozen=True)
class Request:
    """Options of the user for a plan.

    Attributes:
        memory: memory of a training step, such as `8GB`; None for that of the preset.
        preset: name of a preset; None for `medium` on a GPU and `small` on a CPU.
        hours: duration of the training run in hours; None for a number of steps that depends on the number of cases.
        device: device of the training run; None for a GPU if present.
        class_names: class names, background first; None for those of the dataset.

    Example:
        >>> Request(memory="8GB").preset is None
        True
    """

    memory: str | None = None
    preset: str | None = None
    hours: float | None = None
    device: str | None = None
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Plan:
    """Planned settings of a training run on a dataset, with their reasons.

    Attributes:
        fingerprint: fingerprint of the dataset.
        choices: settings with their reasons, in the order of a task file.
        notes: lines about the memory and time of the training run.
        warnings: messages about the dataset.

    Example:
        >>> fingerprint = DatasetFingerprint(Path("data"), "", [], ["background", "a"], True, [], [], [])
        >>> Plan(fingerprint, [Choice("axcodes", "RAS", "")]).values
        {'axcodes': 'RAS'}
    """

    fingerprint: DatasetFingerprint
    choices: list[Choice]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[str, Any]:
        """Settings by key."""
        return {choice.key: choice.value for choice in self.choices}


def plan_task(dataset: str | Path, request: Request = Request(), cache: Path | None = None) -> Plan:
    """Measure a dataset, and plan the settings of a training run on it.

    The settings follow the rules of nnU-Net (Isensee et al., Nature Methods 18, 2021). Time and memory are measured in
    a few training steps on the device; if these take more than the budget, smaller patches are planned.

    Args:
        dataset: see `segbundle.datasets.load_cases`.
        request: options of the user. Default: none are set.
        cache: JSON file with fingerprints of cases, see `measure_dataset`. Default: no file.

    Raises:
        DataError: the dataset cannot be used, see `measure_dataset`.
        ConfigError: an option is invalid, or no plan fits into the memory.

    Example:
        >>> plan = plan_task("data_samples")  # doctest: +SKIP
        >>> plan.values["spacing"]  # doctest: +SKIP
        [2.0, 2.0, 2.0]
    """
    keep_freed_memory()  # as in a training run
    warm_up_mkl()
    device = pick_device() if request.device is None else checked_device(request.device)
    name, preset = choose_preset(request.preset, device)
    budget = memory_budget(request.memory, preset, device)
    if request.hours is not None and not 0 < request.hours < math.inf:
        raise ConfigError(f"--hours is {request.hours:g}; a positive number of hours is needed, for instance 2.")
    fingerprint = measure_dataset(dataset, request.class_names, cache)
    folds, training, held_out = _choose_folds(fingerprint)
    spacing = choose_spacing(fingerprint)
    shape = np.median(fingerprint.shapes_at(spacing.value), axis=0).astype(int).tolist()
    grid = [*_class_choices(fingerprint), choose_axcodes(fingerprint), spacing, choose_intensity(fingerprint), *folds]
    augmentation = _augmentation(fingerprint, spacing.value, shape)
    values = {choice.key: choice.value for choice in grid}
    patch, network, measured = _fit(
        fingerprint, preset, budget, values, augmentation, spacing.value, shape, training, device
    )
    validation = held_out * count_windows(shape, patch.patch_size) * measured.window
    timing = Timing(measured.step, validation)
    schedule = choose_schedule(training, timing, request.hours, device.type != "cpu")
    choices = [
        *grid,
        Choice("patch_size", patch.patch_size, _patch_reason(patch, shape, budget)),
        *network,
        Choice("batch_size", patch.batch_size, _batch_reason(patch, device)),
        augmentation,
        *schedule_choices(schedule, timing, training, patch.batch_size, request.hours is not None),
    ]
    notes = [
        f"Preset {name}; memory of a training step: budget {gigabytes(budget)}, estimated "
        f"{gigabytes(patch.num_bytes)}, measured {gigabytes(measured.num_bytes)}.",
        f"Time on {_device_name(device)}: {measured.step:.3g} s per step ({amount(measured.steps, 'step')} measured), "
        f"about {duration(schedule.seconds)} in total.",
    ]
    return Plan(fingerprint, choices, notes, _warnings(fingerprint, budget, device))


def _fit(
    fingerprint: DatasetFingerprint,
    preset: Preset,
    budget: float,
    values: Mapping[str, Any],
    augmentation: Choice,
    spacing: Sequence[float],
    shape: Sequence[int],
    num_cases: int,
    device: torch.device,
) -> tuple[PatchPlan, list[Choice], Measurement]:
    """Return patches, network and measurement of a plan whose dry run fits into the budget."""

    def network_of(levels: Levels) -> list[Choice]:
        channels = fingerprint.num_channels
        return network_choices(levels, spacing, channels, preset.first, preset.largest, preset.residual)

    def settings(levels: Levels) -> dict[str, Any]:
        return {**values, **{choice.key: choice.value for choice in network_of(levels)}}

    flips = chosen_flips(augmentation.value["flip_axes"], fingerprint.class_names, "RAS")
    changes = Augmentation(**{**augmentation.value, "flip_axes": flips})
    footprint_of = footprint_function(settings, fingerprint.num_channels, device)
    first = fingerprint.shapes_at(spacing)[0].tolist()
    allowed = budget
    for _ in range(_TRIES):
        patch = fit_patch(shape, spacing, allowed, footprint_of, num_cases, device.type != "cpu")
        sizes = {"patch_size": patch.patch_size, "batch_size": patch.batch_size}
        try:
            measured = measure_steps({**settings(patch.levels), **sizes}, first, changes, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            if measured.num_bytes <= budget * _TOLERANCE + _PROCESS_BYTES:
                return patch, network_of(patch.levels), measured
        allowed = _SHRINK * min(allowed, patch.num_bytes)
    raise ConfigError(
        f"--memory {gigabytes(budget)}: training steps took more memory than planned on {device}. Use a smaller "
        "--preset."
    )


def _class_choices(fingerprint: DatasetFingerprint) -> list[Choice]:
    """Return the settings of the classes; MONAI's runner needs the names as well as the label values."""
    reason = "in the order of the label values"
    if not fingerprint.named:
        reason = "the dataset has no class names: one class per label value; rename them freely"
    classes = fingerprint.classes
    if classes is None:
        return [Choice("class_names", fingerprint.class_names, reason)]
    overlapping = class_values(classes).members is not None
    shown = {name: value for name, value in classes.items() if name != "background"}
    return [
        Choice("class_names", fingerprint.class_names, "the keys of classes" if fingerprint.named else reason),
        Choice("classes", shown, "label values of overlapping regions" if overlapping else "label values"),
    ]


def _choose_folds(fingerprint: DatasetFingerprint) -> tuple[list[Choice], int, int]:
    """Return the settings of the folds, and the numbers of training and held-out cases."""
    count, subjects = len(fingerprint.cases), fingerprint.subjects
    if subjects == 1:
        reason = "only one labeled case or subject: it is used for training and for validation"
        return [Choice("fold", None, reason)], count, count
    folds: list[Choice] = []
    num_folds = min(_NUM_FOLDS, subjects)
    try:
        training = len(
            labeled_data(
                fingerprint.dataset,
                fingerprint.class_names,
                "training",
                0,
                _NUM_FOLDS,
                stratify=False,
                classes=fingerprint.classes,
            )
        )
    except (ConfigError, DataError):
        training = count - math.ceil(count / num_folds)
    if num_folds < _NUM_FOLDS and 0 < training < count:
        folds = [Choice("num_folds", num_folds, f"only {subjects} labeled cases or subjects")]
    return folds, max(training, 1), max(count - training, 1)


def _augmentation(fingerprint: DatasetFingerprint, spacing: Sequence[float], shape: Sequence[int]) -> Choice:
    axis = thick_axis(spacing, shape)
    flips: Any = "auto"
    rotation: Any = _ROTATION
    names = fingerprint.class_names
    if not fingerprint.named and len(names) > 2:
        flips, reason = [], "not mirrored: classes without names may be left and right; set auto if they are not"
    elif exchanging_axes(names, "RAS"):
        left, right = side_pairs(names)[0]
        reason = f"not mirrored along X: this would exchange {left} and {right}"
    else:
        reason = "mirrored along X: no class is left or right"
    if axis is not None:
        rotation = [_ROTATION if about == axis else 0.0 for about in range(3)]
        reason += "; thick slices are rotated in their plane only"
    return Choice("augmentation", {"flip_axes": flips, "rotation": rotation, "scaling": _SCALING}, reason)


def _patch_reason(patch: PatchPlan, shape: Sequence[int], budget: float) -> str:
    if patch.whole:
        return f"voxels; contains the median case ({times(shape)}), rounded up to multiples of the strides"
    return f"voxels; largest that fits into {gigabytes(budget)}; median case {times(shape)}"


def _batch_reason(patch: PatchPlan, device: torch.device) -> str:
    if patch.batch_size == 1:
        return "two patches do not fit into the memory"
    if device.type == "cpu":
        return "larger batches take proportionally longer on a CPU"
    return "fills the memory, up to 5% of the voxels of the dataset"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"a CPU with {amount(torch.get_num_threads(), 'thread')}"


def _warnings(fingerprint: DatasetFingerprint, budget: float, device: torch.device) -> list[str]:
    """Return messages about cases that cannot be used, classes without examples, and too little memory."""
    unusable = unusable_in_words(fingerprint)
    found = [unusable] if unusable else []
    unseen = [name for label, name in enumerate(fingerprint.class_names) if label and not fingerprint.volumes(label)]
    if unseen:
        found.append(
            f"no case contains {some(unseen)}; a network needs examples of every class. Add such cases, or remove the "
            "class."
        )
    free = free_memory(device)
    if budget > free:
        found.append(f"the plan is for {gigabytes(budget)}, but only {gigabytes(free)} are free on {device}.")
    return found
