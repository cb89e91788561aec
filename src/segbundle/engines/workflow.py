"""What a workflow's YAML needs before its engine runs: paths, a device, a network that can do the task, a folder."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks import eval_mode

from segbundle.engines.configuration import bundle_configs, check_config
from segbundle.engines.process import keep_freed_memory, settle_vector_math
from segbundle.engines.ranks import processes_here, rank, refuse_lone_ranks, start_ranks, wait_for_all
from segbundle.engines.values import KEYS, check_values, is_evaluated_later
from segbundle.errors import ConfigError, OutputError, first_cause, one_line, show_plain_errors
from segbundle.files import keep_others_out, make_folder, remove_partial
from segbundle.inferers import Precision, with_channels_last_norms
from segbundle.inferers.memory import free_memory, measured_needs, training_bytes
from segbundle.literals import restore
from segbundle.outputs import OutputFolder, claim, names
from segbundle.sides import chosen_flips, warn_about_sides

_logger = logging.getLogger(__name__)
_PLENTY = 4096
"""Bytes per voxel of a patch that no usual network takes: where so many are free, its needs are not measured."""


def start_workflow(ranks: bool = False) -> None:
    """First step of every workflow: refuse a configuration that no run can come of, and end on plain errors.

    Args:
        ranks: whether to meet the other processes that `torchrun` has started.

    Raises:
        ConfigError: see `check_config` and `refuse_lone_ranks`.
    """
    keep_freed_memory()
    settle_vector_math()
    if ranks:
        start_ranks()
    refuse_lone_ranks()
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is not None and program.name == "monai.bundle.__main__":
        show_plain_errors()
    workflow = running_workflow()
    if workflow is not None:
        follow_trainer(workflow.parser)
        check_config(workflow.parser, bundle_configs(Path(workflow.config_root_path)))
        check_values(_evaluated_values(workflow.parser), evaluated=True)


def follow_trainer(parser: ConfigParser) -> None:
    """Set `max_epochs` to the trainer's, if that alone was set, as MONAI's clients do.

    The schedule of the learning rate refers to `max_epochs`, and must end when the training does.
    """
    epochs = restore(parser.get("train::trainer::max_epochs"))
    if epochs is not None and not is_evaluated_later(epochs) and parser.get("max_epochs", epochs) != epochs:
        parser["max_epochs"] = epochs
        parser.parse(reset=True)


def _evaluated_values(parser: ConfigParser) -> dict[str, Any]:
    """The bundle's own keys, with what references and expressions in them stand for."""
    config = {key: parser.get(key) for key in KEYS if key in parser}
    resolved = parser.ref_resolver.get_resolved_content
    return {key: resolved(key) if is_evaluated_later(value) else value for key, value in config.items()}


def locate_bundle() -> str:
    """The folder of the bundle whose configuration is being run, whatever the working directory.

    MONAI gives a configuration no word for the place of its own file, so this asks the workflow that is evaluating
    it. Outside a workflow (a configuration parsed by hand) it is the working directory, as in the Model Zoo.
    """
    workflow = running_workflow()
    if workflow is None:
        return str(Path.cwd())
    configs = Path(workflow.config_root_path).resolve()
    return str(configs.parent if configs.name == "configs" else configs)


def running_workflow() -> ConfigWorkflow | None:
    """The `ConfigWorkflow` further up the call stack, if one is evaluating its configuration."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigWorkflow):
            return candidate
        frame = frame.f_back
    return None


def in_bundle(bundle_root: str, path: str) -> str:
    """A path inside the bundle."""
    return str(Path(bundle_root) / path)


def pick_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def pick_num_workers(device: torch.device | str) -> int:
    """Processes that prepare batches: some beside a GPU, none on a CPU, whose cores the network itself keeps busy."""
    return min(4, os.cpu_count() or 1) if checked_device(device).type == "cuda" else 0


def checked_device(device: torch.device | str) -> torch.device:
    """A device that exists.

    Raises:
        ConfigError: no device is called so, or there is none of that kind or number on this machine.
    """
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        present = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {str(device)!r} cannot be used here; choose from {', '.join(present)}.") from error
    return checked


def place_network(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """Move a network to a device, in the memory layout in which its 3D convolutions are fastest.

    On a CPU, instance norms are exchanged for some that work in that layout.

    Raises:
        ConfigError: the device does not exist, or it is no network.
    """
    device = checked_device(device)
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"network_def makes a {type(network).__name__}; a torch.nn.Module is needed.")
    if device.type == "cpu":
        network = with_channels_last_norms(network)
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def check_network(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    class_names: Sequence[str],
    window_size: Sequence[int] | str = "auto",
    inferer: Any = None,
) -> None:
    """Pass one empty patch through the network, before hours are spent on finding out that none can pass.

    And one window, if windows have a size of their own. An inferer that can be warmed up is, and passes the patch.

    Raises:
        ConfigError: the network cannot take such a patch, or does not return one score per class and voxel.
    """
    _refuse_large_patches(network, device, num_channels, "patch_size", patch_size, len(class_names))
    if not _warmed_up(inferer, network, device, num_channels, (1, len(class_names), *patch_size)):
        _check_patch(network, device, num_channels, "patch_size", patch_size, class_names)
    if not isinstance(window_size, str) and window_size != patch_size:
        _refuse_large_patches(network, device, num_channels, "window_size", window_size, len(class_names))
        _check_patch(network, device, num_channels, "window_size", window_size, class_names)


def _refuse_large_patches(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    key: str,
    size: Sequence[int],
    num_classes: int,
) -> None:
    """Refuse patches that do not fit into memory, before any is taken: by their voxels, then by the network's needs."""
    voxels, free = math.prod(size), free_memory(torch.device(device))
    needed = 4.0 * voxels * (num_channels + num_classes)
    if needed <= free < voxels * _PLENTY:
        try:
            with eval_mode(network):
                needed = measured_needs(network, num_channels, size).bytes_per_voxel * voxels / 2
        except Exception:  # passing a patch will say why
            return
    if needed > free:
        raise ConfigError(
            f"{key} is {list(size)}: a patch of {voxels:,} voxels takes about {needed / 1e9:.3g} GB, {free / 1e9:.3g} "
            f"GB are free. Choose a smaller {key}."
        )


def _warmed_up(
    inferer: Any, network: torch.nn.Module, device: torch.device | str, num_channels: int, wanted: tuple[Any, ...]
) -> bool:
    """Let an inferer do before the first scan what does not depend on it; whether scores came of it as they should."""
    if not hasattr(inferer, "warm_up"):
        return False
    try:
        with eval_mode(network):
            scores = inferer.warm_up(network, num_channels, torch.device(device))
    except Exception:  # passing a patch will say why
        return False
    return scores is not None and tuple(scores.shape) == wanted


def _check_patch(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    key: str,
    patch_size: Sequence[int],
    class_names: Sequence[str],
) -> None:
    training = network.training
    try:
        with torch.no_grad():
            scores = network.eval()(torch.zeros(1, num_channels, *patch_size, device=device))
    except Exception as error:
        cause = one_line(first_cause(error))
        raise ConfigError(
            f"the network cannot take patches of {key} {list(patch_size)} ({cause}). Each side must be divisible "
            "by the product of the network's strides along it: 8 for the bundle's own."
        ) from error
    finally:
        network.train(training)
    wanted = (1, len(class_names), *patch_size)
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != wanted:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise ConfigError(
            f"the network returns {found} for a patch; one tensor of shape {wanted} is needed: a channel for each of "
            f"the {len(class_names)} class_names (and more depths in training only)."
        )


def check_batch(
    network: torch.nn.Module,
    device: torch.device | str,
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: Precision = "auto",
) -> None:
    """Compare the memory that a training step takes with what is free, on a CPU for every process.

    Raises:
        ConfigError: such batches do not fit; the message says which would. Or a `precision` that cannot be trained in.
    """
    if precision == "fp16":
        raise ConfigError(
            "precision fp16 is for inference: in training, small gradients would vanish; use bf16, fp32 or auto."
        )
    try:
        each = training_bytes(network, num_channels, patch_size, precision)
    except (RuntimeError, ValueError):  # it takes patches of one size only: nothing is known
        return
    free = free_memory(torch.device(device)) // (processes_here() if torch.device(device).type == "cpu" else 1)
    if each * batch_size <= free:
        return
    fitting = int(free // each)
    advice = f"batch_size {fitting} would" if fitting else "not even one patch does: choose a smaller patch_size"
    raise ConfigError(
        f"batch_size {batch_size} does not fit into memory: a step takes about {each * batch_size / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free; {advice}."
    )


def warn_about_flips(
    test_time_flips: Sequence[int],
    augmentation: Mapping[str, Any] | None,
    class_names: Sequence[str] = (),
    axcodes: str | Sequence[str] | None = "RAS",
) -> None:
    """Log a warning if images are to be mirrored along an axis that the training did not mirror, or must not.

    Args:
        test_time_flips: axes along which inference mirrors images.
        augmentation: of the training; its `flip_axes` are compared.
        class_names, axcodes: tell which axes exchange classes that differ by their side only.
    """
    trained = chosen_flips((augmentation or {}).get("flip_axes", "auto"), class_names, axcodes)
    unknown = sorted(set(test_time_flips) - set(trained))
    if unknown:
        _logger.warning(
            "test_time_flips: the training mirrored no image along axis %s (augmentation#flip_axes is %s); "
            "averaging such predictions makes most models worse",
            ", ".join(map(str, unknown)),
            list(trained),
        )
    warn_about_sides(test_time_flips, class_names, axcodes, "test_time_flips")


def prepare_training_output(output_dir: str, resume: bool = False) -> None:
    """Make the output folder of a training, and refuse to overwrite a run that it holds.

    Raises:
        OutputError: the folder cannot be written, holds a run and `resume` is false, or holds files of others in the
            places of a training's.
    """
    if rank() == 0:
        _make_writable(output_dir)
    wait_for_all()
    held = [name for name in (names.LAST, names.MODEL) if (Path(output_dir) / name).exists()]
    if held and not resume:
        raise OutputError(
            f"{output_dir}: already holds a training run ({held[0]}). Continue it with --resume true, "
            "or choose another --output_dir."
        )
    folder = _claim(output_dir)
    if names.LAST in held and not folder.wrote(last := folder.folder / names.LAST) and not last.is_symlink():
        folder.adopt(last)  # perhaps copied here: nothing is replaced before the training has resumed from it
    folder.refuse_foreign(names.TRAINING)
    folder.refuse_links([names.TENSORBOARD, names.CACHE])
    workflow = running_workflow()
    weights = None if workflow is None else workflow.parser.get("ckpt_path")
    folder.refuse_inputs(names.TRAINING, [weights] if isinstance(weights, str) else [])
    if rank() == 0:
        remove_partial(output_dir)
    if resume and names.LAST not in held:
        _logger.warning("%s: holds no last.pt to resume from; starting from the beginning", output_dir)


def prepare_output(output_dir: str) -> None:
    """Make an output folder and prove that it can be written, before hours are spent on what goes into it.

    Raises:
        OutputError: it cannot, or it holds a training, whose scores would be replaced.
    """
    if any((Path(output_dir) / name).exists() for name in (names.LAST, names.TASK)):
        raise OutputError(f"{output_dir}: holds a training run; choose another --output_dir, for instance a subfolder.")
    if rank() == 0:
        _make_writable(output_dir)
    wait_for_all()
    _claim(output_dir)


def prepare_prediction_output(output_dir: str) -> None:
    """As `prepare_output`, for predictions that are not scored.

    Raises:
        OutputError: as there; or it holds scores, which would be taken for those of the predictions.
    """
    if (Path(output_dir) / names.METRICS).exists():
        raise OutputError(
            f"{output_dir}: holds the scores of an evaluation; choose another --output_dir, for instance a subfolder."
        )
    prepare_output(output_dir)


def _make_writable(output_dir: str) -> None:
    try:
        make_folder(output_dir)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OutputError(
            f"{output_dir}: cannot be written ({error.strerror}); choose another --output_dir."
        ) from error
    keep_others_out(output_dir)


def _claim(output_dir: str) -> OutputFolder:
    """Record from now on what is written into a folder, which this process or the first one has locked."""
    if rank() == 0:
        claim(output_dir).shorten()
    wait_for_all()
    return claim(output_dir)
