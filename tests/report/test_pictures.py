"""Slices with label overlays, for volumes with known pixels."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from segbundle.report.pictures import COLORS, compared


def volume(array, spacing=1.0):
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(array)[None], affine=affine)


@pytest.fixture
def labels():
    label = torch.zeros(4, 3, 5, dtype=torch.uint8)
    label[1, 2, 3] = 1
    label[2, 2, 3] = 2
    label[0, 0, 0] = 1
    label[0, 0, 1] = 255
    return label


def test_slice_with_most_foreground_in_three_panels(labels):
    prediction = torch.zeros_like(labels)
    prediction[3, 0, 3] = 2
    picture = compared(volume(torch.zeros(4, 3, 5)), volume(labels), prediction[None])
    assert picture.shape == (3, 4 + 2 + 4 + 2 + 4, 3) and picture.dtype == np.uint8
    half = np.array(COLORS) / 2
    # the first axis goes to the right, the second upwards: y = 2 is the first row
    assert np.abs(picture[0, 6 + 1] - half[0]).max() <= 0.5
    assert np.abs(picture[0, 6 + 2] - half[1]).max() <= 0.5
    assert np.abs(picture[2, 12 + 3] - half[1]).max() <= 0.5
    assert (picture[:, :4] == 0).all()
    colored = (picture != 0).any(axis=2) & ~(picture == 255).all(axis=2)
    assert colored.sum() == 3


def test_image_is_resampled_to_the_grid_of_the_labels(labels):
    image = torch.zeros(2, 2, 3)
    image[1, 1, 1] = 10.0  # of 2 mm: the voxels (1 to 2, 1 to 2, 1 to 2) or so of 1 mm
    label = torch.zeros_like(labels)
    label[0, 0, 2] = 1
    picture = compared(volume(image, 2.0), volume(label), label[None])
    bright = {(x, 2 - y) for y, x in zip(*np.nonzero(picture[:, :4, 0] > 128), strict=True)}
    assert (2, 2) in bright and (0, 0) not in bright


def test_empty_scan_shows_the_central_slice():
    nothing = torch.zeros(4, 4, 4, dtype=torch.uint8)
    image = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0))
    picture = compared(volume(image), volume(nothing), nothing[None])
    assert (picture[:, :4] == picture[:, 6:10]).all()
