"""Initial weights of a training run, also from a model with other classes, input channels or layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segbundle.checkpoints.loading import checkpoint_paths, state_dict_in
from segbundle.checkpoints.network_layers import network_layers
from segbundle.checkpoints.trained_classes import class_names_of
from segbundle.checkpoints.transfer import transfer_weights
from segbundle.checkpoints.weights import check_entries, load_state_dict, mismatches, read_checkpoint
from segbundle.config.from_settings import from_settings
from segbundle.errors import CheckpointError

_logger = logging.getLogger(__name__)


@from_settings
def load_pretrained_weights(
    network: torch.nn.Module,
    ckpt_path: str | Path | Sequence[str | Path] | None,
    class_names: Sequence[str],
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int = 1,
) -> None:
    """Load the weights of a trained model that fit a network, for fine-tuning.

    If classes and layers are the same, all weights are loaded. Otherwise, tensors that fit are loaded, output layers
    class by class (see `transfer_weights`), and all other tensors keep their initial values. The log lists the tensors,
    classes and channels that are new.

    Args:
        network: network with its initial weights, on any device.
        ckpt_path: checkpoint or output folder of a training run. None keeps the weights of the network.
        class_names: classes of the task, background first.
        num_channels: number of input channels.
        patch_size: size of a patch (X, Y, Z) in voxels.
        batch_size: number of patches per batch (default 1), see `network_layers`.

    Raises:
        CheckpointError: the checkpoint or a file next to it cannot be read; there are several checkpoints; no weight
            fits the network (the message lists the first differences); or weights are not finite.

    Example:
        >>> import tempfile
        >>> trained, network = torch.nn.Conv3d(1, 3, 1), torch.nn.Conv3d(1, 3, 1)
        >>> names, others = ["background", "liver", "cyst"], ["background", "lesion", "liver"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(trained.state_dict(), f"{folder}/model.pt")
        ...     _ = Path(f"{folder}/task.json").write_text('{"class_names": ["background", "liver", "cyst"]}')
        ...     load_pretrained_weights(network, folder, others, 1, [4, 4, 4])
        >>> torch.equal(network.weight[2], trained.weight[1])
        True
    """
    paths = checkpoint_paths(ckpt_path)
    if not paths:
        return
    if len(paths) > 1:
        raise CheckpointError(
            f"ckpt_path has {len(paths)} models, but a training run starts from one. Choose one, such as {paths[0]}."
        )
    (path,) = paths
    content = read_checkpoint(path)
    found = state_dict_in(content, network, str(path))
    check_entries(found, str(path))
    trained_names = class_names_of(path, content)
    same_classes = trained_names is None or list(map(str, trained_names)) == list(map(str, class_names))
    problems = mismatches(network.state_dict(), found)
    if same_classes and not problems:
        load_state_dict(network, found, str(path))
        _logger.info("weights: %s", path)
        return
    _transfer(network, path, found, trained_names, class_names, num_channels, patch_size, min(batch_size, 2))


def _transfer(
    network: torch.nn.Module,
    path: Path,
    found: Mapping[str, Any],
    trained_names: Sequence[Any] | None,
    class_names: Sequence[str],
    num_channels: int,
    patch_size: Sequence[int],
    batch_size: int,
) -> None:
    layers = network_layers(network, num_channels, patch_size, batch_size)
    result = transfer_weights(network, found, layers, num_channels, class_names, trained_names)
    if not result.fits:
        problems = "; ".join(mismatches(network.state_dict(), found))
        raise CheckpointError(
            f"{path}: no weight fits the network: {problems}. Use the network_def that it was trained with."
        )
    load_state_dict(network, result.weights, str(path))
    unexpected = bool(result.new_layers or result.unused)
    _logger.log(logging.WARNING if unexpected else logging.INFO, "weights: %s: %s", path, result.summary())
