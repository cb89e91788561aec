"""Run a network on a NumPy volume larger than its windows, and get a label map without storing all logits.

    python examples/sliding_window.py

The network is a smoothing filter with a threshold instead of a trained one, so its labels can be checked.
"""

from __future__ import annotations

import numpy as np
import torch

from segbundle.inference import SlidingWindowInferer
from segbundle.transforms import restore_labels


def make_network() -> torch.nn.Module:
    """Return a network (B, 1, X, Y, Z) -> (B, 2, X, Y, Z) whose second logit is largest where the mean is above 0.5."""
    network = torch.nn.Conv3d(1, 2, kernel_size=3, padding=1)
    weight = torch.stack([torch.zeros(1, 3, 3, 3), torch.full((1, 3, 3, 3), 1 / 27)])
    network.load_state_dict({"weight": weight, "bias": torch.tensor([0.5, 0.0])})
    return network.eval()


def main() -> None:
    """Segment a noisy box in two ways and compare the labels."""
    volume = np.random.default_rng(0).normal(0.0, 0.2, (96, 80, 72)).astype(np.float32)
    volume[20:70, 20:60, 16:56] += 1.0
    image = torch.from_numpy(volume)[None, None]  # (B, C, X, Y, Z)
    network = make_network()
    inferer = SlidingWindowInferer(roi_size=(32, 32, 32), sw_batch_size="auto", overlap=0.5, precision="fp32")

    logits = inferer(image, network)  # all logits of the volume, as from MONAI's inferer
    labels = logits.argmax(dim=1)[0]

    slabs = inferer.slabs(image, network)  # computed while `restore_labels` iterates over them
    by_slabs = restore_labels(slabs, np.eye(4), volume.shape)

    print(f"volume: {volume.shape}, logits: {tuple(logits.shape)}, voxels of class 1: {int(labels.sum())}")
    print(f"equal labels by slabs: {bool((by_slabs == labels).all())}")
    double = restore_labels(inferer.slabs(image, network), np.diag([0.5, 0.5, 0.5, 1.0]), (191, 159, 143))
    print(f"labels at half the voxel size: {tuple(double.shape)}, voxels of class 1: {int(double.sum())}")


if __name__ == "__main__":
    main()
