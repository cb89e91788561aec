"""What a workflow's YAML needs before its engine runs: paths, device, network, and a configuration that is right."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from segbundle.classes import suggestion
from segbundle.errors import ConfigError, OutputError, show_plain_errors

_REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*)")
_MONAI_KEYS = frozenset({"_meta_", "save_execute_config"})


def start_workflow() -> None:
    """First step of every workflow: refuse configuration keys that nothing reads, and end on plain errors.

    Raises:
        ConfigError: a top-level key that is neither in one of the bundle's workflows nor referred to by another
            key; the message suggests the nearest.
    """
    show_plain_errors()
    workflow = _running_workflow()
    if workflow is not None:
        check_config_keys(workflow.parser.get(), known_keys(Path(workflow.config_root_path)))


def check_config_keys(config: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse top-level keys of a configuration that are neither known nor referred to within it.

    Raises:
        ConfigError: naming the key and the nearest known one.
    """
    known = set(known) | _MONAI_KEYS
    referred = {match for text in _strings(config) for match in _REFERENCE.findall(text)}
    for key in config:
        if key not in known and key not in referred:
            raise ConfigError(f"config key {key!r} is read by no workflow{suggestion(key, known)}")


def known_keys(configs: Path) -> set[str]:
    """Top-level keys of all workflows in a bundle's `configs` folder: one task YAML may serve each of them."""
    keys: set[str] = set()
    for path in sorted(configs.iterdir()):
        if path.suffix in (".yaml", ".yml", ".json") and path.stem != "metadata":
            keys |= set(ConfigParser.load_config_file(path))
    return keys


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _strings(value)


def locate_bundle() -> str:
    """The folder of the bundle whose configuration is being run, whatever the working directory.

    MONAI gives a configuration no word for the place of its own file, so this asks the workflow that is evaluating
    it. Outside a workflow (a configuration parsed by hand) it is the working directory, as in the Model Zoo.
    """
    workflow = _running_workflow()
    if workflow is None:
        return str(Path.cwd())
    configs = Path(workflow.config_root_path).resolve()
    return str(configs.parent if configs.name == "configs" else configs)


def _running_workflow() -> ConfigWorkflow | None:
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
    return min(8, os.cpu_count() or 1) if torch.device(device).type == "cuda" else 0


def place_network(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """Move a network to a device, in the memory layout in which its 3D convolutions are fastest."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def prepare_training_output(output_dir: str, resume: bool = False) -> None:
    """Make the output folder of a training, and refuse to overwrite a run that it holds.

    Raises:
        OutputError: the folder cannot be written, or holds a run and `resume` is false.
    """
    prepare_output(output_dir)
    held = [name for name in ("last.pt", "model.pt") if (Path(output_dir) / name).exists()]
    if held and not resume:
        raise OutputError(
            f"{output_dir}: already holds a training run ({held[0]}). Continue it with --resume true, "
            "or choose another --output_dir."
        )


def prepare_output(output_dir: str) -> None:
    """Make an output folder and prove that it can be written, before hours are spent on what goes into it.

    Raises:
        OutputError: it cannot.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OutputError(
            f"{output_dir}: cannot be written ({error.strerror}); choose another --output_dir."
        ) from error
