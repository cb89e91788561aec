"""How much of a scan each class fills, and whether it reaches the scan's edge."""

from __future__ import annotations

import torch

_CHUNK = 2**22  # voxels counted at a time


def class_extents(labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxels of every class, and whether it touches the edge of the scan.

    Args:
        labels: class indices (X, Y, Z), integer dtype, no negative ones; those from `num_classes` on are not counted.
        num_classes: number of classes, the background included.

    Returns:
        int64 tensor (num_classes,): voxels; and bool tensor (num_classes,): whether the class holds some of the first
        or last voxels along an axis.
    """
    counts = _counts(labels, num_classes)
    faces = [labels.select(axis, place) for axis in range(labels.ndim) for place in (0, -1)]
    at_edge = torch.stack([_counts(face, num_classes) for face in faces]).sum(dim=0) > 0
    return counts, at_edge


def _counts(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    found = torch.zeros(num_classes, dtype=torch.long, device=labels.device)
    for part in labels.reshape(-1).split(_CHUNK):
        found += torch.bincount(part.long(), minlength=num_classes)[:num_classes]
    return found
