"""State dicts: reading from checkpoint files, validation, and loading into networks."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segbundle.checkpoints.nnunet import numpy_discarded
from segbundle.errors import CheckpointError

DEPTHS = frozenset({"deep_supervision_heads", "super_head"})
"""Modules of MONAI's `DynUNet` for deep supervision. Only training uses them, and TorchScript does not support them."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_SLACK = 2**20
"""Bytes by which the declared size of a checkpoint's records may exceed the size of the file."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the dict in a checkpoint file, with all tensors on the CPU.

    Only tensors and plain values are unpickled, so a file cannot run code. NumPy scalars are discarded.

    Args:
        path: path of the file.

    Raises:
        CheckpointError: the file does not exist, cannot be read, contains objects other than tensors and plain values,
            or does not contain a dict.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.ones(3)}, f"{folder}/model.pt")
        ...     read_checkpoint(f"{folder}/model.pt")
        {'weight': tensor([1., 1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint. Set ckpt_path to a trained model, for instance OUTPUT_DIR/model.pt."
        )
    try:
        _check_declared_size(path)
        with warnings.catch_warnings(), numpy_discarded():
            warnings.simplefilter("ignore")  # about types of tensors that are rejected later
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(
            f"{path}: does not fit into memory. Check that it is a checkpoint of this task."
        ) from error
    except Exception as error:  # torch raises many types of errors for damaged files
        raise CheckpointError(
            f"{path}: cannot be read as a PyTorch checkpoint. It is damaged, or contains objects other than tensors. "
            "Copy it again, or save only the state dict with torch.save."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: contains a {type(content).__name__} instead of a state dict. Save network.state_dict()."
        )
    return dict(content)


def _check_declared_size(path: Path) -> None:
    """Raise an error if the records of an archive are larger than the file. `torch.save` does not compress them."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        declared = sum(record.file_size for record in archive.infolist())
    size = path.stat().st_size
    if declared > size + _SLACK:
        raise CheckpointError(
            f"{path}: has {size:,} bytes but declares {declared:,}. It is damaged or compressed. "
            "Save it with torch.save."
        )


def load_state_dict(network: torch.nn.Module, weights: Mapping[str, Any], source: str, complete: bool = False) -> None:
    """Validate a state dict, and load it into a network. If an error is raised, the network is not changed.

    Args:
        network: network on any device.
        weights: state dict. Floating point tensors are converted to the dtypes of the network.
        source: origin of the state dict for messages, such as the path of the file.
        complete: whether the layers of deep supervision are required (default False).

    Raises:
        CheckpointError: entries are not tensors; layers are missing, unknown, or have another shape or type; values are
            NaN or infinite. The message lists the first problems.

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> load_state_dict(network, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "model.pt")
        >>> network.weight.tolist()
        [[1.0, 1.0]]
    """
    check_entries(weights, source)
    expected = network.state_dict()
    problems = mismatches(expected, weights, frozenset() if complete else DEPTHS)
    if problems:
        raise CheckpointError(
            f"{source}: does not fit the network: {'; '.join(problems)}. "
            "Use the network_def and class_names that it was trained with."
        )
    try:
        check_finite({name: weights[name].to(value.dtype) for name, value in expected.items() if name in weights})
    except ValueError as error:
        raise CheckpointError(
            f"{source}: contains {error}. The training diverged, or the file is damaged. Use another checkpoint."
        ) from error
    try:
        network.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source}: cannot be loaded into the network ({reason}). Use the network_def that it was trained with."
        ) from error


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise an error if any weights are NaN or infinite.

    Args:
        weights: state dict.

    Raises:
        ValueError: weights are NaN or infinite. The message names the first tensors with such values.

    Example:
        >>> check_finite({"weight": torch.ones(3)})
        >>> check_finite({"weight": torch.ones(3), "bias": torch.tensor([float("nan")])})
        Traceback (most recent call last):
        ...
        ValueError: NaN or Inf in 1 of 2 tensors (bias)
    """
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        raise ValueError(f"NaN or Inf in {len(broken)} of {len(weights)} tensors ({first_names(broken)})")


def _is_finite(value: torch.Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())  # a sum may overflow


def check_entries(weights: Mapping[str, Any], source: str) -> None:
    """Raise an error if a dict is not a state dict.

    Args:
        weights: dict to check.
        source: origin of the dict for messages, such as the path of the file.

    Raises:
        CheckpointError: a key is not text, or a value is not a tensor.

    Example:
        >>> check_entries({"weight": torch.ones(3)}, "model.pt")
    """
    unnamed = [key for key in weights if not isinstance(key, str)]
    if unnamed:
        raise CheckpointError(
            f"{source}: is not a state dict: key {unnamed[0]!r:.60} is not a layer name. "
            "Save network.state_dict(), or a dict that contains it under the key 'model'."
        )
    others = [f"{name} is {_type_of(value)}" for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{source}: is not a state dict: not all entries are tensors ({first_names(others)}). "
            "Save network.state_dict(), or a dict that contains it under the key 'model'."
        )


def _type_of(value: Any) -> str:
    return "a dict" if isinstance(value, Mapping) else f"of type {type(value).__name__}"


def mismatches(expected: Mapping[str, Any], found: Mapping[str, Any], optional: frozenset[str] = DEPTHS) -> list[str]:
    """Return one message per type of mismatch between the layers of a network and of a checkpoint.

    Args:
        expected: state dict of the network.
        found: state dict of the checkpoint.
        optional: names of modules that may be missing in either (default: those of deep supervision).

    Returns:
        messages, each with the first four names of layers; empty if the checkpoint fits

    Example:
        >>> mismatches({"weight": torch.ones(3)}, {"weight": torch.ones(2)})
        ['layers with another shape: weight is (2,) in the file, (3,) in the network']
    """
    both = [name for name in expected if name in found]
    types = {name: (tensor_type(found[name]), tensor_type(expected[name])) for name in both}
    shapes = [
        f"{name} is {tuple(found[name].shape)} in the file, {tuple(expected[name].shape)} in the network"
        for name in both
        if types[name][0] == types[name][1] and found[name].shape != expected[name].shape
    ]
    groups = {
        "layers with another shape": shapes,
        "layers with another type": [
            f"{name} is {one} in the file, {other} in the network"
            for name, (one, other) in types.items()
            if one != other
        ],
        "layers missing in the file": [name for name in without_modules(expected, optional) if name not in found],
        "layers that the network does not have": [
            name for name in without_modules(found, optional) if name not in expected
        ],
    }
    return [f"{group}: {first_names(names)}" for group, names in groups.items() if names]


def tensor_type(tensor: torch.Tensor) -> str:
    """Return the type of a tensor, for comparing a checkpoint with a network.

    The result is `floating point` for 16, 32 and 64 bit floats and bfloat16, `integer` for 8 to 64 bit signed integers
    and uint8, and otherwise the name of the dtype. Tensors that are not dense have `nested`, `quantized`, `meta` or
    their layout instead.

    Args:
        tensor: any tensor.

    Example:
        >>> tensor_type(torch.ones(3)), tensor_type(torch.ones(3).to_sparse())
        ('floating point', 'sparse_coo')
    """
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


def without_modules(weights: Mapping[str, Any], modules: frozenset[str]) -> dict[str, Any]:
    """Return the entries of a state dict that do not belong to modules of the given names.

    Args:
        weights: state dict.
        modules: names of modules at any level; each is one part of a dotted name, such as `super_head`.

    Example:
        >>> list(without_modules({"net.conv.weight": 1, "net.super_head.bias": 2}, DEPTHS))
        ['net.conv.weight']
    """
    return {name: value for name, value in weights.items() if modules.isdisjoint(name.split("."))}


def first_names(names: Sequence[str], most: int = 4) -> str:
    """Return the first names of a list as text, with the number of other names.

    Args:
        names: any names.
        most: number of names to show (default 4).

    Example:
        >>> first_names(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
