"""State dicts: reading them from files, and whether they are what a network needs."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segbundle.errors import CheckpointError

DEPTHS = frozenset({"deep_supervision_heads", "super_head"})
"""Modules of MONAI's `DynUNet` with deep supervision that only a training uses, and TorchScript cannot do."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_SLACK = 2**20
"""Bytes that the records of a checkpoint may declare beyond the size of the file."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the dict in a checkpoint file, on the CPU. Only tensors and plain values are unpickled.

    Raises:
        CheckpointError: no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; set ckpt_path to a trained model, for instance OUTPUT_DIR/model.pt."
        )
    try:
        _refuse_inflation(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path}: does not fit into memory; is it a checkpoint of this task?") from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(
            f"{path}: cannot be read as a PyTorch checkpoint; it is damaged, or holds more than tensors."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a state dict is needed.")
    return dict(content)


def _refuse_inflation(path: Path) -> None:
    """Refuse an archive whose records are larger than the file. `torch.save` stores them as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        declared = sum(record.file_size for record in archive.infolist())
    size = path.stat().st_size
    if declared > size + _SLACK:
        raise CheckpointError(
            f"{path}: has {size:,} bytes and declares {declared:,}; it is damaged or compressed. Save it by torch.save."
        )


def put_weights(network: torch.nn.Module, weights: Mapping[str, Any], source: str, complete: bool = False) -> None:
    """Load a state dict into a network.

    Args:
        network: on any device.
        weights: the state dict.
        source: names the origin of the state dict in messages.
        complete: whether layers that only a training with deep supervision uses must be there, too.

    Raises:
        CheckpointError: entries that are no tensors; layers that are missing, unknown, of another shape or another
            type; values that are NaN or infinite. The message names the first ones. The network is as it was.
    """
    _refuse_other_entries(weights, source)
    expected = network.state_dict()
    problems = _misfits(expected, weights, frozenset() if complete else DEPTHS)
    if problems:
        raise CheckpointError(
            f"{source}: does not fit the network: {'; '.join(problems)}. "
            "Use the network_def and class_names that it was trained with."
        )
    try:
        refuse_broken({name: weights[name].to(value.dtype) for name, value in expected.items() if name in weights})
    except ValueError as error:
        raise CheckpointError(
            f"{source}: holds {error}. The training that wrote it went wrong, or the file is damaged; "
            "use another checkpoint."
        ) from error
    try:
        network.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source}: cannot be loaded into the network ({reason}).") from error


def refuse_broken(weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ValueError: naming the first ones.
    """
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        raise ValueError(f"NaN or Inf in {len(broken)} of {len(weights)} tensors ({some(broken)})")


def _is_finite(value: torch.Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())  # a sum may overflow


def _refuse_other_entries(weights: Mapping[str, Any], source: str) -> None:
    """Refuse what is no state dict."""
    unnamed = [key for key in weights if not isinstance(key, str)]
    if unnamed:
        raise CheckpointError(
            f"{source}: holds no state dict: key {unnamed[0]!r:.60} is not the name of a layer. "
            "Save network.state_dict(), or a dict with it as 'model'."
        )
    others = [f"{name} is {_type(value)}" for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{source}: holds no state dict ({some(others)}); save network.state_dict(), or a dict with it as 'model'."
        )


def _type(value: Any) -> str:
    return "a dict" if isinstance(value, Mapping) else f"of type {type(value).__name__}"


def _misfits(expected: Mapping[str, Any], found: Mapping[str, Any], optional: frozenset[str]) -> list[str]:
    """Return what is wrong with the layers that were found, group by group."""
    both = [name for name in expected if name in found]
    types = {name: (_kind(found[name]), _kind(expected[name])) for name in both}
    shapes = [
        f"{name} is {tuple(found[name].shape)} in the file, {tuple(expected[name].shape)} in the network"
        for name in both
        if types[name][0] == types[name][1] and found[name].shape != expected[name].shape
    ]
    groups = {
        "layers of another shape": shapes,
        "layers of another type": [
            f"{name} is {one} in the file, {other} in the network"
            for name, (one, other) in types.items()
            if one != other
        ],
        "layers missing in the file": [name for name in without(optional, expected) if name not in found],
        "layers that the network does not have": [name for name in without(optional, found) if name not in expected],
    }
    return [f"{what}: {some(names)}" for what, names in groups.items() if names]


def _kind(tensor: torch.Tensor) -> str:
    """Return the type of a tensor's values, and of its memory where that is unusual; all usual floats are one type."""
    for name in ("nested", "quantized", "meta"):
        if getattr(tensor, f"is_{name}"):
            return name
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.dtype in _FLOATS:
        return "floating point"
    if tensor.dtype in _INTEGERS:
        return "integer"
    return str(tensor.dtype).removeprefix("torch.")


def without(modules: frozenset[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that are not of modules of these names."""
    return {name: value for name, value in weights.items() if modules.isdisjoint(name.split("."))}


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
