import torch

from segbundle.metrics.components import count_components


def test_parts_that_touch_by_faces_are_one():
    labels = torch.zeros(5, 3, 3, dtype=torch.uint8)
    labels[0, 0, 0] = labels[1, 0, 0] = 1  # one part
    labels[2, 1, 0] = 1  # touches it by an edge only
    labels[3, 1, 0] = 2  # touches by a face, but is of another class
    labels[4, 2, 2] = 255  # unknown
    assert count_components(labels, 4) == [0, 2, 1, 0]
