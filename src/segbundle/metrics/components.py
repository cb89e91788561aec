"""In how many parts each class comes."""

from __future__ import annotations

import torch


def count_components(labels: torch.Tensor, num_classes: int) -> list[int]:
    """How many connected parts each class has; voxels are connected over faces.

    Args:
        labels: class indices (X, Y, Z), integer dtype; values beyond the classes belong to none.
        num_classes: number of classes, the background included.

    Returns:
        one number per class; the background's is 0.
    """
    from scipy.ndimage import find_objects, label

    volume = labels.cpu().numpy()
    boxes = find_objects(volume, num_classes - 1)
    return [0, *(0 if box is None else int(label(volume[box] == index)[1]) for index, box in enumerate(boxes, 1))]
