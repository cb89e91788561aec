"""Checkpoints of nnU-Net v2: reading without NumPy's objects, class names, and weights for MONAI's `DynUNet`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from segbundle.errors import CheckpointError

WEIGHTS = "network_weights"
"""Key of the state dict in a checkpoint of nnU-Net v2."""
_NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode")
"""Names that a pickle of a NumPy scalar imports."""
_BLOCK = re.compile(r"(encoder\.stages\.\d+\.0|decoder\.stages\.\d+)\.convs\.(\d+)\.(conv|norm)\.(weight|bias)")
_ALIAS = re.compile(r"decoder\.encoder\.|.*\.all_modules\.\d+\.")
"""Second names of tensors."""


class _Discarded:
    """Stand-in for a NumPy object in a checkpoint: keeps nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@contextmanager
def numpy_discarded() -> Iterator[None]:
    """Allow NumPy scalars, such as nnU-Net's scores, in checkpoints that `torch.load` reads with `weights_only=True`.

    The scalars are replaced by empty objects. No function of NumPy is called, so a file cannot use one.

    Example:
        >>> import io, numpy
        >>> torch.save({"score": numpy.float64(0.5), "epoch": 3}, stream := io.BytesIO())
        >>> _ = stream.seek(0)
        >>> with numpy_discarded():
        ...     torch.load(stream, weights_only=True)["epoch"]
        3
    """
    with torch.serialization.safe_globals([(_Discarded, name) for name in _NUMPY]):
        yield


def class_names_in(content: Mapping[str, Any]) -> list[str] | None:
    """Return the class names in a checkpoint of nnU-Net v2, in the order of their label values.

    Args:
        content: content of the checkpoint.

    Returns:
        the names, without nnU-Net's `ignore`; None for other checkpoints, for regions (classes with several label
        values), and for label values that are not 0, 1, 2, ...

    Example:
        >>> labels = {"background": 0, "liver": 1, "ignore": 2}
        >>> class_names_in({"network_weights": {}, "init_args": {"dataset_json": {"labels": labels}}})
        ['background', 'liver']
    """
    found: Any = content
    for key in ("init_args", "dataset_json", "labels"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if WEIGHTS not in content or not isinstance(found, Mapping):
        return None
    labels = {name: value for name, value in found.items() if name != "ignore"}
    if not labels or any(type(value) is not int for value in labels.values()):
        return None
    names = [str(name) for name, _ in sorted(labels.items(), key=lambda item: item[1])]
    return names if sorted(labels.values()) == list(range(len(names))) else None


def for_dynunet(weights: Mapping[str, Any], network: torch.nn.Module, source: str) -> dict[str, Any]:
    """Rename the weights of nnU-Net's `PlainConvUNet` to the names of MONAI's `DynUNet`.

    The two networks compute the same function if they have the same stages, kernel sizes and channels, two convolutions
    per stage, and affine instance norms. Biases of convolutions before an instance norm have no effect and are removed.

    Args:
        weights: state dict with the names of nnU-Net. One without its segmentation layers is returned unchanged.
        network: network that is to load the weights, on any device. If it is not a `DynUNet`, the weights are returned
            unchanged.
        source: origin of the weights for messages, such as the path of the file.

    Returns:
        state dict; tensors without a counterpart in `DynUNet` keep their names, so that loading refuses them

    Raises:
        CheckpointError: the network is a `DynUNet`, and the weights are those of a residual encoder.

    Example:
        >>> for_dynunet({"decoder.seg_layers.0.bias": 1}, torch.nn.Conv3d(1, 1, 1), "checkpoint_final.pth")
        {'decoder.seg_layers.0.bias': 1}
    """
    if type(network).__name__ != "DynUNet" or not any(map(_is_head, weights)):
        return dict(weights)
    if any(name.startswith("encoder.stem.") for name in weights):
        raise CheckpointError(
            f"{source}: was trained with nnU-Net's ResidualEncoderUNet, whose layers DynUNet does not have. Set "
            "network_def to that network (docs/howto/fine_tuning.md)."
        )
    num_ups = len({name.split(".")[2] for name in weights if _is_head(name)})
    own: Mapping[str, torch.Tensor] = network.state_dict(keep_vars=True)
    aliases: dict[int, list[str]] = {}
    for name, value in own.items():
        aliases.setdefault(id(value), []).append(name)
    norms = [module for name, module in network.named_modules() if re.search(r"\.norm\d$", name)]
    cancels_bias = all(isinstance(norm, torch.nn.InstanceNorm3d) and not norm.track_running_stats for norm in norms)
    found: dict[str, Any] = {}
    for name, value in weights.items():
        block = _BLOCK.fullmatch(name)
        if _ALIAS.match(name) or (cancels_bias and block is not None and block.groups()[2:] == ("conv", "bias")):
            continue
        renamed = _name_in_dynunet(name, num_ups)
        if renamed in own:
            found |= dict.fromkeys(aliases[id(own[renamed])], value)
        else:
            found[renamed if _is_head(name) else name] = value
    return found


def _is_head(name: str) -> bool:
    return name.startswith("decoder.seg_layers.")


def _name_in_dynunet(name: str, num_ups: int) -> str:
    """Return the name in `DynUNet` of a tensor of `PlainConvUNet`; unknown names are returned as they are.

    Args:
        name: name of the tensor.
        num_ups: number of steps of the decoder, one less than the number of stages of the encoder.
    """
    first, *rest = name.split(".")
    if block := _BLOCK.fullmatch(name):
        stage, layer = int(block[1].split(".")[2]), int(block[2]) + 1
        kind = f"conv{layer}.conv" if block[3] == "conv" else f"norm{layer}"
        levels = {0: "input_block", num_ups: "bottleneck"}
        place = levels.get(stage, f"downsamples.{stage - 1}") if first == "encoder" else f"upsamples.{stage}.conv_block"
        return f"{place}.{kind}.{block[4]}"
    if first == "decoder" and rest[0] == "transpconvs":
        return f"upsamples.{rest[1]}.transp_conv.conv.{rest[2]}"
    if _is_head(name):
        level = num_ups - 1 - int(rest[1])
        place = f"deep_supervision_heads.{level - 1}" if level else "output_block"
        return f"{place}.conv.conv.{rest[2]}"
    return name
