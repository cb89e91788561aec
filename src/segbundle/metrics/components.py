"""Count connected components."""

from __future__ import annotations

import torch


def count_components(labels: torch.Tensor, num_classes: int) -> list[int]:
    """Count the connected components of every class (face connectivity, 6 neighbors).

    Args:
        labels: class indices (X, Y, Z), integer dtype; values of `num_classes` and above are ignored.
        num_classes: number of classes, including the background.

    Returns:
        one number per class, background first; 0 for the background

    Example:
        >>> count_components(torch.tensor([[[1, 0, 1], [2, 2, 0]]]), num_classes=3)
        [0, 2, 1]
    """
    from scipy.ndimage import find_objects, label

    volume = labels.cpu().numpy()
    boxes = find_objects(volume, num_classes - 1)
    return [0, *(0 if box is None else int(label(volume[box] == index)[1]) for index, box in enumerate(boxes, 1))]
